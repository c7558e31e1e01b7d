"""Calibrate a latency table on whole networks: from sums of kernels to latencies.

Nothing here needs PyTorch, so that a device without it can be measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear

from hwprune.graph import ChannelGraph
from hwprune.latency.effort import Effort
from hwprune.latency.kernels import Kernel
from hwprune.latency.measure import Measurement, calm_ones, interleave, noise, together
from hwprune.latency.samples import Network
from hwprune.latency.sampling import calibration_widths, error_widths
from hwprune.latency.table import LatencyTable
from hwprune.targets.base import Runnable

Pair: TypeAlias = tuple[float, float]  # predicted and measured milliseconds
Times: TypeAlias = tuple[tuple[float, ...], ...]  # milliseconds of each network, in order taken

MOMENTS = 8  # at which whole networks are measured: before, between and after profiles
_DENSE_WEIGHT = 5.0  # of the others' error, in the calibration


def calibrating(graph: ChannelGraph, step: int) -> list[dict[str, int]]:
    """Widths of the networks that are measured as wholes: to fit to, then to tell the error."""
    return [*calibration_widths(graph, step), *error_widths(graph, step)]


def calibration_run(
    runnables: Sequence[Runnable],
    between: Sequence[Callable[[], None]] = (),
    *,
    effort: Effort,
    known: Sequence[Times] = (),
    keep: Callable[[Sequence[Measurement]], None] = lambda measured: None,
) -> list[Measurement]:
    """Whole networks measured in turn, at several moments.

    Many short moments tell more than few long ones. With three samples of a network at each moment
    or with sixty, predictions of networks that were never fitted were off by the same (MobileNetV2
    1.0 and 1.1 % in the median, RegNetY-400MF 0.8 and 0.6 %). What they miss is how the machine
    changes between moments: other work on it changes within minutes, and slows a large network down
    by more than a small one. Of quiet latencies only the moments count in which the dense network
    was quiet at times.

    Args:
        runnables: the networks.
        between: what is done between two moments.
        effort: how long to measure, and what of the runs is the latency.
        known: times of the first moments, which are over.
        keep: is given the measurements of every moment that is measured.
    """
    moments = len(between) + 1
    taken = [[Measurement(own, effort.statistic) for own in times_ms] for times_ms in known]
    for number, before in enumerate([None, *between]):
        if before is not None:
            before()
        if number >= len(taken):
            taken.append(
                interleave(
                    runnables,
                    rounds=max(1, effort.rounds // moments),
                    least=1,
                    seconds=effort.whole_s / moments,
                    statistic=effort.statistic,
                )
            )
            keep(taken[-1])
    return together(calm_ones(taken))


def calibrate(
    table: LatencyTable,
    graph: ChannelGraph,
    kernels: tuple[Kernel, ...],
    profiled: Sequence[Mapping[str, int]],
    measurements: Sequence[Measurement],
) -> Network:
    """Fit how sums of kernels become latencies; tell the error on networks left out of it.

    Args:
        table: holds the kernels.
        graph, kernels: of the dense network.
        profiled: the widths of the networks that were profiled, which are fitted to as well.
        measurements: of ``calibrating``, then of these.
    """
    sampled = calibrating(graph, table.step)
    end = len(calibration_widths(graph, table.step))
    copies = [widths == graph.widths for widths in (*sampled, *profiled)]
    dense_ms = fmean(m.latency_ms for m in itertools.compress(measurements, copies))
    latencies = [
        dense_ms if dense else m.latency_ms for m, dense in zip(measurements, copies, strict=True)
    ]
    of_fit: list[tuple[Mapping[str, int], float]]
    of_fit = [*zip(sampled[:end], latencies, strict=False)]
    of_fit += zip(profiled, latencies[len(sampled) :], strict=True)
    table.add(network=Network(graph.fingerprint, kernels, 1.0, 0.0, 0.0, dense_ms))
    sums = np.array([table.predict_ms(graph, widths) for widths, _ in of_fit])
    params = np.array([graph.params(widths) / 1e6 for widths, _ in of_fit])
    fit = _fit_calibration(sums, params, np.array([ms for _, ms in of_fit]))
    calibrated = Network(graph.fingerprint, kernels, *fit, dense_ms)
    table.add(network=calibrated)

    def pairs(networks: Iterable[tuple[Mapping[str, int], float]]) -> tuple[Pair, ...]:
        return tuple((table.predict_ms(graph, widths), ms) for widths, ms in networks)

    return replace(
        calibrated,
        held_out=pairs(zip(sampled[end:], latencies[end:], strict=False)),
        fitted=pairs(of_fit),
        noise=noise(measurements),
        statistic=measurements[0].statistic,
    )


def _fit_calibration(
    sums: NDArray[np.float64], params: NDArray[np.float64], measured: NDArray[np.float64]
) -> tuple[float, float, float]:
    """Fit scale, offset and milliseconds per million parameters, as ``Network`` has them.

    The fit minimises the squares of relative errors. The dense network, which comes first, weighs
    more because every budget is a fraction of its latency.

    Args:
        sums: sums of the kernels' times [networks], in milliseconds.
        params: parameters [networks], in millions.
        measured: measured latencies [networks], in milliseconds.
    """
    features = np.stack([sums, np.ones_like(sums), params], axis=1)
    weights = np.where(np.arange(len(measured)) == 0, _DENSE_WEIGHT, 1.0)
    weighted = features * (weights / measured)[:, None]
    found = lsq_linear(weighted, weights, bounds=([0.0, -np.inf, 0.0], np.inf)).x
    scale, offset_ms, ms_per_mparam = map(float, found)
    return scale, offset_ms, ms_per_mparam
