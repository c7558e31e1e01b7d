"""The folder of a run: the name of each file, and the facts that each step leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from hwprune.errors import HwpruneError, InputError
from hwprune.pipeline.run_facts import Facts
from hwprune.recipe import Recipe
from hwprune.reporting.facts import SLIM_FACTS
from hwprune.storage.atomic_files import write_text
from hwprune.storage.from_json import restore
from hwprune.training.interrupt import Interrupted

F = TypeVar("F", bound=Facts)

STEP_NAMES = ("trace", "dense", "profile", "prune", "finetune", "baselines", "export", "verify",
              "report")  # fmt: skip


class RunFolder:
    """The files of a run.

    A step leaves its facts in ``<step>.json`` when all its other files are there. So later steps,
    other processes and the report can go on from the folder alone.

    Attributes:
        path: the folder; it is made with the first file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.toml"
        self.dense_weights = path / "dense.safetensors"
        self.table = path / "table.jsonl"
        self.scores = path / "scores.safetensors"
        self.compensation = path / "compensation.jsonl"
        self.pruned = path / "pruned"
        self.student = path / "student"
        self.plan = self.pruned / "plan.json"
        self.dense_onnx = path / "dense.onnx"
        self.model_onnx = path / "model.onnx"
        self.slim_facts = path / SLIM_FACTS

    def facts_path(self, step: str) -> Path:
        """The file of facts of a step."""
        return self.path / f"{step}.json"

    def has(self, step: str) -> bool:
        """Whether a step has left its facts."""
        return self.facts_path(step).exists()

    def note(self, step: str, facts: Facts | dict[str, Any]) -> None:
        """Leave the facts of a step, and delete those of later steps, which hold no longer.

        Only the report depends on the baselines.
        """
        later = STEP_NAMES[STEP_NAMES.index(step) + 1 :]
        for name in ("report",) if step == "baselines" else later:
            self.facts_path(name).unlink(missing_ok=True)
        self.write(step, facts)

    def write(self, step: str, facts: Facts | dict[str, Any]) -> None:
        """Write the facts of a step, whose results are what later steps have worked with."""
        content = facts if isinstance(facts, dict) else asdict(facts)
        write_text(self.facts_path(step), json.dumps(content, indent=1) + "\n")

    def facts(self, step: str, kind: type[F]) -> F:
        """The facts that a step has left.

        Raises:
            InputError: the step has not run, or its file is damaged.
        """
        path, command = self.facts_path(step), f"hwprune {step} --out {self.path}"
        if not path.exists():
            raise InputError(f"{path} is missing; run `{command}` first.")
        try:
            facts: F = restore(kind, json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{path} holds no facts that this hwprune can read: {error}. Make it again with "
                f"`{command}`."
            ) from error
        return facts

    def check_free(self, *, resume: bool) -> None:
        """Refuse to begin a run in a folder that holds results of one.

        A run that failed before its first result does not block the folder; neither does a latency
        table, or what a command without a run has left.

        Raises:
            InputError: there are results, and ``resume`` was not asked for.
        """
        if not resume and self.recipe.exists() and self._has_results():
            raise InputError(
                f"{self.path} holds a run already. Go on with it with --resume, or give another "
                "--out."
            )

    def _has_results(self) -> bool:
        files = [*map(self.facts_path, STEP_NAMES), self.dense_weights, self.slim_facts]
        return any(file.exists() for file in files) or any(self.path.glob("*.checkpoint"))

    def forget(self) -> None:
        """Delete the facts of all steps, so that all are taken."""
        for step in STEP_NAMES:
            self.facts_path(step).unlink(missing_ok=True)

    def is_of(self, recipe: Recipe) -> bool:
        """Whether the folder holds a run of this recipe; the folder may have been moved."""
        if not (recipe.out and self.recipe.exists()):
            return False
        return Recipe.load(self.recipe, out=recipe.out) == recipe

    def save_recipe(self, recipe: Recipe) -> None:
        """Write the recipe of the run."""
        recipe.save(self.recipe)

    @contextmanager
    def with_recipe(self, recipe: Recipe) -> Iterator[None]:
        """Write the recipe for a step; if the step is refused, put back what was there before.

        So an option that was refused is not in the way of the next command. After an interrupt the
        new recipe stays, for the step to go on with.
        """
        before = self.recipe.read_text(encoding="utf-8") if self.recipe.exists() else None
        self.save_recipe(recipe)
        try:
            yield
        except Interrupted:
            raise
        except HwpruneError:
            if before is not None:
                write_text(self.recipe, before)
            elif not self._has_results():
                self.recipe.unlink(missing_ok=True)
                with suppress(OSError):  # there are other files in it
                    self.path.rmdir()
            raise
