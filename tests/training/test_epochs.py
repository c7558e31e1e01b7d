"""The order of the training images."""

from __future__ import annotations

from hwprune.training.epochs import EpochBatches


def test_an_epoch_takes_every_image_once_in_an_order_of_its_own() -> None:
    def epoch(number: int, **options):
        return list(EpochBatches(21, 4, seed=3, epoch=number, **options))

    assert epoch(0) == epoch(0)
    assert all(len(batch) == 4 for batch in epoch(0))
    flat = [index for batch in epoch(0) for _, index in batch]
    assert len(flat) == len(set(flat)) == 20
    assert set(flat) <= set(range(21))
    assert {number for batch in epoch(1) for number, _ in batch} == {1}
    assert [i for b in epoch(1) for _, i in b] != flat
    assert [i for b in EpochBatches(21, 4, seed=4, epoch=0) for _, i in b] != flat
    assert epoch(0, start=2) == epoch(0)[2:]
    assert epoch(0, start=5) == []
    assert len(EpochBatches(21, 4, seed=3, epoch=0, start=2)) == 3


def test_processes_share_the_images_of_an_epoch() -> None:
    def part(rank: int, start: int = 0) -> list[list[tuple[int, int]]]:
        return list(EpochBatches(25, 4, seed=0, epoch=0, start=start, rank=rank, processes=3))

    parts = [part(rank) for rank in range(3)]
    assert [len(batches) for batches in parts] == [2, 2, 2]
    flat = [index for batches in parts for batch in batches for _, index in batch]
    assert len(flat) == len(set(flat)) == 24
    late = [
        list(EpochBatches(25, 4, seed=0, epoch=0, rank=r, processes=3, start=1)) for r in range(3)
    ]
    assert late == [part[1:] for part in parts]
