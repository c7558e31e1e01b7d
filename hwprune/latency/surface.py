"""Times of one kind of kernel over its input and output channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Steps = TypeVar("Steps", float, NDArray[np.float64])


@dataclass(frozen=True)
class Surface:
    """Time of a kernel: ``overhead + input*a + output*b + pair*a*b + spills`` milliseconds.

    ``a`` and ``b`` are the input and output channels in steps of the device, rounded up. Each
    spill ``(knee, slope)`` adds ``slope * max(0, a*b - knee)``, for weights that outgrow a cache.
    No coefficient is negative, so that more channels never cost less: noise makes no width look
    faster than a narrower one.
    """

    overhead: float
    input: float
    output: float
    pair: float
    spills: tuple[tuple[float, float], ...] = ()

    def ms(self, a: Steps, b: Steps) -> Steps:
        """Milliseconds at ``a`` input steps and ``b`` output steps, which may be arrays."""
        linear = self.overhead + self.input * a + self.output * b + self.pair * a * b
        for knee, slope in self.spills:
            linear = linear + slope * np.maximum(0.0, a * b - knee)
        return linear

    def scaled(self, by: float) -> Surface:
        """The same surface with all times multiplied by ``by``."""
        spills = tuple((knee, by * slope) for knee, slope in self.spills)
        return Surface(
            by * self.overhead, by * self.input, by * self.output, by * self.pair, spills
        )


def typical_ms(times_ms: tuple[float, ...]) -> float:
    """The mean of the faster half of a kernel's times.

    The faster half, because noise only adds; a mean, because profilers round to microseconds.
    """
    fastest = sorted(times_ms)[: max(1, len(times_ms) // 2)]
    return sum(fastest) / len(fastest)


def fit_surface(points: Mapping[tuple[int, int], list[float]]) -> Surface:
    """Fit a surface by non-negative least squares of relative errors.

    Args:
        points: input and output steps of channels -> milliseconds that were measured there.
    """
    places = np.array(list(points), dtype=float)
    times = np.array([float(np.median(values)) for values in points.values()])
    times = np.maximum(times, 1e-4)
    a, b = places[:, 0], places[:, 1]
    knees = [float(np.quantile(a * b, q)) for q in (0.3, 0.5, 0.7, 0.85)]
    spilled = [np.maximum(0.0, a * b - knee) for knee in knees]
    features = np.stack([np.ones_like(a), a, b, a * b, *spilled], axis=1)
    solution, _ = nnls(features / times[:, None], np.ones_like(times))
    overhead, first, second, pair, *slopes = map(float, solution)
    spills = tuple((k, s) for k, s in zip(knees, slopes, strict=True) if s > 0)
    return Surface(overhead, first, second, pair, spills)
