"""A picture of the channel graph by Graphviz: layers and joins in the colours of their groups."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from hwprune.errors import InputError
from hwprune.graph import ChannelGraph, FlowNode
from hwprune.storage.atomic_files import StrPath, write_atomically, write_text

_DRAWN = (".svg", ".png", ".pdf")
_TEXT = (".dot", ".gv")
_FIXED = "#e4e4e4"


def draw_graph(graph: ChannelGraph, path: StrPath) -> None:
    """Draw a channel graph into a file, or write its description in Graphviz' language.

    Args:
        graph: channel graph.
        path: file that ends in ``.svg``, ``.png`` or ``.pdf`` for a picture, which needs
            Graphviz' program ``dot``; or in ``.dot`` or ``.gv`` for the description.

    Raises:
        InputError: the file ends differently, or ``dot`` is missing or fails.
    """
    path, description = Path(path), dot(graph)
    if path.suffix in _TEXT:
        write_text(path, description)
        return
    if path.suffix not in _DRAWN:
        raise InputError(
            f"{path} ends in {path.suffix or 'nothing'}; expected one of "
            f"{', '.join((*_DRAWN, *_TEXT))}, such as --picture groups.svg."
        )
    program = shutil.which("dot")
    if program is None:
        raise InputError(
            f"Drawing {path} needs Graphviz' program `dot`, which is not installed: install the "
            f"package graphviz of your system, or write the description, --picture "
            f"{path.with_suffix('.dot')}."
        )

    def draw(unfinished: Path) -> None:
        command = [program, f"-T{path.suffix[1:]}", "-o", str(unfinished)]
        done = subprocess.run(command, input=description, text=True, capture_output=True)
        if done.returncode:
            reason = done.stderr.strip().splitlines()[-1]
            raise InputError(
                f"Graphviz could not draw {path}: {reason}. Write the description instead, "
                f"--picture {path.with_suffix('.dot')}."
            )

    write_atomically(path, draw)


def dot(graph: ChannelGraph) -> str:
    """The description of a channel graph in Graphviz' language."""
    colours = group_colours(graph)
    lines = [
        "digraph channels {",
        '  graph [fontname="Helvetica", ranksep=0.25, nodesep=0.15];',
        '  node [shape=box, style=filled, fontname="Helvetica", fontsize=10, height=0.3];',
        '  edge [color="#808080", arrowsize=0.6];',
    ]
    for node in graph.flow:
        lines.append(f"  {_quoted(node.name)} [{_look(node, graph, colours)}];")
        lines += [f"  {_quoted(source)} -> {_quoted(node.name)};" for source in node.reads]
    return "\n".join([*lines, "}\n"])


def group_colours(graph: ChannelGraph) -> dict[str, str]:
    """A light colour for each group; the colours of consecutive groups differ much."""
    golden = 0.618034  # of the circle of hues from one group to the next
    hues = ((index * golden) % 1 for index in range(len(graph.groups)))
    return {g.name: f"{hue:.3f} 0.38 0.98" for g, hue in zip(graph.groups, hues, strict=True)}


def _look(node: FlowNode, graph: ChannelGraph, colours: dict[str, str]) -> str:
    filled = [colours[name] for name in node.groups] or [_FIXED]
    widths = " + ".join(str(graph.widths[name]) for name in node.groups)
    size = f"{node.operator} {widths}".strip()
    text = f"{node.name}\\n{size}" if node.is_layer else size
    stripes = ', style="striped,filled"' if len(filled) > 1 else ""
    shape = "" if node.is_layer else ", shape=oval"
    tip = ", ".join(node.groups) or graph.unprunable.get(node.name, "stays")
    return (
        f"label={_quoted(text)}, fillcolor={_quoted(':'.join(filled))}, "
        f"tooltip={_quoted(tip)}{shape if len(filled) == 1 else ''}{stripes}"
    )


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '\\"') + '"'
