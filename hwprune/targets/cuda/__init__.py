"""An NVIDIA GPU: its driver, its state, and its memory through one of three bindings."""
