"""Which widths there are to choose from."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hwprune.solver.width_options import WidthOptions
from hwprune.tracing.trace import trace


class Grouped(nn.Module):
    """A grouped convolution of four groups between two plain ones."""

    def __init__(self, in_each: int, out_each: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4 * in_each, 1)
        self.grouped = nn.Conv2d(4 * in_each, 4 * out_each, 3, groups=4)
        self.last = nn.Conv2d(4 * out_each, 24, 1)
        self.head = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.grouped(self.first(x).relu()).relu()).relu()
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("multiple", "of_first", "of_grouped"),
    [
        (8, [8, 16], [2, 4, 6, 8, 10, 12]),  # whole steps of a group stay so; 12 are none
        (4, [4, 8, 12, 16], [4, 8, 12]),
        (16, [16], [4, 8, 12]),
        (1, list(range(2, 17)), list(range(2, 13))),
    ],
)
def test_groups_of_a_convolution_keep_whole_steps(multiple, of_first, of_grouped) -> None:
    graph = trace(Grouped(16, 12).eval(), torch.zeros(1, 3, 8, 8))
    options = WidthOptions(multiple=multiple, max_options=20).candidates(graph)
    assert (options["first"], options["grouped"]) == (of_first, of_grouped)


def test_steps_of_a_group_norm_are_those_of_its_layer() -> None:
    """Whole groups of a norm go, and no runtime computes these one by one."""
    model = nn.Sequential(nn.Conv2d(3, 32, 1), nn.GroupNorm(4, 32), nn.Conv2d(32, 8, 1))
    graph = trace(model.eval(), torch.zeros(1, 3, 8, 8))
    assert WidthOptions(multiple=8).candidates(graph)["0"] == [1, 2, 3, 4]
