"""NVIDIA GPUs: driver, state, and memory through PyTorch, cuda-python or pycuda."""
