"""The picture of the channel graph, as Graphviz reads it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from nets import CASES

import hwprune
from hwprune.errors import InputError
from hwprune.graph import ChannelGraph
from hwprune.reporting.graph_picture import dot, draw_graph, group_colours


def graph_of(name: str) -> ChannelGraph:
    case = CASES[name]
    return hwprune.trace(case.build(), tuple(torch.rand(shape) for shape in case.shapes))


def test_layers_and_joins_with_what_they_read_and_their_groups() -> None:
    flow = graph_of("residual").flow
    assert [(n.operator, n.is_layer, n.groups) for n in flow] == [
        ("input", False, ()),
        ("conv2d", True, ("a",)),
        ("conv2d", True, ("b",)),
        ("conv2d", True, ("a",)),
        ("add", False, ("a",)),
        ("linear", True, ()),
    ]
    assert [n.reads for n in flow[1:]] == [
        ("x",) if flow[0].name == "x" else (flow[0].name,), ("a",), ("b",), ("a", "c"), ("add",)
    ]  # fmt: skip


def test_a_layer_that_runs_twice_is_drawn_twice() -> None:
    names = [n.name for n in graph_of("a_convolution_used_twice").flow]
    assert names[1:] == ["a", "b", "b#2", "fc"]


def test_layers_of_one_group_have_one_colour_and_joins_of_two_are_striped() -> None:
    graph = graph_of("cat_before_norm")
    colours = group_colours(graph)
    assert len(set(colours.values())) == 3
    text = dot(graph)
    assert f'"a" [label="a\\nconv2d 5", fillcolor="{colours["a"]}"' in text
    assert f'fillcolor="{colours["a"]}:{colours["b"]}", tooltip="a, b", style="striped' in text
    assert '"a" -> "cat";' in text and '"cat" -> "c";' in text
    assert '"fc" [label="fc\\nlinear", fillcolor="#e4e4e4", tooltip="model output"]' in text


def test_the_description_is_written_without_graphviz(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    graph = graph_of("residual")
    draw_graph(graph, tmp_path / "groups.dot")
    assert (tmp_path / "groups.dot").read_text(encoding="utf-8") == dot(graph)
    with pytest.raises(InputError, match=r"install the package graphviz.*groups\.dot"):
        draw_graph(graph, tmp_path / "groups.svg")


def test_an_unknown_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"ends in \.jpeg; expected one of \.svg"):
        draw_graph(graph_of("residual"), tmp_path / "groups.jpeg")


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
def test_graphviz_draws_it(tmp_path: Path) -> None:
    draw_graph(graph_of("cat_before_norm"), tmp_path / "groups.svg")
    drawn = (tmp_path / "groups.svg").read_text(encoding="utf-8")
    assert "conv2d 5" in drawn and "</svg>" in drawn
