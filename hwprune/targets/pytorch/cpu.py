"""PyTorch on the CPU, eager or compiled, in fp32 or bf16."""

from __future__ import annotations

import torch

from hwprune.processor import cpu_name, thread_count
from hwprune.targets.base import Form, Runnable, TorchNetwork
from hwprune.targets.options import flag, one_of
from hwprune.targets.pytorch.eager import CpuClock, EagerNetwork, in_form

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


class TorchCpu:
    """PyTorch in this process; the number of threads is set only while a network runs."""

    takes: Form = "module"

    def __init__(
        self,
        threads: str | int = 1,
        precision: str = "fp32",
        layout: str = "contiguous",
        compile: str | int = 0,
    ) -> None:
        self.threads = thread_count(threads)
        self.precision = one_of("precision", precision, _PRECISIONS)
        self.layout = one_of("layout", layout, ("contiguous", "channels_last"))
        self.compiled = flag("compile", compile)

    @property
    def name(self) -> str:
        """The name with options that makes this target, as ``load_target`` takes it."""
        return (
            f"torch-cpu:threads={self.threads},precision={self.precision},layout={self.layout},"
            f"compile={self.compiled:d}"
        )

    def environment(self) -> dict[str, str]:
        """CPU, PyTorch's version, precision, threads, layout, and whether it compiles."""
        return {
            "device": cpu_name(),
            "runtime": f"torch {torch.__version__}",
            "precision": self.precision,
            "threads": str(self.threads),
            "layout": self.layout,
            "compile": f"{self.compiled:d}",
        }

    def load(self, model: TorchNetwork) -> Runnable:
        """Make a copy of a network ready to run."""
        own = in_form(
            model,
            device="cpu",
            dtype=_PRECISIONS[self.precision],
            channels_last=self.layout == "channels_last",
        )
        clock = CpuClock(self.threads)
        if self.compiled:
            from hwprune.targets.pytorch.compiled import CompiledNetwork

            return CompiledNetwork(own, clock)
        return EagerNetwork(own, clock)
