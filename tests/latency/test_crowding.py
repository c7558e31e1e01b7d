"""More threads than cores: a warning, and an end."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

import hwprune
from hwprune.cli.main import main
from hwprune.errors import InputError
from hwprune.latency.crowding import check_pace, core_count, crowding
from hwprune.targets.fake import FakeTarget


class Slow:
    """A target whose networks say how long their runs took, and do not take it."""

    def __init__(self, ms: float, threads: int) -> None:
        self.ms, self.threads, self.loaded = ms, threads, 0

    def environment(self) -> dict[str, str]:
        return {"threads": str(self.threads)}

    def load(self, network: object) -> Slow:
        self.loaded += 1
        return self

    def run_ms(self) -> float:
        return self.ms


def test_as_many_threads_as_cores_are_no_crowd() -> None:
    assert core_count() >= 1
    for environment in ({}, {"threads": "1"}, {"threads": "4"}):
        assert crowding(environment, cores=4) == ""
    said = crowding({"threads": "64"}, cores=2)
    assert "64 threads share 2 cores" in said and "threads=2" in said


def test_what_would_not_end_is_refused_and_other_targets_are_not_run() -> None:
    model: Any = None
    with pytest.raises(InputError, match=r"64 threads share 2 cores.*takes 5\.0 s.*50 minutes"):
        check_pace(cast(Any, Slow(5000, 64)), model, cores=2)
    check_pace(cast(Any, Slow(10, 64)), model, cores=2)
    alone = Slow(5000, 2)
    check_pace(cast(Any, alone), model, cores=2)
    assert alone.loaded == 0


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
