"""The command ``compare``."""

from __future__ import annotations

from pathlib import Path

import click

from hwprune.cli.options import Amount, check_source, trust_option
from hwprune.errors import InputError
from hwprune.recipe import Recipe
from hwprune.reporting.console import plain_console
from hwprune.storage.atomic_files import need_folder


@click.command("compare")
@click.argument("networks", nargs=-1, type=click.Path(path_type=Path))
@click.option("--target", default=Recipe.target, help="device and runtime")
@click.option("--batches", default="1", help="batch sizes, such as 1,32,256")
@click.option(
    "--image-size",
    type=click.IntRange(min=1),
    default=224,
    help="height and width of the references' images in pixels",
)
@click.option(
    "--references", help="networks of torchvision, such as resnet18,resnet50@160; '': none"
)
@click.option("--seconds", type=Amount(), default=60.0,
              help="longest time to measure each batch size")  # fmt: skip
@click.option("--latency", default=Recipe.latency, help="quiet or typical, as in `hwprune run`")
@click.option("--out", type=click.Path(path_type=Path), default=Path("compare"),
              help="folder of compare.json and .svg; batch sizes add up in them")  # fmt: skip
@trust_option
def compare_command(
    networks: tuple[Path, ...],
    target: str,
    batches: str,
    image_size: int,
    references: str | None,
    seconds: float,
    latency: str,
    out: Path,
    trust_source: bool | None,
) -> None:
    """Measure NETWORKS and reference networks by turns, and show them in one table.

    NETWORKS are run folders, each of which adds its dense network, and ONNX files.
    """
    from hwprune.comparison.measure import Comparison, compare, merged
    from hwprune.comparison.networks import REFERENCES, from_paths
    from hwprune.comparison.networks import references as reference_networks
    from hwprune.comparison.render import draw, show
    from hwprune.latency.effort import Effort
    from hwprune.targets.registry import load_target

    need_folder(out, "--out")
    sizes = [part.strip() for part in batches.split(",") if part.strip()]
    if not sizes or not all(size.isdecimal() and int(size) for size in sizes):
        raise InputError(f"--batches {batches!r}: expected batch sizes, such as 1,32,256.")
    for saved in (path / "recipe.toml" for path in networks):
        if saved.exists():
            check_source(Recipe.load(saved), saved, trusted=bool(trust_source))
    statistic = Effort.parse("normal", latency).statistic
    device, path = load_target(target), out / "compare.json"
    before = Comparison.load(path) if path.exists() else None
    if before is not None:
        before.check_target(device.name, device.environment())  # before a minute of measuring
    named = REFERENCES if references is None else references
    candidates = from_paths(networks) + reference_networks(named, image_size)
    for size in map(int, dict.fromkeys(sizes)):
        found = compare(candidates, device, size, seconds=seconds, statistic=statistic)
        before = merged(before, found) if before else found
        before.save(path)
    assert before is not None
    show(before, plain_console())
    draw(before, out / "compare.svg")
