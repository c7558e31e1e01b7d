"""Layers and norms: ordinary, grouped, transposed, used twice, with computed weights."""

from __future__ import annotations

from typing import Any

import torch
from netcase import OUTPUT, Net, bn, case, conv, pooled
from torch import Tensor, nn
from torch.nn import functional as F


@case({"a": 8}, OUTPUT)
def flatten_to_linear() -> nn.Module:
    return Net(lambda m, x: m.fc(torch.flatten(m.a(x), 1)), a=conv(3, 8), fc=nn.Linear(8 * 64, 4))


@case({"a": 8}, OUTPUT)
def view_to_linear() -> nn.Module:
    return Net(lambda m, x: m.fc(m.a(x).view(x.size(0), -1)), a=conv(3, 8), fc=nn.Linear(512, 4))


@case({}, OUTPUT | {"a": "holds sizes"})
def view_of_literal_size() -> nn.Module:
    return Net(lambda m, x: m.fc(m.a(x).view(-1, 512)), a=conv(3, 8), fc=nn.Linear(512, 4))


@case({"a": 8}, OUTPUT)
def a_convolution_used_twice() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(F.relu(m.b(m.a(x)))))),
        a=conv(3, 8), b=conv(8, 8), fc=nn.Linear(8, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def a_norm_used_twice() -> nn.Module:
    """The norm's parameters merge the channels of a and c, which it normalises."""
    return Net(
        lambda m, x: m.fc(pooled(m.n(m.c(m.b(m.n(m.a(x))))))),
        a=conv(3, 8), n=bn(8), b=conv(8, 6), c=conv(6, 8), fc=nn.Linear(8, 4),
    )  # fmt: skip


@case({"c": 5}, OUTPUT | {"a": "model input"}, ((2, 8, 8, 8),))
def tied_weights() -> nn.Module:
    """The outputs of the layers are its inputs, too, and the first are those of the network."""

    def build() -> nn.Module:
        model = Net(
            lambda m, x: m.fc(pooled(m.c(m.b(m.a(x))))),
            a=conv(8, 8), b=conv(8, 8), c=conv(8, 5), fc=nn.Linear(5, 4),
        )  # fmt: skip
        model.b.weight = model.a.weight
        return model

    return build()


@case({"a": 8, "b": 6}, OUTPUT)
def tied_layer_scales() -> nn.Module:
    """One parameter under two names, used as an activation."""
    scale = nn.Parameter(torch.rand(8, 1, 1))
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.t * F.relu(m.s * m.a(x))))),
        a=conv(3, 8), s=scale, t=scale, b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"b": 6}, OUTPUT | {"a": "computed in the forward", "conv2d_1": "computed in the forward"})
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
    """Two convolution groups: channels c of both halves are pruned together."""
    return Net(
        lambda m, x: m.fc(pooled(m.g(m.d(m.a(x))))),
        a=conv(3, 8), d=conv(8, 8, groups=8), g=conv(8, 6, groups=2), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def layer_scale() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(x + m.gamma[:, None, None] * m.c(m.b(x)) + m.shift))

    return Net(
        forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 8), gamma=nn.Parameter(torch.rand(8)),
        shift=torch.rand(1, 8, 1, 1), fc=nn.Linear(8, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def norm_without_affine_and_norm_without_statistics() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.k(m.b(m.n(m.a(x)))))),
        a=conv(3, 8), n=bn(8, affine=False), b=conv(8, 6), k=bn(6, track_running_stats=False),
        fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def convolution_of_a_buffer() -> nn.Module:
    """Every element of the buffer has its own label; the labels of a channel are merged."""
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
    """Two convolution groups share the weight's columns, so channels are pruned in pairs."""
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


@case({"a": 2, "b": 6}, OUTPUT)
def group_norm() -> nn.Module:
    """Four channels share statistics and are pruned together."""
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


@case({"a": 8, "b": 6}, OUTPUT)
def a_slope_for_each_channel() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.q(m.b(m.p(m.a(x)))))),
        a=conv(3, 8), p=nn.PReLU(8), b=conv(8, 6), q=nn.PReLU(), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"b": 6}, OUTPUT | {"a": "computed in the forward", "s": "computed in the forward"})
def a_parametrised_weight() -> nn.Module:
    from torch.nn.utils.parametrizations import spectral_norm

    return Net(
        lambda m, x: m.fc(pooled(m.b(F.relu(m.s(m.a(x)))))),
        a=conv(3, 8), s=spectral_norm(conv(8, 8)), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def a_frozen_convolution() -> nn.Module:
    model = Net(
        lambda m, x: m.fc(pooled(m.b(F.relu(m.a(x))))),
        a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip
    model.a.requires_grad_(False)
    return model


@case({"a": 8, "b": 6, "c": 5}, OUTPUT)
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


@case({"a": 8, "b": 6}, OUTPUT)
def frozen_norm() -> nn.Module:
    from torchvision.ops import FrozenBatchNorm2d

    return Net(
        lambda m, x: m.fc(pooled(m.b(F.relu(m.n(m.a(x)))))),
        a=conv(3, 8, bias=False), n=FrozenBatchNorm2d(8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip
