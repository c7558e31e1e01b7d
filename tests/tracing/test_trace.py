"""The channel graph: groups written by hand, and removing channels equals zeroing them."""

from __future__ import annotations

import copy
from typing import Any

import cifar_resnet
import pytest
import torch
from marks import slow
from nets import CASES, Net, conv, pooled
from oracles import parameters, random_plan, shaken
from torch import Tensor, nn
from torch.nn import functional as F

import hwprune
from hwprune.demo import digits_resnet, small_network
from hwprune.errors import HwpruneError, InputError, TraceError
from hwprune.graph import ChannelGraph, Group, Norm, Slice
from hwprune.models.build import build_model
from hwprune.pruning.oracle import oracle_error, zeroed
from hwprune.tracing.rules.rule import rule_name

# name -> pixels, the number of groups
ZOO: dict[str, tuple[int, int]] = {
    "resnet18": (32, 11),
    "resnext50_32x4d": (32, 20),
    "mobilenet_v2": (32, 24),
    "mobilenet_v3_small": (32, 27),
    "efficientnet_b0": (32, 40),
    "vgg11_bn": (32, 9),
    "densenet121": (32, 110),
    "regnet_y_400mf": (32, 30),
    "squeezenet1_1": (32, 20),
    "shufflenet_v2_x0_5": (32, 15),
    "convnext_tiny": (32, 15),
    "lraspp_mobilenet_v3_large": (64, 30),
}

QUICK = ("resnet18", "mobilenet_v3_small", "squeezenet1_1")


@pytest.mark.parametrize("name", CASES)
def test_small_networks_have_the_groups_written_by_hand(name: str) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    model = shaken(case.build())
    inputs = tuple(torch.randn(shape) for shape in case.shapes)
    graph = hwprune.trace(model, inputs)
    assert graph.widths == case.groups
    assert graph.unprunable.keys() == case.stays.keys()
    for layer, reason in case.stays.items():
        assert reason in graph.unprunable[layer]
    for seed in range(3 if graph.groups else 0):
        plan = random_plan(graph, seed)
        assert oracle_error(model, graph, plan, inputs) <= 1e-4
        assert plan.params == parameters(hwprune.prune(model, graph, plan))
    assert graph.params() == parameters(model)


@pytest.mark.parametrize("name", [*QUICK, *slow(*(name for name in ZOO if name not in QUICK))])
def test_torchvision_networks_pass_the_oracle(name: str) -> None:
    pixels, groups = ZOO[name]
    torch.manual_seed(0)
    model = shaken(build_model(f"torchvision:{name}", num_classes=10))
    x = torch.randn(2, 3, pixels, pixels)
    graph = hwprune.trace(model, x)
    assert len(graph.groups) >= groups
    plan = random_plan(graph)
    assert oracle_error(model, graph, plan, (x,)) <= 1e-4
    assert plan.params == parameters(hwprune.prune(model, graph, plan))
    assert all(tap.name in dict(model.named_modules()) for tap in graph.taps)


def test_resnet20_with_parameter_free_shortcuts() -> None:
    """The first stage's channels are a group in all stages; the channels of zeros stay."""
    torch.manual_seed(0)
    model = shaken(cifar_resnet.resnet20())
    x = torch.randn(2, 3, 32, 32)
    graph = hwprune.trace(model, x)
    inner = {f"layer{s}.{b}.conv1": 8 * 2**s for s in (1, 2, 3) for b in (0, 1, 2)}
    assert graph.widths == {"conv1": 16, **inner}
    assert all("holds sizes" in graph.unprunable[f"layer{s}.0.conv2"] for s in (2, 3))
    assert oracle_error(model, graph, random_plan(graph), (x,)) <= 1e-4


def test_macs_and_layers_by_hand() -> None:
    graph = hwprune.trace(CASES["depthwise"].build(), torch.zeros(1, 3, 8, 8))
    assert graph.macs() == 64 * 9 * (3 * 8 + 8 + 8 * 6) + 6 * 4
    assert graph.macs({"a": 4, "b": 2}) == 64 * 9 * (3 * 4 + 4 + 4 * 2) + 2 * 4
    assert [(layer.name, layer.kind) for layer in graph.layers] == [
        ("a", "conv"), ("d", "depthwise"), ("b", "conv"), ("fc", "linear")
    ]  # fmt: skip


def test_positions_of_a_flattened_channel() -> None:
    graph = hwprune.trace(CASES["flatten_to_linear"].build(), torch.rand(1, 3, 8, 8))
    (piece,) = [s for s in graph.group("a").slices if s.key == "fc.weight"]
    assert piece.dim == 1
    assert piece.positions[3] == tuple(range(3 * 64, 4 * 64))


def test_the_model_is_left_as_it_was() -> None:
    model = CASES["plain"].build().train()
    model.n.eval()
    model.a.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    modes = {name: module.training for name, module in model.named_modules()}
    hwprune.trace(model, torch.rand(1, 3, 8, 8))
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.a.weight.requires_grad and model.b.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_a_batch_of_one_and_inputs_of_zeros_give_the_same_graph() -> None:
    """With its zeros, every pruned output would equal the expected one."""
    model = CASES["split_of_literal_sizes"].build()
    graph = hwprune.trace(model, torch.zeros(1, 3, 8, 8))
    assert graph.widths == CASES["split_of_literal_sizes"].groups
    assert graph.fingerprint == hwprune.trace(model, torch.rand(4, 3, 8, 8)).fingerprint


def test_half_precision_is_proven_in_single() -> None:
    model = CASES["chunks_that_meet_again"].build().to(torch.bfloat16)
    graph = hwprune.trace(model, torch.rand(2, 3, 8, 8, dtype=torch.bfloat16))
    assert graph.widths == {"a": 4, "b": 6}
    assert model.a.weight.dtype is torch.bfloat16


def test_a_branch_that_only_training_takes_is_respected() -> None:
    def forward(m: Any, x: Tensor) -> Any:
        x = m.a(x)
        logits = m.fc(pooled(m.b(x)))
        return (logits, m.aux(pooled(x))) if m.training else logits

    model = Net(
        forward, a=conv(3, 8), b=conv(8, 6), fc=nn.Linear(6, 4), aux=nn.Linear(8, 4)
    )  # fmt: skip
    graph = hwprune.trace(model, torch.rand(2, 3, 8, 8))
    assert graph.widths == {"b": 6}
    assert "in training mode" in graph.unprunable["a"]


def test_zero_initialised_branches_do_not_hide_a_wrong_size() -> None:
    model = CASES["a_size_in_the_arithmetic"].build()
    nn.init.zeros_(model.b.weight)
    nn.init.zeros_(model.b.bias)
    assert hwprune.trace(model, torch.zeros(2, 3, 8, 8)).widths == {"b": 6}


def by_value(model: Any, x: Tensor) -> Any:
    x = model.a(x)
    if x.sum() > 0:  # the line that cannot be exported
        x = x * 2
    return pooled(x)


def test_an_error_names_the_line_that_depends_on_values() -> None:
    with pytest.raises(TraceError) as caught:
        hwprune.trace(Net(by_value, a=conv(3, 8)), torch.rand(2, 3, 8, 8))
    line = by_value.__code__.co_firstlineno + 2
    assert f'{__file__}", line {line}' in str(caught.value)
    assert "if x.sum() > 0" in str(caught.value)
    assert "depends on the values of tensors" in str(caught.value)


def test_an_error_names_the_line_that_a_wrong_input_breaks() -> None:
    with pytest.raises(TraceError, match=r"nets_whole\.py\", line \d+"):
        hwprune.trace(CASES["plain"].build(), torch.rand(2, 5, 8, 8))


def test_a_model_without_finite_outputs_is_refused() -> None:
    model = Net(lambda m, x: pooled(m.a(F.relu(m.b(x)))), a=conv(3, 8), b=conv(3, 3))
    nn.init.constant_(model.a.weight, float("nan"))
    with pytest.raises(TraceError, match="no finite outputs"):
        hwprune.trace(model, torch.rand(2, 3, 8, 8))


def test_layers_that_were_asked_for_keep_their_outputs() -> None:
    case = CASES["residual"]
    x = torch.rand(case.shapes[0])
    model = case.build()
    graph = hwprune.trace(model, x, keep=["c"])  # shares its channels with a
    assert graph.widths == {"b": 6}
    assert graph.unprunable["a"] == graph.unprunable["c"] == "kept as asked: c"
    assert hwprune.trace(model, x, keep=["[ab]"]).widths == {}
    with pytest.raises(InputError, match=r"No layer or module is called 'layer4\.\*'.*called a,"):
        hwprune.trace(model, x, keep=["a", "layer4.*"])


@pytest.mark.parametrize("pattern", ["stages.1", "stages.1.*", "st*s.1", "*.1"])
def test_a_module_that_is_to_be_kept_keeps_all_its_layers(pattern: str) -> None:
    model, image = small_network()
    graph = hwprune.trace(model, image, keep=[pattern])
    reason = f"kept as asked: {pattern}"
    assert {name: graph.unprunable.get(name) for name in ("stages.1.conv1", "stages.1.conv2")} == {
        "stages.1.conv1": reason,
        "stages.1.conv2": reason,
    }
    assert graph.widths == {"stem.0": 16, "stages.0.conv1": 16, "stages.2.conv1": 32}


@pytest.mark.parametrize("pattern", ["stage", "stages.9", "stem.", ""])
def test_a_pattern_without_a_layer_or_module_is_refused(pattern: str) -> None:
    model, image = small_network()
    with pytest.raises(InputError, match=f"No layer or module is called '{pattern}'"):
        hwprune.trace(model, image, keep=[pattern])


def test_taps_of_the_demo_end_the_stages() -> None:
    graph = hwprune.trace(digits_resnet(), torch.rand(2, 1, 32, 32))
    assert [(tap.name, tap.group) for tap in graph.taps] == [
        ("stages.1", "stages.0.conv2"),
        ("stages.3", "stages.2.conv2"),
        ("stages.5", "stages.4.conv2"),
    ]  # fmt: skip


def test_an_unknown_group_is_refused_with_those_there_are() -> None:
    graph = hwprune.trace(CASES["plain"].build(), torch.rand(2, 3, 8, 8))
    with pytest.raises(InputError, match="called 'c'; this graph has a, b"):
        graph.group("c")


def test_a_norm_over_channels_is_checked_on_the_channels_that_are_kept() -> None:
    """Computed by hand: zeros in the statistics would give other numbers than removing channels."""
    torch.manual_seed(0)
    model = shaken(CASES["layer_norm_of_images"].build())
    x = torch.randn(2, 3, 8, 8)
    graph = hwprune.trace(model, x)
    assert graph.norms == (Norm("n", "n.weight", 1),)
    assert graph.norms_of(graph.group("a")) == ["n"] and not graph.norms_of(graph.group("b"))
    kept = [0, 3, 4]
    plan = hwprune.Plan.from_kept(graph, {"a": kept})
    with torch.no_grad():
        y = model.a(x)[:, kept]
        y = (y - y.mean(1, keepdim=True)) / (y.var(1, keepdim=True, correction=0) + 1e-5).sqrt()
        y = y * model.n.weight[kept, None, None] + model.n.bias[kept, None, None]
        wanted = model.fc(pooled(F.conv2d(F.relu(y), model.b.weight[:, kept], model.b.bias, 1, 1)))
        assert torch.allclose(zeroed(model, graph, plan)(x), wanted, atol=1e-5)
        assert torch.allclose(hwprune.prune(model, graph, plan)(x), wanted, atol=1e-5)


def test_a_number_with_two_meanings_is_left_alone() -> None:
    """Both halves take ``n`` channels of different groups, so no widths fit both."""

    def forward(m: Any, x: Tensor) -> Any:
        x, y = m.a(x), m.b(x)
        return m.fc(pooled(m.c(torch.cat([F.relu(x[:, : m.n]), y[:, : m.n]], 1))))

    model = Net(
        forward, a=conv(3, 8), b=conv(3, 8), c=conv(8, 6), fc=nn.Linear(6, 4), n=4
    )  # fmt: skip
    graph = hwprune.trace(model, torch.rand(2, 3, 8, 8))
    assert graph.attributes == ()
    assert all("holds sizes" in graph.unprunable[name] for name in "ab")


def test_lint_finds_what_does_not_fit() -> None:
    one = Group("a", 2, (Slice("a.weight", 0, ((0,), (1,))),))
    other = Group("b", 1, (Slice("a.weight", 0, ((1,),)),))
    short = Group("b", 2, (Slice("b.weight", 0, ((1,),)),))
    ChannelGraph((one,), {}, ()).lint()
    for groups, message in (
        ((one, one), "same name"),
        ((one, other), r"a\.weight\[0\]\[1\]: a.* and b"),
        ((short,), "has 1 channels, not 2"),
    ):
        with pytest.raises(HwpruneError, match=message):
            ChannelGraph(groups, {}, ()).lint()


def test_overloads_and_in_place_forms_share_a_rule() -> None:
    assert rule_name("aten.add_.Tensor") == "add"
    assert rule_name("aten._softmax.default") == "_softmax"
