"""An open split has the places and sizes of encoded rows, or refuses those that cannot be."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store import arrays, encoded_rows, layout, records
from pipeline.store.encoded_plan import decode_encoded_plan
from pipeline.store.open import open_objects
from pipeline.store.split import Split, open_split
from tests.encoded import prepare_encoded
from tests.images import make_folder

NAME = "jpeg24@80"
NUM_ROWS = 29


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare 29 images, 2 of them broken, in shards of 8."""
    folder = tmp_path_factory.mktemp("encoded")
    source = make_folder(folder / "train", NUM_ROWS, bad=2)
    encodings = ["jpeg:24@80", "original"]
    prepare_encoded(source, str(folder / "store"), encodings, sizes=(8,), shard_rows=8)
    return folder / "store"


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    return shutil.copytree(store, tmp_path / "copy")


def opened(store: Path, **words: Any) -> Split:
    return open_split(open_objects(str(store)), "train", [], **{"encoded": ["jpeg:24@80"], **words})


def test_places_and_sizes_are_those_that_zarr_reads(store: Path) -> None:
    """The name of an encoding is accepted with and without its colon."""
    split = opened(store, encoded=["jpeg24@80", "jpeg:24@80", "original"])
    assert sorted(split.encoded) == [NAME, "original"]
    assert split.sizes == ()
    for name, rows in split.encoded.items():
        for part in ("offset", "shape"):
            values = zarr.open_array(store / layout.encoded_array("train", name, part), mode="r")
            assert np.array_equal(getattr(rows, part), values[:])
        assert rows.num_bytes_of_rows == (rows.offset[:, 1] - rows.offset[:, 0]).sum()


def test_lengths_and_indexes_are_those_of_the_files(store: Path) -> None:
    """They follow from the offsets, so a shard of another length is noticed."""
    rows = opened(store).encoded[NAME]
    for shard in range(4):
        data = (store / layout.encoded_shard("train", NAME, shard)).read_bytes()
        assert rows.num_bytes(shard) == len(data)
        assert rows.index(shard) == data[-rows.index_bytes :]
        assert rows.num_chunks(shard) == rows.geometry.num_chunks(len(data))
    assert rows.first_chunk[0] == 0
    assert np.diff(rows.first_chunk).tolist() == [rows.num_chunks(shard) for shard in range(4)]
    for chunk in range(int(rows.first_chunk[-1])):
        shard, number = rows.locate_chunk(chunk)
        assert 0 <= number < rows.num_chunks(shard)
        assert rows.first_chunk[shard] + number == chunk


def test_an_unfinished_split_has_the_same_places(store: Path, copy: Path) -> None:
    """The row tables of the shards have them."""
    finished = opened(store)
    (copy / layout.done("train")).unlink()
    with pytest.raises(StoreError, match="'train' is not finished"):
        opened(copy)
    partial = opened(copy, allow_partial=True)
    assert np.array_equal(partial.encoded[NAME].offset, finished.encoded[NAME].offset)
    assert np.array_equal(partial.encoded[NAME].shape, finished.encoded[NAME].shape)
    assert np.array_equal(partial.excluded, finished.excluded)
    assert partial.digest == finished.digest
    commit = records.load_commit(open_objects(str(copy)), "train", 1)
    assert commit is not None
    without = replace(commit, encoded={"original": commit.encoded["original"]})
    (copy / layout.commit("train", 1)).write_bytes(without.encode())
    partial = opened(copy, allow_partial=True)
    assert {*partial.excluded.tolist()} == {*finished.excluded.tolist(), *range(8, 16)}
    assert np.array_equal(partial.encoded[NAME].offset[16:], finished.encoded[NAME].offset[16:])


def write_rows(store: Path, offset: NDArray[np.int64], shape: NDArray[np.int32]) -> None:
    for name, data in arrays.encoded_row_arrays("train", NAME, offset, shape):
        (store / name).write_bytes(data)


Change = Callable[[NDArray[np.int64], NDArray[np.int32], int], None]


def swap(offset: NDArray[np.int64], _: NDArray[np.int32], row: int) -> None:
    offset[row] = offset[row, ::-1]


def shift(offset: NDArray[np.int64], _: NDArray[np.int32], row: int) -> None:
    offset[row] += 1


def leave_the_shard(offset: NDArray[np.int64], _: NDArray[np.int32], row: int) -> None:
    end = (row // 8 + 1) * 8
    offset[row:end, 1] += 2**40
    offset[row + 1 : end, 0] += 2**40


def overflow(offset: NDArray[np.int64], _: NDArray[np.int32], row: int) -> None:
    offset[row, 0], offset[row, 1] = 2**63 - 1, -(2**63)


def lose_the_size(_: NDArray[np.int64], shape: NDArray[np.int32], row: int) -> None:
    shape[row] = 0


def negate_the_size(_: NDArray[np.int64], shape: NDArray[np.int32], row: int) -> None:
    shape[row, 1] = -5


@pytest.mark.parametrize(
    "change", [swap, shift, leave_the_shard, overflow, lose_the_size, negate_the_size]
)
def test_impossible_offsets_and_shapes_are_damage(copy: Path, change: Change) -> None:
    """They have valid checksums, and would lead a reader to other rows or out of the shard."""
    split = opened(copy)
    row = int(split.readable_rows[11])
    rows = split.encoded[NAME]
    offset, shape = rows.offset.copy(), rows.shape.copy()
    change(offset, shape, row)
    write_rows(copy, offset, shape)
    with pytest.raises(StoreDamagedError, match=f"train/{NAME} has offsets or shapes that its"):
        opened(copy)


def test_a_readable_row_without_bytes_is_damage(copy: Path) -> None:
    """A quarantined row has none."""
    split = opened(copy)
    rows = split.encoded[NAME]
    last = int(split.readable_rows[-1])
    offset, shape = rows.offset.copy(), rows.shape.copy()
    if last + 1 < NUM_ROWS:
        assert (offset[last + 1 :, 0] == offset[last, 1]).all()
    offset[last, 1] = offset[last, 0]
    offset[last + 1 :] = offset[last, 0]
    shape[last] = 0
    write_rows(copy, offset, shape)
    with pytest.raises(StoreDamagedError, match=f"no bytes for the readable row {last}"):
        opened(copy)


@pytest.mark.parametrize("part", ["offset", "shape"])
@pytest.mark.parametrize("damage", ["flip", "remove", "cut"])
def test_damaged_arrays_are_an_error_that_names_them(copy: Path, part: str, damage: str) -> None:
    """They have a checksum like labels."""
    path = copy / layout.encoded_array("train", NAME, part) / "c.0.0"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[:-1])
    kind = "missing" if damage == "remove" else "damaged"
    with pytest.raises(StoreDamagedError, match=rf"{part}/c\.0\.0 is {kind}. Run `tesserae repair"):
        opened(copy)


@pytest.mark.parametrize("partial", [False, True])
def test_a_plan_of_another_array_or_without_bounds_is_refused(copy: Path, partial: bool) -> None:
    """It would place rows elsewhere."""
    path = copy / layout.encoded_plan("train", NAME)
    plan = decode_encoded_plan(path.read_bytes(), path.name)
    if partial:
        (copy / layout.done("train")).unlink()
    path.write_bytes(replace(plan, span_bytes=2**44).encode())
    if not partial:
        with pytest.raises(StoreDamagedError, match=r"has offsets or shapes that its shards"):
            opened(copy)
    path.write_bytes(replace(plan, plan="0" * 64).encode())
    with pytest.raises(StoreDamagedError, match=r"plan is '0*\.\.\.: expected"):
        opened(copy, allow_partial=partial)
    path.unlink()
    lost = "no encoded rows jpeg24@80" if partial else r"jpeg24@80\.json is missing. Run `tesserae"
    with pytest.raises(StoreError, match=lost):
        opened(copy, allow_partial=partial)


def test_spans_that_overflow_offsets_are_refused() -> None:
    """Such a split has no valid offsets; computing with them would wrap around."""
    planned = SimpleNamespace(encoding=NAME, span_bytes=2**44)
    for num_shards in (2**18, 2**19):
        plan = SimpleNamespace(split="train", num_shards=num_shards)
        if num_shards == 2**18:
            assert encoded_rows._check_spans(planned, plan) is planned  # type: ignore[arg-type, comparison-overlap]
        else:
            with pytest.raises(StoreDamagedError, match=r"fewer than 2\^63 together"):
                encoded_rows._check_spans(planned, plan)  # type: ignore[arg-type]


@pytest.mark.parametrize("damage", ["flip", "remove", "cut"])
def test_a_damaged_row_table_is_an_error_that_names_its_shard(copy: Path, damage: str) -> None:
    """Only an unfinished split needs it."""
    (copy / layout.done("train")).unlink()
    rows = opened(copy, allow_partial=True).encoded[NAME]
    path = copy / layout.encoded_shard("train", NAME, 2)
    data = bytearray(path.read_bytes())
    data[-rows.index_bytes - 10] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(data if damage == "flip" else data[: -rows.index_bytes - 20])
    with pytest.raises(StoreDamagedError, match=rf"{NAME}/bytes/c\.2 is missing or damaged"):
        opened(copy, allow_partial=True)


def test_missing_sizes_and_encodings_are_named_together(store: Path) -> None:
    """The error also lists what the split has."""
    objects = open_objects(str(store))
    expected = (
        r"no finished 16 px, jpeg:32@80: it has 8 px, jpeg:24@80, original\. Add it with `tesserae"
        r" prepare --sizes"
    )
    with pytest.raises(StoreError, match=expected):
        open_split(objects, "train", [8, 16], encoded=["original", "jpeg:32@80"])
    with pytest.raises(ValueError, match="encoding is 'webp'"):
        open_split(objects, "train", [], encoded=["webp"])
