"""Residual branches that can be left out: tracing, pruning, saving and ONNX export."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from hwprune.export.planned import PlannedNetworks
from hwprune.export.resize import keep_first
from hwprune.export.to_onnx import to_onnx
from hwprune.export.without_branches import without_branches
from marks import slow
from torch import nn

import hwprune
from hwprune.errors import HwpruneError, InputError
from hwprune.models.build import build_model
from hwprune.onnx_graph.run import outputs_of, session_of
from hwprune.pipeline.profile import profile
from hwprune.plan import Plan
from hwprune.pruning.oracle import oracle_error, relative_difference
from hwprune.targets.fake import FakeTarget

IMAGE = torch.zeros(1, 3, 16, 16)


class Block(nn.Module):
    """As in ResNet: a branch of two convolutions with a functional ReLU between."""

    def __init__(self, width: int, inner: int, aside: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, inner, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, width, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(width)
        self.aside = aside

    def forward(self, x):
        inner = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(inner)) + x
        return (y + inner.mean() if self.aside else y).relu()


class Scaled(nn.Module):
    """As in ConvNeXt: a sequence, times a parameter of the block, is added to the block's input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1), nn.GELU(), nn.Conv2d(2 * width, width, 1)
        )
        self.scale = nn.Parameter(torch.full((width, 1, 1), 0.5))

    def forward(self, x):
        return x + self.scale * self.branch(x)


class Gated(nn.Module):
    """A branch with squeeze-excite inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(width, 24, 1)
        self.squeeze, self.excite = nn.Conv2d(24, 8, 1), nn.Conv2d(8, 24, 1)
        self.project = nn.Conv2d(24, width, 1)

    def forward(self, x):
        y = self.expand(x).relu()
        gate = self.excite(self.squeeze(y.mean((2, 3), keepdim=True)).relu()).sigmoid()
        return self.project(y * gate) + x


class Projected(nn.Module):
    """A block whose shortcut has weights, so that it has no branch that can be left out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, 12, 1), nn.ReLU(), nn.Conv2d(12, width, 1))
        self.shortcut = nn.Conv2d(width, width, 1)

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


class Net(nn.Module):
    """A stem, some blocks, and a head."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))


def shaken(*blocks: nn.Module) -> Net:
    torch.manual_seed(0)
    net = Net(*blocks)
    for key, tensor in net.state_dict().items():
        if "bn" in key and tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    return net.eval()


def everything_out(graph: hwprune.ChannelGraph) -> Plan:
    return Plan.from_kept(graph, {n: [] for b in graph.branches for n in b.groups})


@pytest.mark.parametrize(
    ("block", "modules", "groups"),
    [
        (lambda: Block(16, 12), ("bn1", "conv1", "conv2", "bn2"), ("conv1",)),
        (lambda: Scaled(16), ("branch",), ("branch.0",)),
        (lambda: Gated(16), ("excite", "expand", "squeeze", "project"), ("expand", "squeeze")),
    ],
)
def test_a_branch_by_hand(block, modules, groups) -> None:
    graph = hwprune.trace(shaken(block(), nn.Identity()), IMAGE)
    (branch,) = graph.branches
    assert branch.modules == tuple(f"blocks.0.{name}" for name in modules)
    assert branch.name == branch.modules[-1]
    assert branch.groups == tuple(f"blocks.0.{name}" for name in groups)
    assert branch.holds(f"blocks.0.{modules[0]}.weight") and not branch.holds("blocks.0")


@pytest.mark.parametrize("block", [lambda: Projected(16), lambda: Block(16, 12, aside=True)])
def test_what_is_no_branch(block) -> None:
    assert hwprune.trace(shaken(block()), IMAGE).branches == ()


def all_blocks() -> Net:
    return shaken(Block(16, 12), Scaled(16), Projected(16), Gated(16), Block(16, 20))


def test_left_out_equals_adding_zeros_at_any_widths_of_the_rest() -> None:
    net = all_blocks()
    graph = hwprune.trace(net, IMAGE)
    assert len(graph.branches) == 4
    draw = random.Random(0)
    for _ in range(8):
        kept = {
            g.name: draw.sample(range(g.width), draw.randrange(1, g.width)) for g in graph.groups
        }
        for branch in draw.sample(graph.branches, draw.randrange(1, 5)):
            kept |= {name: [] for name in branch.groups}
        plan = Plan.from_kept(graph, kept)
        assert plan.left_out
        assert oracle_error(net, graph, plan, (torch.randn(2, 3, 16, 16),)) < 1e-5
        small = hwprune.prune(net, graph, plan)
        assert sum(p.numel() for p in small.parameters()) == plan.params
        small.train()(torch.randn(2, 3, 16, 16)).sum().backward()
    assert len(dict(net.named_modules())) == len(dict(all_blocks().named_modules()))


def test_left_out_branches_are_gone_from_onnx_and_the_numbers_stay() -> None:
    net = all_blocks()
    graph = hwprune.trace(net, IMAGE)
    small = hwprune.prune(net, graph, everything_out(graph))
    for dynamic in (False, True):
        model = to_onnx(small, IMAGE, dynamic_batch=dynamic)
        counts = [node.op_type for node in model.graph.node]
        assert counts.count("Conv") == 4  # the stem and the projected block
        assert counts.count("Add") <= 1 and "ConstantOfShape" not in counts
        assert not any(i.name.startswith("zeros_like") for i in model.graph.initializer)
        x = torch.randn(1, 3, 16, 16)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(got, small(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_code_that_adds_other_zeros_keeps_them() -> None:
    """The branch broadcasts the shortcut, so that its zeros are needed."""

    class Wide(nn.Module):
        def forward(self, x):
            return x.mean((2, 3), keepdim=True) + torch.zeros_like(x)

    assert to_onnx(Wide(), IMAGE).graph.output[0].type.tensor_type.shape.dim[2].dim_value == 16
    session = onnxruntime.InferenceSession(
        to_onnx(Wide(), IMAGE).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (got,) = session.run(None, {session.get_inputs()[0].name: IMAGE.numpy()})
    assert got.shape == (1, 3, 16, 16)


def test_left_out_branches_on_disk_and_pruned_again(tmp_path) -> None:
    net = all_blocks()
    graph = hwprune.trace(net, IMAGE)
    plan = Plan.from_kept(graph, {name: [] for name in graph.branches[0].groups})
    small = hwprune.prune(net, graph, plan)
    hwprune.save(small, plan, tmp_path)
    loaded = hwprune.load(tmp_path, net)
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(loaded(x), small(x))
    again = hwprune.trace(loaded, IMAGE)
    assert [b.name for b in again.branches] == [b.name for b in graph.branches[1:]]
    assert oracle_error(loaded, again, everything_out(again), (x,)) < 1e-5


def test_a_plan_that_keeps_nothing_of_half_a_branch_is_refused() -> None:
    graph = hwprune.trace(all_blocks(), IMAGE)
    with pytest.raises(InputError, match=r"or none of all of blocks\.3\.expand, blocks\.3\.squee"):
        Plan.from_kept(graph, {"blocks.3.expand": []})
    with pytest.raises(InputError, match="keep at least one\\."):
        Plan.from_kept(graph, {"stem": []})


def test_the_solver_leaves_branches_out_and_the_planned_network_is_as_fast() -> None:
    net = all_blocks()
    graph = hwprune.trace(net, IMAGE)
    target = FakeTarget(4)
    table = profile(net, IMAGE, target, graph=graph)
    scores = {g.name: torch.rand(g.width) + 0.1 for g in graph.groups}
    scores["blocks.4.conv1"] *= 1e-3  # of little importance, and the most expensive
    budget_ms = 0.6 * table.network(graph).dense_ms
    plan = hwprune.solve(graph, scores, table, budget_ms=budget_ms, depth=True)
    assert "blocks.4.bn2" in [path for path, gives_zeros in plan.left_out if gives_zeros]
    assert plan.value > hwprune.solve(graph, scores, table, budget_ms=budget_ms).value
    planned = PlannedNetworks(net, IMAGE, graph).at(plan.widths)
    assert target.load(planned).run_ms() == pytest.approx(plan.predicted_ms, rel=0.05)


def test_branches_are_left_out_of_the_dense_file_as_exporting_leaves_them_out() -> None:
    net = all_blocks()
    graph = hwprune.trace(net, IMAGE)
    networks = PlannedNetworks(net, IMAGE, graph)
    assert networks.cuts and networks.drops
    draw = random.Random(0)
    x = torch.randn(1, 3, 16, 16)
    for gone in (graph.branches[:1], graph.branches[1:]):
        widths = {group.name: draw.randrange(1, group.width + 1) for group in graph.groups}
        for branch in gone:
            widths |= dict.fromkeys(branch.groups, 0)
        small = hwprune.prune(net, graph, keep_first(graph, widths))
        exported, cut = to_onnx(small, IMAGE), networks.at(widths)
        kinds = [sorted(n.op_type for n in model.graph.node) for model in (cut, exported)]
        assert kinds[0] == kinds[1]
        (got,) = outputs_of(session_of(cut), [x])
        assert relative_difference([small(x).detach()], [got]) < 1e-5


def test_a_branch_that_the_file_does_not_show_is_not_left_out_of_it() -> None:
    net = all_blocks()
    graph = hwprune.trace(net, IMAGE)
    other = replace(graph.branches[0], modules=("stem", *graph.branches[0].modules))
    with pytest.raises(HwpruneError, match=r"no addition of the branch blocks\.0\.bn2"):
        without_branches(to_onnx(net, IMAGE), graph, [other])


@pytest.mark.parametrize(
    "name", ["resnet18", *slow("mobilenet_v2", "efficientnet_b0", "regnet_y_400mf")]
)
def test_real_networks_without_their_branches(name) -> None:
    torch.manual_seed(0)
    net = build_model(f"torchvision:{name}").eval()
    graph = hwprune.trace(net, torch.zeros(1, 3, 32, 32))
    assert len(graph.branches) >= 5
    plan = everything_out(graph)
    assert oracle_error(net, graph, plan, (torch.randn(2, 3, 32, 32),)) < 1e-5
    small = hwprune.prune(net, graph, plan)
    assert sum(p.numel() for p in small.parameters()) == plan.params
    assert PlannedNetworks(net, torch.zeros(1, 3, 32, 32), graph).drops
