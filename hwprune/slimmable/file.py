"""Save and load a slim network: one safetensors file that contains each weight once.

The tensors are those of the widest network, under their keys, and the buffers of the narrower
networks, under ``statistics/NAME/KEY``. The metadata entry ``hwprune`` contains the plans and the
parts of the weights that each network uses. ``docs/slim.md`` specifies the format.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from hwprune.errors import InputError
from hwprune.plan import Plan
from hwprune.pruning.checkpoint import build_dense, shaped_like
from hwprune.pruning.prune import set_numbers
from hwprune.slimmable.channel_order import Arrangement
from hwprune.slimmable.network import Part, SlimNetwork
from hwprune.slimmable.slices import Cut, cut_sizes, part_of
from hwprune.storage.atomic_files import StrPath, write_atomically
from hwprune.version import __version__

_SLIM_VERSION = 1
_STATISTICS = "statistics"


def save_slim(slim: SlimNetwork, path: StrPath) -> None:
    """Write a slim network to one safetensors file, atomically.

    Args:
        slim: the slim network; ``source`` of the widest plan may say how to build the dense one.
        path: the file, such as ``slim.safetensors``.

    Raises:
        HwpruneError: the file cannot be written.

    Example:
        >>> from hwprune.slimmable.channel_order import Arrangement
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> as_it_is = {name: tuple(range(width)) for name, width in graph.widths.items()}
        >>> plans = {"wide": hwprune.Plan.from_kept(graph, {})}
        >>> plans["narrow"] = hwprune.Plan.from_kept(graph, {"stem.0": range(8)})
        >>> slim = hwprune.make_slim(model, graph, plans, Arrangement(as_it_is, {}))
        >>> hwprune.save_slim(slim, "slim.safetensors")
        >>> hwprune.load_slim("slim.safetensors", model).names
        ('wide', 'narrow')
    """
    tensors, tied = _without_ties(slim.widest.state_dict(keep_vars=True))
    for name in slim.names[1:]:
        for key, buffer in slim.network(name).state_dict().items():
            tensors[f"{_STATISTICS}/{name}/{key}"] = buffer
    content = {
        "version": _SLIM_VERSION,
        "networks": [
            {"name": name, "plan": part.plan.content(), "cuts": part.cuts}
            for name, part in slim.parts.items()
        ],
        "order": slim.arrangement.order,
        "fixed": slim.arrangement.fixed,
        "tied": tied,
        "written_by": {"hwprune": __version__, "torch": torch.__version__},
    }
    copies = {
        key: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in tensors.items()
    }
    metadata = {"hwprune": json.dumps(content)}
    write_atomically(Path(path), lambda temporary: save_file(copies, temporary, metadata))


def load_slim(
    path: StrPath, model: nn.Module | None = None, *, trust_source: bool = False
) -> SlimNetwork:
    """Read a slim network from a file that ``save_slim`` wrote.

    Args:
        path: the file.
        model: the dense network, needed if the file does not say how to build it, or names a
            callable; it is not changed.
        trust_source: whether a callable that the file names may be called. It can be any callable:
            leave it False for files that others have made.

    Returns:
        The slim network in evaluation mode, on the CPU. Its widest network runs first.

    Raises:
        InputError: the file does not exist, is damaged or no slim network, or has another version
            or architecture, or names a callable.

    Example:
        >>> from hwprune.slimmable.channel_order import Arrangement
        >>> model, image = hwprune.demo.small_network()
        >>> graph = hwprune.trace(model, image)
        >>> as_it_is = {name: tuple(range(width)) for name, width in graph.widths.items()}
        >>> plans = {"wide": hwprune.Plan.from_kept(graph, {})}
        >>> plans["narrow"] = hwprune.Plan.from_kept(graph, {"stem.0": range(8)})
        >>> slim = hwprune.make_slim(model, graph, plans, Arrangement(as_it_is, {}))
        >>> hwprune.save_slim(slim, "slim.safetensors")
        >>> loaded = hwprune.load_slim("slim.safetensors", model)
        >>> loaded.set_budget("narrow")
        >>> torch.equal(loaded(image), slim.alone("narrow")(image))
        True
    """
    file = Path(path)
    content, tensors = _read(file)
    parts, arrangement = _parsed(content, file)
    names = list(parts)
    first, given = parts[names[0]].plan, "load_slim(path, model)"
    dense = model
    if dense is None:
        dense = build_dense(first, file, trust_source=trust_source, given=given)
    wide = {key: t for key, t in tensors.items() if not key.startswith(f"{_STATISTICS}/")}
    wide |= {key: wide[first] for key, first in content["tied"].items() if first in wide}
    narrower = [
        _network(dense, _narrow(wide, tensors, name, parts[name].cuts), parts[name].plan)
        for name in names[1:]
    ]
    widest = _network(dense, wide, parts[names[0]].plan)
    return SlimNetwork(widest, narrower, parts, arrangement).eval()


def bytes_together(slim: SlimNetwork) -> int:
    """Bytes of all tensors of all networks; each weight is counted once."""
    tensors, _ = _without_ties(slim.state_dict(keep_vars=True))
    return sum(tensor.nbytes for tensor in tensors.values())


def bytes_alone(slim: SlimNetwork, name: str) -> int:
    """Bytes of the tensors of a single network."""
    part, network = slim.parts[name], slim.network(name)
    named = dict(slim.widest.named_parameters())
    weights = sum(
        each.element_size() * math.prod(cut_sizes(part.cuts[key], each.shape))
        for key, each in named.items()
    )
    return weights + sum(buffer.nbytes for buffer in network.buffers())


def _without_ties(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors without repeated ones, and key of a repeated one -> key of its first."""
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for key, tensor in state.items():
        if first.setdefault(id(tensor), key) != key:
            tied[key] = first[id(tensor)]
    return {key: tensor for key, tensor in state.items() if key not in tied}, tied


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})["hwprune"])
            tensors = {  # copies, for the reason in checkpoint.py
                key: file.get_tensor(key).clone()
                for key in file.keys()  # noqa: SIM118 - no mapping
            }
        version = content["version"]
    except FileNotFoundError as error:
        raise InputError(f"No file {path}. Make one with `hwprune slim`.") from error
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path} is no network of several widths ({error}). Make it again with `hwprune slim`."
        ) from error
    if version != _SLIM_VERSION:
        raise InputError(
            f"{path} has version {version}; this hwprune reads {_SLIM_VERSION}. Make it again with "
            "`hwprune slim`."
        )
    return content, tensors


def _parsed(content: Mapping[str, Any], path: Path) -> tuple[dict[str, Part], Arrangement]:
    """The networks by name (at least one), and the order of their channels."""
    try:
        parts = {
            each["name"]: Part(
                Plan.of_content(each["plan"], f"{path}, {each['name']}"), _cuts(each["cuts"])
            )
            for each in content["networks"]
        }
        order = {name: tuple(map(int, channels)) for name, channels in content["order"].items()}
        dict(content["tied"]), next(iter(parts.values()))  # raise if they are missing
        return parts, Arrangement(order, dict(content["fixed"]))
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise InputError(
            f"{path} is damaged ({error}). Make it again with `hwprune slim`."
        ) from error


def _cuts(content: Mapping[str, Any]) -> dict[str, Cut]:
    return {
        key: {
            int(dim): tuple((int(start), int(stop)) for start, stop in runs)
            for dim, runs in cut.items()
        }
        for key, cut in content.items()
    }


def _narrow(
    wide: Mapping[str, Tensor], tensors: Mapping[str, Tensor], name: str, cuts: Mapping[str, Cut]
) -> dict[str, Tensor]:
    """The tensors of a narrower network: parts of the widest one's weights, and its own buffers."""
    start = f"{_STATISTICS}/{name}/"
    own = {key[len(start) :]: each for key, each in tensors.items() if key.startswith(start)}
    return {key: part_of(wide[key], cut) for key, cut in cuts.items() if key in wide} | own


def _network(dense: nn.Module, state: dict[str, Tensor], plan: Plan) -> nn.Module:
    network = shaped_like(copy.deepcopy(dense), state)
    set_numbers(network, plan.numbers)
    return network
