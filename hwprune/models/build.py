"""Build a network from a short name, and give it the weights in a file."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import inspect
import sys
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from hwprune.errors import InputError
from hwprune.models.detectors import classes_of_head, raw
from hwprune.models.sources import LIBRARIES
from hwprune.models.weights import load_weights
from hwprune.models.weights import read_state_dict as read_state_dict
from hwprune.storage.atomic_files import StrPath

UNTRAINED = "no weights given: the network is untrained"

FORMS = (
    "torchvision:NAME (torchvision:mobilenet_v2), timm:NAME (timm:resnet18), "
    "package.module:callable, or path/to/file.py:callable"
)

# These two have side branches that only training uses, and a slow initialisation they warn about.
_TORCHVISION_OPTIONS: dict[str, dict[str, bool]] = {
    "googlenet": {"init_weights": False, "aux_logits": False},
    "inception_v3": {"init_weights": False, "aux_logits": False},
}
_SIDE_BRANCHES: dict[str, tuple[str, ...]] = {
    "torchvision:googlenet": ("aux1.", "aux2."),
    "torchvision:inception_v3": ("AuxLogits.",),
    "torchvision:fcn_resnet50": ("aux_classifier.",),
    "torchvision:fcn_resnet101": ("aux_classifier.",),
    "torchvision:deeplabv3_resnet50": ("aux_classifier.",),
    "torchvision:deeplabv3_resnet101": ("aux_classifier.",),
    "torchvision:deeplabv3_mobilenet_v3_large": ("aux_classifier.",),
}

_BUILD_SEED = 0


@dataclass(frozen=True)
class LoadedModel:
    """A network in evaluation mode, and where it came from.

    Attributes:
        model: the network.
        source: the short name that it was built from.
        num_classes: number of classes that was asked for; None if none was.
        new_head: a sentence on which part of the network is untrained; None where all weights come
            from the file.
    """

    model: nn.Module
    source: str
    num_classes: int | None
    new_head: str | None


def load_model(
    source: str, *, num_classes: int | None = None, weights: StrPath | None = None
) -> LoadedModel:
    """Build the network ``source`` and load the file ``weights`` into it.

    All weights must fit, except those of a classifier with another number of classes: it keeps its
    initial values, which are the same at every call, and ``new_head`` says so.

    Args:
        source: short name of the network, as in ``build_model``.
        num_classes: number of classes; None for the network's default.
        weights: path of a file of weights; None leaves the network untrained.

    Raises:
        InputError: ``source`` cannot be built, or ``weights`` cannot be read or does not fit.
    """
    model = build_model(source, num_classes=num_classes).eval()
    if weights is None:
        return LoadedModel(model, source, num_classes, _without_weights(source))
    state = {
        name: tensor
        for name, tensor in read_state_dict(Path(weights)).items()
        if not name.startswith(_SIDE_BRANCHES.get(source, ("\0",)))
    }
    new_head = load_weights(model, state, num_classes, f"{weights} does not fit {source}")
    return LoadedModel(model, source, num_classes, new_head)


def build_model(
    source: str, *, num_classes: int | None = None, folder: StrPath | None = None
) -> nn.Module:
    """Build the network that ``source`` names, with the same initial values at every call.

    Args:
        source: ``torchvision:NAME``, ``timm:NAME``, ``package.module:callable`` or
            ``path/to/file.py:callable``. Nothing is downloaded.
        num_classes: number of classes; None for the network's default. A callable gets it only if
            its signature has such an argument, or one that is called ``classes``.
        folder: where the file or module of a callable is, if the working folder does not have it.

    Raises:
        InputError: an unknown name, a module that cannot be imported, or a failing callable.
    """
    if num_classes is not None and num_classes < 1:
        raise InputError(f"num_classes is {num_classes}; expected 1 or more, such as 10.")
    library, colon, name = source.partition(":")
    if not colon or not library or not name:
        raise InputError(
            f"Cannot read the model {source!r}; expected {FORMS}.{_did_you_mean(source)}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(_BUILD_SEED)
        if library in LIBRARIES:
            model = _LIBRARIES[library](source, num_classes)
        else:
            model = _build_callable(source, num_classes, folder)
        model = raw(model, source)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{source} returned a {type(model).__name__}; expected a torch.nn.Module. "
            "Name a function that returns the network, or its class."
        )
    return model


def import_callable(source: str, *, folder: StrPath | None = None) -> Callable[..., Any]:
    """Import the function or class ``package.module:callable`` or ``path/to/file.py:callable``.

    The working folder, and the folder of a file, are added to the end of the import path. What
    they lack is looked for in ``folder``.

    Raises:
        InputError: the module cannot be imported, or has no callable of that name.
    """
    place, _, name = source.rpartition(":")
    if not place or not name:
        raise InputError(
            f"Cannot read {source!r}; expected package.module:callable or path/to/file.py:callable."
        )
    try:
        module = _import_place(place, folder)
    except (Exception, SystemExit) as error:  # whatever the user's module raises at import
        raise InputError(
            f"Importing {place} for {source!r} failed: {type(error).__name__}: {error}. "
            "Correct that module, or run the command in the folder that holds it."
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        names = [key for key, value in vars(module).items() if callable(value)]
        raise InputError(f"{place} has no callable {name!r}.{_closest(name, names)}")
    return found  # type: ignore[no-any-return]


def call_with(
    source: str, function: Callable[..., Any], options: Mapping[str, object]
) -> Any:  # a user's function may return anything; callers check it
    """Call ``function`` with those ``options`` that are not None and that its signature takes.

    Raises:
        InputError: the function raised; the message has the cause.
    """
    given = {
        name: value
        for name, value in options.items()
        if value is not None and takes(function, name)
    }
    shown = ", ".join(f"{name}={value!r}" for name, value in given.items())
    try:
        return function(**given)
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{source}, called with ({shown}), failed: {type(error).__name__}: {error}. "
            "It must work when called like that."
        ) from error


def _build_torchvision(source: str, num_classes: int | None) -> Any:
    from torchvision import models  # type: ignore[import-untyped,unused-ignore]

    name = source.partition(":")[2]
    if name not in models.list_models():
        raise InputError(_unknown_name("torchvision", name, models.list_models(), "models."))
    builder = models.get_model_builder(name)
    options: dict[str, object] = dict(_TORCHVISION_OPTIONS.get(name, {}))
    if "weights_backbone" in inspect.signature(builder).parameters:
        options["weights_backbone"] = None  # the default would download
    if num_classes is not None:
        is_detector = "detection" in builder.__module__
        options["num_classes"] = classes_of_head(name, num_classes) if is_detector else num_classes
    return builder(weights=None, **options)


def _build_timm(source: str, num_classes: int | None) -> Any:
    try:
        import timm
    except ImportError as error:
        raise InputError(f"{source!r} needs timm: {error}. Type: pip install timm") from error
    name = source.partition(":")[2]
    if not timm.is_model(name):
        raise InputError(_unknown_name("timm", name, timm.list_models()))
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    return timm.create_model(name, pretrained=False, **options)


def _build_callable(source: str, num_classes: int | None, folder: StrPath | None) -> Any:
    function = import_callable(source, folder=folder)
    named = _parameters(function)
    name = "classes" if "classes" in named and "num_classes" not in named else "num_classes"
    return call_with(source, function, {name: num_classes})


_LIBRARIES: dict[str, Callable[[str, int | None], Any]] = {
    "torchvision": _build_torchvision,
    "timm": _build_timm,
}


def _without_weights(source: str) -> str:
    if source.partition(":")[0] in LIBRARIES:
        return UNTRAINED
    return f"{UNTRAINED}, unless {source} itself loads some"


def takes(function: Callable[..., Any], name: str) -> bool:
    """Whether ``function`` can be given an argument by that name."""
    parameters = _parameters(function)
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return (name in parameters and parameters[name].kind in by_name) or any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()
    )


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin without a signature
        return {}


def _import_place(place: str, folder: StrPath | None) -> ModuleType:
    if not place.endswith(".py"):
        for each in (Path.cwd(), *([Path(folder)] if folder is not None else [])):
            _extend_path(each)
        return importlib.import_module(place)
    path = Path(place)
    if folder is not None and not path.exists():
        path = Path(folder) / path
    return _import_file(path)


def _import_file(path: Path) -> ModuleType:
    """Import ``path`` once; a second import of the same file gives the same classes."""
    path = path.resolve()
    name = f"_hwprune_{path.stem}_{zlib.crc32(str(path).encode()):08x}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    _extend_path(path.parent)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _extend_path(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _unknown_name(library: str, name: str, names: Iterable[str], prefix: str = "") -> str:
    return (
        f"{library} has no model {name!r}.{_closest(name, names)} All of them: "
        f'python -c "import {library}; print(*{library}.{prefix}list_models())"'
    )


def _closest(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(names), n=4, cutoff=0.5)
    return f" Closest: {', '.join(near)}." if near else ""


def _did_you_mean(source: str) -> str:
    from torchvision import models  # type: ignore[import-untyped,unused-ignore]

    return f" Did you mean torchvision:{source}?" if source in models.list_models() else ""
