"""Networks drawn at random from the operators that have rules: removing must equal zeroing."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nets import conv
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import LayerNorm2d

import hwprune
from hwprune.pruning.oracle import oracle_error

SIZE = 8  # pixels of the input

# One step: an operator, two tensors it may read (counted from the last), and a number.
STEPS = st.lists(
    st.tuples(st.integers(0, 99), st.integers(0, 9), st.integers(0, 9), st.integers(1, 4)),
    min_size=2,
    max_size=10,
)


Program: TypeAlias = list[tuple[int, int, int, int]]
Step: TypeAlias = tuple[nn.Module | None, Callable[..., Any]]


class Drawn(nn.Module):
    """A network that runs a list of steps, which are fixed when it is built."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.parts = nn.ModuleDict()
        self.stem = conv(3, 8)
        self.steps: list[tuple[int, int, Step]] = []
        with torch.no_grad():
            pool = [self.stem(torch.zeros(2, 3, SIZE, SIZE))]
            for place, (operator, first, second, number) in enumerate(program):
                x, y = first % len(pool), second % len(pool)
                step = OPERATORS[operator % len(OPERATORS)](pool[-1 - x], pool[-1 - y], number)
                self.steps.append((x, y, step))
                self.parts.update({f"s{place}": step[0]} if step[0] is not None else {})
                self._extend(pool, self.steps[-1])
        self.head = nn.Linear(sum(t.shape[1] for t in pool[-3:]), 4)

    def forward(self, x: Tensor) -> Any:
        pool = [self.stem(x)]
        for place, (first, second, (_, run)) in enumerate(self.steps):
            part = self.parts[f"s{place}"] if f"s{place}" in self.parts else None  # noqa: SIM401
            self._extend(pool, (first, second, (part, run)))
        return self.head(torch.cat([t.mean((2, 3)) for t in pool[-3:]], 1))

    @staticmethod
    def _extend(pool: list[Tensor], step: tuple[int, int, Step]) -> None:
        first, second, (part, run) = step
        out = run(part, pool[-1 - first], pool[-1 - second])
        pool += out if isinstance(out, list) else [out]


# Each operator gets two tensors and a number when the network is built, and returns the module
# that it needs (or None) and what to do with it and the two tensors.


def alone(part: Any, x: Tensor, y: Tensor) -> Any:
    return part(x)


def unchanged(part: Any, x: Tensor, y: Tensor) -> Any:
    return x


def convolution(x: Tensor, y: Tensor, number: int) -> Step:
    return conv(x.shape[1], 2 * number + 2, 3 if number % 2 else 1), alone


def depthwise(x: Tensor, y: Tensor, number: int) -> Step:
    return conv(x.shape[1], x.shape[1] * (1 + number % 2), groups=x.shape[1]), alone


def grouped(x: Tensor, y: Tensor, number: int) -> Step:
    return conv(x.shape[1], 2 * number, groups=math.gcd(x.shape[1], 2)), alone


def transposed(x: Tensor, y: Tensor, number: int) -> Step:
    groups = math.gcd(x.shape[1], 2) if number > 2 else 1
    return nn.ConvTranspose2d(x.shape[1], 2 * number, 3, padding=1, groups=groups), alone


def batch_norm(x: Tensor, y: Tensor, number: int) -> Step:
    return nn.BatchNorm2d(x.shape[1]), alone


def group_norm(x: Tensor, y: Tensor, number: int) -> Step:
    return nn.GroupNorm(math.gcd(x.shape[1], 2 ** (number % 3)), x.shape[1]), alone


def activation(x: Tensor, y: Tensor, number: int) -> Step:
    function = (F.relu, F.gelu, torch.sigmoid, F.hardswish)[number - 1]
    return None, lambda part, x, y: function(x)


def slope(x: Tensor, y: Tensor, number: int) -> Step:
    return nn.PReLU(x.shape[1]), alone


def joined(x: Tensor, y: Tensor, number: int) -> Step:
    """Add or multiply, with a 1x1 convolution where the channels differ."""
    size = x.shape[2:]

    def run(part: Any, x: Tensor, y: Tensor) -> Tensor:
        y = F.interpolate(part(y) if part else y, size=size)
        return x * y if number == 1 else x + y

    return conv(y.shape[1], x.shape[1], 1) if y.shape[1] != x.shape[1] else None, run


def concatenated(x: Tensor, y: Tensor, number: int) -> Step:
    size = x.shape[2:]
    if x.shape[1] + y.shape[1] > 32:
        return None, unchanged
    return None, lambda part, x, y: torch.cat([x, F.interpolate(y, size=size)], 1)


def halves(x: Tensor, y: Tensor, number: int) -> Step:
    if x.shape[1] % 2:
        return None, unchanged
    return None, lambda part, x, y: list(x.chunk(2, 1))


def gated(x: Tensor, y: Tensor, number: int) -> Step:
    def run(part: Any, x: Tensor, y: Tensor) -> Tensor:
        return x * torch.sigmoid(part(F.adaptive_avg_pool2d(x, 1)))

    return conv(x.shape[1], x.shape[1], 1), run


def residual(x: Tensor, y: Tensor, number: int) -> Step:
    inner = 2 * number + 1
    part = nn.Sequential(conv(x.shape[1], inner), nn.ReLU(), conv(inner, x.shape[1]))
    return part, lambda part, x, y: x + part(x)


def smaller(x: Tensor, y: Tensor, number: int) -> Step:
    if x.shape[2] < 4:
        return None, unchanged
    return None, lambda part, x, y: F.max_pool2d(x, 2) if number % 2 else F.avg_pool2d(x, 2)


def shuffled_pixels(x: Tensor, y: Tensor, number: int) -> Step:
    if x.shape[1] % 4 == 0 and x.shape[2] <= SIZE:
        return None, lambda part, x, y: F.pixel_shuffle(x, 2)
    if x.shape[1] <= 8 and x.shape[2] % 2 == 0:
        return None, lambda part, x, y: F.pixel_unshuffle(x, 2)
    return None, unchanged


def shuffled_channels(x: Tensor, y: Tensor, number: int) -> Step:
    groups = math.gcd(x.shape[1], 2)
    return None, lambda part, x, y: F.channel_shuffle(x, groups)


def padded(x: Tensor, y: Tensor, number: int) -> Step:
    if x.shape[1] > 16:
        return None, unchanged
    return None, lambda part, x, y: F.pad(x, (0, 0, 0, 0, number, 0))


def linear_over_pixels(x: Tensor, y: Tensor, number: int) -> Step:
    def run(part: Any, x: Tensor, y: Tensor) -> Tensor:
        return part(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    return nn.Linear(x.shape[1], 2 * number), run


def stacked(x: Tensor, y: Tensor, number: int) -> Step:
    return None, lambda part, x, y: torch.stack([x, F.relu(x)], 1).sum(1)


def repeated(x: Tensor, y: Tensor, number: int) -> Step:
    if x.shape[1] > 8:
        return None, unchanged
    return None, lambda part, x, y: x.repeat(1, 2, 1, 1)


def attended(x: Tensor, y: Tensor, number: int) -> Step:
    """Non-local means with the tensor itself as queries and keys."""
    size = x.shape[2:]

    def run(part: Any, x: Tensor, y: Tensor) -> Tensor:
        flat = x.flatten(2)
        mixed = part(x).flatten(2) @ (flat.transpose(1, 2) @ flat).softmax(1)
        return x + mixed.unflatten(2, size)

    return conv(x.shape[1], x.shape[1], 1), run


def layer_norm(x: Tensor, y: Tensor, number: int) -> Step:
    return LayerNorm2d(x.shape[1]), alone


class Halves(nn.Module):
    """Applies a convolution to the first channels, whose number is an attribute."""

    def __init__(self, channels: int, first: int) -> None:
        super().__init__()
        self.sizes = (first, channels - first)
        self.inner = conv(first, first)

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.split(self.sizes, 1)
        return torch.cat([self.inner(first), second], 1)


def held_sizes(x: Tensor, y: Tensor, number: int) -> Step:
    return Halves(x.shape[1], min(number, x.shape[1] - 1)) if x.shape[1] > 1 else nn.ReLU(), alone


class Heads(nn.Module):
    """Attention between pixels; the number of heads is an attribute."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(channels, 3 * heads * 2), nn.Linear(heads * 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, 2)).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(y).transpose(1, 2).unflatten(2, x.shape[2:])


def heads(x: Tensor, y: Tensor, number: int) -> Step:
    return Heads(x.shape[1], number), alone


def end_to_end_in_space(x: Tensor, y: Tensor, number: int) -> Step:
    if x.shape[1] != y.shape[1] or x.shape[3] != y.shape[3] or x.shape[2] + y.shape[2] > 2 * SIZE:
        return None, unchanged
    return None, lambda part, x, y: F.adaptive_avg_pool2d(torch.cat([x, y], 2), x.shape[2:])


def weighted(x: Tensor, y: Tensor, number: int) -> Step:
    def run(part: Any, x: Tensor, y: Tensor) -> Tensor:
        return torch.einsum("bchw,bc->bchw", x, part(x.mean((2, 3))).sigmoid())

    return nn.Linear(x.shape[1], x.shape[1]), run


OPERATORS = [
    convolution, depthwise, grouped, transposed, batch_norm, group_norm, activation, slope, joined,
    concatenated, halves, gated, residual, smaller, shuffled_pixels, shuffled_channels, padded,
    linear_over_pixels, stacked, repeated, attended, layer_norm, held_sizes, heads,
    end_to_end_in_space, weighted,
]  # fmt: skip


def shaken(model: nn.Module) -> nn.Module:
    draw = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d | nn.GroupNorm | LayerNorm2d):
            module.weight.data.uniform_(0.5, 1.5, generator=draw)
            module.bias.data.normal_(0, 0.3, generator=draw)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=draw)
            module.running_var.uniform_(0.5, 1.5, generator=draw)
        if isinstance(module, nn.PReLU):
            module.weight.data.uniform_(0.1, 0.9, generator=draw)
    return model.eval()


def examples(count: int) -> settings:
    """The same networks in every run."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # shrinking a failure takes minutes
        suppress_health_check=list(HealthCheck),
    )


@examples(30)
@given(program=STEPS, seed=st.integers(0, 3))
def test_removing_equals_zeroing(program: Program, seed: int) -> None:
    removing_equals_zeroing(program, seed)


@pytest.mark.slow
@examples(400)
@given(program=STEPS, seed=st.integers(4, 7))
def test_removing_equals_zeroing_in_many_networks(program: Program, seed: int) -> None:
    removing_equals_zeroing(program, seed)


def removing_equals_zeroing(program: Program, seed: int) -> None:
    torch.manual_seed(seed)
    model = shaken(Drawn(program))
    x = torch.randn(2, 3, SIZE, SIZE)
    graph = hwprune.trace(model, x)
    draw = random.Random(seed)
    for _ in range(2):
        kept = {
            name: draw.sample(range(width), draw.randint(1, width))
            for name, width in graph.widths.items()
            if draw.random() < 0.7
        }
        plan = hwprune.Plan.from_kept(graph, kept)
        assert oracle_error(model, graph, plan, (x,)) <= 1e-4
        small = hwprune.prune(model, graph, plan)
        assert plan.params == sum(p.numel() for p in small.parameters())
    again = hwprune.trace(small, x)
    assert again.params() == plan.params
    if again.groups:
        again_plan = hwprune.Plan.from_kept(again, {g.name: [0] for g in again.groups})
        assert oracle_error(small, again, again_plan, (x,)) <= 1e-4
