"""The examples in the docstrings of the public functions and classes run as they stand."""

from __future__ import annotations

import doctest
import inspect

import pytest
import torch

import hwprune

_OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_CALLABLE = {name: getattr(hwprune, name) for name in hwprune.__all__}
_WITH_EXAMPLE = [name for name, each in _CALLABLE.items() if ">>> " in (inspect.getdoc(each) or "")]

# Public functions whose docstring has no example yet; this set must only shrink.
_WITHOUT_EXAMPLE = {"run", "adopt"}  # of whole runs, which take minutes; the documentation has them


@pytest.mark.parametrize("name", _WITH_EXAMPLE)
def test_the_example_in_the_docstring_gives_what_it_shows(
    name: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("example"))  # where examples may write files
    finder = doctest.DocTestFinder(recurse=False)
    (example,) = finder.find(
        _CALLABLE[name], name, globs={"hwprune": hwprune, "torch": torch}, module=False
    )
    written: list[str] = []
    doctest.DocTestRunner(optionflags=_OPTIONS).run(example, out=written.append)
    assert not written, "".join(written)


def test_every_public_function_but_these_has_an_example() -> None:
    functions = {name for name, each in _CALLABLE.items() if inspect.isfunction(each)}
    assert functions - set(_WITH_EXAMPLE) == _WITHOUT_EXAMPLE
