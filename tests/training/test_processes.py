"""Two processes on the CPU do what one does with their batches together."""

from __future__ import annotations

import copy
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joint_case
import pytest
import tiny
import torch
from command_line import leave_recipe
from launch import finish, meet_elsewhere, start
from torch import nn
from training_case import Net, same, tiny_data

from hwprune import distributed
from hwprune.cli.main import main
from hwprune.errors import InputError
from hwprune.importance.score import score
from hwprune.pipeline.run_context import Job
from hwprune.plan import Plan
from hwprune.pruning.checkpoint import save
from hwprune.pruning.prune import prune
from hwprune.recipe import Recipe
from hwprune.tracing.trace import trace
from hwprune.training.batch_norm import synchronised
from hwprune.training.finetune import Interrupted, Teaching, Training, finetune

pytestmark = pytest.mark.xdist_group("processes")  # `together` starts two
TWICE = Training(epochs=4, batch_size=4, lr=1e-2, freeze_norms=True, workers=0)
STEPS = 4 * 5


class Grouped(Net):
    """Its norms are of every image alone: nothing is shared between images."""

    def __init__(self) -> None:
        super().__init__()
        self.stem[1], self.body[1] = nn.GroupNorm(2, 8), nn.GroupNorm(2, 8)
        self.drop.p = 0.0


def case(name: str) -> tuple[nn.Module, Training, Teaching | None]:
    """A network, how to train it and perhaps its teacher; the same in every process."""
    torch.manual_seed(0)
    net = Grouped() if name == "grouped" else Net()
    net.drop.p = 0.0
    if name != "taught":
        return net, replace(TWICE, freeze_norms=name == "frozen"), None
    graph = trace(net, torch.zeros(1, 1, 6, 6))
    plan = Plan.from_kept(graph, {g.name: range(0, g.width, 2) for g in graph.groups})
    return prune(net, graph, plan), TWICE, Teaching(net, graph, plan)


def train(name: str, batch_size: int, **options: Any) -> dict[str, Any]:
    """Losses by step, and the weights at the end."""
    net, training, teaching = case(name)
    losses: list[float] = []
    history = finetune(
        net,
        tiny_data(),
        replace(training, batch_size=batch_size, **options),
        teaching=teaching,
        report=lambda step, of, loss, top1: losses.append(loss),
    )
    state = {key: tensor.clone() for key, tensor in net.state_dict().items()}
    return {"losses": losses, "state": state, "top1": [e.validation.top1 for e in history],
            "validation": [e.validation.loss for e in history]}  # fmt: skip


def importances(rank: int, of: int) -> dict[str, dict[str, torch.Tensor]]:
    """Importances by criteria of the set, of the batch, of the image, and after a refit."""
    torch.manual_seed(0)
    net = Net().eval()
    graph = trace(net, torch.zeros(1, 1, 6, 6))
    draw = torch.Generator().manual_seed(3)
    batches = [
        (torch.rand(4, 1, 6, 6, generator=draw), torch.randint(0, 4, (4,), generator=draw))
        for _ in range(5)
    ]
    criteria = ("taylor", "gate_taylor", "fisher", "surgeon")
    return {each: score(net, graph, batches[rank::of], each) for each in criteria}


def stopped_by_the_second(checkpoint: Path) -> dict[str, Any]:
    """An unbroken training, and one that only the second process stops, in its seventh step."""
    found: dict[str, Any] = {}
    for name, path in (("whole", None), ("stopped", checkpoint), ("broken", checkpoint)):
        net, training, teaching = case("taught")
        net.drop.p = 0.2
        passes: list[float] = []

        def look(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            passes.append(float(output[0].count_nonzero()))  # noqa: B023
            stops = name == "stopped" and distributed.rank() == 1  # noqa: B023
            if module.training and len(passes) == 9 and stops:  # noqa: B023
                os.kill(os.getpid(), signal.SIGINT)

        net.drop.register_forward_hook(look)
        try:
            finetune(net, tiny_data(), training, teaching=teaching, checkpoint=path, resume=True)
            found[name] = net.state_dict()
        except Interrupted as error:
            found[name] = str(error)
        found.setdefault("masks", passes)
    return found


def everything(folder: Path) -> None:
    """What each of two processes does; it leaves what it found in ``folder``."""
    distributed.join()
    names = ("grouped", "frozen", "taught")
    found: dict[str, Any] = {name: train(name, 4) for name in names}
    found["norms"] = train("batch norms", 4)
    found["several widths"] = joint_case.trained(4)
    found |= stopped_by_the_second(folder / "checkpoint")
    found["scores"] = importances(distributed.rank(), distributed.count())
    with distributed.main_first():
        if distributed.is_main():
            time.sleep(0.2)
            (folder / "first").touch()
        found["waited"] = (folder / "first").exists()
    found["gathered"] = distributed.gathered(distributed.rank())
    try:
        train("frozen", 4, sync_norms=True)
    except InputError as error:
        found["refused"] = str(error)
    torch.save(found, folder / f"{distributed.rank()}")
    distributed.leave()


def command(folder: Path) -> None:
    """A command that two processes run together."""
    meet_elsewhere()
    given = ["--epochs", "2", "--batch-size", "64", "--freeze-norms"]
    main(["finetune", *given, "--out", str(folder / "run")])


def fail(folder: Path) -> None:
    """The second process fails in its third step."""
    meet_elsewhere()
    net, training, _ = case("grouped")
    passes = [0]

    def count(module: nn.Module, inputs: object) -> None:
        passes[0] += 1
        if passes[0] == 3 and distributed.rank() == 1:
            raise OSError("disk on fire")

    net.register_forward_pre_hook(count)
    finetune(net, tiny_data(), training)


def pruned_run(folder: Path) -> None:
    """A run, as far as pruning, without its device."""
    leave_recipe(folder, *tiny.GIVEN, *tiny.QUICK)
    main(["dense", "--out", str(folder)])
    job = Job(Recipe.load(folder / "recipe.toml"))
    plan = Plan.from_kept(job.graph, {g.name: range(g.width // 2) for g in job.graph.groups})
    plan = plan.with_source(model=job.recipe.model, num_classes=10)
    save(prune(job.dense.model, job.graph, plan), plan, folder / "pruned")
    (folder / "export.json").write_text("{}")


@dataclass(frozen=True)
class Together:
    """What two processes did: what each left, what each printed, and how each ended."""

    folder: Path
    left: list[dict[str, Any]]
    printed: list[tuple[str, str]]
    statuses: list[int]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    folder = tmp_path_factory.mktemp("processes")
    pruned_run(folder / "run")
    running = start(2, __file__, str(folder))
    printed = finish(running)
    assert all((folder / str(rank)).exists() for rank in range(2)), printed
    left = [torch.load(folder / str(rank), weights_only=False) for rank in range(2)]
    return Together(folder, left, printed, [process.returncode for process in running])


@pytest.fixture(scope="module")
def both(together) -> list[dict[str, Any]]:
    return together.left


@pytest.mark.parametrize("name", ["grouped", "frozen", "taught"])
def test_two_processes_train_as_one_with_twice_the_batch(both, name) -> None:
    """Batch norms would take their statistics over half as many images: these nets do not."""
    alone = train(name, 8)
    assert len(alone["losses"]) == STEPS
    assert both[0][name]["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert both[0][name]["validation"] == pytest.approx(alone["validation"], rel=1e-4)
    assert both[0][name]["top1"] == alone["top1"]
    for key, tensor in alone["state"].items():
        torch.testing.assert_close(both[0][name]["state"][key], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", ["grouped", "frozen", "taught", "norms"])
def test_both_processes_end_with_the_same_network_and_only_one_reports(both, name) -> None:
    first, second = (each[name]["state"] for each in both)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert both[1][name]["losses"] == []
    assert both[0][name]["validation"] == both[1][name]["validation"]


def test_two_processes_score_as_one(both) -> None:
    alone = importances(0, 1)
    for each in both:
        for criterion, groups in alone.items():
            for group, scores in groups.items():
                found = each["scores"][criterion][group]
                torch.testing.assert_close(found, scores, rtol=1e-5, atol=1e-7)


def test_processes_wait_for_the_main_one_and_hear_of_each_other(both) -> None:
    assert [each["waited"] for each in both] == [True, True]
    assert both[0]["gathered"] == both[1]["gathered"] == [0, 1]


def test_norms_over_all_processes_are_refused_without_gpus(both) -> None:
    assert all("needs GPUs" in each["refused"] for each in both)


def test_alone_every_sum_is_what_it_was() -> None:
    values = torch.arange(3.0)
    distributed.sum_([values])
    distributed.average_([values])
    assert values.tolist() == [0, 1, 2]
    assert distributed.summed([1.5, True]) == [1.5, True]
    assert distributed.gathered("mine") == ["mine"]
    assert (distributed.rank(), distributed.count(), distributed.is_main()) == (0, 1, True)


def test_synchronised_norms_share_their_tensors_and_are_gone_afterwards() -> None:
    torch.manual_seed(0)
    net, images = Net(), torch.rand(4, 1, 6, 6)
    net.drop.p = 0.0
    plain, before = copy.deepcopy(net), list(net.modules())
    with synchronised(net, torch.device("cpu")):
        assert isinstance(net.stem[1], nn.SyncBatchNorm)
        torch.testing.assert_close(net(images), plain(images))  # alone it is a batch norm
        net.eval()
    assert list(net.modules()) == before
    assert not any(module.training for module in net.modules())
    assert same(net, plain)


def test_frozen_norms_keep_their_statistics_and_train_their_scale() -> None:
    net, _, _ = case("frozen")
    start_state = copy.deepcopy(net.stem[1].state_dict())
    finetune(net, tiny_data(), replace(TWICE, epochs=1, ema_decay=0.0))
    assert torch.equal(net.stem[1].running_mean, start_state["running_mean"])
    assert torch.equal(net.stem[1].running_var, start_state["running_var"])
    assert not torch.equal(net.stem[1].weight, start_state["weight"])


def test_ctrl_c_in_one_process_stops_both_and_both_go_on_bit_by_bit(both) -> None:
    """With dropout: each process has random numbers of its own, and the checkpoint has them all."""
    for each in both:
        assert "Stopped after step 7 of 20" in each["stopped"]
        assert all(torch.equal(each["whole"][key], found) for key, found in each["broken"].items())
    assert both[0]["masks"] != both[1]["masks"]


def test_a_process_that_fails_does_not_leave_the_other_waiting(together) -> None:
    assert "disk on fire" in together.printed[1][1]
    assert all(together.statuses)


def test_two_processes_train_several_widths_as_one(both) -> None:
    wanted = joint_case.trained(8)
    one, other = (each["several widths"] for each in both)
    assert one["losses"] == pytest.approx(wanted["losses"], rel=1e-3)
    for key, tensor in wanted["state"].items():
        assert torch.equal(one["state"][key], other["state"][key])
        torch.testing.assert_close(one["state"][key], tensor, rtol=1e-3, atol=1e-4)


def test_of_two_processes_that_finetune_one_prints_and_writes(together) -> None:
    printed = "".join(out for out, _ in together.printed)
    assert printed.count("student epoch 2 of 2") == 1 and printed.count("distilled: ") == 1
    run = together.folder / "run"
    assert len(json.loads((run / "finetune.json").read_text())["history"]) == 2
    assert not (run / "export.json").exists()  # no longer true
    assert not list(run.rglob("*.part"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for part in (everything, command, fail):
        part(Path(sys.argv[1]))
