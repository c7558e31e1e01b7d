"""Building networks by name, reading weights files, and fitting one to the other."""

from __future__ import annotations

from pathlib import Path

import cifar_resnet
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hwprune.data.datasets import batches, load_data
from hwprune.errors import InputError
from hwprune.models.build import (
    UNTRAINED,
    build_model,
    import_callable,
    load_model,
    read_state_dict,
)

RESNET = f"{cifar_resnet.__file__}:resnet20"


@pytest.fixture
def user_file(tmp_path):
    """Writes a module of the user's and returns its path."""

    def write(text: str, name: str = "my_nets.py") -> Path:
        path = tmp_path / name
        path.write_text("from torch import nn\n" + text)
        return path

    return write


@pytest.mark.parametrize(
    "source",
    ["torchvision:squeezenet1_1", "torchvision:googlenet", "timm:resnet10t", RESNET],
)
def test_num_classes_reach_every_kind_of_source(source):
    model = build_model(source, num_classes=7).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_a_build_repeats_and_leaves_the_generator_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = build_model(RESNET)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(first.linear.weight, build_model(RESNET).linear.weight)


def test_segmentation_backbones_are_not_downloaded():
    assert isinstance(build_model("torchvision:lraspp_mobilenet_v3_large"), nn.Module)


def test_num_classes_only_where_the_signature_takes_it(user_file):
    path = user_file(
        "def fixed(): return nn.Linear(2, 3)\n"
        "def options(**given): return nn.Linear(2, given['num_classes'])\n"
        "def masks(classes=1, **other): return nn.Linear(2, classes + len(other))\n"
        "def both(classes=9, num_classes=1): return nn.Linear(2, num_classes)\n"
        "class Net(nn.Linear):\n"
        "    def __init__(self, num_classes=4): super().__init__(2, num_classes)\n"
    )
    assert build_model(f"{path}:fixed", num_classes=5).out_features == 3
    assert build_model(f"{path}:options", num_classes=5).out_features == 5
    assert build_model(f"{path}:Net", num_classes=5).out_features == 5
    assert build_model(f"{path}:masks", num_classes=5).out_features == 5
    assert build_model(f"{path}:both", num_classes=5).out_features == 5
    assert build_model(f"{path}:Net").out_features == 4


def test_a_package_in_the_working_folder_is_found(user_file, monkeypatch):
    path = user_file("def net(): return nn.Linear(2, 3)\n", name="nets_of_this_folder.py")
    monkeypatch.chdir(path.parent)
    assert build_model("nets_of_this_folder:net").out_features == 3


def test_a_file_is_imported_once(user_file):
    path = user_file("class Net(nn.Linear):\n    def __init__(self): super().__init__(1, 1)\n")
    assert import_callable(f"{path}:Net") is import_callable(f"{path}:Net")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("resnet18", "Did you mean torchvision:resnet18"),
        ("nothing", "expected torchvision:NAME"),
        ("torchvision:", "expected torchvision:NAME"),
        ("torchvision:mobilenetv2", r"Closest: .*mobilenet_v2.*\. All of them: python -c"),
        ("timm:resnet19", r"Closest: .*resnet18.*\. All of them: python -c"),
        ("no.such.package:net", "No module named"),
        ("no_such_file.py:net", "FileNotFoundError"),
        ("torch.nn:Linearr", r"no callable 'Linearr'\. Closest: Linear"),
        ("math:gcd", "returned a int"),
    ],
)
def test_unknown_sources(source, words):
    with pytest.raises(InputError, match=words):
        build_model(source)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import no_such_thing\ndef net(): ...\n", "No module named 'no_such_thing'"),
        ("def net(:\n", "SyntaxError"),
        ("raise SystemExit(2)\n", "SystemExit: 2"),
        ("def net(): raise KeyError('width')\n", r"called with \(\), failed: KeyError: 'width'"),
        ("def net(width): return nn.Linear(1, 1)\n", "missing 1 required positional argument"),
        ("def net(): return 3\n", "returned a int; expected a torch.nn.Module"),
        ("net = 3\n", "no callable 'net'"),
    ],
)
def test_callables_that_fail(user_file, text, words):
    with pytest.raises(InputError, match=words):
        build_model(f"{user_file(text)}:net")


def test_num_classes_must_be_positive():
    with pytest.raises(InputError, match="num_classes is 0"):
        build_model(RESNET, num_classes=0)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrappers_and_prefixes_are_taken_off(tmp_path, wrapper, prefix):
    state = {f"{prefix}weight": torch.ones(2, 2), f"{prefix}bias": torch.zeros(2)}
    path = tmp_path / "weights.pt"
    torch.save({wrapper: state, "epoch": 3} if wrapper else state, path)
    assert {name: tensor.tolist() for name, tensor in read_state_dict(path).items()} == {
        "weight": [[1, 1], [1, 1]],
        "bias": [0, 0],
    }


def test_a_prefix_of_some_names_only_stays(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"module.weight": torch.ones(2), "bias": torch.ones(2)}, path)
    assert set(read_state_dict(path)) == {"module.weight", "bias"}


@pytest.mark.parametrize("name", ["cut.safetensors", "cut.pt", "cut_legacy.pt"])
def test_half_a_file(tmp_path, name):
    path = tmp_path / name
    state = {"weight": torch.ones(100)}
    if path.suffix == ".pt":
        torch.save(state, path, _use_new_zipfile_serialization="legacy" not in name)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(InputError, match=name):
        read_state_dict(path)


def test_files_that_are_not_weights(tmp_path):
    with pytest.raises(InputError, match=r"no weights file .*gone\.pt"):
        read_state_dict(tmp_path / "gone.pt")
    with pytest.raises(InputError, match="no weights file"):
        read_state_dict(tmp_path)
    for content in (b"", b"hello, no weights here", b"\x80\x02hello"):
        (tmp_path / "text.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"text\.pt"):
            read_state_dict(tmp_path / "text.pt")


@pytest.mark.parametrize("content", [torch.ones(2), {}, {"epoch": 3}, [1, 2]])
def test_files_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"expected the tensors of a state dict.*torch\.save"):
        read_state_dict(tmp_path / "other.pt")


def test_a_pickled_model_is_refused_with_the_way_out(tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(InputError, match=r"weights_only=False\)\.state_dict\(\), \"whole_state"):
        read_state_dict(tmp_path / "whole.pt")


def saved_resnet(tmp_path: Path, num_classes: int = 10, **changes: torch.Tensor | None) -> Path:
    """The weights of a ResNet-20 that holds 0.5 everywhere, with changes by name; None drops."""
    state = {
        name: torch.full_like(value, 0.5) if value.is_floating_point() else value
        for name, value in cifar_resnet.resnet20(num_classes).state_dict().items()
    }
    state |= {name.replace("__", "."): value for name, value in changes.items()}
    path = tmp_path / "resnet.safetensors"
    save_file({name: value for name, value in state.items() if value is not None}, path)
    return path


def test_weights_that_fit(tmp_path):
    loaded = load_model(RESNET, num_classes=10, weights=saved_resnet(tmp_path))
    assert loaded.new_head is None
    assert (loaded.source, loaded.num_classes) == (RESNET, 10)
    assert not loaded.model.training
    assert all((value == 0.5).all() for value in loaded.model.parameters())
    assert (loaded.model.bn1.running_mean == 0.5).all()


def test_batch_counters_may_be_absent(tmp_path):
    path = saved_resnet(tmp_path, bn1__num_batches_tracked=None)
    assert load_model(RESNET, weights=path).new_head is None


def test_a_head_with_other_classes_is_new_and_the_same_each_time(tmp_path):
    path = saved_resnet(tmp_path, num_classes=100)
    torch.manual_seed(5)
    loaded = load_model(RESNET, num_classes=3, weights=path)
    assert loaded.new_head == (
        "weights have 100 classes, data 3: the head linear is new and untrained"
    )
    assert loaded.model.linear.weight.shape == (3, 64)
    assert (loaded.model.conv1.weight == 0.5).all()
    assert not (loaded.model.linear.weight == 0.5).any()
    torch.manual_seed(6)
    again = load_model(RESNET, num_classes=3, weights=path)
    assert torch.equal(loaded.model.linear.weight, again.model.linear.weight)


def test_two_heads_with_other_classes_are_new(tmp_path):
    name, path = "torchvision:lraspp_mobilenet_v3_large", tmp_path / "w.safetensors"
    save_file(build_model(name).state_dict(), path)
    heads = "classifier.low_classifier and classifier.high_classifier are new"
    found = load_model(name, num_classes=11, weights=path).new_head
    assert found == f"weights have 21 classes, data 11: the heads {heads} and untrained"
    with pytest.raises(InputError, match="Name the network these weights were saved from"):
        load_model(name, num_classes=11, weights=narrower(path, "classifier.low_classifier"))


def narrower(path, layer):
    """The file without the last row of a layer, so that two heads are of different classes."""
    state = read_state_dict(path)
    cut = {key: tensor[:-1].clone() for key, tensor in state.items() if key.startswith(layer)}
    save_file({**state, **cut}, path)
    return path


def test_a_trained_head_is_not_dropped_unasked(tmp_path):
    with pytest.raises(InputError, match="num_classes=100"):
        load_model(RESNET, weights=saved_resnet(tmp_path, num_classes=100))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bn1__weight": None}, r"1 missing from the file \(bn1.weight \[16\]\); 0 unexpected"),
        ({"fc__bias": torch.ones(3)}, r"0 missing.*1 unexpected in it \(fc.bias \[3\]\)"),
        (
            {"conv1__weight": torch.ones(16, 1, 3, 3)},
            r"conv1.weight got \[16, 1, 3, 3\], expected \[16, 3, 3, 3\]",
        ),
        ({"conv1__weight": torch.ones(8, 3, 3, 3)}, r"conv1.weight got \[8, 3, 3, 3\]"),
        ({"bn1__weight": torch.ones(8)}, r"bn1.weight got \[8\], expected \[16\]"),
        (
            {"linear__weight": torch.ones(5, 64), "bn1__bias": torch.ones(8)},
            "2 of other shapes",
        ),
        ({"linear__weight": torch.ones(10, 32)}, r"linear.weight got \[10, 32\]"),
    ],
)
def test_weights_that_do_not_fit(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        load_model(RESNET, num_classes=10, weights=saved_resnet(tmp_path, **changes))


def test_long_lists_are_cut(tmp_path):
    with pytest.raises(InputError, match=r"missing from the file \(.*, \.\.\.\)") as caught:
        load_model("torchvision:resnet18", weights=saved_resnet(tmp_path))
    assert len(str(caught.value)) < 1200


def test_without_weights_the_network_says_it_is_untrained():
    assert load_model("torchvision:squeezenet1_1", num_classes=4).new_head == UNTRAINED
    own = load_model(RESNET)
    assert own.new_head == f"{UNTRAINED}, unless {RESNET} itself loads some"


@pytest.mark.parametrize(
    ("source", "side"),
    [
        ("googlenet", "aux1.fc1.bias"),
        ("inception_v3", "AuxLogits.fc.bias"),
        ("deeplabv3_mobilenet_v3_large", "aux_classifier.4.bias"),
    ],
)
def test_training_only_branches_are_left_out(tmp_path, source, side):
    state = build_model(f"torchvision:{source}").state_dict()
    save_file({**state, side: torch.ones(4)}, tmp_path / "w.safetensors")
    loaded = load_model(f"torchvision:{source}", weights=tmp_path / "w.safetensors")
    assert loaded.new_head is None


def test_mnasnet_without_metadata_loads(tmp_path):
    state = build_model("torchvision:mnasnet0_5").state_dict()
    save_file(state, tmp_path / "w.safetensors")
    loaded = load_model("torchvision:mnasnet0_5", weights=tmp_path / "w.safetensors")
    assert loaded.new_head is None


def test_real_imagenet_weights(shared_data):
    path = shared_data / "weights" / "imagenet_mobilenet_v2.safetensors"
    assert load_model("torchvision:mobilenet_v2", weights=path).new_head is None
    tuned = load_model("torchvision:mobilenet_v2", num_classes=10, weights=path)
    assert tuned.new_head == (
        "weights have 1000 classes, data 10: the head classifier.1 is new and untrained"
    )


@pytest.mark.parametrize("layers", [20, 32, 44, 56])
def test_real_cifar_weights_load(shared_data, layers):
    path = shared_data / "weights" / f"cifar10_resnet{layers}.safetensors"
    source = f"{cifar_resnet.__file__}:resnet{layers}"
    assert load_model(source, num_classes=10, weights=path).new_head is None


def test_real_resnet20_is_as_accurate_as_published(shared_data):
    path = shared_data / "weights" / "cifar10_resnet20.safetensors"
    model = load_model(RESNET, weights=path).model
    test = load_data(f"{cifar_resnet.__file__}:lossless_data").test
    with torch.inference_mode():
        right = sum(
            int((model(images).argmax(1) == labels).sum())
            for images, labels in batches(test, None, batch_size=250)
        )
    assert right >= 900
