"""Equality to the bit of what the loader and torch's DataLoader train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from tests.workflows.studies.parity.small import BATCH, ROWS, small_data, small_source
from workflows.studies.parity import FORMS, bits
from workflows.studies.parity.feeds import LoaderOrder
from workflows.studies.parity.source_images import Rendering, SourceImages
from workflows.training.world import World


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small source and its store."""
    return small_source(tmp_path_factory.mktemp("parity"))


@pytest.mark.parametrize("form", FORMS)
def test_weights_are_equal_to_the_bit_in_one_rank(folder: Path, form: str) -> None:
    """Network and optimiser of both feeds are the same after an epoch."""
    comparison = bits.compare(small_data(folder, ema_decay=0.9), form, 1, threads=1)
    assert comparison.difference == ""
    assert comparison.is_equal
    assert (comparison.steps, comparison.images) == (ROWS // BATCH, ROWS)
    assert comparison.tensors > 100  # of the network, of its average and of the optimiser


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("form", FORMS)
def test_weights_are_equal_to_the_bit_in_two_ranks(folder: Path, form: str) -> None:
    """So they are in two processes, each of which has a worker that decodes."""
    comparison = bits.compare(small_data(folder, workers=1), form, 2, threads=1)
    assert comparison.difference == ""
    assert comparison.setting == f"{form}, 2 ranks"
    assert (comparison.steps, comparison.images) == (ROWS // BATCH, ROWS)


def test_all_four_settings_are_compared(folder: Path) -> None:
    """They are each form of images with one and with two ranks."""
    names = ["raw, 1 rank", "raw, 2 ranks", "encoded, 1 rank", "encoded, 2 ranks"]
    assert list(bits.settings_of(small_data(folder))) == names


def test_a_batch_that_ranks_cannot_share_is_refused(folder: Path) -> None:
    """The message names the number by which it must be divisible."""
    with pytest.raises(ValueError, match="--batch-size is 7: expected a multiple of 2"):
        bits.settings_of(small_data(folder, batch_size=7))
    with pytest.raises(ValueError, match="--batch-size is 6: expected a multiple of 4"):
        bits.settings_of(small_data(folder, batch_size=6, mixup=0.2))


@pytest.mark.parametrize("form", FORMS)
def test_one_changed_pixel_is_reported(
    folder: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single bit of one image is found, with its step and its key, and so are the weights."""
    data = small_data(folder)
    render = Rendering.__call__

    def changed(self: Rendering, image: bytes, row: int, epoch: int) -> NDArray[np.uint8]:
        square = render(self, image, row, epoch)
        if row == 11:
            square[3, 4, 1] ^= 1
        return square

    monkeypatch.setattr(Rendering, "__call__", changed)
    comparison = bits.compare(data, form, 1, threads=1)
    rows = data.loader(form, seed=0).epoch_order(0).rows(0, ROWS).tolist()
    (index,) = data.samples.indices(np.array([11]))
    assert not comparison.is_equal
    step = rows.index(11) // BATCH + 1
    assert comparison.difference.startswith(
        f"step {step} is the first with other pixels, of 1 of its images: those of"
        f" {data.samples.keys[index]!r}; "
    )
    assert "tensors differ, by up to" in comparison.difference


def test_another_order_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images that have changed places in a batch are found."""
    batches_of = LoaderOrder.__iter__

    def swapped(self: LoaderOrder) -> Iterator[list[int]]:
        for number, batch in enumerate(batches_of(self)):
            yield [batch[1], batch[0], *batch[2:]] if number == 1 else batch

    monkeypatch.setattr(LoaderOrder, "__iter__", swapped)
    comparison = bits.compare(small_data(folder), "raw", 1, threads=1)
    assert comparison.difference.startswith("the order differs from step 2 on")


def test_another_label_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A label that is not that of the store is found."""
    get = SourceImages.__getitem__

    def changed(self: SourceImages, index: int) -> tuple[torch.Tensor, int, int]:
        square, label, row = get(self, index)
        return square, (label + 1) % 3 if index == 2 else label, row

    monkeypatch.setattr(SourceImages, "__getitem__", changed)
    data = small_data(folder)
    comparison = bits.compare(data, "raw", 1, threads=1)
    assert f"is the first with another label, of {data.samples.keys[2]!r}" in comparison.difference


def test_another_update_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal feeds do not hide weights that differ in their last bit."""
    data = small_data(folder)
    train = bits._train_epoch

    def nudged(*args: Any, plain: bool) -> bits.Epoch:
        epoch = train(*args, plain=plain)
        name = next(name for name in epoch.tensors if name.endswith("classifier.weight"))
        if plain:
            weight = epoch.tensors[name]
            weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(1e9))
        return epoch

    monkeypatch.setattr(bits, "_train_epoch", nudged)
    difference = bits.compare(data, "raw", 1, threads=1).difference
    assert difference.startswith("1 of ")
    assert "such as network.classifier.weight" in difference


def test_bits_are_compared_and_not_values() -> None:
    """0.0 and -0.0 are equal values of different bits."""
    zero = torch.zeros(2)
    assert bits._same_bits(zero, torch.zeros(2))
    assert not bits._same_bits(zero, -zero)
    assert not bits._same_bits(zero, zero.double())
    assert not bits._same_bits(zero, torch.zeros(2, 1))


def test_weights_that_are_not_finite_are_refused(folder: Path) -> None:
    """NaN in all weights would be equal, and mean nothing."""
    with pytest.raises(TesseraeError, match="training diverged in its first epoch"):
        bits.compare_in_rank(small_data(folder, learning_rate=1e30), "raw", World())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_rank_that_fails_is_one_sentence(tmp_path: Path) -> None:
    """The error of the rank is passed on without its traceback, and no rank is left."""
    data = small_data(small_source(tmp_path))
    (tmp_path / "source" / "train" / data.samples.keys[0]).unlink()
    with pytest.raises(TesseraeError, match=r"^a rank of raw, 2 ranks failed: cannot read .*JPEG"):
        bits.compare(data, "raw", 2, threads=1)
