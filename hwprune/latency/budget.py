"""A latency budget: milliseconds, or a fraction of the dense network's latency."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hwprune.errors import BudgetError, InputError


@dataclass(frozen=True)
class Budget:
    """A latency budget: milliseconds, or a fraction of the dense network's latency.

    Attributes:
        ms: greatest latency in milliseconds; None where ``ratio`` is given.
        ratio: greatest latency as a fraction of the dense network's; None where ``ms`` is given.

    Example:
        >>> hwprune.Budget.parse("0.5x")
        Budget(ms=None, ratio=0.5)
        >>> hwprune.Budget.parse("12ms").share_of(20.0)
        0.6
    """

    ms: float | None = None
    ratio: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read ``0.5x`` (half of the dense latency) or ``12ms`` (twelve milliseconds).

        Raises:
            InputError: ``text`` has neither form, or its number is not positive.
        """
        found = re.fullmatch(r"\s*([0-9.]+(?:e-?[0-9]+)?)\s*(x|ms)\s*", text)
        try:
            number = float(found[1]) if found else 0.0
        except ValueError:
            number = 0.0
        if found is None or number <= 0:
            raise InputError(
                f"Budget {text!r}: expected a fraction of the dense latency such as `--budget "
                "0.5x`, or milliseconds such as `--budget 12ms`."
            )
        return cls(ratio=number) if found[2] == "x" else cls(ms=number)

    def share_of(self, dense_ms: float) -> float:
        """The budget as a fraction of the dense latency ``dense_ms``; it may be more than 1."""
        return self.ratio if self.ratio is not None else (self.ms or 0.0) / dense_ms

    def ratio_to(self, dense_ms: float) -> float:
        """The budget as a fraction of the dense latency.

        Raises:
            BudgetError: the dense network meets the budget already.
        """
        ratio = self.share_of(dense_ms)
        if ratio >= 1:
            raise BudgetError(
                f"The dense network takes {dense_ms:.3f} ms and meets the budget of "
                f"{ratio * dense_ms:.3f} ms already: there is nothing to prune. Give a smaller "
                "--budget, such as 0.5x."
            )
        return ratio
