"""Random numbers that follow from a seed alone, with the global generators left as they were."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Seed the generators of torch (CPU only), numpy and Python for the body of the ``with``.

    Afterwards the three global generators are as they were.

    Args:
        numbers: one or more integers, hashed together to one seed of 32 bits; ``seeded(1, 2)``
            and ``seeded(12)`` give different random numbers.
    """
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=4).digest()
    seed = int.from_bytes(digest, "little")  # torch's generator on the CPU takes 32 bits
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would reseed the accelerators as well.
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
