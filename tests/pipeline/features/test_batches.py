"""The pixels of a shard are read exactly as they were committed, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError
from pipeline.features.batches import batches, read_chunks
from pipeline.store import arrays, records
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from tests.images import prepare_inline
from tests.pipeline.features.small import ROWS

SIZE = 8


def shard_of(store: Path, shard: int) -> tuple[Objects, NDArray[np.uint8]]:
    """Return the store, and the rows of a shard."""
    objects = open_objects(str(store))
    commit = records.load_commit(objects, "train", shard)
    assert commit is not None
    chunks = read_chunks(
        objects, commit.arrays[str(SIZE)], records.load_recipe(objects), SIZE
    )  # fmt: skip
    return objects, np.concatenate(list(chunks))[: commit.stop - commit.start]


@pytest.mark.parametrize("codec", ["none", "zstd:3", "blosc-lz4", "blosc-zstd:1"])
@pytest.mark.parametrize(
    ("shard_rows", "chunk_rows", "together"), [(8, 4, 64), (6, 1, 2), (32, 8, 4)]
)
def test_the_pixels_equal_those_that_zarr_reads(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, shard_rows: int,
    chunk_rows: int, together: int,
) -> None:  # fmt: skip
    """The shards include the short last one, and the size of reads is arbitrary."""
    monkeypatch.setattr("pipeline.features.batches.READ_ROWS", together)
    choices = {"sizes": (SIZE,), "serves": SIZE, "codec": codec}
    prepare_inline(source, str(tmp_path), shard_rows=shard_rows, chunk_rows=chunk_rows, **choices)
    expected = arrays.read_pixel_rows(open_objects(str(tmp_path)), "train", SIZE, 0, ROWS)
    shards = [shard_of(tmp_path, shard)[1] for shard in range(-(-ROWS // shard_rows))]
    assert np.array_equal(np.concatenate(shards), expected)


def test_any_changed_byte_is_detected(store: Path) -> None:
    """The byte may be in a chunk, a checksum or the index."""
    file = store / "images.zarr/train" / str(SIZE) / "c.1.0.0.0"
    data = file.read_bytes()
    for offset in [*range(0, len(data), 37), *range(len(data) - 40, len(data))]:
        changed = bytearray(data)
        changed[offset] ^= 4
        file.write_bytes(changed)
        with pytest.raises(StoreDamagedError, match=r"c\.1\.0\.0\.0 differs from its commit"):
            shard_of(store, 1)


def test_any_changed_byte_of_a_compressed_shard_is_detected(source: Path, tmp_path: Path) -> None:
    """The change is detected before decompression, which may fail in any way on damaged data."""
    prepare_inline(source, str(tmp_path), sizes=(SIZE,), serves=SIZE, codec="zstd:3")
    file = tmp_path / "images.zarr/train" / str(SIZE) / "c.0.0.0.0"
    data = file.read_bytes()
    for offset in range(0, len(data), 5):
        changed = bytearray(data)
        changed[offset] ^= 16
        file.write_bytes(changed)
        with pytest.raises(StoreDamagedError, match="differs from its commit"):
            shard_of(tmp_path, 0)


@settings(
    max_examples=min(40, settings().max_examples),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(lengths=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 2_000), min_size=2, max_size=2))
@example(lengths=[771, 773])
@example(lengths=[0, 1_544])
def test_a_forged_index_is_detected(store: Path, lengths: list[int]) -> None:
    """The checksum of the forged index is valid."""
    file = store / "images.zarr/train" / str(SIZE) / "c.0.0.0.0"
    data = file.read_bytes()
    index = np.array([[0, lengths[0]], [772, lengths[1]]], np.uint64).tobytes()
    tail = index + google_crc32c.value(index).to_bytes(4, "little")
    assume(tail != data[-len(tail) :])
    try:
        file.write_bytes(data[: -len(tail)] + tail)
        with pytest.raises(StoreDamagedError, match="differs from its commit"):
            shard_of(store, 0)
    finally:
        file.write_bytes(data)


def test_a_chunk_of_another_length_is_detected(store: Path) -> None:
    """All checksums of the shard are valid."""
    file = store / "images.zarr/train" / str(SIZE) / "c.0.0.0.0"
    data = file.read_bytes()
    index = np.array([[0, 4], [4, 1_540]], np.uint64).tobytes()
    pieces = [b"", bytes(1_536), index]
    forged = b"".join(p + google_crc32c.value(p).to_bytes(4, "little") for p in pieces)
    assert len(forged) == len(data)
    file.write_bytes(forged)
    with pytest.raises(StoreDamagedError, match="differs from its commit"):
        shard_of(store, 0)


def test_a_missing_file_or_one_of_another_length_is_detected(store: Path) -> None:
    """The file may be truncated while it is read."""
    file = store / "images.zarr/train" / str(SIZE) / "c.1.0.0.0"
    data = file.read_bytes()
    for changed in (data[:-1], data + b"x", b"", None):
        if changed is None:
            file.unlink()
        else:
            file.write_bytes(changed)
        with pytest.raises(StoreDamagedError, match="differs from its commit"):
            shard_of(store, 1)
    file.write_bytes(data)
    objects = open_objects(str(store))
    commit = records.load_commit(objects, "train", 1)
    assert commit is not None
    chunks = read_chunks(objects, commit.arrays[str(SIZE)], records.load_recipe(objects), SIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.features.batches.READ_ROWS", 4)
        next(chunks)
        file.write_bytes(data[:900])
        with pytest.raises(StoreDamagedError, match="differs from its commit"):
            list(chunks)


def test_a_valid_shard_with_other_pixels_is_detected(store: Path) -> None:
    """All its checksums are right, so only the commit identifies it."""
    folder = store / "images.zarr/train" / str(SIZE)
    shutil.copyfile(folder / "c.0.0.0.0", folder / "c.1.0.0.0")
    with pytest.raises(StoreDamagedError, match="differs from its commit"):
        shard_of(store, 1)


@settings(max_examples=min(60, settings().max_examples))
@given(
    readable=st.lists(st.booleans(), min_size=1, max_size=40),
    chunk=st.integers(1, 9),
    batch_rows=st.integers(1, 9),
)
def test_batches_are_the_readable_rows_in_order(
    readable: list[bool], chunk: int, batch_rows: int
) -> None:
    """Each row comes once, all batches but the last are full, and padding rows are left out."""
    count = -(-len(readable) // chunk) * chunk
    rows = np.arange(count, dtype=np.uint8).reshape(-1, chunk, 1, 1, 1)
    all_batches = list(batches(rows, np.array(readable), batch_rows))
    indices = [index for rows_of_batch, _ in all_batches for index in rows_of_batch.tolist()]
    assert indices == np.flatnonzero(readable).tolist()
    assert [int(row) for _, images in all_batches for row in images.ravel()] == indices
    assert all(len(rows_of_batch) == batch_rows for rows_of_batch, _ in all_batches[:-1])
    assert all(0 < len(rows_of_batch) <= batch_rows for rows_of_batch, _ in all_batches)
