"""Compressed and remote stores: the same batches as of a plain one, by whole chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import StoreDamagedError
from pipeline.loader import Loader, chunks
from pipeline.store import layout
from pipeline.store.objects import LocalObjects, open_objects
from tests.pictures import make_folder, prepare_inline

CHOICES: dict[str, Any] = {"sizes": (8, 16), "shard_rows": 8}
SHARD = layout.shard("train", 8, 3)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """61 pictures, 3 of them broken."""
    return make_folder(tmp_path_factory.mktemp("source") / "train", 61, bad=3)


@pytest.fixture(scope="module")
def plain(source: Path) -> Path:
    """Their uncompressed store."""
    store = source.parent / "plain"
    prepare_inline(source, str(store), **CHOICES, chunk_rows=4)
    return store


def epochs(store: str | Path, **words: Any) -> tuple[list[Any], set[str]]:
    loader = Loader(store, **{"sizes": (8, 16), "batch_size": 9, "drop_last": False, **words})
    return [batch for _ in range(2) for batch in loader], set(loader.readers)


def check_same(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours.rows, theirs.rows)
        assert torch.equal(ours.labels, theirs.labels)
        for one, other in zip(ours.images, theirs.images, strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("codec", ["zstd:3", "blosc-lz4", "blosc-zstd:1"])
@pytest.mark.parametrize("chunk_rows", [1, 4])
def test_a_compressed_store_gives_the_same_batches(
    source: Path, plain: Path, tmp_path: Path, codec: str, chunk_rows: int
) -> None:
    """Of every epoch, with a cache that holds next to nothing."""
    choices = {**CHOICES, "chunk_rows": chunk_rows, "codec": codec}
    prepare_inline(source, str(tmp_path / "store"), **choices)
    found, how = epochs(tmp_path / "store", cache_bytes=1)
    assert how == {"chunks"}
    check_same(found, epochs(plain)[0])


@pytest.mark.parametrize("codec", ["none", "zstd:3"])
def test_a_remote_store_gives_the_same_batches(
    source: Path, plain: Path, tmp_path: Path, codec: str
) -> None:
    """Read through fsspec."""
    url = f"memory://{tmp_path}/store"
    prepare_inline(source, url, **CHOICES, chunk_rows=4, codec=codec)
    found, how = epochs(url)
    assert how == {"chunks"}
    check_same(found, epochs(plain)[0])


def test_a_chunk_is_read_once_while_it_is_kept(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In windows that the cache holds, no chunk is read a second time in an epoch."""
    prepare_inline(source, str(tmp_path / "store"), **CHOICES, chunk_rows=4, codec="zstd:3")
    seen: list[tuple[str, int]] = []
    read = LocalObjects.read

    def note(self: LocalObjects, name: str, start: int, num_bytes: int) -> bytes:
        seen.append((name, start))
        return read(self, name, start, num_bytes)

    monkeypatch.setattr(LocalObjects, "read", note)
    window = 4 * 4 * 8 * 8 * 3
    loader = Loader(
        tmp_path / "store",
        size=8,
        batch_size=8,
        order="windowed",
        drop_last=False,
        window_bytes=window,
        cache_bytes=3 * window,
        prefetch_bytes=1,
        threads=1,
    )
    list(loader)
    assert len(seen) == len(set(seen)) == 8 + 16


def flip(at: int) -> Any:
    def damage(data: bytearray) -> bytearray:
        data[at] ^= 1
        return data

    return damage


@pytest.mark.parametrize(
    ("damage", "what"),
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
def test_what_is_not_whole_is_an_error_that_names_it(
    source: Path, tmp_path: Path, codec: str, damage: Any, what: str
) -> None:
    """Never zeros; a flipped bit is found by the chunk's own checksum."""
    url = f"memory://{tmp_path}/store"
    prepare_inline(source, url, **CHOICES, chunk_rows=4, codec=codec)
    objects = open_objects(url)
    if damage is None:
        objects.remove(SHARD)
    else:
        objects.put(SHARD, bytes(damage(bytearray(objects.get(SHARD)))))
    with pytest.raises(StoreDamagedError, match=f"{SHARD} {what}"):
        epochs(url)


def test_a_chunk_of_another_length_is_an_error(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its checksum may be right."""
    prepare_inline(source, str(tmp_path / "store"), **CHOICES, chunk_rows=4, codec="zstd:3")
    monkeypatch.setattr(chunks, "decompressor", lambda codec: lambda data: bytes(17))
    with pytest.raises(StoreDamagedError, match=r"is damaged \(chunk"):
        epochs(tmp_path / "store")


def test_parts_of_an_object_are_read(tmp_path: Path) -> None:
    """On a disk and elsewhere; what lies beyond its end is not there."""
    data = np.arange(200, dtype=np.uint8).tobytes()
    for url in (str(tmp_path), f"memory://{tmp_path}"):
        objects = open_objects(url, "train-x")
        objects.begin()
        objects.put("a", data)
        assert objects.read("a", 0, 5) == data[:5]
        assert objects.read("a", 190, 50) == data[190:]
        with pytest.raises(FileNotFoundError):
            objects.read("b", 0, 5)
