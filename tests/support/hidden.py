"""Hide installed packages from a test, as on a machine that does not have them."""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from typing import Any

import pytest


class _Without:
    """A finder of modules that finds all but those of some packages."""

    def __init__(self, finder: MetaPathFinder, packages: tuple[str, ...]) -> None:
        self._finder, self._packages = finder, packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in self._packages:
            return None
        return self._finder.find_spec(name, path, target)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)


def hide(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """Let no module of these packages be found until the test ends."""
    for name in [n for n in sys.modules if n.partition(".")[0] in packages]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [_Without(f, packages) for f in sys.meta_path])
