"""The form in which small networks and their expected channel groups are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

torch.set_num_threads(1)  # more are slower for networks as small as these


class Net(nn.Module):
    """A network with the given parts (modules, parameters, buffers, numbers) and forward."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)
        self.forward_of = forward

    def forward(self, *inputs: Any) -> Any:
        return self.forward_of(self, *inputs)


@dataclass(frozen=True)
class Case:
    """A network, its inputs' shapes, its groups ``{name: width}``, and its unprunable layers."""

    build: Callable[[], nn.Module]
    groups: dict[str, int]
    stays: dict[str, str] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ((2, 3, 8, 8),)


CASES: dict[str, Case] = {}


def case(
    groups: dict[str, int],
    stays: dict[str, str] | None = None,
    shapes: tuple[tuple[int, ...], ...] = ((2, 3, 8, 8),),
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    def note(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        CASES[build.__name__] = Case(build, groups, stays or {}, shapes)
        return build

    return note


def conv(inputs: int, outputs: int, size: int = 3, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **options)


def bn(channels: int, **options: Any) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, **options)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


OUTPUT = {"fc": "model output"}
