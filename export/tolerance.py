"""How far outputs may be from the right ones, by precision."""

from __future__ import annotations

# Greatest difference from PyTorch's outputs, as a share of the largest one; and least share of real
# images for which both must predict the same class.
TOLERANCES = {
    "fp32": (1e-4, 0.99),
    "tf32": (1e-2, 0.99),
    "fp16": (2e-2, 0.99),
    "bf16": (5e-2, 0.98),
    "int8": (0.3, 0.95),
    "fp8": (0.3, 0.95),
}
