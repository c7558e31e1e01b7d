"""PyTorch itself as the runtime."""
