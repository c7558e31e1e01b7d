"""Usual architectures: residual, squeeze-excite, attention, pyramids, several outputs."""

from __future__ import annotations

from typing import Any

import torch
from netcase import OUTPUT, Net, bn, case, conv, pooled
from torch import Tensor, nn
from torch.nn import functional as F


@case({"a": 8, "b": 6}, OUTPUT)
def plain() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(F.relu(m.b(m.n(m.a(x)))))),
        a=conv(3, 8), n=bn(8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


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


@case({"b": 6}, OUTPUT | {"a": "model output", "aux": "model output"}, ((2, 3, 8, 8), (2, 5, 8, 8)))
def two_inputs_and_a_dict_of_outputs() -> nn.Module:
    def forward(m: Any, x: Tensor, y: Tensor) -> Any:
        x = m.a(x)
        return {"features": x, "logits": m.fc(pooled(m.b(torch.cat([x, y], 1)))), "aux": m.aux(y)}

    return Net(forward, a=conv(3, 8), b=conv(13, 6), aux=conv(5, 2), fc=nn.Linear(6, 4))


@case({"a": 8}, OUTPUT)
def an_output_never_used() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        m.unused(x)
        return m.fc(pooled(x))

    return Net(forward, a=conv(3, 8), unused=conv(8, 5), fc=nn.Linear(8, 4))


@case({"a": 8, "b": 6}, OUTPUT | {"never": "not used by the network"})
def a_module_never_called() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.a(x)))),
        a=conv(3, 8), b=conv(8, 6), never=conv(8, 5), fc=nn.Linear(6, 4),
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


@case({"a": 4, "b": 6}, {"o": "model output"})
def super_resolution() -> nn.Module:
    """The outputs are pixels: shuffled channels of the last layer."""

    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        y = y + m.c(F.relu(m.b(y)))
        return F.pixel_shuffle(m.o(y), 2) + F.interpolate(x, scale_factor=2, mode="nearest")

    return Net(forward, a=conv(3, 4), b=conv(4, 6), c=conv(6, 4), o=conv(4, 12))


@case({"a": 8, "s": 4, "b": 6}, OUTPUT)
def paths_chosen_by_attention() -> nn.Module:
    """Selective kernels: paths are stacked, weighted and added, so they form one group."""

    def forward(m: Any, x: Tensor) -> Any:
        paths = torch.stack([m.a(x), m.c(x)], dim=1)
        gate = F.relu(m.s(paths.sum(1).mean((2, 3), keepdim=True)))
        gate = torch.stack([m.e(gate), m.g(gate)], dim=1).softmax(1)
        return m.fc(pooled(m.b((paths * gate).sum(1))))

    return Net(
        forward, a=conv(3, 8), c=conv(3, 8, 5), s=conv(8, 4, 1), e=conv(4, 8, 1), g=conv(4, 8, 1),
        b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"s": 4, "b": 6}, OUTPUT | dict.fromkeys("ae", "reduced over the channels") | {"k": ""})
def attention_to_channels_and_to_pixels() -> nn.Module:
    """CBAM: its spatial map is the mean and maximum over all channels, so they cannot be pruned."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        means, maxima = F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)
        x = x * (m.e(F.relu(m.s(means))) + m.e(F.relu(m.s(maxima)))).sigmoid()
        pixels = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return m.fc(pooled(m.b(x * m.k(pixels).sigmoid())))

    return Net(
        forward, a=conv(3, 8), s=conv(8, 4, 1), e=conv(4, 8, 1), k=conv(2, 1, 5), b=conv(8, 6),
        fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"b": 6}, OUTPUT | dict.fromkeys("ak", "more than one dimension"))
def convolution_along_channels() -> nn.Module:
    """Efficient channel attention: it convolves over channels, which must all stay."""

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
    """Non-local means: queries and keys form one group; values form another."""

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
    """As in HRNet: each resolution gets the sum of both, so each resolution is one group."""

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


@case(
    {"a": 8, "b": 6, "p.inner_blocks.1.0": 4},
    dict.fromkeys(("p.layer_blocks.0.0", "p.layer_blocks.1.0"), "model output"),
)
def feature_pyramid() -> nn.Module:
    """A feature pyramid: the lateral convolutions form one group, and the outputs stay."""
    from torchvision.ops import FeaturePyramidNetwork

    def forward(m: Any, x: Tensor) -> Any:
        x = F.relu(m.a(x))
        return m.p({"high": x, "low": F.relu(m.b(F.max_pool2d(x, 2)))})

    return Net(forward, a=conv(3, 8), b=conv(8, 6), p=FeaturePyramidNetwork([8, 6], 4))
