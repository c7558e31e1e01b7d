#!/usr/bin/env python3
"""Figures of the code's layout: modules, names, lengths, and imports between packages.

python scripts/benchmarks/house.py            # of the checkout
python scripts/benchmarks/house.py OTHER      # of another checkout, such as an older one
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

LONGEST_FUNCTION, LONGEST_FILE = 50, 400  # lines


def main() -> None:
    """Print the figures."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[2]
    trees = dict(_trees(root))
    lengths = sorted(
        (_lines(node), f"{name}:{node.name}")
        for name, (_, tree) in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    )
    files = sorted((len(text.splitlines()), name) for name, (text, _) in trees.items())
    edges = {
        (_package(name), _package(other))
        for name, (_, tree) in trees.items()
        for other in _imports(tree, trees.keys())
    }
    edges = {(one, other) for one, other in edges if one != other}
    between = sorted({tuple(sorted(edge)) for edge in edges if edge[::-1] in edges})
    public = [
        node.name
        for _, tree in trees.values()
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
    ]
    only = [length for length, _ in lengths]
    in_root = [name for name in trees if name.count(".") <= 1 and not _is_package(root, name)]
    print(f"modules: {len(trees)}, of them in the package's root: {len(in_root)}")
    print(f"public functions and classes: {len(public)}")
    print(
        f"lines of a function, docstring left out: median {statistics.median(only):.0f}, 90 % "
        f"{statistics.quantiles(only, n=10)[-1]:.0f}, longest {lengths[-1][0]} ({lengths[-1][1]})"
    )
    print(f"functions over {LONGEST_FUNCTION} lines: {_over(lengths, LONGEST_FUNCTION)}")
    print(f"files over {LONGEST_FILE} lines: {_over(files, LONGEST_FILE)}")
    print(f"packages that import each other: {', '.join(map(' and '.join, between)) or 'none'}")


def _trees(root: Path) -> Iterator[tuple[str, tuple[str, ast.Module]]]:
    for path in sorted([*root.glob("hwprune/**/*.py"), *root.glob("export/**/*.py")]):
        parts = path.relative_to(root).with_suffix("").parts
        parts = ("hwprune", *parts) if parts[0] == "export" else parts
        text = path.read_text(encoding="utf-8")
        yield ".".join(parts).removesuffix(".__init__"), (text, ast.parse(text))


def _is_package(root: Path, name: str) -> bool:
    folder = root / name.replace(".", "/").replace("hwprune/export", "export")
    return name != "hwprune" and (folder / "__init__.py").exists()


def _lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    first = node.body[0]
    docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    end = node.end_lineno or node.lineno
    about = (first.end_lineno or first.lineno) - first.lineno + 1 if docstring else 0
    return end - node.lineno + 1 - about


def _over(measured: list[tuple[int, str]], most: int) -> str:
    return ", ".join(f"{name} {lines}" for lines, name in measured if lines > most) or "none"


def _package(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _imports(tree: ast.Module, known: Collection[str]) -> Iterator[str]:
    """The modules of hwprune that a module imports, at its top or inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found = full if full in known else node.module
                if found.startswith("hwprune."):
                    yield found


if __name__ == "__main__":
    main()
