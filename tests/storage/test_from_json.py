"""Data structures made whole again from JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

import pytest

from hwprune.graph import ChannelGraph, Channels, Group, Layer, Slice, Tap
from hwprune.storage.from_json import restore


class Pair(NamedTuple):
    left: str
    right: tuple[int, ...]


@dataclass(frozen=True)
class Box:
    name: str
    size: float = 1.0
    pair: Pair | None = None
    flags: dict[str, bool] = field(default_factory=dict)
    spots: tuple[tuple[str, int], ...] = ()


BOX = Box("b", 2.5, Pair("l", (1, 2)), {"on": True}, (("a", 1), ("b", 2)))


def test_what_was_written_comes_back() -> None:
    assert restore(Box, json.loads(json.dumps(asdict(BOX)))) == BOX
    assert restore(Box, {"name": "b"}) == Box("b")
    assert restore(Box, {"name": "b", "size": 2}).size == 2.0


def test_a_channel_graph_comes_back() -> None:
    graph = ChannelGraph(
        groups=(Group("g", 2, (Slice("w", 0, ((0, 1), (2, 3))),)),),
        unprunable={"head": "output"},
        layers=(Layer("l", "w", "conv", Channels(3), Channels(0, (("g", 2),)), 9.0),),
        taps=(Tap("l", None),),
    )
    again = restore(ChannelGraph, json.loads(json.dumps(asdict(graph))))
    assert again == graph
    assert again.fingerprint == graph.fingerprint


@pytest.mark.parametrize(
    "value",
    [
        3,
        {},
        {"name": 3},
        {"name": "b", "other": 1},
        {"name": "b", "size": "wide"},
        {"name": "b", "size": True},
        {"name": "b", "pair": ["l"]},
        {"name": "b", "pair": ["l", [1.5]]},
        {"name": "b", "flags": {"on": 1}},
        {"name": "b", "spots": [["a", 1, 2]]},
    ],
)
def test_what_is_of_another_kind_is_refused(value) -> None:
    with pytest.raises((TypeError, ValueError)):
        restore(Box, value)
