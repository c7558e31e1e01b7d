"""The names of kernels: paths of the network's layers."""

from __future__ import annotations

import onnx
import pytest
import tiny
import torch
from hwprune.export.planned import planned_networks
from hwprune.export.resize import keep_first, resize
from hwprune.export.to_onnx import to_onnx
from hwprune.export.without_branches import without_branches

import hwprune
from hwprune.graph import ChannelGraph
from hwprune.latency.kernels import describe
from hwprune.onnx_graph.module_paths import module_paths
from hwprune.targets.base import KernelTime
from hwprune.targets.registry import load_target

IMAGES = torch.zeros(1, 1, 8, 8)
LAYERS = {
    "stem.0",
    *(f"stages.{block}.conv{number}" for block in range(3) for number in (1, 2)),
    "stages.0.shortcut.0",
    "stages.2.shortcut.0",
    "head",
}


@pytest.fixture(scope="module")
def model() -> tiny.Network:
    return tiny.network().eval()


@pytest.fixture(scope="module")
def graph(model) -> ChannelGraph:
    return hwprune.trace(model, IMAGES)


@pytest.fixture(scope="module")
def dense(model) -> onnx.ModelProto:
    return to_onnx(model, IMAGES)


@pytest.mark.parametrize(
    "target",
    ["onnxruntime-cpu", "onnxruntime-cpu:precision=int8", "openvino-cpu", "torch-cpu", "fake"],
)
def test_kernels_have_the_paths_of_the_layers_that_they_compute(model, graph, target) -> None:
    device = load_target(target)
    network = planned_networks(device.takes, model, IMAGES, graph).dense
    times = device.load(network).profile(1)
    kernels = describe(times, network, graph)
    assert [k.kind for k in kernels] == [t.kind for t in times]
    weighted = [k.name for k in kernels if "conv" in k.kind.lower() or k.kind.startswith("Gemm")]
    assert {*weighted} <= LAYERS
    assert LAYERS - {"head"} <= {k.name for k in kernels}
    assert len({*weighted}) == len(weighted)


def test_what_has_no_weights_has_the_path_of_its_module(dense, graph) -> None:
    times = [
        KernelTime("add_1", "Add", (), (1.0,)),
        KernelTime("ReorderOutput", "ReorderOutput", (), (1.0,)),
        KernelTime("node_mean", "ReduceMean", (), (1.0,)),  # of the network's own forward
    ]
    names = [kernel.name for kernel in describe(times, dense, graph)]
    assert names == ["stages.1", "ReorderOutput", "node_mean"]


def test_a_kernel_of_several_layers_says_how_many_more(dense, graph) -> None:
    by_operator = [node.name for node in dense.graph.node if node.op_type == "Conv"]
    times = [KernelTime("fused", "kgen", (), (1.0,), parts=tuple(by_operator[:3]))]
    assert describe(times, dense, graph)[0].name == "stem.0 + 2 more"
    weights = ("head.weight", "head.weight", "stem.0.weight")
    times = [KernelTime("fused", "kgen", (), (1.0,), weights)]
    assert describe(times, dense, graph)[0].name == "head + 1 more"


def test_cut_files_keep_the_paths(dense, graph) -> None:
    """Nodes that are left after channels and a branch were cut out."""
    widths = {group.name: group.width // 2 for group in graph.groups}
    cut = resize(dense, graph, keep_first(graph, widths))
    assert module_paths(cut) == module_paths(dense)
    smaller = module_paths(without_branches(cut, graph, graph.branches[:1]))
    assert smaller
    assert smaller.items() <= module_paths(dense).items()


def test_pooling_that_is_cleaned_up_keeps_its_path() -> None:
    class Last(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), 1)

    model = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 1), Last()).eval()
    found = to_onnx(model, IMAGES)
    paths = module_paths(found)
    assert {paths.get(node.name) for node in found.graph.node} == {"0", "1"}


def test_a_file_of_another_exporter_has_no_paths(dense) -> None:
    other = onnx.ModelProto()
    other.CopyFrom(dense)
    for node, text in zip(other.graph.node, ("no list", "{}", "[]", "['']"), strict=False):
        for entry in node.metadata_props:
            entry.value = text
    for node in other.graph.node[4:]:
        del node.metadata_props[:]
    assert module_paths(other) == {}
