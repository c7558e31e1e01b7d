"""The names of the built-in tasks; reading them needs no PyTorch."""

TASK_NAMES = ("classification", "multilabel", "regression")
DEFAULT_TASK = "classification"
