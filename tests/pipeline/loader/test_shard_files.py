"""Shard files stay open as long as someone reads them, and no longer, in both readers of rows."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import StoreError
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


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Switch the collection of reference cycles off."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


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


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("array", ARRAYS)
def test_files_are_closed_with_their_loader(store: Path, array: str) -> None:
    """No reference cycle keeps them open, or mapped, until it is collected."""
    images = str(store / "images.zarr")

    def open_shards() -> list[str]:
        paths = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
        return [path for path in paths if path.startswith(images)]

    loader = Loader(store, size=8, batch_size=4, **ARRAYS[array])
    for _ in loader:
        pass
    assert len(open_shards()) == 8
    del loader
    assert open_shards() == []
    assert images not in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize("array", ARRAYS)
def test_a_pipe_in_the_place_of_a_shard_is_named(store: Path, tmp_path: Path, array: str) -> None:
    """It neither blocks nor ends with an error of the system alone."""
    copy = shutil.copytree(store, tmp_path / "copy")
    folder = copy / "images.zarr/train"
    shard = folder / ("jpeg24@80/bytes/c.3" if ARRAYS[array] else "8/c.3.0.0.0")
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(StoreError, match=r"^cannot read images\.zarr/train/.*c\.3.*: Illegal seek"):
        list(Loader(copy, size=8, batch_size=4, **ARRAYS[array]))
