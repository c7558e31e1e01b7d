"""Pruning in rounds meets the budget, and never restores a channel or a branch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import hwprune
from hwprune.graph import ChannelGraph
from hwprune.importance.importance import Importance
from hwprune.importance.iterative import Partial, in_rounds
from hwprune.plan import Plan
from hwprune.pruning.prepare import prepare


class Net(nn.Module):
    """A stem, a residual branch with norms, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.back = nn.Conv2d(12, 8, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.back(self.norm(self.inner(x)).relu())
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 3, 4, 4, generator=draw), torch.randint(3, (8,), generator=draw))
        for _ in range(3)
    ]


def start() -> tuple[nn.Module, ChannelGraph]:
    torch.manual_seed(0)
    model = Net().eval()
    return model, trace(model)


def trace(model: nn.Module) -> ChannelGraph:
    return hwprune.trace(model, batches()[0][0][:2])


def importance_of(model: nn.Module, graph: ChannelGraph) -> Importance:
    return Importance(hwprune.score(model, graph, batches(), "taylor"))


def with_branches(model: nn.Module, graph: ChannelGraph) -> Importance:
    own = importance_of(model, graph).channels
    return Importance(own, hwprune.score_branches(model, graph, batches(), own))


def test_each_round_takes_from_what_the_one_before_has_left() -> None:
    model, graph = start()
    shares: list[float] = []

    def plan_of(importance: Importance, share: float) -> Plan:
        shares.append(share)
        return hwprune.solve(
            graph, importance.channels, max_macs=share * graph.macs(), multiple=1,
            min_fraction=0.1, most=importance.left,
        )  # fmt: skip

    trained: list[int] = []

    def train(student: nn.Module, plan: Plan) -> None:
        trained.append(sum(plan.widths.values()))
        assert trace(student).widths == {n: w for n, w in plan.widths.items() if w > 1}

    partial = in_rounds(
        model, graph, trace, importance_of, plan_of, batches(), share=0.25, rounds=3, refit=False,
        train=train,
    )  # fmt: skip
    assert trained[0] > trained[1] == sum(len(kept) for kept in partial.kept.values())
    assert [round(share, 4) for share in shares] == [0.63, 0.3969]
    assert partial.graph.macs() <= 0.3969 * graph.macs()
    assert partial.graph.widths == {name: len(kept) for name, kept in partial.kept.items()}
    lifted = partial.lift(importance_of(partial.model, partial.graph))
    scores = lifted.channels
    assert lifted.left == {name: len(kept) for name, kept in partial.kept.items()}
    for name, kept in partial.kept.items():
        gone = sorted(set(range(graph.widths[name])) - set(kept))
        assert float(scores[name][gone].abs().sum()) == 0.0
        assert float(scores[name][list(kept)].min()) > 0.0
    plan = partial.within(plan_of(lifted, 0.25))
    stepwise = prepare(partial.model, partial.graph, partial.own(plan), batches())
    at_once = prepare(model, graph, plan, batches())
    with torch.no_grad():
        images = batches()[0][0]
        torch.testing.assert_close(stepwise(images), at_once(images))


def test_the_next_round_judges_and_cuts_what_training_has_left() -> None:
    model, graph = start()
    judged: list[nn.Module] = []
    trained: list[nn.Module] = []

    def judge(model: nn.Module, graph: ChannelGraph) -> Importance:
        judged.append(model)
        return importance_of(model, graph)

    def plan_of(importance: Importance, share: float) -> Plan:
        return hwprune.solve(
            graph, importance.channels, max_macs=share * graph.macs(), multiple=1,
            min_fraction=0.1, most=importance.left,
        )  # fmt: skip

    def train(student: nn.Module, plan: Plan) -> None:
        if trained:  # the round before has trained what this one was cut out of
            left = trained[-1].stem.bias.detach().tolist()
            before = dict(zip(kept[-1]["stem"], left, strict=True))
            now = [before[channel] for channel in plan.kept["stem"]]
            assert student.stem.bias.detach().tolist() == now
        kept.append(plan.kept)
        with torch.no_grad():
            student.stem.bias += 100.0
        trained.append(student)

    kept: list[dict[str, tuple[int, ...]]] = []
    partial = in_rounds(
        model, graph, trace, judge, plan_of, batches(), share=0.25, rounds=3, refit=False,
        train=train,
    )  # fmt: skip
    assert judged == [model, trained[0]]
    assert partial.model is trained[1]
    assert float(partial.model.stem.bias.detach().min()) > 150.0


def test_a_plan_that_wants_channels_back_goes_without_them() -> None:
    model, graph = start()
    partial = partial_of(model, graph, {"stem": (0, 2, 5)})
    wide = Plan.from_kept(graph, {"stem": [0, 1, 2, 3], "inner": [4, 5]})
    plan = partial.within(wide)
    assert plan.kept == {"stem": (0, 2), "inner": (4, 5)}
    assert plan.macs == graph.macs({"stem": 2, "inner": 2})
    inside = Plan.from_kept(graph, {"stem": [0, 5], "inner": [4, 5]})
    assert partial.within(inside) == inside


def test_one_round_is_no_round() -> None:
    model, graph = start()

    def none(importance: Importance, share: float) -> Plan:
        raise AssertionError

    partial = in_rounds(model, graph, trace, importance_of, none, batches(), share=0.5, rounds=1)
    assert partial.model is model
    own = with_branches(model, graph)
    lifted = partial.lift(own)
    assert lifted.branches == own.branches
    for name, scores in lifted.channels.items():
        assert torch.equal(scores, own.channels[name])
    plan = Plan.from_kept(graph, {"stem": [1, 4], "inner": [0, 3, 7]})
    assert partial.own(plan) == plan


class Two(nn.Module):
    """Two residual branches, the second of which adds little."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one, self.two = (
            nn.Sequential(nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 1))
            for _ in range(2)
        )
        self.head = nn.Linear(8, 3)
        with torch.no_grad():
            for parameter in self.two[2].parameters():
                parameter *= 0.01

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.one(x)
        x = x + self.two(x)
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def test_a_branch_that_a_round_leaves_out_stays_out() -> None:
    torch.manual_seed(0)
    model = Two().eval()
    graph = trace(model)
    assert [branch.name for branch in graph.branches] == ["one", "two"]

    def plan_of(importance: Importance, share: float) -> Plan:
        return hwprune.solve(
            graph, importance.channels, max_macs=share * graph.macs(), multiple=1,
            min_fraction=0.5, depth=True, branch_scores=importance.branches, most=importance.left,
        )  # fmt: skip

    partial = in_rounds(
        model, graph, trace, with_branches, plan_of, batches(), share=0.36, rounds=2, refit=False
    )
    (group,) = graph.branches[1].groups
    assert partial.kept[group] == ()
    assert [branch.name for branch in partial.graph.branches] == ["one"]
    importance = partial.lift(with_branches(partial.model, partial.graph))
    assert importance.left[group] == 0
    assert float(importance.channels[group].sum()) == 0.0
    assert importance.branches is not None and importance.branches["two"] == 0.0
    assert importance.branches["one"] > 0.0
    roomy = plan_of(importance, 1.0)
    assert roomy.kept[group] == () and partial.within(roomy) == roomy
    for share in (0.36, 1.0):  # the first leaves the other out as well, or makes it narrower
        plan = partial.within(plan_of(importance, share))
        assert plan.macs <= share * graph.macs()
        stepwise = hwprune.prune(partial.model, partial.graph, partial.own(plan))
        at_once = hwprune.prune(model, graph, plan)
        assert stepwise.state_dict().keys() == at_once.state_dict().keys()
        for name, tensor in stepwise.state_dict().items():
            assert torch.equal(tensor, at_once.state_dict()[name]), name


def partial_of(
    model: nn.Module, graph: ChannelGraph, kept: dict[str, tuple[int, ...]], **options: list[str]
) -> Partial:
    plan = Plan.from_kept(graph, kept)
    pruned = hwprune.prune(model, graph, plan)
    return Partial(pruned, hwprune.trace(pruned, batches()[0][0][:2], **options), graph, plan.kept)


def solved(graph: ChannelGraph, importance: Importance, macs: int) -> Plan:
    return hwprune.solve(
        graph, importance.channels, max_macs=macs, multiple=1, depth=True,
        branch_scores=importance.branches, most=importance.left,
    )  # fmt: skip


def test_a_branch_of_single_channels_stays_and_the_budget_holds() -> None:
    model, graph = start()
    partial = partial_of(model, graph, {"stem": (0, 2, 5), "inner": (7,)})
    assert partial.graph.branches == ()
    importance = partial.lift(with_branches(partial.model, partial.graph))
    assert importance.branches == {}
    most = partial.graph.macs() - 1
    plan = solved(graph, importance, most)
    assert plan.kept["inner"] == (7,) and plan.macs <= most
    assert partial.within(plan) == plan
    assert partial.own(plan).macs == plan.macs


class Running(nn.Module):
    """Cumulative sums over channels, for which there is no rule."""

    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


class Coupled(nn.Module):
    """Without its branch, the trunk has other groups."""

    def __init__(self, grouped: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 6, 1)
        self.back = nn.Conv2d(6, 8, 1)
        self.apart = nn.Conv2d(8, 8, 1, groups=4) if grouped else Running()
        self.last = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        x = x + self.back(self.inner(self.apart(x)).relu())
        out: Tensor = self.head(self.last(x).mean((2, 3)))
        return out


@pytest.mark.parametrize("grouped", [True, False])
def test_groups_that_change_when_a_branch_goes_stay_as_they_are(grouped: bool) -> None:
    torch.manual_seed(0)
    model = Coupled(grouped).eval()
    graph = trace(model)
    (branch,) = graph.branches
    partial = partial_of(model, graph, dict.fromkeys(branch.groups, ()))
    assert partial.graph.widths == {"stem": 8, "last": 4} and graph.widths.get("stem") != 8
    importance = partial.lift(with_branches(partial.model, partial.graph))
    assert {name: len(each) for name, each in importance.channels.items()} == graph.widths
    plan = solved(graph, importance, graph.macs())
    assert plan.kept == partial.kept == partial.within(plan).kept
    assert partial.own(plan).macs == partial.graph.macs()


def test_a_kept_layer_is_in_no_branch_that_goes() -> None:
    torch.manual_seed(0)
    model = Two().eval()
    graph = hwprune.trace(model, batches()[0][0][:2], keep=["two.2"])
    assert [branch.name for branch in graph.branches] == ["one"]
    partial = partial_of(model, graph, {"one.0": ()}, keep=["two.2"])
    assert partial.graph.branches == ()


def test_a_branch_is_compensated_as_its_channels_are() -> None:
    _, graph = start()
    scores = {"stem": torch.ones(8), "inner": torch.ones(12)}
    own = Importance(scores, {"back": 5.0}, {"stem": 7})
    other = own.with_channels(graph, {"stem": 9 * torch.ones(8), "inner": 3 * torch.ones(12)})
    assert other.branches == {"back": pytest.approx(15.0)} and other.left == own.left
    assert float(other.channels["stem"].sum()) == 72.0
    assert Importance(scores).with_channels(graph, scores).branches is None
