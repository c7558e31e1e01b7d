"""Networks with traits from public reports about pruning tools."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torchvision
from netcase import OUTPUT, Net, case, conv, pooled
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def _under(wrap: Any) -> nn.Module:
    """Two layers inside a context, one before and two after it."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(m.d(wrap(m, x))))

    return Net(forward, a=conv(3, 8), b=conv(8, 6), c=conv(6, 8), d=conv(8, 6), fc=nn.Linear(6, 4))


@case({"a": 8, "b": 6, "c": 8, "d": 6}, OUTPUT)
def layers_under_no_grad() -> nn.Module:
    def wrap(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            return m.c(m.b(x))

    return _under(wrap)


@case({"a": 8, "b": 6, "c": 8, "d": 6}, OUTPUT)
def layers_under_autocast() -> nn.Module:
    def wrap(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return m.c(m.b(x))

    return _under(wrap)


@case({"a": 8, "b": 6, "c": 8, "d": 6}, OUTPUT)
def layers_under_enable_grad_within_autocast() -> nn.Module:
    def wrap(m: Any, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False), torch.enable_grad():
            return m.c(m.b(x))

    return _under(wrap)


@case({"a": 8, "b": 6, "c": 8, "d": 6}, OUTPUT)
def layers_in_a_reentrant_checkpoint() -> nn.Module:
    def wrap(m: Any, x: Tensor) -> Any:
        with warnings.catch_warnings():  # without gradients, torch warns that there are none
            warnings.simplefilter("ignore")
            return checkpoint(lambda y: m.c(m.b(y)), x, use_reentrant=True)

    return _under(wrap)


@case({"a": 8, "b": 6, "c": 8, "d": 6}, OUTPUT)
def layers_in_a_checkpoint() -> nn.Module:
    return _under(lambda m, x: checkpoint(lambda y: m.c(m.b(y)), x, use_reentrant=False))


@case({"a": 8, "o": 6}, OUTPUT)
def split_into_equal_sizes() -> nn.Module:
    """As in Ultralytics' C2f: the sizes are one number of the module, twice."""

    def forward(m: Any, x: Tensor) -> Any:
        one, other = m.a(x).split((m.c, m.c), 1)
        return m.fc(pooled(m.o(torch.cat([one, other + m.m(other)], 1))))

    return Net(forward, c=8, a=conv(3, 16), m=conv(8, 8), o=conv(16, 6), fc=nn.Linear(6, 4))


@case({"a": 8, "b.0": 6}, OUTPUT)
def modules_under_two_names() -> nn.Module:
    first, second = conv(3, 8), conv(8, 6)
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.a(x)))),
        a=first, b=nn.Sequential(second), layers=nn.ModuleList([first]), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def instance_norms_without_weights() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.n(m.a(x))).square())),
        a=conv(3, 8), n=nn.InstanceNorm2d(8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def functional_instance_norm() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(F.instance_norm(m.a(x))).square())),
        a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def gated_linear_unit() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(F.glu(m.a(x), 1)))),
        a=conv(3, 16), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT | {"p": "positions of samples"})
def grid_sample() -> nn.Module:
    """The positions are computed by a layer, whose two outputs must stay."""

    def forward(m: Any, x: Tensor) -> Any:
        grid = m.p(x).tanh().permute(0, 2, 3, 1)
        return m.fc(pooled(m.b(F.grid_sample(m.a(x), grid, align_corners=False))))

    return Net(forward, a=conv(3, 8), p=conv(3, 2), b=conv(8, 6), fc=nn.Linear(6, 4))


@case({"a": 8, "b": 6}, OUTPUT)
def max_unpool() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        y, where = F.max_pool2d(m.a(x), 2, return_indices=True)
        return m.fc(pooled(m.b(F.max_unpool2d(y, where, 2))))

    return Net(forward, a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4))


@case({"a": 8, "d": 6}, OUTPUT | {"p": "positions of a deformable convolution"})
def deformable_convolution() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(m.d(x, m.p(x))))

    return Net(
        forward, a=conv(3, 8), p=conv(8, 18), fc=nn.Linear(6, 4),
        d=torchvision.ops.DeformConv2d(8, 6, 3, padding=1),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT, ((2, 3, 8, 8), (2,)))
def embedding_beside_an_image() -> nn.Module:
    """As a network that is told a class: the embedding is added to the channels."""

    def forward(m: Any, x: Tensor, kind: Tensor) -> Any:
        told = m.e(kind.abs().long().clamp(0, 4))[:, :, None, None]
        return m.fc(pooled(m.b(m.a(x) + told)))

    return Net(forward, a=conv(3, 8), e=nn.Embedding(5, 8), b=conv(8, 6), fc=nn.Linear(6, 4))


@case({"b": 6}, OUTPUT | {"a": "not in the state dict"})
def buffer_outside_the_state_dict() -> nn.Module:
    net = Net(
        lambda m, x: m.fc(pooled(m.b(m.a(x) * m.k))),
        a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip
    net.register_buffer("k", torch.rand(1, 8, 1, 1) + 0.5, persistent=False)
    return net
