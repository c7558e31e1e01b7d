"""Tables shown, merged and compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hwprune.cli.main import main
from hwprune.errors import TableError
from hwprune.latency.budget import Budget
from hwprune.latency.samples import Moment, Network, Sample
from hwprune.latency.table import LatencyTable
from hwprune.latency.table_tools import kernel_ratios, merge_tables, shipped_tables
from hwprune.models.build import build_model
from hwprune.solver.closed_loop import plan_budget
from hwprune.tracing.trace import trace

CONV = [Sample("Conv", 8, width, (0.1 * width, 9.0), "n/0") for width in (8, 16, 24)]
NETWORK = Network("f" * 16, (), 1.0, 0.0, 0.0, dense_ms=2.0, held_out=((1.0, 1.25), (2.0, 2.0)))


def table(samples: list[Sample], **environment: str) -> LatencyTable:
    return LatencyTable("fake:step=8", {"device": "by hand", **environment}, 8, list(samples))


def test_a_merged_table_holds_what_all_hold_once() -> None:
    one = table(CONV[:2])
    one.add(network=NETWORK)
    other = table(CONV[1:])
    other.add(network=replace(NETWORK, dense_ms=3.0))
    merged = merge_tables([one, other])
    assert merged.samples == CONV
    assert merged.networks["f" * 16].dense_ms == 3.0
    assert len(one.samples) == 2


def test_of_a_network_in_several_tables_the_last_profile_counts() -> None:
    """Two profiles of one network are not added up, and an unfinished one adds nothing."""
    name = NETWORK.fingerprint
    mine = [replace(sample, origin=f"{name}/0") for sample in CONV]
    slower = [replace(s, times_ms=tuple(2 * t for t in s.times_ms)) for s in mine]
    one, other, unfinished = table(mine), table([*CONV, *slower]), table(mine[:1])
    for finished, ms in ((one, 1.0), (other, 2.0)):
        finished.add(moment=Moment(name, ((ms,),), (0,)), network=NETWORK)
    merged = merge_tables([one, other, unfinished])
    assert merged.samples == [*CONV, *slower]
    assert [moment.times_ms for moment in merged.moments] == [((2.0,),)]


@pytest.mark.parametrize("other", [{"device": "another"}, {"runtime": "2"}])
def test_tables_of_two_devices_are_not_merged(other: dict[str, str]) -> None:
    with pytest.raises(TableError, match=f"{next(iter(other))}: .*, {next(iter(other.values()))}"):
        merge_tables([table(CONV), table(CONV, **other)])


def test_ratios_of_kernels_that_both_have_measured() -> None:
    slower = [replace(s, times_ms=tuple(2 * t for t in s.times_ms)) for s in CONV[1:]]
    more = [*slower, Sample("Add", 1, 8, (1.0,), "n/1")]
    assert kernel_ratios(table(CONV), table(more)) == {"Conv": pytest.approx([2.0, 2.0])}


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other, merged = (str(tmp_path / f"{name}.jsonl") for name in ("one", "other", "merged"))
    first = table(CONV[:2])
    first.add(network=NETWORK)
    first.save(Path(one))
    table(CONV[1:]).save(Path(other))
    main(["table", "merge", merged, one, other])
    assert len(LatencyTable.load(Path(merged)).samples) == 3
    main(["table", "show", merged])
    shown = capsys.readouterr().out
    assert "by hand" in shown and "10.0%" in shown and "20.0%" in shown
    main(["table", "diff", one, other])
    assert "1.000" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["table", "merge", merged, one])
    assert stopped.value.code == 2
    assert "new name" in capsys.readouterr().err


def test_the_tables_that_ship_are_whole_and_plan_for_their_networks() -> None:
    """ResNet-50 at 224 px is in each; a plan for that device needs no other machine."""
    shipped = shipped_tables()
    assert len(shipped) >= 2
    graph = trace(build_model("torchvision:resnet50").eval(), torch.zeros(1, 3, 224, 224))
    scores = {group.name: torch.ones(group.width) for group in graph.groups}
    for path in shipped:
        table = LatencyTable.load(path)
        network = table.network(graph)
        assert len(network.errors) == 8 and network.errors[-1] < 0.1
        budget = Budget.parse("0.5x")
        fitted = plan_budget(graph, scores, table, budget)
        assert fitted.plan.predicted_ms <= 0.5 * table.predict_ms(graph, graph.widths)
        assert fitted.pruned is None and table.device in fitted.remark
