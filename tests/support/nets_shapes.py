"""Networks with operators that move channels, select some of them or add them up."""

from __future__ import annotations

from typing import Any

import torch
from netcase import OUTPUT, Net, bn, case, conv, pooled
from torch import Tensor, nn
from torch.nn import functional as F


@case({"a": 5, "b": 3, "c": 6}, OUTPUT)
def cat_before_norm() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.c(F.relu(m.n(torch.cat([m.a(x), m.b(x)], 1)))))),
        a=conv(3, 5), b=conv(3, 3), n=bn(8), c=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 5, "b": 3, "c": 6}, OUTPUT)
def cat_after_norm() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.c(torch.cat([m.n(m.a(x)), x, m.b(x)], dim=-3)))),
        a=conv(3, 5), n=bn(5), b=conv(3, 3), c=conv(11, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 5, "c": 6}, OUTPUT)
def cat_of_one_thing_twice() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(m.c(m.n(torch.cat([x, x], 1)))))

    return Net(forward, a=conv(3, 5), n=bn(10), c=conv(10, 6), fc=nn.Linear(6, 4))


@case({"a": 4}, OUTPUT | {"b": "holds sizes"})
def shortcut_padded_with_zeros() -> nn.Module:
    """Option A: a's 4 channels are b's 2 to 5, padded by literal numbers of zeros."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(m.b(x) + F.pad(x, (0, 0, 0, 0, 2, 2))))

    return Net(forward, a=conv(3, 4), b=conv(4, 8), fc=nn.Linear(8, 4))


@case({"a": 4, "b": 6}, OUTPUT)
def chunks_that_meet_again() -> nn.Module:
    """A gated unit: channel c of the first half is pruned with channel c of the second."""

    def forward(m: Any, x: Tensor) -> Any:
        one, other = m.a(x).chunk(2, dim=1)
        return m.fc(pooled(m.b(one * torch.sigmoid(other))))

    return Net(forward, a=conv(3, 8), b=conv(4, 6), fc=nn.Linear(6, 4))


@case({"b": 5, "c": 6}, OUTPUT | {"a": "holds sizes"})
def split_of_literal_sizes() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        one, other = torch.split(m.a(x), [3, 5], dim=1)
        return m.fc(pooled(m.c(torch.cat([one, m.b(other)], 1))))

    return Net(forward, a=conv(3, 8), b=conv(5, 5), c=conv(8, 6), fc=nn.Linear(6, 4))


@case({"b": 6}, OUTPUT | {"a": "holds sizes"})
def slice_of_literal_size() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.a(x)[:, 2:6]))),
        a=conv(3, 8),
        b=conv(4, 6),
        fc=nn.Linear(6, 4),
    )


@case({"b": 6}, OUTPUT | {"a": "holds sizes"})
def expanded_to_a_literal_size() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = F.adaptive_avg_pool2d(m.a(x), 1).expand(x.shape[0], 8, 4, 4)
        return m.fc(pooled(m.b(x)))

    return Net(forward, a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4))


@case({"d": 2, "b": 6}, OUTPUT | {"a": "holds sizes"})
def channel_shuffle() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        n, c, h, w = (x := m.a(x)).shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return m.fc(pooled(m.b(m.d(x))))

    return Net(
        forward, a=conv(3, 8, groups=1), d=conv(8, 8, groups=4), b=conv(8, 6), fc=nn.Linear(6, 4)
    )


@case({"a": 4, "b": 6}, OUTPUT)
def pixel_shuffle() -> nn.Module:
    """Four channels become one of four times the pixels."""
    return Net(
        lambda m, x: m.fc(pooled(m.b(F.pixel_shuffle(m.a(x), 2)))),
        a=conv(3, 16), b=conv(4, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 4, "b": 6}, OUTPUT)
def pixel_unshuffle() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(F.pixel_unshuffle(m.a(x), 2)))),
        a=conv(3, 4), b=conv(16, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 4, "b": 6}, OUTPUT)
def repeated_channels() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.a(x).repeat(1, 2, 1, 1)))),
        a=conv(3, 4), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def one_pixel_selected() -> nn.Module:
    return Net(
        lambda m, x: m.fc(m.b(m.a(x))[:, :, 2, -1]),
        a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8}, OUTPUT | {"b": "holds sizes"})
def one_channel_selected() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.b(m.a(x))
        return m.fc(x[:, 3].mean((1, 2))[:, None])

    return Net(forward, a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(1, 4))


@case({"b": 6}, OUTPUT | {"a": "reduced over the channels"})
def mean_over_channels() -> nn.Module:
    """A mean of eight channels of which four are zero is not the mean of the other four."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(m.b(x * x.mean(1, keepdim=True).sigmoid())))

    return Net(forward, a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4))


@case({"a": 8, "b": 6}, OUTPUT)
def sum_over_channels() -> nn.Module:
    """Channels of zeros do not change a sum."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(m.b(x * x.sum(1, keepdim=True).sigmoid())))

    return Net(forward, a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4))


@case({"a": 8, "b": 6}, OUTPUT)
def rolled_and_flipped_pixels() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.a(x).roll((1, 2), (2, 3)).flip(-1)))),
        a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"b": 6}, OUTPUT | {"a": "holds sizes"})
def a_size_in_the_arithmetic() -> nn.Module:
    """The code divides by its number of channels, which no operator shows."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(m.b(x / x.shape[1])))

    return Net(forward, a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4))


@case({"a": 8, "b": 6}, OUTPUT | {"c": "holds sizes"})
def a_size_in_a_condition() -> nn.Module:
    """A shortcut that is added only if the sizes agree."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        y = m.c(x)
        return m.fc(pooled(m.b(y * 2 if y.shape[1] > x.shape[1] else y)))

    return Net(forward, a=conv(3, 8), c=conv(8, 9), b=conv(9, 6), fc=nn.Linear(6, 4))


@case({"b": 6}, OUTPUT | {"a": "without a batch dimension"})
def pooled_over_channels() -> nn.Module:
    """max_pool2d takes [B, C, L] for one image without a batch: it pools over C."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x).flatten(2)
        return m.fc(pooled(m.b(F.max_pool2d(x, 2).unflatten(2, (4, 8)))))

    return Net(forward, a=conv(3, 8), b=conv(4, 6), fc=nn.Linear(6, 4))


@case({"a": 8, "b": 6}, OUTPUT)
def pooling_with_indices() -> nn.Module:
    return Net(
        lambda m, x: m.fc(F.adaptive_max_pool2d(m.b(F.max_pool2d(m.a(x), 2)), 1).flatten(1)),
        a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def written_in_place() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = F.relu(m.a(x), inplace=True)
        x += m.c(m.b(x))
        x.mul_(0.5)
        x.add_(m.d(x))
        return m.fc(pooled(1 - x))

    return Net(forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 8), d=conv(8, 8), fc=nn.Linear(8, 4))


@case({"a": 4, "b": 6}, OUTPUT | {"a": "copy", "c": "copy"})
def written_into_part_in_place() -> nn.Module:
    """The first 4 of 8 channels are added to something fixed and stay; the last 4 can be pruned."""

    def forward(m: Any, x: Tensor) -> Any:
        x = F.relu(m.a(x))
        x[:, :4] += m.c(x)
        return m.fc(pooled(m.b(x)))

    return Net(forward, a=conv(3, 8), c=conv(8, 4), b=conv(8, 6), fc=nn.Linear(6, 4))
