"""What a network that cannot be traced is told, and that nothing else is printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torchvision
from hwprune.export.to_onnx import to_onnx
from netcase import Net, conv
from torch import Tensor, nn

import hwprune
from hwprune.errors import TraceError

IMAGE = torch.rand(1, 3, 16, 16)


@dataclass
class _Answer:
    logits: Tensor


def _asserts(m: Any, x: Tensor) -> Tensor:
    assert x.size(1) == m.dim
    return m.a(x)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "channels": (
        lambda: conv(5, 8),
        r"fails on the example input: .*to have 5 channels, but got 3",
    ),
    "assertion": (lambda: Net(_asserts, dim=4, a=conv(3, 8)), r"assert x\.size\(1\) == m\.dim"),
    "TorchScript": (
        lambda: torch.jit.trace(conv(3, 8), IMAGE),
        r"is a TorchScript module.*Give the nn\.Module",
    ),
    "values": (
        lambda: Net(lambda m, x: m.a(x)[:, : int(x.sum().abs())], a=conv(3, 8)),
        "has no fixed amount of work: it depends on the values of tensors",
    ),
    "dataclass": (
        lambda: Net(lambda m, x: _Answer(m.a(x)), a=conv(3, 8)),
        r"Register its class with `torch\.export\.register_dataclass",
    ),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_refusal_says_what_is_the_matter(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    build, message = REFUSED[kind]
    model = build().eval()
    capfd.readouterr()
    with pytest.raises(TraceError, match=message) as refused:
        hwprune.trace(model, IMAGE)
    assert len(str(refused.value)) < 700
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_a_whole_detector_is_refused_in_a_paragraph(capfd: pytest.CaptureFixture[str]) -> None:
    model = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None
    )
    with pytest.raises(TraceError, match="detector without the suppression of boxes") as refused:
        hwprune.trace(model.eval(), torch.rand(1, 3, 320, 320))
    assert len(str(refused.value)) < 700
    assert capfd.readouterr() == ("", "")


def test_inputs_are_repeated_where_that_fits() -> None:
    def beside_a_vector(m: Any, x: Tensor, t: Tensor) -> Tensor:
        return m.b(m.a(x) + m.c(torch.cat([x, t.view(-1, 1, 1, 1).expand(-1, 1, 16, 16)], 1)))

    net = Net(beside_a_vector, a=conv(3, 8), c=conv(4, 8), b=conv(8, 4)).eval()
    assert hwprune.trace(net, (IMAGE, torch.rand(1))).widths == {"a": 8}
    state = Net(
        lambda m, x, h: (m.b(m.a(x)), h.repeat(2, 1, 1).sum(0)[:2] * x.mean((1, 2, 3))[:, None]),
        a=conv(3, 8), b=conv(8, 4),
    ).eval()  # fmt: skip
    given = (torch.rand(2, 3, 16, 16), torch.rand(1, 2, 5))
    assert hwprune.trace(state, given).widths == {"a": 8}


def test_a_dictionary_as_the_only_input() -> None:
    net = Net(lambda m, d: m.b(m.a(d["image"])), a=conv(3, 8), b=conv(8, 4)).eval()
    graph = hwprune.trace(net, ({"image": IMAGE},))
    assert graph.widths == {"a": 8}
    assert len(to_onnx(net, ({"image": IMAGE},)).graph.input) == 1


def test_the_exporters_own_cause_is_named() -> None:
    net = Net(lambda m, x: torch.linalg.eigvals(m.a(x)[..., :4, :4]).real, a=conv(3, 8)).eval()
    with pytest.raises(TraceError) as refused:
        to_onnx(net, IMAGE)
    assert "step 1/3" not in str(refused.value)
