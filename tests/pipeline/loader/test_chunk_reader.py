"""Compressed and remote stores yield the same batches as a local uncompressed one."""

from __future__ import annotations

import errno
import itertools
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.loader import Loader, Reading, chunk_reader
from pipeline.loader import loader as loader_module
from pipeline.store import layout
from pipeline.store.codecs import decompressor
from pipeline.store.direct import ALIGNMENT
from pipeline.store.local import LocalObjects
from pipeline.store.open import open_objects
from pipeline.store.split import open_split
from tests.images import prepare_inline
from tests.pipeline.loader.batches import check_same

CHOICES: dict[str, Any] = {"sizes": (8, 16), "shard_rows": 8}
SHARD = layout.shard("train", 8, 3)


@pytest.fixture(scope="module")
def plain(source: Path) -> Path:
    """Prepare an uncompressed store of the source."""
    store = source.parent / "plain"
    prepare_inline(source, str(store), **CHOICES, chunk_rows=4)
    return store


def epochs(store: str | Path, **words: Any) -> tuple[list[Any], set[str]]:
    loader = Loader(store, **{"sizes": (8, 16), "batch_size": 9, "drop_last": False, **words})
    return [batch for _ in range(2) for batch in loader], set(loader.readers)


@pytest.mark.parametrize(
    "codec",
    ["zstd:3", *(pytest.param(c, marks=pytest.mark.slow) for c in ("blosc-lz4", "blosc-zstd:1"))],
)
@pytest.mark.parametrize("chunk_rows", [pytest.param(1, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("cache_bytes", [1, 2**20])
@pytest.mark.parametrize("cached", [True, False, None], ids=["warm", "cold", "both"])
def test_a_compressed_store_yields_the_same_batches(
    source: Path,
    plain: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    codec: str,
    chunk_rows: int,
    cache_bytes: int,
    cached: bool | None,
) -> None:
    """Every epoch is equal, with a cache for almost nothing or for everything."""
    choices = {**CHOICES, "chunk_rows": chunk_rows, "codec": codec}
    prepare_inline(source, str(tmp_path / "store"), **choices)
    turns = itertools.cycle([True, True, False])
    read_cached = LocalObjects.read_cached

    def sometimes_cached(self: LocalObjects, name: str, start: int, to: memoryview) -> bool:
        done = read_cached(self, name, start, to)
        return done and next(turns)  # what was not done may have been begun

    if cached is not True:
        stand_in = sometimes_cached if cached is None else lambda *_: False
        monkeypatch.setattr(LocalObjects, "read_cached", stand_in)
    batches, how = epochs(tmp_path / "store", reading=Reading(cache_bytes=cache_bytes))
    assert how == {"chunks"}
    check_same(batches, epochs(plain)[0])


@pytest.mark.parametrize("codec", ["none", "zstd:3"])
def test_a_remote_store_yields_the_same_batches(
    source: Path, plain: Path, tmp_path: Path, codec: str
) -> None:
    """The store is read through fsspec."""
    url = f"memory://{tmp_path}/store"
    prepare_inline(source, url, **CHOICES, chunk_rows=4, codec=codec)
    batches, how = epochs(url)
    assert how == {"chunks"}
    check_same(batches, epochs(plain)[0])


@pytest.mark.parametrize("cached", [True, False], ids=["warm", "cold"])
def test_a_cached_chunk_is_read_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached: bool
) -> None:
    """If the cache holds the windows, an epoch reads no chunk twice."""
    prepare_inline(source, str(tmp_path / "store"), **CHOICES, chunk_rows=4, codec="zstd:3")
    seen: list[Any] = []
    read, unpacked = LocalObjects.read, chunk_reader.ChunkReader._decoded_chunk

    def note(self: LocalObjects, name: str, start: int, num_bytes: int) -> bytes:
        seen.append((name, start))
        return read(self, name, start, num_bytes)

    def note_unpacked(self: chunk_reader.ChunkReader, where: Any, data: memoryview) -> Any:
        seen.append(where)
        return unpacked(self, where, data)

    if cached:  # two threads may read a chunk of the page cache; one of them unpacks it
        monkeypatch.setattr(chunk_reader.ChunkReader, "_decoded_chunk", note_unpacked)
    else:
        monkeypatch.setattr(LocalObjects, "read", note)
        monkeypatch.setattr(LocalObjects, "read_cached", lambda *_: False)
    window = 4 * 4 * 8 * 8 * 3
    loader = Loader(
        tmp_path / "store",
        size=8,
        batch_size=8,
        order="windowed",
        drop_last=False,
        window_bytes=window,
        reading=Reading(cache_bytes=3 * window, prefetch_bytes=1, threads=1),
    )
    list(loader)
    assert len(seen) == len(set(seen)) == (16 if cached else 8 + 16)


def flip(at: int) -> Any:
    def damage(data: bytearray) -> bytearray:
        data[at] ^= 1
        return data

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (flip(5), r"is damaged \(chunk 0\)"),
        (flip(-3), r"is damaged \(its index\)"),
        (flip(-20), r"is damaged \(its index\)"),
        (lambda data: data[:-7], r"is damaged \(its index\)"),
        (lambda data: b"", r"is damaged \(its index\)"),
        (None, "is missing"),
    ],
    ids=["chunk", "index", "checksum", "cut", "empty", "missing"],
)
@pytest.mark.parametrize("codec", ["none", "blosc-lz4"])
def test_a_damaged_shard_is_an_error_that_names_it(
    source: Path, tmp_path: Path, codec: str, damage: Any, message: str
) -> None:
    """No zeros are returned, and a chunk's checksum detects a flipped bit."""
    url = f"memory://{tmp_path}/store"
    prepare_inline(source, url, **CHOICES, chunk_rows=4, codec=codec)
    objects = open_objects(url)
    if damage is None:
        objects.remove(SHARD)
    else:
        objects.put(SHARD, bytes(damage(bytearray(objects.get(SHARD)))))
    with pytest.raises(StoreDamagedError, match=f"{SHARD} {message}"):
        epochs(url)


def test_a_chunk_of_another_length_is_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checksum of such a chunk may be correct."""
    prepare_inline(source, str(tmp_path / "store"), **CHOICES, chunk_rows=4, codec="zstd:3")
    shorter = decompressor("zstd:3")
    assert shorter is not None
    stand_in = lambda codec: lambda data, out: shorter(data, out[:-1])  # noqa: E731
    monkeypatch.setattr(chunk_reader, "decompressor", stand_in)
    with pytest.raises(StoreDamagedError, match=r"is damaged \(chunk"):
        epochs(tmp_path / "store")


def test_a_split_larger_than_memory_is_read_in_windows_of_verified_chunks(
    source: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads bypass the page cache into reused buffers, and a flipped bit is detected."""
    monkeypatch.setattr(loader_module, "free_bytes", lambda: 0)
    words: dict[str, Any] = {"order": "windowed", "window_bytes": 2 * 4 * 16 * 16 * 3}
    batches, how = epochs(plain, **words)
    assert how == {"chunks"}
    monkeypatch.undo()
    expected, how = epochs(plain, **words)
    assert how <= {"mapped", "preadv"}
    check_same(batches, expected)
    monkeypatch.setattr(loader_module, "free_bytes", lambda: 0)
    copy = shutil.copytree(plain, tmp_path / "copy")
    data = bytearray((copy / SHARD).read_bytes())
    data[1000] ^= 1
    (copy / SHARD).write_bytes(data)
    with pytest.raises(StoreDamagedError, match=rf"{SHARD} is damaged \(chunk 1\)"):
        epochs(copy, **words)


def test_no_thread_writes_to_a_buffer_after_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cached chunk is damaged while others are still being read."""
    prepare_inline(source, str(tmp_path / "store"), **CHOICES, chunk_rows=1, codec="zstd:3")
    loader = Loader(tmp_path / "store", size=8, reading=Reading(cache_bytes=1))
    gatherer = loader._open().reader.sources[0]
    rows = loader.epoch_order(0).rows(0, 20)
    out = np.zeros((20, 8, 8, 3), np.uint8)
    turns = iter([False] * 10 + [True] * 10)

    def damaged(self: LocalObjects, name: str, start: int, to: memoryview) -> bool:
        to[:] = bytes(len(to))
        return next(turns)

    def slow(self: LocalObjects, name: str, start: int, num_bytes: int) -> bytes:
        time.sleep(0.05)
        return read(self, name, start, num_bytes)

    read = LocalObjects.read
    with ThreadPoolExecutor(4) as disk:
        gatherer.gather(rows, out, disk)  # the indexes are read now
        monkeypatch.setattr(LocalObjects, "read_cached", damaged)
        monkeypatch.setattr(LocalObjects, "read", slow)
        out[:] = 0
        with pytest.raises(StoreDamagedError):
            gatherer.gather(rows, out, disk)
        out[:] = 7
    assert (out == 7).all()


def test_ranges_of_an_object_are_read(tmp_path: Path) -> None:
    """Objects on a disk and in other stores are read up to their end."""
    data = np.arange(200, dtype=np.uint8).tobytes()
    for url in (str(tmp_path), f"memory://{tmp_path}"):
        objects = open_objects(url, "train-x")
        objects.begin()
        objects.put("a", data)
        assert objects.read("a", 0, 5) == data[:5]
        assert objects.read("a", 190, 50) == data[190:]
        part = bytearray(5)
        if objects.read_cached("a", 3, memoryview(part)):
            assert part == data[3:8]
        assert not objects.read_cached("a", 197, memoryview(part))
        assert not objects.read_cached("b", 0, memoryview(part))
        memory = np.zeros(200 + 3 * ALIGNMENT, np.uint8)
        for start, num_bytes in ((0, 5), (3, 150), (190, 50), (200, 1), (5000, 1)):
            direct = objects.read_direct("a", start, num_bytes, memory)
            assert direct is None or direct == data[start : start + num_bytes]
        assert objects.read_direct("b", 0, 5, memory) is None
        with pytest.raises(FileNotFoundError):
            objects.read("b", 0, 5)


def test_a_failed_read_of_a_chunk_is_retried(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error of a network is not cached, and the next batch reads the rows."""
    store = str(tmp_path / "store")
    prepare_inline(source, store, **CHOICES, chunk_rows=4, codec="zstd:3")
    split = open_split(open_objects(store), "train", [8])
    reader = chunk_reader.ChunkReader(split, 8, cache_bytes=2**20)
    rows, out = np.array([0, 1, 5]), np.empty((3, 8, 8, 3), np.uint8)
    read = LocalObjects.read
    failing = True

    def shaky(self: LocalObjects, name: str, start: int, num_bytes: int) -> bytes:
        if failing:
            raise OSError(errno.EIO, "no")
        return read(self, name, start, num_bytes)

    monkeypatch.setattr(LocalObjects, "read", shaky)
    monkeypatch.setattr(LocalObjects, "read_cached", lambda *_: False)
    with ThreadPoolExecutor(2) as disk:
        for _ in range(2):
            with pytest.raises(StoreError, match=r"cannot read .*c\.0\.0\.0\.0: no"):
                reader.gather(rows, out, disk)
        failing = False
        reader.gather(rows, out, disk)
        monkeypatch.undo()
        expected = np.empty_like(out)
        chunk_reader.ChunkReader(split, 8, cache_bytes=2**20).gather(rows, expected, disk)
    assert np.array_equal(out, expected)
    assert out.any()
