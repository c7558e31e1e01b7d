"""Numbers for TensorBoard, read back from its files."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny

from hwprune.cli.main import main
from hwprune.errors import InputError
from hwprune.training import tracking
from hwprune.training.tracking import tracked

TWO_EPOCHS = [*tiny.GIVEN, "--batch-size", "32", "--dense-epochs", "2", "--dense-lr", "0.01"]
STEPS = 2 * (160 // 32)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reader.EventAccumulator(str(folder), {"scalars": 0})
    events.Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


def test_training_tells_its_numbers_by_step_and_by_epoch(tmp_path) -> None:
    more = ["--track", "tensorboard", "--schedule", "linear"]
    main(["dense", *TWO_EPOCHS, *more, "--out", str(tmp_path)])
    found = scalars(tmp_path / "tensorboard" / "dense")
    assert set(found) == {
        *(f"step/{name}" for name in ("loss", "right", "lr")),
        *(
            f"epoch/{name}"
            for name in ("loss", "train_right", "top1", "balanced", "validation_loss")
        ),
    }
    for tag, values in found.items():
        assert list(values) == list(range(1, 1 + (STEPS if tag.startswith("step/") else 2)))
    losses = list(found["step/loss"].values())
    mean = sum(losses[: STEPS // 2]) / (STEPS // 2)
    assert found["epoch/loss"][1] == pytest.approx(mean, rel=1e-5)
    assert max(found["step/lr"].values()) <= 0.01
    assert found["step/lr"][STEPS] == pytest.approx(0.01 / STEPS / 0.9, rel=1e-3)


def test_a_resumed_run_takes_back_what_the_killed_one_said_of_later_steps(tmp_path) -> None:
    pytest.importorskip("tensorboard")
    with tracked("tensorboard", tmp_path, "student") as log:
        for step in (1, 2, 3):
            log(step, {"loss": 1.0})
    with tracked("tensorboard", tmp_path, "student") as log:
        log(2, {"loss": 0.5})
    assert scalars(tmp_path / "tensorboard" / "student")["loss"] == {1: 1.0, 2: 0.5}


def test_without_a_tracker_nothing_is_written(tmp_path) -> None:
    with tracked("", tmp_path, "student") as log:
        log(1, {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_without_tensorboard_the_error_names_the_extra(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with (
        pytest.raises(InputError, match=r"pip install 'hwprune\[tensorboard\]'"),
        tracked("tensorboard", tmp_path, "student"),
    ):
        pass
