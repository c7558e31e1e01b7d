"""What mkdocs adds to the pages: files of the checkout as pages, and tables read from the code.

A page asks for a table with a line such as ``<!-- generated: options -->``.
"""

from __future__ import annotations

import dataclasses
import inspect
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

from hwprune import errors
from hwprune.cli.main import STOPPED, commands
from hwprune.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # file of the checkout -> page of the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "latency_tables/README.md": "reference/latency-tables.md",
}
STEPS = ("trace", "dense", "profile", "prune", "finetune", "baselines", "export", "verify",
         "report")  # fmt: skip
KINDS: Mapping[type, str] = {bool: "switch", float: "number", int: "integer", str: "text"}
FEW = 5  # keys of a recipe that a command may lack and still be said to take all others
KEPT = (str, int, float, Path)  # types of defaults; click marks missing ones by another type
OPTIONS = {field.name: field for field in dataclasses.fields(Recipe)}


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Make the files of ``PAGES`` pages."""
    for source, page in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_relinked(text, source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put the generated tables in, and lead links to files of ``PAGES`` to their pages."""
    if page.file.src_uri not in PAGES.values():
        markdown = _relinked(markdown, f"docs/{page.file.src_uri}")
    return re.sub(r"<!-- generated: (.*?) -->", lambda found: TABLES[found[1]](), markdown)


def _relinked(text: str, source: str) -> str:
    """The text of a file of the checkout with links that hold where it is a page.

    Links to files that are no pages become plain text.
    """
    page = PAGES.get(source, source.removeprefix("docs/"))

    def link(found: re.Match[str]) -> str:
        label, target, anchor = found[1], found[2], found[3] or ""
        if "://" in target:
            return found[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if file not in PAGES and not file.startswith("docs/"):
            return label
        to = PAGES.get(file, file.removeprefix("docs/"))
        return f"[{label}]({posixpath.relpath(to, posixpath.dirname(page) or '.')}{anchor})"

    return re.sub(r"\[([^\]]*)\]\(([^)#\s]+)(#[^)]*)?\)", link, text)


def options_by_command() -> str:
    """A section for each command: what it does, its arguments, its options and their defaults."""
    return "\n".join(line for path, each in _commands() for line in _command(path, each))


def _commands() -> Iterator[tuple[str, click.Command]]:
    """The commands of a run in the order of its steps, then the others."""
    names = ["run", *STEPS, *(n for n in commands.commands if n not in ("run", *STEPS))]
    for name in names:
        command = commands.commands[name]
        if isinstance(command, click.Group):
            for inner, each in command.commands.items():
                yield f"{name} {inner}", each
        else:
            yield name, command


def _command(path: str, command: click.Command) -> Iterator[str]:
    arguments = [p.make_metavar(click.Context(command)) for p in _arguments(command)]
    yield f"## hwprune {path}\n"
    yield f"{_prose(command.help)}\n"
    yield f"```text\nhwprune {' '.join([path, *arguments, '[OPTIONS]'])}\n```\n"
    recipe = [p for p in _options(command) if _is_key(p)]
    own = [p for p in _options(command) if not _is_key(p)]
    rows, missing = own, [n for n in OPTIONS if n not in {p.name for p in recipe}]
    if len(missing) <= FEW:  # a list of nearly all keys would help nobody
        but = f", but for {', '.join(f'`{n}`' for n in missing)}" if missing else ""
        yield f"The keys of a [recipe](recipe.md) are options of this command{but}.\n"
    else:
        rows += recipe
    if rows:
        yield from ("| option | default | meaning |", "|---|---|---|", *map(_row, rows), "")


def _arguments(command: click.Command) -> list[click.Parameter]:
    return [p for p in command.params if isinstance(p, click.Argument)]


def _options(command: click.Command) -> list[click.Option]:
    return [p for p in command.params if isinstance(p, click.Option)]


def _is_key(option: click.Option) -> bool:
    """Whether an option is a key of a recipe: one of that name without a default of its own."""
    return option.name in OPTIONS and not isinstance(option.default, KEPT) and not option.multiple


def _row(option: click.Option) -> str:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    default = OPTIONS[option.name or ""].default if _is_key(option) else option.default
    text = re.sub(r" \[[^]]*\]$", "", option.help or "")  # the default, which has its column
    return f"| {names} | {_value(default)} | {_cell(text)} |"


def recipe_keys() -> str:
    """Every key of a recipe under the first step that reads it."""
    lines: list[str] = []
    for heading, names in _keys_by_step().items():
        alike = len({tuple(_readers(name)) for name in names}) == 1  # the heading says it all
        columns = ["key", "value", "default", "meaning", *([] if alike else ["read by"])]
        lines += [f"## {heading}\n", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += [f"| {' | '.join(_key_row(name)[: len(columns)])} |" for name in names]
        lines.append("")
    return "\n".join(lines)


def _keys_by_step() -> Mapping[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name in OPTIONS:
        readers = _readers(name)
        heading = "Read by every step" if len(readers) == len(STEPS) else "Not read by one step"
        if 0 < len(readers) < len(STEPS):
            heading = f"Read by {readers[0]}" + (" and later steps" if readers[1:] else "")
        found.setdefault(heading, []).append(name)
    return found


def _readers(name: str) -> list[str]:
    """The steps whose command has the option of a key."""
    return [s for s in STEPS if name in {p.name for p in commands.commands[s].params}]


def _key_row(name: str) -> list[str]:
    field = OPTIONS[name]
    about, readers = _cell(field.metadata["help"]), ", ".join(_readers(name))
    kind = KINDS[type(field.default)] if name != "image_size" else "integer or text"
    return [f"`{name}`", kind, _value(field.default), about, readers]


def exit_statuses() -> str:
    """Every exit status with the error that it stands for."""
    by_status: dict[int, list[str]] = {0: ["everything holds"], STOPPED: ["stopped with Ctrl-C"]}
    for kind in _subclasses(errors.HwpruneError):
        note = f"`{kind.__name__}`: {_cell(kind.__doc__ or '')}"
        if kind.__module__ == errors.__name__:
            by_status.setdefault(kind.exit_status, []).append(note)
    rows = [f"| {status} | {' '.join(notes)} |" for status, notes in sorted(by_status.items())]
    return "\n".join(["| status | meaning |", "|---|---|", *rows])


def _subclasses(kind: type[errors.HwpruneError]) -> Iterator[type[errors.HwpruneError]]:
    yield kind
    for inner in kind.__subclasses__():
        yield from _subclasses(inner)


def _value(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, float):
        return f"`{default:g}`"
    return f"`{default}`" if default not in (None, "") and isinstance(default, KEPT) else ""


def _prose(text: str | None) -> str:
    return _marked(inspect.cleandoc(text or "").split("\f")[0].replace("\b", "").strip())


def _cell(text: str) -> str:
    return _marked(" ".join(text.split()).replace("|", "\\|").replace("``", "`"))


def _marked(text: str) -> str:
    """The text with its options as code, where it marks none itself."""
    return text if "`" in text else re.sub(r"(?<![\w-])--[a-z][a-z-]*", r"`\g<0>`", text)


TABLES: Mapping[str, Callable[[], str]] = {
    "options": options_by_command,
    "recipe": recipe_keys,
    "exit statuses": exit_statuses,
}
