"""Importance, computed by hand for two layers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hwprune
from hwprune.errors import InputError
from hwprune.importance.criteria import CRITERIA
from hwprune.importance.score import score


class Two(nn.Module):
    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 1, bias=not norm)
        self.norm: nn.Module = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.conv(x)).relu().mean((2, 3)))
        return out


def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(6, 1, 3, 3, generator=draw), torch.tensor([0, 1, 2, 0, 1, 2])


def gradients(model: nn.Module) -> dict[str, Tensor]:
    images, labels = batch()
    loss = F.cross_entropy(model.eval()(images), labels)
    names, parameters = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, parameters), strict=True))


@pytest.mark.parametrize("norm", [True, False])
def test_criteria_by_hand(norm: bool) -> None:
    torch.manual_seed(0)
    model = Two(norm)
    graph = hwprune.trace(model, batch()[0])
    (group,) = graph.groups
    g, w = gradients(model), dict(model.named_parameters())
    layer = w["conv.weight"] * g["conv.weight"]
    gate = "norm" if norm else "conv"
    closed = (w[f"{gate}.weight"] * g[f"{gate}.weight"]).flatten(1) if not norm else (
        w["norm.weight"] * g["norm.weight"])[:, None]  # fmt: skip
    wanted = {
        "taylor": layer.abs().sum((1, 2, 3)),
        "gate_taylor": (closed.sum(1) + w[f"{gate}.bias"] * g[f"{gate}.bias"]).square(),
        "norm_taylor": (closed.sum(1) + w[f"{gate}.bias"] * g[f"{gate}.bias"]).abs(),
        "magnitude": w["conv.weight"].abs().sum((1, 2, 3)),
        "norm_scale": w["norm.weight"].abs() if norm else w["conv.weight"].abs().sum((1, 2, 3)),
    }
    for criterion, expected in wanted.items():
        got = score(model, graph, [batch()], criterion)[group.name]
        torch.testing.assert_close(got, expected.detach(), msg=criterion)


def test_taylor_takes_the_gradient_of_the_whole_set_and_gates_add_up_over_batches() -> None:
    torch.manual_seed(0)
    model = Two(norm=True)
    graph = hwprune.trace(model, batch()[0])
    (name,) = graph.widths
    once, twice = [batch()], [batch(), batch()]
    torch.testing.assert_close(
        score(model, graph, once, "taylor")[name], score(model, graph, twice, "taylor")[name]
    )
    torch.testing.assert_close(
        2 * score(model, graph, once, "gate_taylor")[name],
        score(model, graph, twice, "gate_taylor")[name],
    )


def test_fisher_is_the_squared_derivative_of_each_images_loss_by_a_gate() -> None:
    torch.manual_seed(0)
    model = Stages().eval()
    images, labels = torch.randn(5, 3, 6, 6), torch.tensor([0, 1, 2, 0, 1])
    graph = hwprune.trace(model, images[:1])
    wanted = {name: torch.zeros(width) for name, width in graph.widths.items()}
    for image, label in zip(images.split(1), labels.split(1), strict=True):
        gates = {name: torch.ones(1, width, 1, 1, requires_grad=True)
                 for name, width in graph.widths.items()}  # fmt: skip
        loss = F.cross_entropy(model.gated(image, gates["stem"], gates["expand"]), label)
        loss.backward()  # type: ignore[no-untyped-call]
        for name, gate in gates.items():
            assert gate.grad is not None
            wanted[name] += gate.grad.flatten().square()
    got = score(model, graph, [(images[:2], labels[:2]), (images[2:], labels[2:])], "fisher")
    torch.testing.assert_close(got, wanted)


class Stages(nn.Module):
    """A stage with a branch: wide, depthwise with stride, back."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.expand = nn.Conv2d(4, 6, 1, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, padding=1, stride=2, groups=6)
        self.project = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        one = torch.ones(())
        return self.gated(x, one, one)

    def gated(self, x: Tensor, stage: Tensor, inner: Tensor) -> Tensor:
        """The forward with gates on the trunk at each reader, and on the inner channels."""
        x = self.stem(x).relu() * stage
        y = self.depthwise(self.norm(self.expand(x)).relu()).relu()
        y = F.interpolate(self.project(y * inner), scale_factor=2.0)
        out: Tensor = self.head((x + y * stage).mean((2, 3)))
        return out


@pytest.mark.parametrize("criterion", CRITERIA)
def test_the_model_is_left_as_it_was(criterion: str) -> None:
    model = Two(norm=True).train()
    model.conv.weight.requires_grad_(False)
    model.head.weight.grad = torch.ones_like(model.head.weight)
    graph = hwprune.trace(model, batch()[0])
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    score(model, graph, [batch()], criterion)
    assert model.training
    assert not model.conv.weight.requires_grad
    assert model.conv.weight.grad is None
    assert bool((model.head.weight.grad == 1).all())
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key]), key


def test_a_channel_of_zeros_scores_nothing() -> None:
    model = Two(norm=False)
    model.conv.weight.data[1], model.conv.bias.data[1] = 0.0, 0.0  # type: ignore[index]
    graph = hwprune.trace(model, batch()[0])
    for criterion in ("taylor", "gate_taylor", "magnitude"):
        assert float(score(model, graph, [batch()], criterion)["conv"][1]) == 0.0


def test_bad_input() -> None:
    model = Two(norm=True)
    graph = hwprune.trace(model, batch()[0])
    with pytest.raises(InputError, match="gate_taylor"):
        score(model, graph, [batch()], "taste")
    with pytest.raises(InputError, match="at least one batch"):
        score(model, graph, [])


class Gate(nn.Module):
    """Multiplies the branch's output by one number for each image."""

    def __init__(self, open_: Tensor) -> None:
        super().__init__()
        self.open = nn.Parameter(open_)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.open[:, None, None, None]


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 1)
        for number in (1, 2):
            branch = nn.Sequential(nn.Conv2d(4, 6, 1), nn.ReLU(), nn.Conv2d(6, 4, 1))
            self.add_module(f"branch{number}", branch)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.branch1(x)
        x = (x + self.branch2(x)).relu()
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def test_branches_are_worth_what_closing_their_gates_would_change() -> None:
    """Each image's gate is a parameter here, whose gradient is the change of the loss."""
    torch.manual_seed(0)
    model = Residual()
    images, labels = batch()
    graph = hwprune.trace(model, images)
    assert [branch.name for branch in graph.branches] == ["branch1", "branch2"]
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    scores = score(model, graph, batches)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    got = hwprune.score_branches(model, graph, batches, scores)

    gates = {}
    for name in got:
        gated = copy.deepcopy(model)
        gate = Gate(torch.ones(6))
        setattr(gated, name, nn.Sequential(gated.get_submodule(name), gate))
        F.cross_entropy(gated(images), labels, reduction="sum").backward()
        gates[name] = float(gate.open.grad.abs().sum())
    everything = sum(float(scores[f"branch{number}.0"].sum()) for number in (1, 2))
    assert sum(got.values()) == pytest.approx(everything)
    assert got["branch1"] / got["branch2"] == pytest.approx(gates["branch1"] / gates["branch2"])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) and model.training
    assert not any(m._forward_hooks for m in model.modules())


def test_branches_that_gates_cannot_tell_apart() -> None:
    model = Residual()
    graph = hwprune.trace(model, batch()[0])
    scores = {group.name: torch.ones(group.width) for group in graph.groups}
    with pytest.raises(InputError, match="No calibration batches"):
        hwprune.score_branches(model, graph, [], scores)
    nn.init.zeros_(model.head.weight)  # no gate changes the loss
    widths = {b.name: float(sum(graph.widths[name] for name in b.groups)) for b in graph.branches}
    assert hwprune.score_branches(model, graph, [batch()], scores) == widths
    plain = hwprune.trace(Two(True), batch()[0])
    assert hwprune.score_branches(Two(True), plain, [], {}) == {}


class InPlace(Residual):
    """The same network with in-place additions."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        y = self.branch1(x)
        y += x
        z = self.branch2(y)
        z += y
        out: Tensor = self.head(z.relu_().mean((2, 3)))
        return out


def test_a_branch_whose_output_is_added_to_in_place_is_worth_the_same() -> None:
    torch.manual_seed(0)
    model, other = Residual(), InPlace()
    other.load_state_dict(model.state_dict())
    worth = []
    for each in (model, other):
        graph = hwprune.trace(each, batch()[0])
        assert len(graph.branches) == 2
        worth.append(hwprune.score_branches(each, graph, [batch()], score(each, graph, [batch()])))
    assert worth[0] == pytest.approx(worth[1])
