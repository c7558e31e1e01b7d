"""TensorRT and TensorRT-RTX: build engines, run them, time their layers."""
