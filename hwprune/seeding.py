"""Random numbers that depend on given numbers alone."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def chances_of(*numbers: int) -> Iterator[None]:
    """Random numbers of torch on the CPU, numpy and Python follow from ``numbers``.

    Afterwards their global generators are as they were.
    """
    digest = hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=4).digest()
    seed = int.from_bytes(digest, "little")  # torch's generator on the CPU takes 32 bits
    ours, theirs = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would reseed the accelerators as well.
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(ours)
            np.random.set_state(theirs)
