"""Reading ahead: each chunk of the order is read once, completely, and at most one window early."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import StoreDamagedError
from pipeline.loader import Loader, mmap, row_reader
from pipeline.loader.window_prefetcher import WindowPrefetcher
from pipeline.store import layout
from tests.commands import wait_until
from tests.images import make_folder, prepare_inline

NUM_ROWS = 61
CHUNK_ROWS = 4
CHUNK_BYTES = CHUNK_ROWS * 8 * 8 * 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a store of 61 images in 16 chunks."""
    folder = tmp_path_factory.mktemp("readahead")
    choices: dict[str, Any] = {"sizes": (8, 16), "shard_rows": 8, "chunk_rows": CHUNK_ROWS}
    prepare_inline(make_folder(folder / "train", NUM_ROWS), str(folder / "store"), **choices)
    return folder / "store"


class RecordingReader:
    """A reader that records the chunks it must prefetch."""

    def __init__(self) -> None:
        self.chunks: list[int] = []

    def gather(self, rows: Any, out: Any, disk: Executor) -> str:
        raise AssertionError("it only reads ahead")

    def chunks_to_prefetch(self, chunks: Any) -> Any:
        return chunks

    def prefetch(self, chunk: int, disk: Executor) -> None:
        self.chunks.append(chunk)


def windows() -> Iterator[tuple[int, Any]]:
    """Yield four windows of two chunks, each of ten rows."""
    for window in range(4):
        yield 10 * window, np.array([2 * window, 2 * window + 1])


def test_reading_stays_one_window_ahead() -> None:
    """Two windows are read at once, and each later one when the one before is gathered."""
    reader = RecordingReader()
    with ThreadPoolExecutor(1) as disk:
        ahead = WindowPrefetcher(windows(), [reader], disk)
        for position, expected in ((0, 4), (9, 4), (10, 6), (19, 6), (20, 8), (39, 8)):
            ahead.reached(position)
            assert wait_until(lambda: len(reader.chunks) >= expected)  # noqa: B023
            time.sleep(0.01)
            assert sorted(reader.chunks) == list(range(expected))
        ahead.stop()


def test_reading_ahead_stops_on_request() -> None:
    """The thread ends although there are more windows to read."""
    with ThreadPoolExecutor(1) as disk:
        threads = set(threading.enumerate())
        ahead = WindowPrefetcher(windows(), [RecordingReader()], disk)
        ahead.stop()
        started = set(threading.enumerate()) - threads
        assert all(thread.name.startswith("ThreadPoolExecutor") for thread in started)


@pytest.mark.parametrize("order", ["random", "windowed", "sequential"])
@pytest.mark.parametrize(("world", "local_ranks"), [(1, None), (2, None), (2, "2"), (2, "1")])
def test_each_chunk_is_read_once_and_completely(
    store: Path, monkeypatch: pytest.MonkeyPatch, order: str, world: int, local_ranks: str | None
) -> None:
    """Orders of single rows, as random ones and those of several machines, are not read ahead."""
    seen: list[tuple[int, int]] = []
    fadvise = os.posix_fadvise

    def note(file: int, start: int, num_bytes: int, advice: int) -> None:
        if advice == os.POSIX_FADV_WILLNEED:
            seen.append((os.fstat(file).st_ino, start))
            assert num_bytes == CHUNK_BYTES
            assert start % (CHUNK_BYTES + 4) == 0
        fadvise(file, start, num_bytes, advice)

    monkeypatch.setattr(mmap.MappedShards, "resident", lambda *_: False)
    monkeypatch.delenv("SLURM_STEP_TASKS_PER_NODE", raising=False)
    if local_ranks is None:
        monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    else:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local_ranks)
    monkeypatch.setattr(os, "posix_fadvise", note)
    loader = Loader(
        store,
        size=8,
        batch_size=4,
        order=order,
        window_bytes=3 * CHUNK_BYTES,
        rank=0,
        world=world,
    )
    reads_ahead = order != "random" and (world == 1 or local_ranks == str(world))
    for _ in range(2):
        seen.clear()
        for batch, _ in enumerate(loader):
            if batch + 1 == len(loader):  # it may be slower than so small a store is read
                assert wait_until(lambda: len(set(seen)) == (16 if reads_ahead else 0))
        assert len(seen) == len(set(seen))


def test_chunks_in_the_page_cache_are_not_read_ahead(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sample of each window is looked up in the page cache."""
    loader = Loader(store, size=8, batch_size=4, order="windowed", window_bytes=3 * CHUNK_BYTES)
    list(loader)
    monkeypatch.setattr(mmap.MappedShards, "resident", lambda *_: True)
    monkeypatch.setattr(
        row_reader.RowReader, "prefetch", lambda *_: pytest.fail("it was read again")
    )
    list(loader)


def test_errors_of_reading_ahead_are_raised_by_the_reader(store: Path, tmp_path: Path) -> None:
    """The error is that of gathering the rows."""
    copy = shutil.copytree(store, tmp_path / "copy")
    loader = Loader(copy, size=16, batch_size=4, order="sequential")
    (copy / layout.shard("train", 16, 3)).unlink()
    with pytest.raises(StoreDamagedError, match=r"16/c\.3\.0\.0\.0 is missing"):
        list(loader)
