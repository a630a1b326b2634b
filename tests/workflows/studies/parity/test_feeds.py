"""The feeds of a stage: torch's DataLoader in the loader's order, and in its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.workflows.studies.parity.small import BATCH, ROWS, small_data, small_source
from workflows.studies.parity.data import ParityData
from workflows.studies.parity.feeds import (
    DataLoaderBatches,
    TracedBatch,
    TracedBatches,
    data_loader_in_order,
    shuffling_data_loader,
)
from workflows.training.world import World


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small source and its store."""
    return small_source(tmp_path_factory.mktemp("parity"))


def traced(batches: TracedBatches, count: int) -> list[TracedBatch]:
    """Return the content of the first batches."""
    batches.trace = []
    for _ in range(count):
        batches.take()
    batches.close()
    return batches.trace


def plain_batches(data: ParityData, form: str, world: World) -> DataLoaderBatches:
    """Return the batches of a DataLoader in the loader's order."""
    loader = data.loader(form, seed=5)
    images = data.images(loader)
    data_loader = data_loader_in_order(images, loader, world, workers=data.workers)
    stage = data.stage(form, loader, World())
    return DataLoaderBatches(stage.batches, data_loader, images, world)


@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_gets_its_part_of_each_batch_in_every_epoch(folder: Path, rank: int) -> None:
    """Two epochs have the rows, labels and pixels of the loader, in its order."""
    data, world = small_data(folder), World(rank, 2)
    count = 2 * ROWS // BATCH
    stage = data.stage("encoded", data.loader("encoded", seed=5), World())
    ours = traced(TracedBatches(stage.batches, world), count)
    plain = traced(plain_batches(data, "encoded", world), count)
    assert [len(batch.rows) for batch in ours] == [BATCH // 2] * count
    for left, right in zip(ours, plain, strict=True):
        assert left.rows.tolist() == right.rows.tolist()
        assert left.labels.tolist() == right.labels.tolist()
        assert left.digests == right.digests


def test_worker_processes_see_the_epoch(folder: Path) -> None:
    """Workers that live for several epochs cut the crops of the present one."""
    here = traced(plain_batches(small_data(folder), "encoded", World()), 6)
    workers = traced(plain_batches(small_data(folder, workers=1), "encoded", World()), 6)
    assert [batch.digests for batch in here] == [batch.digests for batch in workers]
    assert here[0].rows.tolist() != here[3].rows.tolist()
    sets = [{d for batch in here[start : start + 3] for d in batch.digests} for start in (0, 3)]
    assert sets[0] != sets[1]


def test_torchs_shuffle_follows_from_the_seed_and_differs_from_ours(folder: Path) -> None:
    """Each epoch has every image once, in another order for another epoch, seed or feed."""
    data = small_data(folder)

    def epochs(seed: int) -> list[list[int]]:
        loader = data.loader("raw", seed=seed)
        images = data.images(loader)
        shuffling = shuffling_data_loader(images, batch_size=BATCH, seed=seed, workers=0)
        stage = data.stage("raw", loader, World())
        batches = traced(DataLoaderBatches(stage.batches, shuffling, images, World()), 6)
        rows = [batch.rows for batch in batches]
        return [np.concatenate(rows[start : start + 3]).tolist() for start in (0, 3)]

    first, second = epochs(1)
    assert [first, second] == epochs(1)
    assert sorted(first) == sorted(second) == list(range(ROWS))
    assert first != second
    assert first != epochs(2)[0]
    order = data.loader("raw", seed=1).epoch_order(0)
    assert first != order.rows(0, ROWS).tolist()


def test_a_missing_image_in_a_worker_is_one_sentence(tmp_path: Path) -> None:
    """The traceback of the worker process is not part of the message."""
    data = small_data(small_source(tmp_path), workers=1)
    (tmp_path / "source" / "train" / data.samples.keys[0]).unlink()
    batches = plain_batches(data, "raw", World())
    with pytest.raises(ValueError, match=r"^cannot read .*No such file or directory$"):
        traced(batches, 3)
    batches.close()
