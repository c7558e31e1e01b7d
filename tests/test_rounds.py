"""Pruning in rounds ends where one cut would, and never brings a channel back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

import hwprune
from hwprune.graph import ChannelGraph
from hwprune.importance.rounds import Partial, in_rounds
from hwprune.plan import Plan
from hwprune.prepare import prepare


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


def scores_of(model: nn.Module, graph: ChannelGraph) -> Mapping[str, Tensor]:
    return hwprune.score(model, graph, batches(), "taylor")


def test_each_round_takes_from_what_the_one_before_has_left() -> None:
    model, graph = start()
    shares: list[float] = []

    def plan_of(scores: Mapping[str, Tensor], share: float) -> Plan:
        shares.append(share)
        return hwprune.solve(
            graph, scores, max_macs=share * graph.macs(), multiple=1, min_fraction=0.1
        )

    trained: list[int] = []

    def train(student: nn.Module, plan: Plan) -> None:
        trained.append(sum(plan.widths.values()))
        assert trace(student).widths == {n: w for n, w in plan.widths.items() if w > 1}

    partial = in_rounds(
        model, graph, trace, scores_of, plan_of, batches(), share=0.25, rounds=3, refit=False,
        train=train,
    )  # fmt: skip
    assert trained[0] > trained[1] == sum(len(kept) for kept in partial.kept.values())
    assert [round(share, 4) for share in shares] == [0.63, 0.3969]
    assert partial.graph.macs() <= 0.3969 * graph.macs()
    assert partial.graph.widths == {name: len(kept) for name, kept in partial.kept.items()}
    scores = partial.lift(scores_of(partial.model, partial.graph))
    for name, kept in partial.kept.items():
        gone = sorted(set(range(graph.widths[name])) - set(kept))
        assert float(scores[name][gone].abs().sum()) == 0.0
        assert float(scores[name][list(kept)].min()) > 0.0
    plan = partial.within(plan_of(scores, 0.25))
    stepwise = prepare(partial.model, partial.graph, partial.own(plan), batches())
    at_once = prepare(model, graph, plan, batches())
    with torch.no_grad():
        images = batches()[0][0]
        torch.testing.assert_close(stepwise(images), at_once(images))


def test_a_plan_that_wants_channels_back_goes_without_them() -> None:
    model, graph = start()
    partial = Partial(model, graph, graph, {"stem": (0, 2, 5), "inner": tuple(range(12))})
    wide = Plan.from_kept(graph, {"stem": [0, 1, 2, 3], "inner": [4, 5]})
    plan = partial.within(wide)
    assert plan.kept == {"stem": (0, 2), "inner": (4, 5)}
    assert plan.macs == graph.macs({"stem": 2, "inner": 2})
    inside = Plan.from_kept(graph, {"stem": [0, 5], "inner": [4, 5]})
    assert partial.within(inside) == inside


def test_one_round_is_no_round() -> None:
    model, graph = start()

    def none(scores: Mapping[str, Tensor], share: float) -> Plan:
        raise AssertionError

    partial = in_rounds(model, graph, trace, scores_of, none, batches(), share=0.5, rounds=1)
    assert partial.model is model
    scores = scores_of(model, graph)
    for name, lifted in partial.lift(scores).items():
        assert torch.equal(lifted, scores[name])
    plan = Plan.from_kept(graph, {"stem": [1, 4], "inner": [0, 3, 7]})
    assert partial.own(plan) == plan
