"""Small networks, each with the channel groups that it must have, written down by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

torch.set_num_threads(1)  # more are slower for networks as small as these


class Net(nn.Module):
    """A network of the given parts (modules, parameters, buffers) and a forward function."""

    def __init__(self, forward: Callable[..., Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)
        self.forward_of = forward

    def forward(self, *inputs: Any) -> Any:
        return self.forward_of(self, *inputs)


@dataclass(frozen=True)
class Case:
    """A network, its inputs' shapes, its groups ``{name: width}`` and what stays, with why."""

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


@case({"a": 8, "b": 6}, OUTPUT)
def plain() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(F.relu(m.b(m.n(m.a(x)))))),
        a=conv(3, 8), n=bn(8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8}, OUTPUT)
def flatten_to_linear() -> nn.Module:
    return Net(lambda m, x: m.fc(torch.flatten(m.a(x), 1)), a=conv(3, 8), fc=nn.Linear(8 * 64, 4))


@case({"a": 8}, OUTPUT)
def view_to_linear() -> nn.Module:
    return Net(lambda m, x: m.fc(m.a(x).view(x.size(0), -1)), a=conv(3, 8), fc=nn.Linear(512, 4))


@case({}, OUTPUT | {"a": "holds sizes"})
def view_of_literal_size() -> nn.Module:
    return Net(lambda m, x: m.fc(m.a(x).view(-1, 512)), a=conv(3, 8), fc=nn.Linear(512, 4))


@case({"a": 8, "b": 6}, OUTPUT)
def residual() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(x + m.c(F.relu(m.n(m.b(x))))))

    return Net(forward, a=conv(3, 8), b=conv(8, 6), n=bn(6), c=conv(6, 8), fc=nn.Linear(8, 4))


@case({"b": 6}, OUTPUT | {"a": "model input"})
def residual_to_the_input() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(x + m.a(x)))), a=conv(3, 3), b=conv(3, 6), fc=nn.Linear(6, 4)
    )


@case({"a": 8}, OUTPUT)
def a_convolution_used_twice() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(F.relu(m.b(m.a(x)))))),
        a=conv(3, 8), b=conv(8, 8), fc=nn.Linear(8, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def a_norm_used_twice() -> nn.Module:
    """The norm ties what it normalises: a and c."""
    return Net(
        lambda m, x: m.fc(pooled(m.n(m.c(m.b(m.n(m.a(x))))))),
        a=conv(3, 8), n=bn(8), b=conv(8, 6), c=conv(6, 8), fc=nn.Linear(8, 4),
    )  # fmt: skip


@case({"c": 5}, OUTPUT | {"b": "tied to"}, ((2, 8, 8, 8),))
def tied_weights() -> nn.Module:
    def build() -> nn.Module:
        model = Net(
            lambda m, x: m.fc(pooled(m.c(m.b(m.a(x))))),
            a=conv(8, 8), b=conv(8, 8), c=conv(8, 5), fc=nn.Linear(5, 4),
        )  # fmt: skip
        model.b.weight = model.a.weight
        return model

    return build()


@case({"b": 6}, OUTPUT | {"a": "tied to"})
def tied_layer_scales() -> nn.Module:
    """One parameter under two names, used as an activation."""
    scale = nn.Parameter(torch.rand(8, 1, 1))
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.t * F.relu(m.s * m.a(x))))),
        a=conv(3, 8), s=scale, t=scale, b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"b": 6}, OUTPUT | {"a": "computed in the forward"})
def weight_computed_in_the_forward() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        x = F.conv2d(x, m.w - m.w.mean((1, 2, 3), keepdim=True), padding=1)
        return m.fc(pooled(m.b(x)))

    return Net(
        forward, a=conv(3, 8), w=nn.Parameter(torch.rand(8, 8, 3, 3)), b=conv(8, 6),
        fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def depthwise() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(F.relu6(m.n(m.d(m.a(x))))))),
        a=conv(3, 8), d=conv(8, 8, groups=8), n=bn(8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8}, OUTPUT)
def depthwise_with_two_outputs_a_channel() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(F.relu(m.d(m.a(x))))),
        a=conv(3, 8), d=conv(8, 16, groups=8), fc=nn.Linear(16, 4),
    )  # fmt: skip


@case({"a": 4, "g": 3}, OUTPUT)
def grouped_after_depthwise() -> nn.Module:
    """Two groups: channel c of the first half goes with channel c of the second."""
    return Net(
        lambda m, x: m.fc(pooled(m.g(m.d(m.a(x))))),
        a=conv(3, 8), d=conv(8, 8, groups=8), g=conv(8, 6, groups=2), fc=nn.Linear(6, 4),
    )  # fmt: skip


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


@case({"a": 8, "s": 4, "b": 6}, OUTPUT)
def squeeze_excite() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        gate = torch.sigmoid(m.e(F.relu(m.s(F.adaptive_avg_pool2d(x, 1)))))
        return m.fc(pooled(m.b(x * gate)))

    return Net(
        forward, a=conv(3, 8), s=conv(8, 4, 1), e=conv(4, 8, 1), b=conv(8, 6), fc=nn.Linear(6, 4)
    )


@case({"a": 8, "s": 4, "b": 6}, OUTPUT)
def squeeze_excite_of_linears() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        gate = m.e(F.relu(m.s(F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1))))
        return m.fc(pooled(m.b(x * torch.sigmoid(gate)[:, :, None, None])))

    return Net(
        forward, a=conv(3, 8), s=nn.Linear(8, 4), e=nn.Linear(4, 8), b=conv(8, 6),
        fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT | {"t": "broadcast over channels"})
def times_a_map_of_one_channel() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(m.b(x * torch.sigmoid(m.t(x)))))

    return Net(forward, a=conv(3, 8), t=conv(8, 1), b=conv(8, 6), fc=nn.Linear(6, 4))


@case({"a": 8, "b": 6}, OUTPUT)
def layer_scale() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(x + m.gamma[:, None, None] * m.c(m.b(x)) + m.shift))

    return Net(
        forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 8), gamma=nn.Parameter(torch.rand(8)),
        shift=torch.rand(1, 8, 1, 1), fc=nn.Linear(8, 4),
    )  # fmt: skip


@case({"a": 4}, OUTPUT | {"b": "holds sizes"})
def shortcut_padded_with_zeros() -> nn.Module:
    """Option A: a's 4 channels lie in b's 2 to 5; zeros of a literal number beside them."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(m.b(x) + F.pad(x, (0, 0, 0, 0, 2, 2))))

    return Net(forward, a=conv(3, 4), b=conv(4, 8), fc=nn.Linear(8, 4))


@case({"a": 4, "b": 6}, OUTPUT)
def chunks_that_meet_again() -> nn.Module:
    """A gated unit: channel c of the first half goes with channel c of the second."""

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


@case({"b": 6}, OUTPUT | {"a": "model output", "aux": "model output"}, ((2, 3, 8, 8), (2, 5, 8, 8)))
def two_inputs_and_a_dict_of_outputs() -> nn.Module:
    def forward(m: Any, x: Tensor, y: Tensor) -> Any:
        x = m.a(x)
        return {"features": x, "logits": m.fc(pooled(m.b(torch.cat([x, y], 1)))), "aux": m.aux(y)}

    return Net(forward, a=conv(3, 8), b=conv(13, 6), aux=conv(5, 2), fc=nn.Linear(6, 4))


@case({"a": 8, "unused": 5}, OUTPUT)
def an_output_never_used() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        m.unused(x)
        return m.fc(pooled(x))

    return Net(forward, a=conv(3, 8), unused=conv(8, 5), fc=nn.Linear(8, 4))


@case({"a": 8, "b": 6}, OUTPUT)
def a_module_never_called() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.a(x)))),
        a=conv(3, 8), b=conv(8, 6), never=conv(8, 5), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def norm_without_affine_and_norm_without_statistics() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.k(m.b(m.n(m.a(x)))))),
        a=conv(3, 8), n=bn(8, affine=False), b=conv(8, 6), k=bn(6, track_running_stats=False),
        fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({}, OUTPUT | {"a": "more than one dimension", "b": "more than one dimension"})
def convolution_of_a_buffer() -> nn.Module:
    """Every element of the buffer has its own label, which no convolution can follow."""
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.a(x)) + m.b(m.k))),
        a=conv(3, 8), k=torch.rand(1, 8, 8, 8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT, ((2, 3, 16),))
def one_dimension() -> nn.Module:
    return Net(
        lambda m, x: m.fc(F.max_pool1d(m.b(F.relu(m.n(m.a(x)))), 16).flatten(1)),
        a=nn.Conv1d(3, 8, 3, padding=1), n=nn.BatchNorm1d(8), b=nn.Conv1d(8, 6, 3, padding=1),
        fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT, ((2, 3, 4, 4, 4),))
def three_dimensions() -> nn.Module:
    return Net(
        lambda m, x: m.fc(F.adaptive_avg_pool3d(m.b(F.relu(m.n(m.a(x)))), 1).flatten(1)),
        a=nn.Conv3d(3, 8, 3, padding=1), n=nn.BatchNorm3d(8), b=nn.Conv3d(8, 6, 1),
        fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "t": 5, "b": 6}, OUTPUT)
def transposed_convolution() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.n(m.t(m.a(x)))))),
        a=conv(3, 8), t=nn.ConvTranspose2d(8, 5, 2, 2), n=bn(5), b=conv(5, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 4, "t": 3, "b": 6}, OUTPUT)
def grouped_transposed_convolution() -> nn.Module:
    """Two groups, both with the same columns of the weight: they go in pairs on both sides."""
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.t(m.a(x))))),
        a=conv(3, 8), t=nn.ConvTranspose2d(8, 6, 2, 2, groups=2), b=conv(6, 6),
        fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def depthwise_transposed_convolution() -> nn.Module:
    """Two outputs for each of eight channels."""
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.t(m.a(x))))),
        a=conv(3, 8), t=nn.ConvTranspose2d(8, 16, 2, 2, groups=8), b=conv(16, 6),
        fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6, "u": 8}, {"o": "model output"})
def u_net() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = F.relu(m.a(x))
        low = F.relu(m.b(F.max_pool2d(x, 2)))
        return m.o(torch.cat([x, m.u(low)], 1))

    return Net(
        forward, a=conv(3, 8), b=conv(8, 6), u=nn.ConvTranspose2d(6, 8, 2, 2), o=conv(16, 2)
    )  # fmt: skip


@case({"a": 2, "b": 6}, OUTPUT)
def group_norm() -> nn.Module:
    """Four channels share statistics and go together."""
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.n(m.a(x))))),
        a=conv(3, 8), n=nn.GroupNorm(2, 8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"b": 6}, OUTPUT | {"a": "statistics run over the channels"})
def group_norm_of_one_group() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.n(m.a(x))))),
        a=conv(3, 8), n=nn.GroupNorm(1, 8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"b": 6}, OUTPUT | {"a": "holds sizes"})
def group_norm_of_a_literal_number() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(F.group_norm(m.a(x), 4)))),
        a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def instance_norm() -> nn.Module:
    return Net(
        lambda m, x: m.fc(F.adaptive_max_pool2d(m.k(m.b(m.n(m.a(x)))), 1).flatten(1)),
        a=conv(3, 8), n=nn.InstanceNorm2d(8, affine=True), b=conv(8, 6),
        k=nn.InstanceNorm2d(6, affine=True, track_running_stats=True), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"b": 6}, OUTPUT | {"a": "warns of another number of channels"})
def instance_norm_without_parameters() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.n(m.a(x))))),
        a=conv(3, 8), n=nn.InstanceNorm2d(8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def a_slope_for_each_channel() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.q(m.b(m.p(m.a(x)))))),
        a=conv(3, 8), p=nn.PReLU(8), b=conv(8, 6), q=nn.PReLU(), fc=nn.Linear(6, 4),
    )  # fmt: skip


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


@case({"a": 4, "b": 6}, {"o": "model input"})
def super_resolution() -> nn.Module:
    """The outputs are pixels: shuffled channels of the last layer."""

    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        y = y + m.c(F.relu(m.b(y)))
        return F.pixel_shuffle(m.o(y), 2) + F.interpolate(x, scale_factor=2, mode="nearest")

    return Net(forward, a=conv(3, 4), b=conv(4, 6), c=conv(6, 4), o=conv(4, 12))


@case({"a": 8, "s": 4, "b": 6}, OUTPUT)
def paths_chosen_by_attention() -> nn.Module:
    """Selective kernels: paths are stacked, weighed and added, so their channels are one."""

    def forward(m: Any, x: Tensor) -> Any:
        paths = torch.stack([m.a(x), m.c(x)], dim=1)
        gate = F.relu(m.s(paths.sum(1).mean((2, 3), keepdim=True)))
        gate = torch.stack([m.e(gate), m.g(gate)], dim=1).softmax(1)
        return m.fc(pooled(m.b((paths * gate).sum(1))))

    return Net(
        forward, a=conv(3, 8), c=conv(3, 8, 5), s=conv(8, 4, 1), e=conv(4, 8, 1), g=conv(4, 8, 1),
        b=conv(8, 6), fc=nn.Linear(6, 4),
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
    """A sum does not see what is zero."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(m.b(x * x.sum(1, keepdim=True).sigmoid())))

    return Net(forward, a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4))


@case({"b": 6}, OUTPUT | {"a": "more than one dimension"})
def convolution_along_channels() -> nn.Module:
    """Efficient channel attention: neighbours matter, which removing changes."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        gate = m.k(pooled(x)[:, None]).sigmoid()
        return m.fc(pooled(m.b(x * gate.transpose(1, 2)[..., None])))

    return Net(
        forward, a=conv(3, 8), k=nn.Conv1d(1, 1, 3, padding=1, bias=False), b=conv(8, 6),
        fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "q": 4, "v": 5}, OUTPUT)
def attention_over_pixels() -> nn.Module:
    """Non-local means: queries meet keys channel by channel; values go their own way."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        q, k, v = (f(x).flatten(2) for f in (m.q, m.k, m.v))
        y = v @ (q.transpose(1, 2) @ k).softmax(1)
        return m.fc(pooled(x + m.o(y.unflatten(2, (8, 8)))))

    return Net(
        forward, a=conv(3, 8), q=conv(8, 4, 1), k=conv(8, 4, 1), v=conv(8, 5, 1), o=conv(5, 8, 1),
        fc=nn.Linear(8, 4),
    )  # fmt: skip


@case({"b": 6}, OUTPUT | {"a": "more than one dimension"})
def attention_over_channels() -> nn.Module:
    """Each channel is compared with each: a matrix of channels by channels."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x).flatten(2)
        x = (x @ x.transpose(1, 2)).softmax(-1) @ x
        return m.fc(pooled(m.b(x.unflatten(2, (8, 8)))))

    return Net(forward, a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4))


@case({"a": 8, "b": 6, "c": 8, "d": 6}, OUTPUT)
def two_resolutions_that_meet() -> nn.Module:
    """As in HRNet: each resolution gets the sum of both, so each is one group through time."""

    def forward(m: Any, x: Tensor) -> Any:
        high, low = m.a(x), m.b(F.avg_pool2d(x, 2))
        high, low = (
            high + F.interpolate(m.u(low), scale_factor=2.0, mode="bilinear"),
            low + m.s(high),
        )
        high, low = F.relu(m.c(high)), F.relu(m.d(low))
        return m.fc(torch.cat([pooled(high), pooled(low)], 1))

    return Net(
        forward, a=conv(3, 8), b=conv(3, 6), u=conv(6, 8, 1), s=nn.Conv2d(8, 6, 3, 2, 1),
        c=conv(8, 8), d=conv(6, 6), fc=nn.Linear(14, 4),
    )  # fmt: skip


@case({"a": 4, "b": 5, "c": 6}, OUTPUT)
def a_cell_of_sums_laid_end_to_end() -> nn.Module:
    """As in NASNet: sums of pairs of branches, concatenated."""

    def forward(m: Any, x: Tensor) -> Any:
        left = m.a(x) + m.d(x)
        right = m.b(x) + m.e(F.relu(left))
        return m.fc(pooled(m.c(m.n(torch.cat([left, right, F.max_pool2d(left, 3, 1, 1)], 1)))))

    return Net(
        forward, a=conv(3, 4), d=conv(3, 4, 5), b=conv(3, 5), e=conv(4, 5), n=bn(13),
        c=conv(13, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6, "c": 5}, OUTPUT)
def a_residual_in_a_residual() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        inner = m.b(x)
        inner = inner + m.d(F.relu(m.c(inner)))
        return m.fc(pooled(x + m.e(inner)))

    return Net(
        forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 5), d=conv(5, 6), e=conv(6, 8),
        fc=nn.Linear(8, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT | {"lost": "model output"}, ((2, 3, 8, 8), (2, 3, 8, 8)))
def parts_that_never_meet() -> nn.Module:
    return Net(
        lambda m, x, y: (m.fc(pooled(m.b(F.relu(m.a(x))))), m.lost(y)),
        a=conv(3, 8), b=conv(8, 6), lost=conv(3, 2), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"b": 6}, OUTPUT | {"a": "computed in the forward"})
def a_parametrised_weight() -> nn.Module:
    from torch.nn.utils.parametrizations import spectral_norm

    return Net(
        lambda m, x: m.fc(pooled(m.b(F.relu(m.s(m.a(x)))))),
        a=conv(3, 8), s=spectral_norm(conv(8, 8)), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def rolled_and_flipped_pixels() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.a(x).roll((1, 2), (2, 3)).flip(-1)))),
        a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def a_frozen_convolution() -> nn.Module:
    model = Net(
        lambda m, x: m.fc(pooled(m.b(F.relu(m.a(x))))),
        a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip
    model.a.requires_grad_(False)
    return model


@case({"b": 6, "c": 5}, OUTPUT | {"a": "layer_norm"})
def layer_norm_over_channels() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.n(m.a(x).permute(0, 2, 3, 1))
        x = F.gelu(m.b(x)).permute(0, 3, 1, 2)
        return m.fc(pooled(m.c(x)))

    return Net(
        forward,
        a=conv(3, 8),
        n=nn.LayerNorm(8),
        b=nn.Linear(8, 6),
        c=conv(6, 5),
        fc=nn.Linear(5, 4),
    )


@case({"h": 6, "p": 8}, OUTPUT | {"qkv": "scaled_dot_product_attention", "out": ""}, ((2, 5, 8),))
def attention() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        q, k, v = m.qkv(x).chunk(3, dim=-1)
        x = m.n(x + m.out(F.scaled_dot_product_attention(q, k, v)))
        return m.fc((m.p(F.gelu(m.h(x)))).mean(1))

    return Net(
        forward, qkv=nn.Linear(8, 24), out=nn.Linear(8, 8), n=nn.LayerNorm(8), h=nn.Linear(8, 6),
        p=nn.Linear(6, 8), fc=nn.Linear(8, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def frozen_norm() -> nn.Module:
    from torchvision.ops import FrozenBatchNorm2d

    return Net(
        lambda m, x: m.fc(pooled(m.b(F.relu(m.n(m.a(x)))))),
        a=conv(3, 8, bias=False), n=FrozenBatchNorm2d(8), b=conv(8, 6), fc=nn.Linear(6, 4),
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
    """A shortcut that is taken where the sizes happen to agree."""

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
        return m.fc(pooled(1 - x))

    return Net(forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 8), fc=nn.Linear(8, 4))


@case({"a": 4, "b": 6}, OUTPUT | {"a": "copy", "c": "copy"})
def written_into_part_in_place() -> nn.Module:
    """The first 4 of 8 channels get something added, so they stay; the last 4 are free."""

    def forward(m: Any, x: Tensor) -> Any:
        x = F.relu(m.a(x))
        x[:, :4] += m.c(x)
        return m.fc(pooled(m.b(x)))

    return Net(forward, a=conv(3, 8), c=conv(8, 4), b=conv(8, 6), fc=nn.Linear(6, 4))
