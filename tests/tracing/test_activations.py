"""Peak activation bytes equal those counted by hand and those of the tensors in a real run."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from marks import slow
from nets import CASES, Net, conv, pooled
from torch import Tensor, nn
from torch.fx import Interpreter, Node
from torch.utils._pytree import tree_leaves

import hwprune
from hwprune.models.build import build_model
from hwprune.plan import Plan
from hwprune.tracing.capture import capture

ELEMENTWISE = (
    *("add", "sub", "mul", "div", "pow", "neg", "clamp", "batch_norm", "dropout", "prelu", "relu"),
    *("relu6", "hardtanh", "silu", "gelu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "elu"),
)


class Held(Interpreter):
    """Runs a captured network and keeps the bytes of storages that are alive at each operator.

    Values go as soon as nobody reads them. An elementwise result is copied over an operand of the
    same layout, if its memory is nobody else's: that is the definition, on real memory.
    """

    def __init__(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        program = capture(model, inputs)
        super().__init__(program.graph_module)
        state = {**program.state_dict, **program.constants}
        targets = [spec.target for spec in program.graph_signature.input_specs]
        self.weights = {state[t].untyped_storage().data_ptr() for t in targets if t in state}
        self.given = {x.untyped_storage().data_ptr() for x in inputs}
        self.peak = 0
        rest = iter(inputs)
        with torch.no_grad():
            self.run(*(state[t] if t in state else next(rest) for t in targets))

    def run_node(self, n: Node) -> Any:
        result = super().run_node(n)
        name = str(n.target).removeprefix("aten.").split(".")[0].rstrip("_")
        if name in ELEMENTWISE and result.data_ptr() not in self._alive():
            for operand in self.user_to_last_uses.get(n, []):
                if self._may_go(operand, result):
                    result = self.env[operand].copy_(result)
                    break
        alive = self._alive() | self._storages(result)
        self.peak = max(self.peak, sum(alive.values()))
        return result

    def _may_go(self, operand: Node, result: Tensor) -> bool:
        mine = self.env[operand]
        if not isinstance(mine, Tensor) or (mine.shape, mine.stride()) != (
            result.shape, result.stride(),
        ):  # fmt: skip
            return False
        place = mine.untyped_storage().data_ptr()
        users = [
            n for n, v in self.env.items()
            if any(t.untyped_storage().data_ptr() == place for t in tree_leaves(v)
                   if isinstance(t, Tensor))
        ]  # fmt: skip
        whole = mine.untyped_storage().nbytes() == result.untyped_storage().nbytes()
        return whole and users == [operand] and place not in self.given | self.weights

    def _alive(self) -> dict[int, int]:
        return self._storages([value for n, value in self.env.items() if n.users])

    def _storages(self, values: Any) -> dict[int, int]:
        tensors = [t for t in tree_leaves(values) if isinstance(t, Tensor)]
        held = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
        return {place: size for place, size in held.items() if place not in self.weights}


def some_plan(graph: hwprune.ChannelGraph, seed: int) -> Plan:
    draw = random.Random(seed)
    kept = {g.name: draw.sample(range(g.width), draw.randint(1, g.width)) for g in graph.groups}
    return Plan.from_kept(graph, kept)


NOT_HELD = {
    "weight_computed_in_the_forward": "a runtime computes it once",
    "a_parametrised_weight": "a runtime computes it once",
    "an_output_never_used": "a runtime does not compute it",
}


JOINED = [n for n, c in CASES.items() if c.build.__module__ in ("nets_shapes", "nets_whole")]


@pytest.mark.parametrize("name", sorted({*JOINED} - NOT_HELD.keys()))
def test_small_networks_hold_what_their_runs_hold(name) -> None:
    torch.manual_seed(0)
    net = CASES[name].build().eval()
    inputs = tuple(torch.randn(shape) for shape in CASES[name].shapes)
    graph = hwprune.trace(net, inputs)
    assert graph.activation_bytes() == Held(net, inputs).peak
    for seed in range(2):
        plan = some_plan(graph, seed)
        small = hwprune.prune(net, graph, plan)
        assert graph.activation_bytes(plan.widths) == Held(small, inputs).peak


@pytest.mark.parametrize(
    "name", ["resnet18", *slow("mobilenet_v3_small", "shufflenet_v2_x0_5", "googlenet")]
)
def test_the_peak_is_that_of_the_tensors_that_a_run_holds(name) -> None:
    """These torchvision networks contain all kinds of joins."""
    torch.manual_seed(0)
    net = build_model(f"torchvision:{name}").eval()
    x = torch.randn(2, 3, 64, 64)
    graph = hwprune.trace(net, x)
    assert graph.activation_bytes() == Held(net, (x,)).peak
    plan = some_plan(graph, 0)
    assert graph.activation_bytes(plan.widths) == Held(hwprune.prune(net, graph, plan), (x,)).peak


PIXELS = 4 * 8 * 8  # bytes of a channel of 8 x 8 pixels


def held(forward, batch: int = 1, **parts):
    graph = hwprune.trace(Net(forward, **parts).eval(), torch.zeros(batch, 3, 8, 8))
    return graph, dict(zip(graph.operators, graph.held_bytes(graph.widths), strict=True))


def test_a_residual_block_by_hand() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x).relu()
        return m.fc(pooled(x + m.c(m.b(x).relu())))

    parts = {"a": conv(3, 8), "b": conv(8, 6), "c": conv(6, 8), "fc": nn.Linear(8, 4)}
    graph, now = held(forward, **parts)
    assert now["a (conv2d)"] == (3 + 8) * PIXELS  # the input and the output
    assert now["b (conv2d)"] == (8 + 6) * PIXELS  # ReLU overwrites its operand
    assert now["c (conv2d)"] == (8 + 6 + 8) * PIXELS  # the shortcut is held
    assert now["add"] == (8 + 8) * PIXELS  # overwrites one operand
    assert now["mean"] == 8 * PIXELS + 4 * 8
    assert now["fc (linear)"] == 4 * (8 + 4)
    assert graph.peak(graph.widths) == "c (conv2d)"
    narrow = {"a": 2, "b": 1}
    assert graph.activation_bytes(narrow) == (2 + 1 + 2) * PIXELS
    assert graph.held_bytes(narrow)[0] == (3 + 2) * PIXELS
    twice = held(forward, batch=2, **parts)[0]
    assert twice.activation_bytes() == 2 * graph.activation_bytes()


def test_a_concatenation_by_hand() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        return m.fc(pooled(m.c(torch.cat([m.a(x), m.b(x)], 1))))

    graph, now = held(forward, a=conv(3, 8), b=conv(3, 6), c=conv(14, 4), fc=nn.Linear(4, 2))
    assert now["a (conv2d)"] == (3 + 8) * PIXELS
    assert now["b (conv2d)"] == (3 + 8 + 6) * PIXELS
    assert now["cat"] == (8 + 6 + 14) * PIXELS  # a concatenation copies
    assert now["c (conv2d)"] == (14 + 4) * PIXELS
    assert graph.activation_bytes({"a": 1, "b": 2, "c": 4}) == (3 + 4) * PIXELS


def test_squeeze_and_excitation_by_hand() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        gate = m.e(m.s(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return m.fc(pooled(x * gate))

    parts = {"a": conv(3, 8), "s": conv(8, 2, 1), "e": conv(2, 8, 1), "fc": nn.Linear(8, 4)}
    _, now = held(forward, **parts)
    assert now["mean"] == 8 * PIXELS + 4 * 8  # the gate's other operand is held
    assert now["s (conv2d)"] == 8 * PIXELS + 4 * (8 + 2)
    assert now["e (conv2d)"] == 8 * PIXELS + 4 * (2 + 8)
    assert now["mul"] == 8 * PIXELS + 4 * 8


def test_views_hold_what_they_view_and_copies_are_copies() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        first, second = m.a(x).chunk(2, 1)
        return m.fc(pooled(m.b(second)) + pooled(first))

    _, now = held(forward, a=conv(3, 8), b=conv(4, 4), fc=nn.Linear(4, 2))
    assert now["chunk"] == 8 * PIXELS
    assert now["b (conv2d)"] == (8 + 4) * PIXELS  # the first half is held, and the second with it


class Block(nn.Module):
    """A branch that ends in a norm; its addition is in place, as in torchvision."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(width, inner), conv(inner, width)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv2(self.conv1(x).relu()))
        y += x
        return y.relu()


def test_a_branch_that_is_left_out_holds_nothing_and_its_shortcut_lives_on() -> None:
    net = Net(
        lambda m, x: m.fc(pooled(m.c(m.two(m.one(m.a(x))).tanh()))),
        a=conv(3, 8), one=Block(8, 30), two=Block(8, 20), c=conv(8, 5), fc=nn.Linear(5, 4),
    ).eval()  # fmt: skip
    graph = hwprune.trace(net, torch.zeros(1, 3, 8, 8))
    assert len(graph.branches) == 2
    assert graph.activation_bytes() == (8 + 30 + 8) * PIXELS
    without = graph.widths | {"one.conv1": 0}
    assert graph.activation_bytes(without) == (8 + 20 + 8) * PIXELS
    neither = without | {"two.conv1": 0}
    now = dict(zip(graph.operators, graph.held_bytes(neither), strict=True))
    assert now["c (conv2d)"] == (8 + 5) * PIXELS
    assert graph.activation_bytes(neither) == (8 + 5) * PIXELS
