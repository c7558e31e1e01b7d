"""Every optional extra is named by the error that is raised where its packages are missing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from hidden import hide

from hwprune.data import hugging_face
from hwprune.errors import InputError
from hwprune.targets.cuda import interface
from hwprune.targets.registry import load_target
from hwprune.targets.tensorrt.flavour import load_flavour
from hwprune.tasks.detection import MeanAveragePrecision
from hwprune.training.tracking import tracked

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# What hwprune itself imports: not the tools of its tests and of its documentation.
EXTRAS = [name for name in PROJECT["optional-dependencies"] if name not in ("dev", "docs")]


@pytest.fixture(autouse=True)
def _flavours_are_looked_for_again() -> Iterator[None]:
    load_flavour.cache_clear()
    yield
    load_flavour.cache_clear()


def _tensorrt(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    hide(monkeypatch, "tensorrt")
    load_target("tensorrt")


def _tensorrt_rtx(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    hide(monkeypatch, "tensorrt_rtx", "tensorrt_rtx_bindings")
    load_target("tensorrt-rtx")


def _pycuda(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    """On a machine with a driver, where neither PyTorch nor cuda-python reaches the GPU."""
    hide(monkeypatch, "cuda", "pycuda")
    monkeypatch.setattr(interface, "need_driver", lambda: None)
    monkeypatch.setattr(interface, "_torch_has_cuda", lambda: False)
    interface.first_gpu()


def _onnxruntime_gpu(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    """Both packages are one module; the one for GPUs has another provider."""
    available = ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: available)
    load_target("onnxruntime-cuda")


def _openvino(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Another process imports it."""
    (folder / "openvino.py").write_text("raise ModuleNotFoundError('No module named openvino')\n")
    monkeypatch.setenv("PYTHONPATH", str(folder))
    load_target("openvino-cpu")


def _bench(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "scripts" / "benchmarks")
    import accuracy_methods

    hide(monkeypatch, "torch_pruning")
    job: Any = None
    accuracy_methods._torch_pruning("TaylorImportance", False)(job, 0.5)(0.5)


def _datasets(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    hide(monkeypatch, "datasets")
    hugging_face._library()


def _tensorboard(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    hide(monkeypatch, "tensorboard")
    with tracked("tensorboard", folder, "finetune"):
        pass


def _detection(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    hide(monkeypatch, "torchmetrics")
    MeanAveragePrecision(list, ())


USES: dict[str, Callable[[pytest.MonkeyPatch, Path], None]] = {
    "tensorrt": _tensorrt,
    "tensorrt-rtx": _tensorrt_rtx,
    "pycuda": _pycuda,
    "onnxruntime-gpu": _onnxruntime_gpu,
    "openvino": _openvino,
    "bench": _bench,
    "datasets": _datasets,
    "tensorboard": _tensorboard,
    "detection": _detection,
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_without_an_extra_s_packages_the_error_names_it(
    extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert extra in USES, f"say here what needs {extra}"
    with pytest.raises(InputError) as raised:
        USES[extra](monkeypatch, tmp_path)
    assert f"pip install 'hwprune[{extra}]'" in str(raised.value)
