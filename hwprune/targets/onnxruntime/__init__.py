"""ONNX Runtime as the runtime."""
