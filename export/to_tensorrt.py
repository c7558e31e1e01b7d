"""TensorRT engines from ONNX files; the builder lives in ``hwprune.targets.tensorrt``."""

from hwprune.targets.tensorrt.build import build_engine, save_engine
from hwprune.targets.tensorrt.build_options import EngineOptions

__all__ = ["EngineOptions", "build_engine", "save_engine"]
