"""Build TensorRT and TensorRT-RTX engines from ONNX models, through one path.

Versions differ, so that each optional part of the interface is looked for first: 8.6 needs flags
for the explicit batch and for precisions; 10 can take every precision from the ONNX file, and does
here; 11 and RTX can do nothing else. RTX builds on the CPU, also for GPUs of other machines. Builds
by RTX are tested. What only ``tensorrt`` 8.6, 10 and 11 have follows NVIDIA's documentation and is
untested.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import version_converter

from hwprune.errors import EngineError, InputError
from hwprune.onnx_graph.precision import precision_of
from hwprune.onnx_graph.read import read_onnx
from hwprune.plan import Plan
from hwprune.storage.atomic_files import write_atomically, write_text
from hwprune.targets.cuda.driver import gpu_here
from hwprune.targets.tensorrt.build_options import ANY, Batches, EngineOptions
from hwprune.targets.tensorrt.engine_file import (
    EngineFacts,
    facts_path,
    onnx_sha256,
    save_facts,
    sha256,
)
from hwprune.targets.tensorrt.flavour import (
    Flavour,
    Journal,
    load_flavour,
    logger_of,
    without_crash,
)

_GIB = 2**30
_OLD_OPSET = 17  # the newest that TensorRT before 10 reads rightly: it overlooks axes as inputs
_PRECISION_FLAGS = {"fp16": "FP16", "bf16": "BF16", "int8": "INT8"}


def save_engine(
    onnx_path: Path, path: Path, options: EngineOptions, plan: Path | None = None
) -> EngineFacts:
    """Build an engine from an ONNX file, with its facts and the build's journal beside it.

    The facts in ``NAME.json`` are written last, so that an engine with facts is complete. Where the
    build fails, its messages are in ``NAME.log``, and an older engine stays as it was.

    Args:
        onnx_path: path of the ONNX model.
        path: path of the engine.
        options: how to build the engine.
        plan: path of the network's plan, for the facts; None for a network without a plan.

    Raises:
        InputError: the options do not fit the file, or the file is no ONNX model.
        NotHere: the package or the GPU that the build needs is missing.
        EngineError: TensorRT refuses the network.
    """
    model = read_onnx(onnx_path)
    journal, log = Journal(), path.with_name(f"{path.name}.log")
    try:
        engine = build_engine(model.SerializeToString(), options, journal)
    except EngineError:
        write_text(log, journal.text())
        raise
    write_text(log, journal.text())
    facts_path(path).unlink(missing_ok=True)  # before the engine that they do not describe
    write_atomically(path, lambda temporary: temporary.write_bytes(engine))
    facts = _facts(onnx_path, precision_of(model), engine, options, plan)
    save_facts(facts, path)
    return facts


def build_engine(content: bytes, options: EngineOptions, journal: Journal | None = None) -> bytes:
    """An engine from the bytes of an ONNX file that holds its weights.

    Raises:
        InputError, NotHere, EngineError: as in ``save_engine``.
    """
    journal = journal or Journal()
    flavour = load_flavour(options.flavour)
    check_place(options)
    model = onnx.load_model_from_string(content)
    check_batches(model, options.batches)
    trt, logger = flavour.api, logger_of(flavour, journal)
    builder = without_crash("builder", journal, lambda: trt.Builder(logger))
    network = builder.create_network(_network_flags(trt))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(_readable(model, content, flavour)):
        said = [_complaint(parser.get_error(i)) for i in range(parser.num_errors)]
        raise EngineError(
            f"{options.flavour} {flavour.version} does not take this network: "
            f"{' | '.join(said) or journal.errors()}. In int8 it needs signed, symmetric "
            "quantisers around every layer; otherwise try fp32, and report the network."
        )
    config = builder.create_builder_config()
    _configure(trt, config, options, precision_of(model))
    _set_batches(builder, network, config, options.batches)
    keeps_times = flavour.name == "tensorrt"  # RTX measures nothing when it builds
    cache = options.timing_cache if keeps_times else None
    _use_cache(config, cache)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise EngineError(
            f"{options.flavour} {flavour.version} built no engine: {journal.errors()}. The log "
            "beside the engine has all messages; try another level or more memory."
        )
    _keep_cache(config, cache)
    return bytes(built)


def check_place(options: EngineOptions) -> None:
    """Check that the flavour can build on this machine for the GPUs that are asked for.

    Raises:
        InputError: the flavour cannot build for these GPUs, or has no such option.
        NotHere: the package or the GPU that the build needs is missing.
    """
    flavour = load_flavour(options.flavour)
    if flavour.builds_for_other_gpus and (
        options.version_compatible or options.hardware_compatible
    ):
        raise InputError(
            f"{flavour.name} has neither --version-compatible nor --hardware-compatible; it builds "
            "for several GPUs at once. Give --for sm86,sm89 or --for any instead."
        )
    if not options.built_for:
        gpu_here()
    elif not flavour.builds_for_other_gpus:
        _, here = gpu_here()
        if options.built_for != (here,):
            raise InputError(
                f"{flavour.name} builds only for the GPU of this machine, {here}, not for "
                f"{', '.join(options.built_for)}. Leave out --for and run this where the engine "
                "will run, or use --engine tensorrt-rtx."
            )
    elif options.built_for != ANY:
        members = flavour.api.ComputeCapability.__members__
        names = sorted(name.lower() for name in members if name.startswith("SM"))
        for capability in options.built_for:
            if capability not in names:
                raise InputError(
                    f"{flavour.name} {flavour.version} builds for {', '.join(names)}, not for "
                    f"{capability}. Give some of these, --for sm86,sm89, or --for any."
                )


def check_batches(
    model: onnx.ModelProto, batches: Batches | None, file: str = "This ONNX file"
) -> None:
    """Check that numbers of images are given if, and only if, the file leaves its batch open.

    Args:
        model: the ONNX model.
        batches: least, usual and most images at once; None if not given.
        file: the file's name, for the message.

    Raises:
        InputError: they are missing, or given for a fixed batch; or more than the batch is open.
    """
    held = {i.name for i in model.graph.initializer}
    shapes = [
        [size.dim_value for size in x.type.tensor_type.shape.dim]  # 0 where it is open
        for x in model.graph.input
        if x.name not in held
    ]
    if not all(size for shape in shapes for size in shape[1:]):
        raise InputError(
            f"{file} leaves more than its batch open: it takes {shapes}, where 0 is open. Export "
            "the network with fixed sizes of images."
        )
    opened = any(shape[:1] == [0] for shape in shapes)
    if opened and batches is None:
        raise InputError(f"{file} leaves its batch open: say how many images, --batches 1,8,32.")
    if batches is not None and not opened:
        raise InputError(
            f"{file} fixes its batch: leave out --batches, or export the run with an open "
            "one: `hwprune export --out RUN --engine ... --batches 1,8,32`."
        )


def _complaint(error: Any) -> str:
    """The parser's message, with the node that it concerns where the parser names it."""
    parts = (getattr(error, name, None) for name in ("node_operator", "node_name", "desc"))
    return " ".join(str(part()) for part in parts if part is not None)


def _readable(model: onnx.ModelProto, content: bytes, flavour: Flavour) -> bytes:
    """The bytes of the model in an opset that this version of TensorRT reads correctly.

    Raises:
        InputError: the model cannot be converted to such an opset.
    """
    own = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0)
    old = flavour.name == "tensorrt" and int(flavour.version.partition(".")[0]) < 10
    if not old or own <= _OLD_OPSET:
        return content
    try:
        older = version_converter.convert_version(model, _OLD_OPSET)
    except Exception as error:  # the converter raises kinds of its own
        raise InputError(
            f"TensorRT {flavour.version} reads ONNX files up to opset {_OLD_OPSET}; this one has "
            f"{own} and cannot be converted ({error}). Install TensorRT 10 or newer."
        ) from error
    for node in older.graph.node:  # the converter leaves what is of opset 18
        kept = [a for a in node.attribute if a.name != "noop_with_empty_axes"]
        del node.attribute[:]
        node.attribute.extend(kept)
    return bytes(older.SerializeToString())


def _network_flags(trt: Any) -> int:
    """Flags for precisions from the ONNX file; for an explicit batch where these do not exist."""
    kinds = trt.NetworkDefinitionCreationFlag
    for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH"):
        if hasattr(kinds, name):
            return int(1 << int(getattr(kinds, name)))
    return 0


def _configure(trt: Any, config: Any, options: EngineOptions, precision: str) -> None:
    flags = trt.BuilderFlag
    if not options.tf32 and hasattr(flags, "TF32"):
        config.clear_flag(flags.TF32)
    typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    if not typed and precision in _PRECISION_FLAGS:
        config.set_flag(_part(flags, _PRECISION_FLAGS[precision], precision))
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
            f"This TensorRT has no {name}, which {wanted} needs. Leave it out, or install another "
            "version."
        )
    return getattr(kind, name)


def _set_batches(builder: Any, network: Any, config: Any, batches: Batches | None) -> None:
    """A profile for the inputs that leave their batch open."""
    if batches is None:
        return
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    profile = builder.create_optimization_profile()
    for entry in inputs:
        if -1 in tuple(entry.shape):
            profile.set_shape(entry.name, *((size, *tuple(entry.shape)[1:]) for size in batches))
    config.add_optimization_profile(profile)


def _use_cache(config: Any, path: Path | None) -> None:
    if path is None:
        return
    held = path.read_bytes() if path.exists() else b""
    cache = config.create_timing_cache(held)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(
            config.create_timing_cache(b""), False
        )  # the file is of another GPU


def _keep_cache(config: Any, path: Path | None) -> None:
    cache = config.get_timing_cache() if path is not None else None
    if path is not None and cache is not None:
        content = bytes(cache.serialize())
        write_atomically(path, lambda temporary: temporary.write_bytes(content))


def _facts(
    onnx_path: Path, precision: str, engine: bytes, options: EngineOptions, plan: Path | None
) -> EngineFacts:
    flavour = load_flavour(options.flavour)
    device, here = ("", "") if options.built_for and flavour.builds_for_other_gpus else gpu_here()
    return EngineFacts(
        onnx_sha256=onnx_sha256(onnx_path),
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
