"""Run ONNX models for their outputs; nothing here is timed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
import torch
from torch import Tensor

from hwprune.onnx_graph.session import Session
from hwprune.onnx_graph.session import session_of as session_of


def outputs_of(session: Session, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Run a session on one tensor for each input; returns all outputs, in the model's order."""
    names = [entry.name for entry in session.get_inputs()]
    feed = {name: np.ascontiguousarray(x.numpy()) for name, x in zip(names, inputs, strict=True)}
    return [torch.from_numpy(array) for array in session.run(None, feed)]


def onnx_runner(model: onnx.ModelProto) -> Callable[[Tensor], Tensor]:
    """A function from images [n, C, H, W] to logits [n, classes] that runs ONNX Runtime.

    For a model with a fixed batch the images are split into batches; the last one is filled up with
    its last image.
    """
    session = session_of(model)
    batch = session.get_inputs()[0].shape[0]
    fixed = batch if isinstance(batch, int) else None

    def run(images: Tensor) -> Tensor:
        size = fixed or len(images)
        outputs = []
        for start in range(0, len(images), size):
            part = images[start : start + size]
            filled = torch.cat([part, part[-1:].expand(size - len(part), *part.shape[1:])])
            outputs.append(outputs_of(session, [filled])[0][: len(part)])
        return torch.cat(outputs)

    return run
