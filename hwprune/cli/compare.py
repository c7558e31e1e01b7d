"""The command ``compare``."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from hwprune.cli.options import Amount
from hwprune.errors import InputError
from hwprune.recipe import Recipe


@click.command("compare")
@click.argument("networks", nargs=-1, type=click.Path(path_type=Path))
@click.option("--target", default=Recipe.target, help="device and runtime")
@click.option("--batches", default="1", help="images at once, such as 1,32,256")
@click.option(
    "--image-size", type=click.IntRange(min=1), default=224, help="of the references, in pixels"
)
@click.option("--references", help="of torchvision, such as resnet18,resnet50@160; '': none")
@click.option("--seconds", type=Amount(), default=60.0,
              help="to measure each batch, at most")  # fmt: skip
@click.option("--latency", default=Recipe.latency, help="quiet or typical, as in `hwprune run`")
@click.option("--out", type=click.Path(path_type=Path), default=Path("compare"),
              help="folder of compare.json and .svg; batches add to what is there")  # fmt: skip
def compare_command(
    networks: tuple[Path, ...],
    target: str,
    batches: str,
    image_size: int,
    references: str | None,
    seconds: float,
    latency: str,
    out: Path,
) -> None:
    """Measure NETWORKS beside well-known ones, all built the same way, in one interleaved run.

    NETWORKS are run folders, each with its dense network, and ONNX files.
    """
    from hwprune.comparison import networks as candidates
    from hwprune.comparison.measure import Comparison, compare, laid_together
    from hwprune.comparison.render import draw, show
    from hwprune.latency.effort import Effort
    from hwprune.targets.registry import load_target

    sizes = [part.strip() for part in batches.split(",") if part.strip()]
    if not sizes or not all(size.isdecimal() and int(size) for size in sizes):
        raise InputError(f"--batches {batches!r}: expected numbers of images, such as 1,32,256.")
    statistic = Effort.parse("normal", latency).statistic
    device, path = load_target(target), out / "compare.json"
    before = Comparison.load(path) if path.exists() else None
    if before is not None:
        before.check_target(device.name, device.environment())  # now, not after a minute
    named = candidates.REFERENCES if references is None else references
    all_of_them = candidates.of_paths(networks) + candidates.references(named, image_size)
    for size in map(int, dict.fromkeys(sizes)):
        found = compare(all_of_them, device, size, seconds=seconds, statistic=statistic)
        before = laid_together(before, found) if before else found
        before.save(path)
    assert before is not None
    show(before, Console())
    draw(before, out / "compare.svg")
