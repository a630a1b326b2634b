"""The pixels of a shard: all of them as they were committed, or none."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError
from pipeline.features.batches import Shared, batches, read_chunks
from pipeline.store import arrays, records
from pipeline.store.objects import Objects, open_objects
from tests.pictures import prepare_inline
from tests.pipeline.features.small import ROWS

SIZE = 8


def shard_of(store: Path, shard: int) -> tuple[Objects, NDArray[np.uint8]]:
    """The store, and the rows of a shard."""
    objects = open_objects(str(store))
    kept = records.load_commit(objects, "train", shard)
    assert kept is not None
    chunks = read_chunks(
        objects, kept.arrays[str(SIZE)], records.load_recipe(objects), SIZE
    )  # fmt: skip
    return objects, np.concatenate(list(chunks))[: kept.stop - kept.start]


@pytest.mark.parametrize("codec", ["none", "zstd:3", "blosc-lz4", "blosc-zstd:1"])
@pytest.mark.parametrize(
    ("shard_rows", "chunk_rows", "together"), [(8, 4, 64), (6, 1, 2), (32, 8, 4)]
)
def test_the_pixels_are_those_that_zarr_reads(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str, shard_rows: int,
    chunk_rows: int, together: int,
) -> None:  # fmt: skip
    """Of each shard, the short last one too, whatever is read at once."""
    monkeypatch.setattr("pipeline.store.objects.os.fsync", lambda _: None)
    monkeypatch.setattr("pipeline.features.batches.READ_ROWS", together)
    choices = {"sizes": (SIZE,), "serves": SIZE, "codec": codec}
    prepare_inline(source, str(tmp_path), shard_rows=shard_rows, chunk_rows=chunk_rows, **choices)
    expected = arrays.read_rows(open_objects(str(tmp_path)), "train", SIZE, 0, ROWS)
    found = [shard_of(tmp_path, shard)[1] for shard in range(-(-ROWS // shard_rows))]
    assert np.array_equal(np.concatenate(found), expected)


def test_any_byte_that_is_another_is_found(store: Path) -> None:
    """In a chunk, a checksum, the index, wherever."""
    file = store / "images.zarr/train" / str(SIZE) / "c.1.0.0.0"
    data = file.read_bytes()
    for place in [*range(0, len(data), 37), *range(len(data) - 40, len(data))]:
        changed = bytearray(data)
        changed[place] ^= 4
        file.write_bytes(changed)
        with pytest.raises(StoreDamagedError, match=r"c\.1\.0\.0\.0 is not what was committed"):
            shard_of(store, 1)


def test_any_byte_of_a_compressed_shard_that_is_another_is_found(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is unpacked, which may do anything with it."""
    monkeypatch.setattr("pipeline.store.objects.os.fsync", lambda _: None)
    prepare_inline(source, str(tmp_path), sizes=(SIZE,), serves=SIZE, codec="zstd:3")
    file = tmp_path / "images.zarr/train" / str(SIZE) / "c.0.0.0.0"
    data = file.read_bytes()
    for place in range(0, len(data), 5):
        changed = bytearray(data)
        changed[place] ^= 16
        file.write_bytes(changed)
        with pytest.raises(StoreDamagedError, match="is not what was committed"):
            shard_of(tmp_path, 0)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lengths=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 2_000), min_size=2, max_size=2))
@example(lengths=[771, 773])
@example(lengths=[0, 1_544])
def test_an_index_that_lies_is_found(store: Path, lengths: list[int]) -> None:
    """Though its own checksum is right."""
    file = store / "images.zarr/train" / str(SIZE) / "c.0.0.0.0"
    data = file.read_bytes()
    index = np.array([[0, lengths[0]], [772, lengths[1]]], np.uint64).tobytes()
    tail = index + google_crc32c.value(index).to_bytes(4, "little")
    assume(tail != data[-len(tail) :])
    try:
        file.write_bytes(data[: -len(tail)] + tail)
        with pytest.raises(StoreDamagedError, match="is not what was committed"):
            shard_of(store, 0)
    finally:
        file.write_bytes(data)


def test_a_chunk_of_another_length_is_found(store: Path) -> None:
    """Though all checksums are right."""
    file = store / "images.zarr/train" / str(SIZE) / "c.0.0.0.0"
    data = file.read_bytes()
    index = np.array([[0, 4], [4, 1_540]], np.uint64).tobytes()
    pieces = [b"", bytes(1_536), index]
    forged = b"".join(p + google_crc32c.value(p).to_bytes(4, "little") for p in pieces)
    assert len(forged) == len(data)
    file.write_bytes(forged)
    with pytest.raises(StoreDamagedError, match="is not what was committed"):
        shard_of(store, 0)


def test_a_file_of_another_length_and_none_are_found(store: Path) -> None:
    """Also one that is cut off while it is read."""
    file = store / "images.zarr/train" / str(SIZE) / "c.1.0.0.0"
    data = file.read_bytes()
    for other in (data[:-1], data + b"x", b"", None):
        if other is None:
            file.unlink()
        else:
            file.write_bytes(other)
        with pytest.raises(StoreDamagedError, match="is not what was committed"):
            shard_of(store, 1)
    file.write_bytes(data)
    objects = open_objects(str(store))
    kept = records.load_commit(objects, "train", 1)
    assert kept is not None
    chunks = read_chunks(objects, kept.arrays[str(SIZE)], records.load_recipe(objects), SIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.features.batches.READ_ROWS", 4)
        next(chunks)
        file.write_bytes(data[:900])
        with pytest.raises(StoreDamagedError, match="is not what was committed"):
            list(chunks)


def test_a_whole_shard_that_is_another_is_found(store: Path) -> None:
    """All its checksums are right: only the commit tells."""
    folder = store / "images.zarr/train" / str(SIZE)
    shutil.copyfile(folder / "c.0.0.0.0", folder / "c.1.0.0.0")
    with pytest.raises(StoreDamagedError, match="is not what was committed"):
        shard_of(store, 1)


@settings(max_examples=60)
@given(
    readable=st.lists(st.booleans(), min_size=1, max_size=40),
    chunk=st.integers(1, 9),
    most=st.integers(1, 9),
)
def test_batches_are_the_readable_rows_in_order(
    readable: list[bool], chunk: int, most: int
) -> None:
    """Each once, all batches full but the last; nothing of rows past the end."""
    count = -(-len(readable) // chunk) * chunk
    rows = np.arange(count, dtype=np.uint8).reshape(-1, chunk, 1, 1, 1)
    found = list(batches(rows, np.array(readable), most))
    places = [place for one, _ in found for place in one.tolist()]
    assert places == np.flatnonzero(readable).tolist()
    assert [int(row) for _, images in found for row in images.ravel()] == places
    assert all(len(one) == most for one, _ in found[:-1])
    assert all(0 < len(one) <= most for one, _ in found)


def test_many_threads_take_each_thing_once() -> None:
    """And an error ends it for all."""

    def slow() -> Iterator[int]:
        for one in range(200):
            time.sleep(1e-5)  # another thread may come in here
            yield one

    taken = Shared(slow())
    with ThreadPoolExecutor(8) as pool:
        parts = list(pool.map(lambda _: list(taken), range(8)))
    assert sorted(one for part in parts for one in part) == list(range(200))

    def broken() -> Iterator[int]:
        yield 1
        raise StoreDamagedError("x")

    shared = Shared(broken())
    assert next(shared) == 1
    with pytest.raises(StoreDamagedError):
        next(shared)
    assert list(shared) == []
