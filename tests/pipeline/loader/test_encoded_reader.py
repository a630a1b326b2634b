"""Both readers of encoded rows return their exact bytes, whatever lies where in the chunks."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.loader.chunk_cache import ChunkCache
from pipeline.loader.encoded_reader import (
    MAX_REQUEST_CHUNKS,
    EncodedChunkReader,
    EncodedRowReader,
    open_encoded_reader,
)
from pipeline.loader.pixel_reader import RowSource
from pipeline.store import layout
from pipeline.store.encoded_plan import EncodedPlan
from pipeline.store.encoded_rows import EncodedRows
from pipeline.store.encoded_shard import EncodedShardComposer
from pipeline.store.local import LocalObjects

SHARD_ROWS = 4


def compose(folder: Path, rows: list[bytes], chunk_bytes: int, chunk_rows: int = 2) -> Any:
    """Write shards of rows, and return as much of an open split as a reader needs."""
    objects = LocalObjects(str(folder), "train-1")
    objects.begin()
    longest = max(map(len, rows), default=0)
    span = -(-SHARD_ROWS * (longest + 16) // chunk_bytes) * chunk_bytes
    plan = EncodedPlan(
        split="train",
        encoding="original",
        plan="0" * 64,
        span_bytes=span,
        chunk_bytes=chunk_bytes,
        encoder="",
        software="",
    )
    geometry = plan.geometry(SHARD_ROWS)
    offset = np.zeros((len(rows), 2), np.int64)
    for start in range(0, len(rows), SHARD_ROWS):
        name = layout.encoded_shard("train", "original", start // SHARD_ROWS)
        composer = EncodedShardComposer(objects.create(name), geometry)
        at = start // SHARD_ROWS * span
        for number, row in enumerate(rows[start : start + SHARD_ROWS], start):
            composer.append(row, *((1, 1) if row else (0, 0)))
            offset[number] = at, at + len(row)
            at += len(row)
        composer.write_index()
        composer.finish()
    encoded = EncodedRows(plan, geometry, offset, np.ones((len(rows), 2), np.int32))
    return SimpleNamespace(
        objects=objects,
        plan=SimpleNamespace(split="train"),
        recipe=SimpleNamespace(chunk_rows=chunk_rows, shard_rows=SHARD_ROWS),
        encoded={"original": encoded},
    )


def gathered(reader: RowSource, rows: list[int], disk: ThreadPoolExecutor) -> list[bytes]:
    out = np.empty(len(rows), object)
    reader.gather(np.array(rows, np.int64), out, disk)
    return [bytes(row) for row in out]


READERS: dict[str, Callable[[Any, Path], RowSource]] = {
    "rows": lambda split, root: EncodedRowReader(split, "original", root, check=True),
    "unchecked rows": lambda split, root: EncodedRowReader(split, "original", root, check=False),
    "chunks": lambda split, root: EncodedChunkReader(split, "original", cache_bytes=200),
    "all chunks": lambda split, root: EncodedChunkReader(split, "original", cache_bytes=2**20),
}


@settings(max_examples=min(40, settings().max_examples))
@given(
    rows=st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=14),
    chunk_bytes=st.sampled_from([1, 16, 33, 128, 2048]),
    data=st.data(),
)
def test_every_row_is_returned_exactly(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[bytes],
    chunk_bytes: int,
    data: st.DataObject,
) -> None:
    """Rows lie within a chunk, cross one border, or cross many; any may be repeated."""
    folder = tmp_path_factory.mktemp("rows")
    split = compose(folder, rows, chunk_bytes)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=20))
    name = data.draw(st.sampled_from(sorted(READERS)))
    reader = READERS[name](split, folder)
    is_cached = data.draw(st.booleans())
    with ThreadPoolExecutor(3) as disk, pytest.MonkeyPatch.context() as patch:
        if not is_cached:
            patch.setattr("pipeline.loader.shard_file.ShardFile.read_cached", lambda *_: False)
        for _ in range(2):
            assert gathered(reader, chosen, disk) == [rows[row] for row in chosen]


def test_adjacent_chunks_are_one_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request ends where a shard does, where a chunk is cached, and after many chunks."""
    rows = [bytes([number]) * 100 for number in range(8)]
    split = compose(tmp_path, rows, 10)
    requests: list[tuple[str, int, int]] = []
    read = LocalObjects.read

    def note(self: LocalObjects, name: str, start: int, num_bytes: int) -> bytes:
        requests.append((name[-3:], start // 14, num_bytes // 14))
        return read(self, name, start, num_bytes)

    monkeypatch.setattr(LocalObjects, "read", note)
    reader = EncodedChunkReader(split, "original", cache_bytes=10_000)
    with ThreadPoolExecutor(1) as disk:
        gathered(reader, [1], disk)
        assert requests == [("c.0", 10, 10)]
        gathered(reader, list(range(8)), disk)
        assert requests[1:] == [("c.0", 0, 10), ("c.0", 20, 20), ("c.1", 0, 40)]
        requests.clear()
        gathered(reader, list(range(8)), disk)
        assert requests == []
        monkeypatch.setattr("pipeline.loader.encoded_reader.MAX_REQUEST_CHUNKS", 8)
        gathered(EncodedChunkReader(split, "original", cache_bytes=10_000), [4, 5], disk)
        assert requests == [("c.1", 0, 8), ("c.1", 8, 8), ("c.1", 16, 4)]
        requests.clear()
        split = compose(tmp_path / "one chunk a shard", rows, 2048)
        reader = EncodedChunkReader(split, "original", cache_bytes=10_000)
        assert gathered(reader, list(range(8)), disk) == rows
        assert [name for name, _, _ in requests] == ["c.0", "c.1"]
    assert MAX_REQUEST_CHUNKS * 2**17 <= 2**24


def test_the_cache_stays_within_its_bytes(tmp_path: Path) -> None:
    """Each chunk is memory of its own, so that others can be released."""
    rows = [bytes([number]) * 100 for number in range(12)]
    split = compose(tmp_path, rows, 10)
    reader = EncodedChunkReader(split, "original", cache_bytes=50)
    with ThreadPoolExecutor(2) as disk:
        for _ in range(3):
            assert gathered(reader, list(range(12)), disk) == rows
    assert len(reader._cache._values) <= 5
    for value in reader._cache._values.values():
        assert value.result().base is None


@pytest.mark.parametrize("kind", sorted(READERS))
def test_windows_are_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A chunk of a window is a group of rows; empty ones need no shard."""
    rows = [bytes([number]) * 30 for number in range(8)] + [b"", b"", b"x"]
    split = compose(tmp_path, rows, 16)
    reader = READERS[kind](split, tmp_path)
    (tmp_path / layout.encoded_shard("train", "original", 2)).unlink()
    advised: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda _, at, size, __: advised.append((at, size)))
    with ThreadPoolExecutor(2) as disk:
        chunks = reader.chunks_to_prefetch(np.arange(6))
        if kind == "chunks":  # too small for two windows
            assert chunks.tolist() == []
            return
        assert chunks.tolist() == ([0, 1, 2, 3, 5] if kind == "all chunks" else [*range(6)])
        advised.clear()
        for chunk in (0, 1, 3, 4):
            reader.prefetch(chunk, disk)
        with pytest.raises(StoreDamagedError, match=r"c\.2 is missing"):
            reader.prefetch(5, disk)
        if kind == "all chunks":
            monkeypatch.setattr(LocalObjects, "read", lambda *_: pytest.fail("it was read again"))
            assert gathered(reader, [0, 3, 6], disk) == [rows[0], rows[3], rows[6]]
            assert reader.chunks_to_prefetch(np.arange(6)).tolist() == [2, 5]
        else:
            # Rows of 30 bytes, with 4 more for each 16: 0 to 60, 60 to 120, and 60 to 120 again.
            assert [each for each in advised if each[1]] == [(0, 72), (72, 76), (72, 76)]
            assert advised.count((0, 0)) == 2, "as each of two files was opened"


@pytest.mark.parametrize("kind", ["rows", "chunks", "all chunks"])
def test_a_flipped_bit_is_an_error_that_names_the_chunk(tmp_path: Path, kind: str) -> None:
    """An intact row of a damaged chunk is not returned either."""
    split = compose(tmp_path, [b"a" * 10, b"b" * 10, b"c" * 10], 16)
    path = tmp_path / layout.encoded_shard("train", "original", 0)
    data = bytearray(path.read_bytes())
    data[22] ^= 1  # in chunk 1, which has the end of row 1 and the begin of row 2
    path.write_bytes(data)
    reader = READERS[kind](split, tmp_path)
    with ThreadPoolExecutor(2) as disk:
        assert gathered(reader, [0], disk) == [b"a" * 10]
        for row in (1, 2):
            with pytest.raises(StoreDamagedError, match=r"c\.0 is damaged \(chunk 1\)"):
                gathered(reader, [row], disk)


def test_a_missing_or_failing_store_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A later read tries again."""
    split = compose(tmp_path, [b"a" * 10], 16)
    reader = EncodedChunkReader(split, "original", cache_bytes=1000)
    with ThreadPoolExecutor(2) as disk:
        with monkeypatch.context() as patch:
            patch.setattr(LocalObjects, "read", raise_io_error)
            with pytest.raises(StoreError, match=r"cannot read .*c\.0: Input/output error"):
                gathered(reader, [0], disk)
        assert gathered(reader, [0], disk) == [b"a" * 10]
        (tmp_path / layout.encoded_shard("train", "original", 0)).unlink()
        other = EncodedChunkReader(split, "original", cache_bytes=1000)
        with pytest.raises(StoreDamagedError, match=r"c\.0 is missing"):
            gathered(other, [0], disk)


def raise_io_error(*_: Any) -> bytes:
    raise OSError(5, "Input/output error")


def test_the_reader_depends_on_store_order_and_memory(tmp_path: Path) -> None:
    """Whole chunks are read remotely, and in windows over more than memory holds."""
    split = compose(tmp_path, [b"a"], 16)
    words: dict[str, Any] = {"cache_bytes": 100}

    def kind(**more: Any) -> str:
        return type(open_encoded_reader(split, "original", **words, **more)).__name__

    assert kind() == kind(cached=0.5) == kind(windows=True) == "EncodedRowReader"
    assert kind(cached=0.5, windows=True) == "EncodedChunkReader"
    for check, cached, is_checked in (
        (None, 1, True), (None, 0.9, False), (True, 0.9, True), (False, 1, False),
    ):  # fmt: skip
        reader = open_encoded_reader(split, "original", check=check, cached=cached, **words)
        assert isinstance(reader, EncodedRowReader)
        assert reader._check is is_checked
    split.objects = replace_objects()
    assert kind() == "EncodedChunkReader"


def replace_objects() -> Any:
    return SimpleNamespace(url="s3://bucket")


def test_threads_share_what_one_of_them_computes() -> None:
    """Keys that others compute are waited for; an error reaches all, and is not kept."""
    cache: ChunkCache[int, int] = ChunkCache(10)
    started, go_on = threading.Event(), threading.Event()
    calls: list[list[int]] = []

    def slow(keys: list[int]) -> list[int]:
        calls.append(keys)
        started.set()
        assert go_on.wait(10)
        return [10 * key for key in keys]

    def quick(keys: list[int]) -> list[int]:
        calls.append(keys)
        return [10 * key for key in keys]

    def fail(keys: list[int]) -> list[int]:
        raise StoreError("no")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get_or_make_all, [1, 2], slow)
        assert started.wait(10)
        second = pool.submit(cache.get_or_make_all, [2, 3], quick)
        while 3 not in cache:
            pass
        go_on.set()
        assert (first.result(10), second.result(10)) == ([10, 20], [20, 30])
    assert sorted(calls) == [[1, 2], [3]]
    with pytest.raises(StoreError, match="no"):
        cache.get_or_make_all([3, 4], fail)
    assert cache.get(4) is None
    assert cache.get_or_make(4, lambda: 7) == 7
    assert cache.get_or_make_all(list(range(20, 40)), quick) == [10 * key for key in range(20, 40)]
    assert len(cache._values) == 10
