"""From a device to its latency table: measure whole networks, profile kernels, fit, calibrate."""
