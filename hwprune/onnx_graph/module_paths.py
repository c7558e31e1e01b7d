"""Which module of the PyTorch network each node of an exported ONNX model comes from."""

from __future__ import annotations

import ast
from typing import Any

import onnx

_SCOPES = "pkg.torch.onnx.name_scopes"  # written by torch.onnx's exporter, as a list in text


def module_paths(model: onnx.ModelProto) -> dict[str, str]:
    """Module paths by the names of nodes and of the tensors that they write.

    Nodes of the network's outermost ``forward``, and nodes without the exporter's metadata, are
    left out.

    Args:
        model: an ONNX model, such as ``to_onnx`` makes.

    Returns:
        Name of a node or tensor -> dotted path of the innermost module, such as ``layer1.0.conv1``.
    """
    found: dict[str, str] = {}
    for node in model.graph.node:
        path = _path(node)
        if path:
            found.update(dict.fromkeys(filter(None, (node.name, *node.output)), path))
    return found


def _path(node: Any) -> str:
    """The innermost module's path, which stands before the operator's own name."""
    text = next((entry.value for entry in node.metadata_props if entry.key == _SCOPES), "[]")
    try:
        scopes = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return ""
    return str(scopes[-2]) if isinstance(scopes, list) and len(scopes) > 1 else ""
