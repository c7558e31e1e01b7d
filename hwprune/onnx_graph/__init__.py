"""ONNX models: precision, clean-up, batch, size, and running them with ONNX Runtime."""
