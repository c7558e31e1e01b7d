"""Run ONNX models for their outputs; nothing here is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from hwprune.onnx_graph.session import Session
from hwprune.onnx_graph.session import session_of as session_of


def outputs_of(session: Session, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Run a session on one tensor for each input; returns all outputs, in the model's order."""
    names = [entry.name for entry in session.get_inputs()]
    feed = {name: np.ascontiguousarray(x.numpy()) for name, x in zip(names, inputs, strict=True)}
    return [torch.from_numpy(array) for array in session.run(None, feed)]


def onnx_runner(model: onnx.ModelProto) -> Callable[[Tensor], Tensor]:
    """As ``onnx_outputs``, for networks of one output, such as logits [n, classes]."""
    run = onnx_outputs(model)
    return lambda images: run(images)[0]


def onnx_outputs(model: onnx.ModelProto) -> Callable[[Any], list[Tensor]]:
    """A function from the inputs of a batch to all outputs that runs ONNX Runtime.

    The inputs are tensors of any structure, in the order of the model's inputs, with the same
    number of images each. For a model with a fixed batch they are split into batches; the last one
    is filled up with its last image.
    """
    session = session_of(model)
    batch = session.get_inputs()[0].shape[0]
    fixed = batch if isinstance(batch, int) else None

    def run(inputs: Any) -> list[Tensor]:
        tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
        count = len(tensors[0])
        size = fixed or count
        parts = []
        for start in range(0, count, size):
            here = min(size, count - start)
            filled = [_filled(tensor[start : start + size], size) for tensor in tensors]
            parts.append([output[:here] for output in outputs_of(session, filled)])
        return [torch.cat(each) for each in zip(*parts, strict=True)]

    return run


def _filled(part: Tensor, size: int) -> Tensor:
    return torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
