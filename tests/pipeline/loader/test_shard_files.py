"""Shard files stay open as long as someone reads them, in both readers of rows."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.loader import Loader
from pipeline.loader.shard_file import ShardFile
from pipeline.loader.shard_files import ShardFiles
from tests.encoded import prepare_encoded

ARRAYS: dict[str, dict[str, Any]] = {"squares": {}, "encoded rows": {"encoded": "jpeg:24@80"}}


@pytest.fixture(scope="module")
def store(source: Path) -> Path:
    """Prepare a store of 61 images in 8 shards, as squares and as encoded rows."""
    folder = source.parent / "store"
    prepare_encoded(source, str(folder), ["jpeg:24@80"], sizes=(8,), shard_rows=8, chunk_rows=4)
    return folder


@pytest.mark.parametrize("array", ARRAYS)
def test_a_shard_stays_open_while_it_is_read_ahead(
    store: Path, monkeypatch: pytest.MonkeyPatch, array: str
) -> None:
    """Another thread may drop it at any time, because too many files are open."""
    get = ShardFiles.get

    def get_and_drop(
        files: ShardFiles, numbers: Iterable[int], disk: Executor
    ) -> dict[int, ShardFile]:
        opened = get(files, numbers, disk)
        files.close_all()
        return opened

    monkeypatch.setattr(ShardFiles, "get", get_and_drop)
    loader = Loader(store, size=8, batch_size=4, **ARRAYS[array])
    with ThreadPoolExecutor(1) as disk:
        for chunk in range(16):
            loader._open().reader.sources[0].prefetch(chunk, disk)
