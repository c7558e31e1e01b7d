"""Start a test module as several processes that train together on the CPU."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

# Python code after which PyTorch cannot be imported, as on a machine that does not have it. An
# entry of None in ``sys.modules`` would not do: SciPy takes what is there for PyTorch.
WITHOUT_TORCH = """
import sys
class Other:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] != "torch":
            return self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = map(Other, sys.meta_path)
"""


def start(count: int, *arguments: str) -> list[subprocess.Popen[str]]:
    """Start ``python *arguments`` ``count`` times, with the environment that a launcher sets."""
    with ExitStack() as stack:
        free = [stack.enter_context(socket.socket()) for _ in range(3)]
        for each in free:
            each.bind(("127.0.0.1", 0))
        ports = [str(each.getsockname()[1]) for each in free]
    shared = {
        **os.environ,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": ports[0],
        "OTHER_PORTS": " ".join(ports[1:]),
        "WORLD_SIZE": str(count),
        "PYTHONPATH": os.pathsep.join(
            [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        ),
    }
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def meet_elsewhere() -> None:
    """Let processes that have disconnected connect again at another port, at most twice."""
    os.environ["MASTER_PORT"], _, os.environ["OTHER_PORTS"] = os.environ["OTHER_PORTS"].partition(
        " "
    )


def finish(processes: list[subprocess.Popen[str]], seconds: float = 600) -> list[tuple[str, str]]:
    """The stdout and stderr of each process; a process that hangs is killed and fails the test."""
    try:
        return [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
