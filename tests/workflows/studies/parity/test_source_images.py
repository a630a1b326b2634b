"""The plain dataset: it decodes the pixels that the store holds, from the source alone."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.errors import SourceError
from pipeline.loader import Loader
from tests.images import jpeg, prepare_inline
from tests.workflows.studies.parity.small import (
    ENCODINGS,
    RECIPE,
    ROWS,
    small_data,
    small_source,
    study_options,
)
from tests.workflows.training.small import SIZE
from workflows.studies.options import ParityRecipe
from workflows.studies.parity.data import ParityData, open_parity_data
from workflows.studies.parity.source_images import SourceImages


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small source and its store."""
    return small_source(tmp_path_factory.mktemp("parity"))


def make_source(folder: Path, split: str, images: int) -> list[Path]:
    """Write the images of a split in three class folders, and return their files."""
    files = [folder / split / f"n{number % 3:08d}" / f"{number}.JPEG" for number in range(images)]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(number, 24, 24))
    return files


def assert_same_pixels(images: SourceImages, loader: Loader, epoch: int) -> None:
    """Check that the dataset has the pixels and labels of every row of an epoch of the loader."""
    images.set_epoch(epoch)
    loader.set_epoch(epoch)
    rows = []
    for batch in loader:
        for pixels, label, row in zip(*batch, strict=True):
            (index,) = images.samples.indices(np.array([int(row)]))
            square, own_label, own_row = images[index]
            assert np.array_equal(square.numpy(), pixels.permute(1, 2, 0).numpy()), (epoch, row)
            assert (own_label, own_row) == (int(label), int(row))
            rows.append(own_row)
    assert sorted(rows) == list(range(ROWS))


@pytest.mark.parametrize("crop", ["resized", "none"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pixels_are_those_of_encoded_rows(folder: Path, encoding: str, crop: str) -> None:
    """A row is encoded in memory, or is the source's file, and its random crop is the loader's."""
    data = small_data(folder, encoded=encoding, crop=crop)
    loader = data.loader("encoded", seed=3)
    images = data.images(loader)
    for epoch in (0, 1):
        assert_same_pixels(images, loader, epoch)


def test_pixels_are_those_of_stored_squares(folder: Path) -> None:
    """The source is decoded and resized as the recipe of the store says."""
    data = small_data(folder)
    loader = data.loader("raw", seed=3)
    assert_same_pixels(data.images(loader), loader, 0)


def test_images_of_an_archive_have_the_same_pixels(folder: Path, tmp_path: Path) -> None:
    """They are read by their offsets, and belong to the store of the folder that was archived."""
    archive = shutil.make_archive(str(tmp_path / "source"), "tar", folder / "source")
    data = open_parity_data(study_options(folder, source=archive), ParityRecipe(**RECIPE))
    assert data.samples.offsets is not None
    loader = data.loader("raw", seed=3)
    assert_same_pixels(data.images(loader), loader, 0)


def test_an_archive_that_must_be_streamed_is_refused(folder: Path, tmp_path: Path) -> None:
    """A dataset of torch's DataLoader reads any image at any time."""
    archive = shutil.make_archive(str(tmp_path / "source"), "gztar", folder / "source")
    with pytest.raises(SourceError, match=r"cannot be read one by one.* Pass a folder"):
        open_parity_data(study_options(folder, source=archive), ParityRecipe(**RECIPE))


def test_quarantined_images_are_left_out(tmp_path: Path) -> None:
    """The dataset has the images that the store could decode, and its shuffle no others."""
    broken = make_source(tmp_path / "source", "train", ROWS)[5]
    broken.write_bytes(broken.read_bytes()[:300])
    make_source(tmp_path / "source", "val", 18)
    for split in ("train", "val"):
        prepare_inline(tmp_path / "source", str(tmp_path / "store"), split=split, sizes=(SIZE,))
    data = small_data(tmp_path)
    assert len(data.samples) == len(data.images(data.loader("raw", seed=0))) == ROWS - 1
    assert f"{broken.parent.name}/{broken.name}" not in data.samples.keys
    batches = list(data.loader("raw", seed=0))
    assert {*data.samples.rows.tolist()} >= {row for each in batches for row in each.rows.tolist()}


def test_random_crops_depend_on_epoch_and_seed(folder: Path) -> None:
    """Crops of encoded rows change with both, as those of the loader do."""
    data = small_data(folder)

    def squares(seed: int, epoch: int) -> list[bytes]:
        images = data.images(data.loader("encoded", seed=seed))
        images.set_epoch(epoch)
        return [images[index][0].numpy().tobytes() for index in range(len(images))]

    first = squares(0, 0)
    assert first == squares(0, 0)
    assert first != squares(0, 1)
    assert first != squares(1, 0)


def test_the_store_is_not_opened(folder: Path, tmp_path: Path) -> None:
    """The dataset yields its pixels when the images of the store are gone."""
    data = small_data(small_source(tmp_path / "study"))
    images = data.images(data.loader("raw", seed=0))
    expected = small_data(folder)
    for file in (tmp_path / "study" / "store" / "images.zarr").rglob("c.*"):
        file.unlink()
    same = expected.images(expected.loader("raw", seed=0))
    for index in range(len(images)):
        assert np.array_equal(images[index][0], same[index][0])


def test_an_image_that_is_no_longer_readable_is_named(folder: Path) -> None:
    """A source that has changed since the store was prepared ends the study with a sentence."""
    data = small_data(folder)
    images = data.images(data.loader("raw", seed=0))
    broken = replace(data.samples, num_bytes=data.samples.num_bytes.copy())
    broken.num_bytes[4] -= 1
    images.samples = broken
    with pytest.raises(OSError, match="was listed with"):
        images[4]
    images.samples = replace(data.samples, offsets=np.full(len(data.samples), 200))
    images.samples.num_bytes[:] = 100
    with pytest.raises(SourceError, match=r"JPEG' cannot be decoded.* Restore the image"):
        images[5]


def test_samples_of_some_rows_keep_the_order_of_keys(folder: Path) -> None:
    """Quarantined images are left out, and the others have their own labels and bytes."""
    data: ParityData = small_data(folder)
    samples = data.samples
    part = samples.of_rows(np.array([17, 2, 9]))
    assert sorted(part.rows.tolist()) == [2, 9, 17]
    assert list(part.keys) == sorted(part.keys)
    for index, row in enumerate(part.rows):
        (whole,) = samples.indices(np.array([row]))
        assert part.keys[index] == samples.keys[whole]
        assert part.labels[index] == samples.labels[whole]
        assert part.num_bytes[index] == samples.num_bytes[whole]
