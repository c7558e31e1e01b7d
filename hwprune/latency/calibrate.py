"""Calibrate a latency table: fit how a sum of kernel times becomes a network's latency.

Nothing here needs PyTorch, so that a device without PyTorch can be measured.
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
from hwprune.latency.measure import Measurement, calm_moments, interleave, join_moments, noise
from hwprune.latency.samples import Network
from hwprune.latency.sampling import calibration_widths, error_widths
from hwprune.latency.table import LatencyTable
from hwprune.targets.base import Runnable

Pair: TypeAlias = tuple[float, float]  # predicted and measured milliseconds
Times: TypeAlias = tuple[tuple[float, ...], ...]  # milliseconds of each network's runs

MOMENTS = 8  # moments at which whole networks are measured: before, between and after profiles
_DENSE_WEIGHT = 5.0  # weight of the dense network's error in the fit; the others have 1


def whole_network_widths(graph: ChannelGraph, step: int) -> list[dict[str, int]]:
    """Widths of the networks that are measured whole: those of the fit, then held-out ones.

    Args:
        graph: the dense network's channel graph.
        step: channels that the device computes at once.
    """
    return [*calibration_widths(graph, step), *error_widths(graph, step)]


def calibration_run(
    runnables: Sequence[Runnable],
    between: Sequence[Callable[[], None]] = (),
    *,
    effort: Effort,
    earlier: Sequence[Times] = (),
    record: Callable[[Sequence[Measurement]], None] = lambda measured: None,
) -> list[Measurement]:
    """Measure whole networks in turn, at several moments.

    Many short moments are better than few long ones. With three runs of a network at each moment,
    predictions of other networks were as good as with sixty (``docs/measuring.md``). Longer moments
    do not show how the machine changes between moments: other work on it changes within minutes,
    and slows a large network down by more than a small one. Where the latency is the quiet one,
    moments in which the dense network was never quiet do not count.

    Args:
        runnables: the networks, the dense one first.
        between: functions that are called between one moment and the next.
        effort: how long to measure, and which statistic is the latency.
        earlier: times of the first moments, where these were measured before.
        record: a function that gets the measurements of every new moment.

    Returns:
        A measurement of each network, from the runs of all moments that count.
    """
    moments = len(between) + 1
    taken = [[Measurement(own, effort.statistic) for own in times_ms] for times_ms in earlier]
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
            record(taken[-1])
    return join_moments(calm_moments(taken))


def calibrate(
    table: LatencyTable,
    graph: ChannelGraph,
    kernels: tuple[Kernel, ...],
    profiled: Sequence[Mapping[str, int]],
    measurements: Sequence[Measurement],
) -> Network:
    """Fit how sums of kernel times become latencies, and measure the error of the fit.

    Args:
        table: the latency table that holds the kernels' times.
        graph: the dense network's channel graph.
        kernels: the dense network's kernels.
        profiled: widths of the networks that were profiled; the fit uses them as well.
        measurements: latencies of the networks of ``whole_network_widths``, then of ``profiled``.

    Returns:
        The network's entry in the table, with predicted and measured latencies of all networks.
    """
    sampled = whole_network_widths(graph, table.step)
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
