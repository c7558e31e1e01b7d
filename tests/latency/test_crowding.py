"""More threads than cores: a warning, and an end."""

from __future__ import annotations

from pathlib import Path

import pytest

import hwprune
from hwprune.cli.main import main
from hwprune.errors import InputError
from hwprune.latency.crowding import check_pace, core_count, crowding
from hwprune.targets.fake import FakeTarget


class Slow:
    """A network whose runs say how long they took, and do not take it."""

    name = "slow"

    def __init__(self, ms: float) -> None:
        self.ms, self.runs = ms, 0

    def run_ms(self) -> float:
        self.runs += 1
        return self.ms


def test_as_many_threads_as_cores_are_no_crowd() -> None:
    assert core_count() >= 1
    for environment in ({}, {"threads": "1"}, {"threads": "4"}):
        assert crowding(environment, cores=4) == ""
    said = crowding({"threads": "64"}, cores=2)
    assert "64 threads share 2 cores" in said and "threads=2" in said


def test_what_would_not_end_is_refused_and_other_targets_are_not_run() -> None:
    crowded = {"threads": "64"}
    with pytest.raises(InputError, match=r"64 threads share 2 cores.*takes 5\.0 s.*50 minutes"):
        check_pace(crowded, Slow(5000), cores=2)  # type: ignore[arg-type]
    check_pace(crowded, Slow(10), cores=2)  # type: ignore[arg-type]
    alone = Slow(5000)
    check_pace({"threads": "2"}, alone, cores=2)  # type: ignore[arg-type]
    assert alone.runs == 0


def test_a_profile_warns_and_refuses_before_a_table_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    plain = FakeTarget.environment
    crowded = lambda own: plain(own) | {"threads": "100000"}  # noqa: E731
    monkeypatch.setattr(FakeTarget, "environment", crowded)
    network = ["--model", "hwprune.demo:digits_resnet", "--data", "digits"]
    main(["profile", *network, "--target", "fake:step=8", "--out", str(tmp_path / "run")])
    assert "100000 threads share" in capsys.readouterr().out
    monkeypatch.setattr("hwprune.latency.crowding._LIMIT_S", 0.0)
    model, image = hwprune.demo.small_network()
    with pytest.raises(InputError, match="100000 threads share"):
        hwprune.profile(model, image, "fake:step=8", path=tmp_path / "table.jsonl")
    assert not (tmp_path / "table.jsonl").exists()
