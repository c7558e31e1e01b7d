"""Weights that were trained elsewhere come back, and those of another network do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch
from command_line import leave_recipe
from safetensors.torch import save_file

from hwprune.cli.main import main
from hwprune.errors import InputError
from hwprune.pipeline.adopt import adopt
from hwprune.pipeline.run_context import Job
from hwprune.pipeline.run_facts import TrainedFacts
from hwprune.recipe import Recipe

pytestmark = pytest.mark.xdist_group("adopt")


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to the network that is to be trained."""
    folder = tmp_path_factory.mktemp("adopted") / "run"
    leave_recipe(folder, *tiny.GIVEN, *tiny.QUICK)
    for command in ("profile", "prune"):
        main([command, "--out", str(folder)])
    return folder


def job_of(folder: Path) -> Job:
    return Job(Recipe.load(folder / "recipe.toml", out=str(folder)))


def test_trained_weights_go_on_to_verification(pruned: Path, tmp_path: Path) -> None:
    job = job_of(pruned)
    trained = job.student("pruned").state_dict()
    trained["head.bias"] = trained["head.bias"] + 1.0
    save_file(trained, tmp_path / "trained.safetensors")
    main(["finetune", "--from", str(tmp_path / "trained.safetensors"), "--out", str(pruned)])
    assert torch.equal(job.student().state_dict()["head.bias"], trained["head.bias"])
    facts = job.files.facts("finetune", TrainedFacts)
    assert facts.history == () and facts.accuracy == job.dense.tested(job.student())
    for command in ("export", "verify", "report"):
        main([command, "--out", str(pruned)])
    assert (pruned / "report.html").exists()


def test_weights_of_other_widths_are_refused_by_name(pruned: Path) -> None:
    before = sorted(path.name for path in pruned.iterdir())
    job = job_of(pruned)
    dense = job.dense.model
    with pytest.raises(InputError, match=r"stem\.0\.weight is \[.*\], expected \[.*and \d+ more"):
        adopt(job, dense)
    other = job.student("pruned").state_dict()
    other["extra"] = other.pop("head.bias")
    with pytest.raises(InputError, match=r"extra is on one side only; head\.bias is on one side"):
        adopt(job, other)
    with pytest.raises(InputError, match="no weights file"):
        adopt(job, pruned / "none.safetensors")
    assert sorted(path.name for path in pruned.iterdir()) == before
