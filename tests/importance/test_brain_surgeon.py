"""The criterion ``surgeon`` equals least squares, solved for each channel separately."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import hwprune
from hwprune.importance.score import score
from hwprune.pruning.reconstruct import features


class Two(nn.Module):
    """A convolution whose channels are read by a 3x3 convolution, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 1)
        self.second = nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.second(self.first(x).relu())).relu().mean((2, 3)))
        return out


def batches() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(16, 3, 5, 5, generator=draw), torch.randint(3, (16,), generator=draw))
        for _ in range(6)
    ]


def cost_by_hand(model: Two, removed: list[int]) -> float:
    """Half the squared gradients times the squared errors of the best refit."""
    graph = hwprune.trace(model, batches()[0][0][:1])
    covariance = features(model, graph, batches())["second.weight"].damped
    squared = torch.zeros(4, dtype=torch.float64)
    for images, labels in batches():
        inner = model.first(images).relu()
        outputs = model.second(inner).detach().requires_grad_()
        logits = model.head(model.norm(outputs).relu().mean((2, 3)))
        F.cross_entropy(logits, labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
        assert outputs.grad is not None
        squared += outputs.grad.double().square().sum((0, 2, 3)) / (6 * 16)
    gone = torch.zeros(6, 9, dtype=torch.bool)
    gone[removed] = True
    gone = gone.flatten()
    weight = model.second.weight.detach().double().flatten(1)
    total = 0.0
    for row, cost in zip(weight, squared, strict=True):
        # the row's output is approximated by the kept inputs: min_v (w - v)^T C (w - v)
        own = covariance[~gone][:, ~gone]
        kept = torch.linalg.solve(own, covariance[~gone] @ row)
        error = row.clone()
        error[~gone] -= kept
        total += float(cost / 2 * (error @ covariance @ error))
    return total


def test_it_is_what_least_squares_leaves_and_adds_up_along_the_order() -> None:
    torch.manual_seed(0)
    model = Two().eval()
    graph = hwprune.trace(model, batches()[0][0][:1])
    assert list(graph.widths) == ["first", "second"]
    scores = score(model, graph, batches(), "surgeon")["first"]
    order = scores.argsort().tolist()
    alone = [cost_by_hand(model, [c]) for c in range(6)]
    assert order[0] == min(range(6), key=lambda c: alone[c])
    for count in range(1, 7):
        wanted = cost_by_hand(model, order[:count])
        got = float(scores[order[:count]].sum())
        assert got >= wanted * (1 - 1e-4)  # a channel never scores less than those before it
        if count < 3:
            assert got <= wanted * (1 + 1e-3)


def test_a_copy_is_worth_nothing_until_the_other_is_gone() -> None:
    torch.manual_seed(0)
    model = Two().eval()
    with torch.no_grad():
        model.first.weight[4], model.first.bias[4] = model.first.weight[1], model.first.bias[1]  # type: ignore[index]
    graph = hwprune.trace(model, batches()[0][0][:1])
    scores = score(model, graph, batches(), "surgeon")["first"]
    low, high = sorted([float(scores[1]), float(scores[4])])
    assert low < 1e-2 * high  # positive because of the ridge


class Wide(nn.Module):
    """A group of 96 channels, of which two are removed at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 96, 1)
        self.head = nn.Linear(96, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.first(x).relu().mean((2, 3)))
        return out


def test_two_copies_that_leave_at_once_share_what_they_cost() -> None:
    torch.manual_seed(0)
    model = Wide().eval()
    with torch.no_grad():
        model.first.weight *= 3.0
        model.first.bias.zero_()  # type: ignore[union-attr]
        model.first.weight[2:] = 0.0  # 94 channels of zeros
        model.first.weight[1] = model.first.weight[0]
    graph = hwprune.trace(model, batches()[0][0][:1])
    images, labels = batches()[0]
    scores = score(model, graph, [(images, labels)], "surgeon")["first"]
    assert not images.requires_grad
    copies, nothing = scores[:2], scores[2:]
    assert float(nothing.max()) < 1e-3 * float(copies.sum())


def test_groups_that_only_grouped_convolutions_read_have_fisher_in_its_unit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    ).eval()
    graph = hwprune.trace(model, batches()[0][0][:1])
    scores, fisher = (score(model, graph, batches(), c) for c in ("surgeon", "fisher"))
    alone = [g.name for g in graph.groups if not any(s.key == "5.weight" for s in g.slices)]
    assert alone == ["0"]
    torch.testing.assert_close(scores["0"], fisher["0"] / (2 * 96))
