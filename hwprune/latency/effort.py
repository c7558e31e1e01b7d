"""How latency is measured: the statistic that is the latency, and how long measuring may take."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import get_args

from hwprune.errors import InputError
from hwprune.latency.measure import Statistic

# Seconds that a normal profile and closed loop measure, without loading networks.
_NOMINAL_S = 40.0


@dataclass(frozen=True)
class Effort:
    """How latency is measured.

    Attributes:
        every: which of the networks of ``sampling.crossed_widths`` are profiled: 1 for all, 2 for
            every second one.
        whole_s: seconds in which whole networks are measured, in all moments of a profile.
        patience_s: greatest seconds with one network under the profiler while the machine is slow.
        moment_s: seconds of one moment of the closed loop or of a verification.
        moments: number of moments at which a plan or an exported file is measured.
        rounds: greatest number of turns of each network: in a moment of the closed loop, and in all
            moments of a profile.
        statistic: the statistic of the runs that is the latency.
    """

    every: int = 2
    whole_s: float = 16.0
    patience_s: float = 1.0
    moment_s: float = 5.0
    moments: int = 3
    rounds: int = 100
    statistic: Statistic = "quiet"

    @classmethod
    def parse(cls, measure: str, latency: str = "quiet") -> Effort:
        """The effort that ``--measure`` and ``--latency`` ask for.

        Args:
            measure: ``quick``, ``normal``, ``thorough``, or a number of seconds that a profile and
                the closed loop together may measure, without loading networks.
            latency: ``quiet`` or ``typical``.

        Raises:
            InputError: ``measure`` or ``latency`` is none of these.
        """
        statistics = {name: name for name in get_args(Statistic)}
        if latency not in statistics:
            raise InputError(
                f"--latency {latency!r}: expected quiet, which is what a network takes when "
                "nothing disturbs it, or typical, which is the mean without outliers."
            )
        effort = _EFFORTS.get(measure) or cls._of_seconds(measure)
        return replace(effort, statistic=statistics[latency])

    @classmethod
    def _of_seconds(cls, text: str) -> Effort:
        try:
            seconds = float(text)
        except ValueError:
            seconds = 0.0
        if not 1 <= seconds <= 86_400:
            raise InputError(
                f"--measure {text!r}: expected {', '.join(_EFFORTS)} or a number of seconds from 1 "
                "to 86400, such as --measure 120."
            )
        times, normal = seconds / _NOMINAL_S, cls()
        return replace(
            normal,
            whole_s=normal.whole_s * times,
            patience_s=normal.patience_s * times,
            moment_s=normal.moment_s * times,
            rounds=max(1, round(normal.rounds * times)),
        )


_EFFORTS: dict[str, Effort] = {
    "quick": Effort(whole_s=8.0, patience_s=0.5, moment_s=3.0, moments=2, rounds=50),
    "normal": Effort(),
    "thorough": Effort(every=1, whole_s=64.0, patience_s=2.0, moment_s=15.0, moments=5, rounds=400),
}
