"""The facts of an engine: ``model.engine.json`` beside ``model.engine``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from hwprune.errors import EngineError, InputError
from hwprune.storage.atomic_files import StrPath, write_text
from hwprune.storage.from_json import restore
from hwprune.targets.tensorrt.build_options import ANY, Batches

_ENGINE_VERSION = 1


@dataclass(frozen=True)
class EngineFacts:
    """What an engine was built from, by what, and for which GPUs.

    Attributes:
        onnx_sha256: hash of the ONNX file.
        engine_sha256: hash of the engine's file.
        engine_bytes: size of the engine's file.
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        flavour_version: version of the flavour, such as ``10.3.0``.
        built_for: compute capabilities, such as ``sm89``; or ``any``.
        device: name of the GPU that it was built on; empty where there was none.
        precision: precision of the ONNX file; ``tf32`` where fp32 may be computed in TF32.
        batches: least, usual and most images at once; None where the ONNX file fixes its batch.
        level: optimisation level of the builder, 0 to 5; None for the builder's default.
        version_compatible: whether later minor versions may run it.
        hardware_compatible: whether every GPU from compute capability 8.0 on may run it.
        widths: channels of every group in the plan; None for a network without a plan.
        plan_sha256: hash of ``plan.json``; None for a network without a plan.
        version: version of this format.
    """

    onnx_sha256: str
    engine_sha256: str
    engine_bytes: int
    flavour: str
    flavour_version: str
    built_for: tuple[str, ...]
    device: str
    precision: str
    batches: Batches | None = None
    level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    widths: dict[str, int] | None = None
    plan_sha256: str | None = None
    version: int = _ENGINE_VERSION

    def check_onnx(self, path: Path) -> None:
        """Refuse an ONNX file that is not the one the engine was built from.

        Raises:
            EngineError: the file is another one; the message has both hashes.
        """
        found = onnx_sha256(path)
        if found != self.onnx_sha256:
            raise EngineError(
                f"The engine was built from an ONNX file of sha256 {self.onnx_sha256[:16]}..., "
                f"{path} has {found[:16]}.... Build the engine again with `hwprune export "
                f"{path} --engine {self.flavour}`, or give the file it was built from with --onnx."
            )

    def check_version(self, flavour: str, version: str) -> None:
        """Refuse a TensorRT that cannot run the engine.

        Args:
            flavour: the installed flavour.
            version: its version.

        Raises:
            EngineError: the engine needs another one; the message says how to build it anew.
        """
        if flavour != self.flavour or not self._runs_on_version(version):
            raise EngineError(
                f"The engine was built by {self.flavour} {self.flavour_version}; here is "
                f"{flavour} {version}. Install that version, or build it again with "
                f"`hwprune export MODEL.onnx --engine {flavour}`."
            )

    def check_device(self, capability: str) -> None:
        """Refuse a GPU that the engine was not built for.

        Args:
            capability: compute capability of this machine's GPU, such as ``sm89``.

        Raises:
            EngineError: the engine was built for other GPUs, which the message names.
        """
        newer = int(capability.removeprefix("sm")) >= 80  # what TensorRT calls Ampere and later
        suits = self.built_for == ANY or capability in self.built_for
        if not suits and not (self.hardware_compatible and newer):
            raise EngineError(
                f"The engine was built for {', '.join(self.built_for)}; the GPU here is "
                f"{capability}. Build it for this one with `hwprune export MODEL.onnx --engine "
                f"{self.flavour} --for {capability}`."
            )

    def _runs_on_version(self, version: str) -> bool:
        own, other = _numbers(self.flavour_version), _numbers(version)
        return own == other or (self.version_compatible and own[:1] == other[:1] and own <= other)


def sha256(content: bytes) -> str:
    """The hash as 64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def onnx_sha256(path: Path) -> str:
    """The hash of an ONNX file and of the files that hold its weights, if there are any."""
    parts = [path.read_bytes()]
    held = onnx.load_model_from_string(parts[0]).graph.initializer
    places = {entry.value for i in held for entry in i.external_data if entry.key == "location"}
    parts += [(path.parent / place).read_bytes() for place in sorted(places)]
    return sha256(b"".join(parts))


def facts_path(engine: Path) -> Path:
    """The path of an engine's facts."""
    return engine.with_name(f"{engine.name}.json")


def save_facts(facts: EngineFacts, engine: StrPath) -> None:
    """Write the facts beside the engine, atomically."""
    write_text(facts_path(Path(engine)), json.dumps(asdict(facts), indent=1) + "\n")


def read_engine(path: StrPath) -> tuple[bytes, EngineFacts]:
    """Read an engine and its facts.

    Raises:
        InputError: one of the two files is missing or cannot be read.
        EngineError: the facts belong to another engine, or to another version of hwprune.
    """
    path = Path(path)
    beside = facts_path(path)
    try:
        content = path.read_bytes()
        given = json.loads(beside.read_text(encoding="utf-8"))
        facts = _facts(given, beside)
    except OSError as error:
        raise InputError(
            f"{error.filename or path}: {error.strerror}. An engine is two files, {path.name} and "
            f"{beside.name}; copy both, or build them with `hwprune export --engine`."
        ) from error
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{beside} does not describe an engine ({error}). Build it again with "
            "`hwprune export --engine`."
        ) from error
    if sha256(content) != facts.engine_sha256:
        raise EngineError(
            f"{beside.name} describes another engine than {path}: one of them was not copied, or "
            "not wholly. Copy both again, or build them with `hwprune export --engine`."
        )
    return content, facts


def _facts(given: Mapping[str, object], path: Path) -> EngineFacts:
    version = given.get("version") if isinstance(given, dict) else None
    if version != _ENGINE_VERSION:
        raise EngineError(
            f"{path} has version {version}; this hwprune reads {_ENGINE_VERSION}. Build the engine "
            "again with the hwprune that is installed here: `hwprune export --engine`."
        )
    facts: EngineFacts = restore(EngineFacts, dict(given))
    return facts


def _numbers(version: str) -> list[int]:
    parts = version.split(".")
    return [int(part) for part in parts if part.isdigit()]
