"""The names of the importance criteria; reading them needs no PyTorch."""

CRITERIA = ("surgeon", "taylor", "norm_taylor", "gate_taylor", "fisher", "magnitude", "norm_scale",
            "random")  # fmt: skip
DEFAULT_CRITERION = "surgeon"
