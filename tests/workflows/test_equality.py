"""Samples and recipe alone decide a store, not the kind of source or the number of workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.commands import run
from tests.images import contents, jpeg
from tests.pipeline.sources.layouts import LAYOUTS, WNIDS, Pictures, write_folder

ODD = {
    f"{WNIDS[0]}/{WNIDS[0]}_empty.JPEG": b"",
    f"{WNIDS[1]}/{WNIDS[1]}_truncated.JPEG": jpeg(1)[:300],
    f"{WNIDS[2]}/{WNIDS[2]}_cmyk.JPEG": jpeg(2, mode="CMYK"),
    f"{WNIDS[3]}/{WNIDS[3]}_grey.JPEG": jpeg(3, mode="L"),
}


def made_pictures(count: int) -> Pictures:
    """Return images of four classes: key -> bytes."""
    pictures = dict(ODD)
    for index in range(count - len(ODD)):
        wnid = WNIDS[index % len(WNIDS)]
        pictures[f"{wnid}/{wnid}_{index}.JPEG"] = jpeg(index, 60 + index % 47, 50 + index % 31)
    return pictures


def prepared(source: Path, store: Path, *words: object) -> dict[str, bytes]:
    """Prepare a store with small shards by the command; return its files by name."""
    more = ("--shard-rows", 16, "--chunk-rows", 4, "--sizes", 24, 40, "--max-bad", 1)
    done = run(
        "prepare", source, store, *more, "--no-dashboard", *words, scratch=store.parent / "said"
    )
    assert done.status == 0, done.err
    left_out = ("recipe.json",)  # words of classes may be known to one source and not to another
    return {name: data for name, data in contents(store).items() if name not in left_out}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Prepare the store of the images as class folders with one worker."""
    folder = tmp_path_factory.mktemp("expected")
    source = write_folder(folder / "source", made_pictures(60))
    store = prepared(source, folder / "store", "--workers", 1)
    assert len([name for name in store if "/24/c." in name]) == 4
    return store


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(layout, marks=[] if layout == "parquet hub" else [pytest.mark.slow])
        for layout in sorted(set(LAYOUTS) - {"folder"})
    ],
)
def test_every_kind_of_source_gives_the_same_store(
    tmp_path: Path, expected: dict[str, bytes], layout: str
) -> None:
    """Sources are read at random or streamed, plain or compressed."""
    source = LAYOUTS[layout](tmp_path / "source", made_pictures(60))
    assert prepared(source, tmp_path / "store", "--workers", 1) == expected
    assert not list((tmp_path / "store" / ".cache").glob("*.spool")), "the spool is not kept"


@pytest.mark.slow
@pytest.mark.parametrize("words", [("--workers", 2), ("--workers", 1, "--threads", 3)])
def test_any_number_of_workers_gives_the_same_store(
    tmp_path: Path, expected: dict[str, bytes], words: tuple[object, ...]
) -> None:
    """Workers are processes or threads."""
    source = write_folder(tmp_path / "source", made_pictures(60))
    assert prepared(source, tmp_path / "store", *words) == expected


@pytest.mark.slow
def test_several_runs_give_the_same_store_as_one(
    tmp_path: Path, expected: dict[str, bytes]
) -> None:
    """Runs add shards after a limit, and a further size."""
    source = write_folder(tmp_path / "source", made_pictures(60))
    store = tmp_path / "store"
    prepared(source, store, "--sizes", 40, "--limit", 20)
    prepared(source, store, "--sizes", 40, "--workers", 2)
    assert prepared(source, store, "--sizes", 24, "--threads", 2) == expected


@pytest.mark.slow
def test_photographs_from_every_kind_of_source_give_the_same_store(
    tmp_path: Path, real_data: Path
) -> None:
    """The 400 photographs of ImageNet are prepared at full size."""
    root = real_data / "imagenet" / "train"
    images = {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.glob("*/*"))}
    words = ("--shard-rows", 32, "--chunk-rows", 16, "--sizes", 72, 224, 288)
    stores = {}
    for layout in ("ilsvrc-tar", "parquet hub", "webdataset"):
        if layout != "ilsvrc-tar":  # their writers number four classes: rename to those
            images = {f"{WNIDS[i % 4]}/{i}.JPEG": data for i, data in enumerate(images.values())}
        plain = write_folder(tmp_path / layout / "plain", images)
        packed = LAYOUTS[layout](tmp_path / layout / "source", images)
        from_folder = prepared(
            plain, tmp_path / layout / "one", *words, "--workers", os.cpu_count() or 1
        )
        stores[layout] = prepared(packed, tmp_path / layout / "two", *words, "--workers", 1)
        assert from_folder == stores[layout], layout
