"""Find the device's step: how many channels it computes at once."""

from __future__ import annotations

from hwprune.latency.chain import chain
from hwprune.latency.measure import interleave
from hwprune.targets.base import Target

# Share of a step's cost that half of its channels cost: 1 on a staircase, 0.5 on a slope.
_AT_ONCE = 0.75


def find_step(device: Target) -> int:
    """Measure how many output channels the device computes at once: 32, 16, 8, 4 or 1.

    A 3x3 convolution with 32 + s channels costs more than one with 32. On a device that rounds up
    to s, the first half of the additional channels already costs most of that; on other devices it
    costs half of it. The step is the greatest s for which it is most.
    """
    steps = (32, 16, 8, 4)
    widths = sorted({32} | {32 + s // 2 for s in steps} | {32 + s for s in steps})
    runnables = [device.load(chain(device.takes, (64, w, 64, w, 64))) for w in widths]
    measured = interleave(runnables, rounds=100, seconds=4)
    ms = {w: m.latency_ms for w, m in zip(widths, measured, strict=True)}
    for step in steps:
        if ms[32 + step // 2] - ms[32] >= _AT_ONCE * (ms[32 + step] - ms[32]):
            return step
    return 1
