"""Restore data structures from JSON by their type hints."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def restore(kind: Any, value: Any) -> Any:
    """Restore an instance of ``kind`` from what ``dataclasses.asdict`` and JSON have made of it.

    Args:
        kind: a dataclass, a named tuple, ``tuple[...]``, ``dict[str, ...]``, an optional one of
            these, a literal, a type such as ``int`` or ``str``, or ``Any``.
        value: the value as read from JSON: tuples are lists, and fields of a dataclass that have a
            default may be missing.

    Raises:
        TypeError: the value or a part of it has another type.
        ValueError: a literal has another value, or a tuple has another length.
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"expected one of {', '.join(map(str, arguments))}, got {value!r:.60}")
        return value
    if origin in (Union, types.UnionType):
        return None if value is None else restore(arguments[0], value)
    if origin is tuple and arguments[-1] is ...:
        return tuple(restore(arguments[0], each) for each in _as(list, value))
    if origin is tuple:
        return _each(arguments, value)
    if origin is dict:
        return {key: restore(arguments[1], each) for key, each in _as(dict, value).items()}
    if is_dataclass(kind) and isinstance(kind, type):
        given, hints = _as(dict, value), _hints(kind)
        unknown = given.keys() - hints.keys()
        if unknown:
            raise TypeError(f"{kind.__name__} has no {sorted(unknown)[0]!r}")
        return kind(**{name: restore(hints[name], each) for name, each in given.items()})
    if hasattr(kind, "_fields"):
        return kind(*_each(tuple(_hints(kind).values()), value))
    return float(_as((int, float), value)) if kind is float else _as(kind, value)


def _each(kinds: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    return tuple(restore(kind, each) for kind, each in zip(kinds, _as(list, value), strict=True))


def _as(kind: Any, value: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"expected {kind}, got {value!r:.60}")
    return value


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)
