"""Build TensorRT and TensorRT-RTX engines from ONNX models, through one path.

Versions differ in what they have, so parts are looked for and never assumed: 8.6 wants the explicit
batch and precision flags; 10 can take every precision from the ONNX file, and does here; 11 and RTX
know nothing else. RTX builds on the CPU for GPUs that are elsewhere. Builds by RTX have run; what
``tensorrt`` 8.6, 10 and 11 alone have is written after their documentation and has not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from hwprune.errors import EngineError, InputError
from hwprune.files import write_atomically, write_text
from hwprune.plan import Plan
from hwprune.precision import precision_of
from hwprune.targets.driver import gpu_here
from hwprune.targets.tensorrt_flavour import (
    Flavour,
    Journal,
    load_flavour,
    logger_of,
    without_crash,
)

from .engine_file import EngineFacts, facts_path, save_facts, sha256
from .engine_options import ANY, Batches, EngineOptions

_GIB = 2**30


def save_engine(
    onnx_path: Path, path: Path, options: EngineOptions, plan: Path | None = None
) -> EngineFacts:
    """Build an engine from an ONNX file, with its facts and the build's journal beside it.

    ``NAME.json`` comes last, so that an engine with it is whole. Where the build fails, what it
    said is left in ``NAME.log``, and an older engine stays as it was.

    Args:
        onnx_path: of the model.
        path: of the engine.
        options: how to build it.
        plan: of the network, for the facts.

    Raises:
        InputError: options that do not fit the file, or a file that is none.
        NotHere: the package, or the GPU that is needed, is not here.
        EngineError: TensorRT refuses the network.
    """
    content = _read(onnx_path)
    journal = Journal()
    try:
        engine = build_engine(content, options, journal)
    finally:
        if journal.lines:
            write_text(path.with_name(f"{path.name}.log"), "\n".join(journal.lines) + "\n")
    facts_path(path).unlink(missing_ok=True)  # before the engine that they do not describe
    write_atomically(path, lambda temporary: temporary.write_bytes(engine))
    facts = _facts(content, engine, options, plan)
    save_facts(facts, path)
    return facts


def build_engine(content: bytes, options: EngineOptions, journal: Journal | None = None) -> bytes:
    """An engine from the bytes of an ONNX file.

    Raises:
        InputError, NotHere, EngineError: as ``save_engine``.
    """
    journal = journal or Journal()
    flavour = load_flavour(options.flavour)
    _check_place(flavour, options)
    trt, logger = flavour.api, logger_of(flavour, journal)
    builder = without_crash("builder", journal, lambda: trt.Builder(logger))
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(content):
        said = [_complaint(parser.get_error(i)) for i in range(parser.num_errors)]
        raise EngineError(
            f"{options.flavour} {flavour.version} does not take this network: "
            f"{' | '.join(said) or journal.errors()}. In int8 it wants signed, symmetric "
            "quantisers around every layer; otherwise try fp32, and report the network."
        )
    config = builder.create_builder_config()
    _configure(trt, config, options, precision_of(onnx.load_model_from_string(content)))
    _set_batches(builder, network, config, options.batches)
    keeps_times = flavour.name == "tensorrt"  # RTX measures nothing when it builds
    cache = options.timing_cache if keeps_times else None
    _use_cache(config, cache)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise EngineError(
            f"{options.flavour} {flavour.version} built no engine: {journal.errors()}. The log "
            "beside the engine has all that it said; try another level or more memory."
        )
    _keep_cache(config, cache)
    return bytes(built)


def _complaint(error: Any) -> str:
    """What the parser says, with the node that it says it of where it tells."""
    parts = (getattr(error, name, None) for name in ("node_operator", "node_name", "desc"))
    return " ".join(str(part()) for part in parts if part is not None)


def _read(path: Path) -> bytes:
    from .latency import read_onnx

    read_onnx(path)  # says what is wrong with it
    return path.read_bytes()


def _check_place(flavour: Flavour, options: EngineOptions) -> None:
    """Refuse GPUs that the flavour cannot build for from here."""
    if not options.built_for:
        gpu_here()
    elif flavour.builds_elsewhere and options.built_for != ANY:
        known = flavour.api.ComputeCapability.__members__
        for capability in options.built_for:
            if capability.upper() not in known or not capability.startswith("sm"):
                names = [name.lower() for name in known if name.startswith("SM")]
                raise InputError(
                    f"{flavour.name} {flavour.version} builds for {', '.join(sorted(names))}, not "
                    f"for {capability}. Give some of these, --for sm86,sm89, or --for any."
                )
    elif not flavour.builds_elsewhere:
        _, here = gpu_here()
        if options.built_for != (here,):
            raise InputError(
                f"{flavour.name} builds for the GPU that is here alone, {here}, not for "
                f"{', '.join(options.built_for)}. Leave out --for and run this where the engine "
                "will run, or use --engine tensorrt-rtx."
            )


def _network_flags(trt: Any) -> int:
    """All precisions from the ONNX file where this version can, else the explicit batch."""
    kinds = trt.NetworkDefinitionCreationFlag
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        if hasattr(kinds, name):
            return int(1 << int(getattr(kinds, name)))
    return 0


def _configure(trt: Any, config: Any, options: EngineOptions, precision: str) -> None:
    flags = trt.BuilderFlag
    if not options.tf32 and hasattr(flags, "TF32"):
        config.clear_flag(flags.TF32)
    if not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        wanted = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}.get(precision)
        if wanted is not None:
            config.set_flag(_part(flags, wanted, precision))
    if options.version_compatible:
        config.set_flag(_part(flags, "VERSION_COMPATIBLE", "--version-compatible"))
    if options.hardware_compatible:
        levels = getattr(trt, "HardwareCompatibilityLevel", None)
        config.hardware_compatibility_level = _part(levels, "AMPERE_PLUS", "--hardware-compatible")
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.detailed:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_gib:
        size = int(options.workspace_gib * _GIB)
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size)
    if options.flavour == "tensorrt-rtx" and options.built_for != ANY:
        capabilities = options.built_for or ("current",)
        config.num_compute_capabilities = len(capabilities)
        for place, capability in enumerate(capabilities):
            config.set_compute_capability(getattr(trt.ComputeCapability, capability.upper()), place)


def _part(kind: Any, name: str, wanted: str) -> Any:
    """A member of an enumeration that not every version has."""
    if not hasattr(kind, name):
        raise InputError(
            f"This TensorRT knows no {name}, so that {wanted} cannot be had. Leave it out, or "
            "install another version."
        )
    return getattr(kind, name)


def _set_batches(builder: Any, network: Any, config: Any, batches: Batches | None) -> None:
    """A profile for the inputs that leave their batch open."""
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    opened = [x for x in inputs if -1 in tuple(x.shape)]
    if bool(opened) != bool(batches):
        raise InputError(
            "This ONNX file leaves its batch open: say how many images, --batches 1,8,32."
            if opened
            else "This ONNX file fixes its batch: leave out --batches, or export one with an open "
            "batch, `hwprune.export.to_onnx.to_onnx(model, inputs, dynamic_batch=True)`."
        )
    if batches is None:
        return
    profile = builder.create_optimization_profile()
    for entry in opened:
        shape = tuple(entry.shape)
        if -1 in shape[1:]:
            raise InputError(
                f"Input {entry.name} leaves more than its batch open: {shape}. Export the network "
                "with fixed sizes of images."
            )
        profile.set_shape(entry.name, *((size, *shape[1:]) for size in batches))
    config.add_optimization_profile(profile)


def _use_cache(config: Any, path: Path | None) -> None:
    if path is None:
        return
    held = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(held)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)  # of another GPU: anew


def _keep_cache(config: Any, path: Path | None) -> None:
    cache = config.get_timing_cache() if path is not None else None
    if path is not None and cache is not None:
        content = bytes(cache.serialize())
        write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _facts(content: bytes, engine: bytes, options: EngineOptions, plan: Path | None) -> EngineFacts:
    flavour = load_flavour(options.flavour)
    precision = precision_of(onnx.load_model_from_string(content))
    device, here = ("", "") if options.built_for and flavour.builds_elsewhere else gpu_here()
    return EngineFacts(
        onnx_sha256=sha256(content),
        engine_sha256=sha256(engine),
        engine_bytes=len(engine),
        flavour=flavour.name,
        flavour_version=flavour.version,
        built_for=options.built_for or (here,),
        device=device,
        precision="tf32" if precision == "fp32" and options.tf32 else precision,
        batches=options.batches,
        level=options.level,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        widths=Plan.load(plan).widths if plan is not None else None,
        plan_sha256=sha256(plan.read_bytes()) if plan is not None else None,
    )
