"""Networks whose modules contain numbers of channels, norms over channels, or attention heads."""

from __future__ import annotations

from typing import Any

import torch
from netcase import OUTPUT, Net, case, conv, pooled
from torch import Tensor, nn
from torch.nn import functional as F


@case({"a": 4, "a#2": 8, "b": 4, "c": 6}, OUTPUT)
def split_by_a_list_that_the_module_holds() -> nn.Module:
    """As in InceptionNeXt: different layers read different parts of the channels."""

    def forward(m: Any, x: Tensor) -> Any:
        first, second = m.a(x).split(m.sizes, 1)
        return m.fc(pooled(m.c(torch.cat([m.b(first), second], 1))))

    return Net(
        forward, a=conv(3, 12), b=conv(4, 4), c=conv(12, 6), fc=nn.Linear(6, 4), sizes=[4, 8]
    )


@case({"a": 3, "a#2": 5}, OUTPUT)
def sliced_by_a_number_that_the_module_holds() -> nn.Module:
    """As in DPN: some channels are added, the others are concatenated."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(torch.cat([x[:, : m.added] + m.b(x)[:, : m.added], x[:, m.added :]], 1)))

    return Net(forward, a=conv(3, 8), b=conv(8, 3), fc=nn.Linear(8, 4), added=3)


@case({"a": 4, "b": 4}, OUTPUT)
def parts_of_one_size() -> nn.Module:
    """As in Res2Net: all parts have the width that the module contains, so they form one group."""

    def forward(m: Any, x: Tensor) -> Any:
        first, second, third = m.a(x).split(m.width, 1)
        return m.fc(pooled(torch.cat([first, m.b(second), F.relu(third)], 1)))

    return Net(forward, a=conv(3, 12), b=conv(4, 4), fc=nn.Linear(12, 4), width=4)


@case({"a": 4, "b": 4}, OUTPUT)
def parts_as_wide_as_their_number() -> nn.Module:
    """The module contains two equal numbers, of which only the width is a number of channels."""

    def forward(m: Any, x: Tensor) -> Any:
        parts = m.a(x).split(m.width, 1)
        return m.fc(pooled(torch.cat([m.b(parts[0]), *(parts[i] for i in range(1, m.parts))], 1)))

    return Net(forward, a=conv(3, 16), b=conv(4, 4), fc=nn.Linear(16, 4), parts=4, width=4)


@case({"a": 4, "b": 2}, OUTPUT)
def padded_by_a_number_that_the_module_holds() -> nn.Module:
    """The channels of zeros can be pruned too, and their number changes with them."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        return m.fc(pooled(F.pad(x, (0, 0, 0, 0, 0, m.more)) + m.b(F.relu(x))))

    return Net(forward, a=conv(3, 4), b=conv(4, 6), fc=nn.Linear(6, 4), more=2)


@case({"a": 8, "qkv": 4, "p": 8}, OUTPUT)
def heads_of_attention() -> nn.Module:
    """Whole heads are pruned, and the module's number of heads changes with them."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x).flatten(2).transpose(1, 2)
        batch, tokens, _ = x.shape
        q, k, v = m.qkv(x).reshape(batch, tokens, 3, m.heads, 3).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        return m.fc(m.p(y.transpose(1, 2).reshape(batch, tokens, m.inner)).mean(1))

    return Net(
        forward, a=conv(3, 8), qkv=nn.Linear(8, 36), p=nn.Linear(12, 8), fc=nn.Linear(8, 4),
        heads=4, inner=12,
    )  # fmt: skip


@case({"a": 8, "qkv": 2, "p": 8}, OUTPUT)
def heads_with_a_bias_for_each_offset() -> nn.Module:
    """As in Swin: a table of [offsets, heads], looked up by a tensor of indices."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)[:, :, :4, 0].transpose(1, 2)
        q, k, v = m.qkv(x).unflatten(2, (3, m.heads, 5)).permute(2, 0, 3, 1, 4).unbind(0)
        bias = m.table[m.offsets.flatten()].view(4, 4, -1).permute(2, 0, 1)
        y = (q @ k.transpose(-2, -1) + bias).softmax(-1) @ v
        return m.fc(m.p(y.transpose(1, 2).flatten(2)).mean(1))

    offsets = torch.arange(4)[:, None] - torch.arange(4) + 3
    return Net(
        forward, a=conv(3, 8), qkv=nn.Linear(8, 30), p=nn.Linear(10, 8), fc=nn.Linear(8, 4),
        table=nn.Parameter(torch.rand(7, 2)), offsets=offsets, heads=2,
    )  # fmt: skip


@case({"a": 8, "qkv": 2}, OUTPUT)
def heads_that_compare_channels() -> nn.Module:
    """Cross-covariance: it compares all channels of a head, so only whole heads are pruned."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        q, k, v = m.qkv(x).flatten(2).unflatten(1, (3, m.heads, 3)).unbind(1)
        y = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)) * m.temperature
        y = (y.softmax(-1) @ v).flatten(1, 2).unflatten(2, x.shape[2:])
        return m.fc(pooled(x + m.p(y)))

    return Net(
        forward, a=conv(3, 8), qkv=conv(8, 18, 1), p=conv(6, 8, 1), fc=nn.Linear(8, 4), heads=2,
        temperature=nn.Parameter(torch.rand(2, 1, 1)),
    )  # fmt: skip


@case({"m.out_proj": 8}, OUTPUT | {"a": "embed_dim", "m": "holds sizes"})
def heads_of_torch() -> nn.Module:
    """PyTorch's attention requires as many channels inside as outside, so they cannot be pruned."""

    def forward(m: Any, x: Tensor) -> Any:
        return m.fc(m.m(*[m.a(x).flatten(2).transpose(1, 2)] * 3, need_weights=False)[0].mean(1))

    return Net(
        forward, a=conv(3, 8), m=nn.MultiheadAttention(8, 2, batch_first=True), fc=nn.Linear(8, 4)
    )


@case({"a": 8, "b": 6}, OUTPUT)
def layer_norm_of_images() -> nn.Module:
    """As in ConvNeXt: the norm's module permutes, and takes statistics at each pixel."""
    from torchvision.models.convnext import LayerNorm2d

    return Net(
        lambda m, x: m.fc(pooled(m.b(F.relu(m.n(m.a(x)))))),
        a=conv(3, 8), n=LayerNorm2d(8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def rms_norm() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        return m.fc(m.b(m.n(m.a(x).flatten(2).transpose(1, 2))).mean(1))

    return Net(forward, a=conv(3, 8), n=nn.RMSNorm(8), b=nn.Linear(8, 6), fc=nn.Linear(6, 4))


@case({"a": 8, "b": 6}, OUTPUT)
def layer_norm_written_out() -> nn.Module:
    """Mean and variance by hand, in a module that holds one number for each channel."""

    def norm(m: Any, x: Tensor) -> Any:
        x = x - x.mean(1, keepdim=True)
        x = x * (x.pow(2).mean(1, keepdim=True) + 1e-5).rsqrt()
        return m.g[:, None, None] * x + m.h[:, None, None]

    inner = Net(norm, g=nn.Parameter(torch.rand(8)), h=nn.Parameter(torch.rand(8)))
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.n(m.a(x))))),
        a=conv(3, 8), n=inner, b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"b": 6}, OUTPUT | {"a": "unexpected keyword"})
def layer_norm_called_in_another_way() -> nn.Module:
    """The oracle cannot leave channels out of this norm, so they are not proven and stay."""

    def forward(m: Any, x: Tensor) -> Any:
        return m.fc(m.b(m.n(input=m.a(x).flatten(2).transpose(1, 2))).mean(1))

    return Net(forward, a=conv(3, 8), n=nn.LayerNorm(8), b=nn.Linear(8, 6), fc=nn.Linear(6, 4))


@case({"a": 8, "b": 6}, OUTPUT)
def a_norm_that_calls_its_size_a_shape() -> nn.Module:
    scale = nn.Parameter(torch.rand(8, 1, 1))
    own = Net(lambda m, x: x * m.weight, weight=scale, normalized_shape=8)
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.n(m.a(x))))),
        a=conv(3, 8), n=own, b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"b": 6}, OUTPUT | {"a": "it is no module of its own"})
def layer_norm_without_a_module() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = F.layer_norm(m.a(x).permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2)
        return m.fc(pooled(m.b(x)))

    return Net(forward, a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4))


@case({"b": 6}, OUTPUT | {"a": "reduced over the channels"})
def response_norm() -> nn.Module:
    """As in ConvNeXt V2: each channel is divided by the mean over all; no norm of each position."""

    def norm(m: Any, x: Tensor) -> Any:
        size = torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True)
        return x + m.g[:, None, None] * x * size / (size.mean(1, keepdim=True) + 1e-6)

    return Net(
        lambda m, x: m.fc(pooled(m.b(m.n(m.a(x))))),
        a=conv(3, 8), n=Net(norm, g=nn.Parameter(torch.rand(8))), b=conv(8, 6),
        fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def normalised_to_length_one() -> nn.Module:
    """Channels of zeros do not change the length of a vector."""
    return Net(
        lambda m, x: m.fc(pooled(m.b(F.normalize(m.a(x), dim=1)))),
        a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"a": 8, "g": 8, "b": 6}, OUTPUT)
def sums_of_products() -> nn.Module:
    """Einsum: a gate for each channel, then pixels compared with pixels by all channels."""

    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        gate = m.h(F.relu(m.g(pooled(x)))).sigmoid()
        x = torch.einsum("bchw,bc->bchw", x, gate)
        alike = torch.einsum("bcp,bcq->bpq", x.flatten(2), x.flatten(2)).softmax(-1)
        x = torch.einsum("bpq,bcq->bcp", alike, x.flatten(2)).unflatten(2, (8, 8))
        return m.fc(pooled(m.b(x)))

    return Net(
        forward, a=conv(3, 8), g=nn.Linear(8, 8), h=nn.Linear(8, 8), b=conv(8, 6),
        fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"b": 6}, OUTPUT | {"a": "more than one dimension"})
def a_convolution_written_as_a_sum() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(torch.einsum("bchw,oc->bohw", m.a(x), m.w)))),
        a=conv(3, 8), w=nn.Parameter(torch.rand(5, 8)), b=conv(5, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip


@case({"b": 6}, OUTPUT | {"a": "chosen by a tensor of indices"})
def channels_chosen_by_indices() -> nn.Module:
    return Net(
        lambda m, x: m.fc(pooled(m.b(m.a(x)[:, m.order]))),
        a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4), order=torch.randperm(8),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def pixels_chosen_by_indices() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)[:, :, m.rows, m.columns]  # [batch, channels, 2, 3]
        return m.fc(pooled(m.b(x.index_select(3, m.columns[0]))))

    return Net(
        forward, a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4), rows=torch.tensor([[1], [5]]),
        columns=torch.tensor([[0, 2, 1]]),
    )  # fmt: skip


@case({"a": 8, "b": 6}, OUTPUT)
def laid_end_to_end_in_space() -> nn.Module:
    """One convolution reads both parts, so their channels form one group."""
    return Net(
        lambda m, x: m.fc(pooled(m.b(torch.cat([m.a(x), F.relu(m.c(x))], 2)))),
        a=conv(3, 8), c=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4),
    )  # fmt: skip
