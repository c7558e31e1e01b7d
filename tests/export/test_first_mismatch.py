"""The first layer that departs is found, whichever was damaged."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hwprune.export.first_mismatch import Outputs, Runner, first_departure, relative_error
from hwprune.export.to_onnx import to_onnx
from onnx import numpy_helper
from small_network import EXAMPLE, Small

from hwprune.onnx_graph.run import session_of
from hwprune.onnx_graph.tensorrt_precision import for_tensorrt

IMAGES = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
LAYERS = ["stem.0", "inner.0", "depthwise.0", "outer", "head"]


@pytest.fixture(scope="module")
def dense() -> onnx.ModelProto:
    torch.manual_seed(0)
    return to_onnx(Small().eval(), EXAMPLE)


def run(model: onnx.ModelProto) -> Outputs:
    session = session_of(model)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: IMAGES}), strict=True))


def damaged(key: str) -> Runner:
    """A runtime that computes with another weight than the file's."""

    def wrong(model: onnx.ModelProto) -> Outputs:
        own = onnx.ModelProto()
        own.CopyFrom(model)
        weight = next(i for i in own.graph.initializer if i.name.partition("::")[0] == key)
        array = numpy_helper.to_array(weight).copy()
        array[0] += 3
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        return run(own)

    return wrong


@pytest.mark.parametrize("layer", LAYERS)
def test_the_damaged_layer_is_named(dense: onnx.ModelProto, layer: str) -> None:
    found = first_departure(dense, run, damaged(f"{layer}.weight"), 1e-4)
    assert found is not None
    assert found.layer == f"{layer}.weight" and found.error > 1e-2
    assert found.operator == ("Gemm" if layer == "head" else "Conv")
    assert f"Conv {found.node} of {layer}" in str(found) or layer == "head"


def test_the_damaged_layer_is_named_behind_quantisers(dense: onnx.ModelProto) -> None:
    own = for_tensorrt(dense, "int8", [IMAGES])
    found = first_departure(own, run, damaged("outer.weight"), 1e-4)
    assert found is not None
    assert found.layer == "outer.weight"


def test_a_long_network_needs_few_runs() -> None:
    torch.manual_seed(0)
    layers = [layer for _ in range(40) for layer in (torch.nn.Conv2d(3, 3, 1), torch.nn.ELU())]
    for layer in layers[::2]:
        torch.nn.init.dirac_(layer.weight)
    long = to_onnx(torch.nn.Sequential(*layers).eval(), EXAMPLE)
    found = first_departure(long, run, damaged("54.weight"), 1e-4)
    assert found is not None
    assert found.layer == "54.weight" and 1 < found.runs <= 4


def test_a_runtime_that_agrees_departs_nowhere(dense: onnx.ModelProto) -> None:
    assert first_departure(dense, run, run, 1e-4) is None
    before = dense.SerializeToString()
    first_departure(dense, run, damaged("outer.weight"), 1e-4)
    assert dense.SerializeToString() == before


def test_no_number_is_near_nan() -> None:
    ones = np.ones(3)
    assert relative_error(2 * ones, 3 * ones) == 0.5
    assert not relative_error(ones, np.array([1, np.nan, 1])) <= 1e9
    assert relative_error(np.zeros(0), np.zeros(0)) == 0


def test_marked_networks_can_be_built_in_bf16(dense: onnx.ModelProto) -> None:
    """An engine in bf16 is held against the network in fp32, of which the marks are set."""
    seen: list[onnx.ModelProto] = []

    def noted(model: onnx.ModelProto) -> Outputs:
        seen.append(for_tensorrt(model, "bf16"))
        return damaged("inner.0.weight")(model)

    assert first_departure(dense, run, noted, 1e-4) is not None
    assert len(seen) > 1 and len(seen[-1].graph.output) > 1
    for model in seen:
        onnx.checker.check_model(model, full_check=True)
        kinds = {output.type.tensor_type.elem_type for output in model.graph.output}
        assert kinds == {onnx.TensorProto.FLOAT}
