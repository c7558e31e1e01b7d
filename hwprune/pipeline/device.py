"""The device of a run: its target, the latency budget on it, and its latency table."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from hwprune.errors import NotHere, TableError
from hwprune.graph import ChannelGraph
from hwprune.latency.budget import Budget
from hwprune.latency.effort import Effort
from hwprune.latency.table import LatencyTable
from hwprune.recipe import Recipe
from hwprune.targets.base import Target
from hwprune.targets.registry import load_target


class Device:
    """Where latency is measured, and what it may be.

    Attributes:
        table_path: the file of the latency table.
    """

    def __init__(self, recipe: Recipe, table_path: Path) -> None:
        """The device that a recipe names, with the recipe's table or the one at ``table_path``."""
        self.recipe = recipe
        self.table_path = Path(recipe.table) if recipe.table else table_path

    def check(self) -> None:
        """Refuse now what a run would otherwise find out after an hour.

        Raises:
            InputError: a budget or an effort that is none, or an unknown target.
            NotHere: the target cannot run here, and there is no table of another device.
        """
        Budget.parse(self.recipe.budget)
        Effort.parse(self.recipe.measure, self.recipe.latency)
        if not self.remote:
            load_target(self.recipe.target)

    @cached_property
    def budget(self) -> Budget:
        """The latency budget."""
        return Budget.parse(self.recipe.budget)

    @cached_property
    def effort(self) -> Effort:
        """How latency is measured, and for how long."""
        return Effort.parse(self.recipe.measure, self.recipe.latency)

    @cached_property
    def target(self) -> Target:
        """The device and runtime that networks are measured on."""
        return load_target(self.recipe.target)

    @cached_property
    def environment(self) -> dict[str, str]:
        """Where latency would be measured here; empty where the target does not run here."""
        try:
            return self.target.environment()
        except NotHere:
            if not self.table_path.exists():
                raise
            return {}

    @cached_property
    def remote(self) -> str:
        """The device that the table was made on, if it is another than this one; else empty."""
        if not self.table_path.exists():
            return ""
        made_on = LatencyTable.load(self.table_path).device
        return "" if made_on == self.environment.get("device") else made_on

    @property
    def stale(self) -> bool:
        """Whether the table is of other versions, and the recipe says to use it as it is."""
        if not (self.recipe.stale_table and self.table_path.exists()):
            return False
        return LatencyTable.load(self.table_path).is_stale(self.environment)

    def table(self, graph: ChannelGraph, folder: Path) -> LatencyTable:
        """The latency table, which must hold the network.

        A table of another device is good for planning. One of another runtime, version or setting
        of this device is refused.

        Args:
            graph: the channel graph of the network.
            folder: of the run, for the commands that a message names.

        Raises:
            TableError: there is none, it lacks the network, or it is of another setting.
        """
        table = LatencyTable.load(self.table_path)
        table.check_batch(str(self.recipe.batch))
        table.network(graph)
        if not self.remote:
            renew = f"hwprune profile --out {folder} --renew"
            table.check_device(self.environment, renew=renew, stale=self.recipe.stale_table)
        if not table.is_calibration_current(graph, self.effort.statistic):
            raise TableError(
                f"{self.table_path} was calibrated to another kind of latency than "
                f"{self.effort.statistic}, or by another version of hwprune. Fit it again, from "
                f"the same measurements, with `hwprune profile --out {folder}`."
            )
        return table
