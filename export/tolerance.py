"""How near outputs must be to those that they are held against, by precision."""

from __future__ import annotations

# How far outputs may be from PyTorch's, of the largest one, and the share of real images on which
# both must predict the same class.
TOLERANCES = {
    "fp32": (1e-4, 0.99),
    "tf32": (1e-2, 0.99),
    "fp16": (2e-2, 0.99),
    "bf16": (5e-2, 0.98),
    "int8": (0.3, 0.95),
    "fp8": (0.3, 0.95),
}
