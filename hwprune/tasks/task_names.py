"""The names of the built-in tasks; reading them needs no PyTorch."""

TASK_NAMES = (
    "classification",
    "multilabel",
    "regression",
    "segmentation",
    "segmentation:dice",
    "detection",
)
DEFAULT_TASK = "classification"
