"""Tests of stored vectors: computed once, complete, and recomputed after changes."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import StoreError, TesseraeError
from pipeline.neighbours import KINDS, Index
from pipeline.store.split import Split
from tests.images import prepare_inline
from tests.workflows.search.toy import SIZE, Toy, make_store, pixels
from workflows.search import vector_store
from workflows.search.gallery import Gallery
from workflows.search.vector_store import EXACT_ROWS, EmbeddedSplit, kind_for, open_embedded


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_store(tmp_path_factory.mktemp("vectors"))


@pytest.fixture
def toy(store: str) -> Toy:
    return Toy(store)


@pytest.fixture
def split(store: str) -> Iterator[Split]:
    gallery = Gallery(store, SIZE)
    yield gallery.splits["train"]
    gallery.close()


def opened(
    toy: Toy, folder: Path, split: Split, kind: str | None = None, **options: Any
) -> EmbeddedSplit:
    return open_embedded(toy, folder, split, kind, stream=io.StringIO(), **options)


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_readable_rows_have_vectors(
    toy: Toy, split: Split, tmp_path: Path, kind: str
) -> None:
    """Each row has its vector with any kind of index; quarantined rows have zeros."""
    embedded = opened(toy, tmp_path, split, kind)
    rows, images = pixels(toy.store, "train")
    assert embedded.index.kind == kind
    np.testing.assert_array_equal(np.flatnonzero(embedded.readable), rows)
    for row, vector in zip(rows.tolist(), toy.embed_images(images), strict=True):
        np.testing.assert_allclose(embedded.vector(row), vector, atol=1e-6)
    assert len(split.excluded) == 3
    assert not embedded.index.vectors.array[split.excluded].any()
    results = embedded.index.search(embedded.sample(1000), len(embedded.index)).rows
    assert set(results[results >= 0].tolist()) == set(rows.tolist())


def test_an_unknown_kind_is_refused_before_images_are_embedded(
    toy: Toy, split: Split, tmp_path: Path
) -> None:
    """Nothing is computed or written."""
    with pytest.raises(ValueError, match="kind is 'flat': expected one of exact, lsh, hnsw"):
        opened(toy, tmp_path, split, "flat")
    assert toy.embedded == 0
    assert not list(tmp_path.iterdir())


def test_existing_vectors_are_reused(toy: Toy, split: Split, tmp_path: Path) -> None:
    """An index of another kind uses the same vectors."""
    first = opened(toy, tmp_path, split)
    assert toy.embedded == 39
    for kind in (None, "lsh", "hnsw", "exact", "lsh"):
        again = opened(toy, tmp_path, split, kind)
        np.testing.assert_array_equal(again.index.vectors.array, first.index.vectors.array)
    assert toy.embedded == 39


def test_concurrent_openers_share_one_computation(toy: Toy, split: Split, tmp_path: Path) -> None:
    """The later openers wait for the first and load its vectors."""
    with ThreadPoolExecutor(3) as pool:
        embedded = list(pool.map(lambda _: opened(toy, tmp_path, split, "lsh"), range(3)))
    assert toy.embedded == 39
    assert [split_vectors.index.kind for split_vectors in embedded] == ["lsh"] * 3


def test_an_approximate_index_leaves_no_second_copy(toy: Toy, split: Split, tmp_path: Path) -> None:
    """An exact index exists only after it was requested."""
    opened(toy, tmp_path, split, "hnsw")
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["hnsw"]
    opened(toy, tmp_path, split, "exact")
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["exact", "hnsw"]
    opened(toy, tmp_path, split, "lsh")
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["exact", "hnsw", "lsh"]
    assert toy.embedded == 39


def test_another_model_replaces_all_vectors(toy: Toy, split: Split, tmp_path: Path) -> None:
    """Indexes of every kind of the old model are removed."""
    opened(toy, tmp_path, split, "lsh")
    opened(toy, tmp_path, split, "exact")
    different = Toy(toy.store, (*toy.classes, ("n00000009", "more")))
    assert different.digest != toy.digest
    opened(different, tmp_path, split, "exact")
    assert different.embedded == 39
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["exact"]


def test_a_store_with_another_quarantine_has_other_vectors(toy: Toy, tmp_path: Path) -> None:
    """The quarantine is part of the identity of a split."""
    different = make_store(tmp_path / "other", bad=5)
    first, second = Gallery(toy.store, SIZE), Gallery(different, SIZE)
    opened(toy, tmp_path / "run", first.splits["train"])
    twin = Toy(different)
    embedded = opened(twin, tmp_path / "run", second.splits["train"])
    assert twin.embedded == 37 == int(embedded.readable.sum())


def test_a_store_that_is_made_again_has_other_vectors(tmp_path: Path) -> None:
    """Files of the same names and lengths have other pixels: the plan alone is the same."""
    source, store = tmp_path / "source" / "n00000000", tmp_path / "store"
    folder = tmp_path / "run" / "search"
    source.mkdir(parents=True)
    kept = []
    for seed in (1, 2, 2):
        shutil.rmtree(store, ignore_errors=True)
        for index in range(4):
            levels = np.random.default_rng([seed, index]).integers(
                0, 256, (SIZE, SIZE, 3), np.uint8
            )
            Image.fromarray(levels).save(source / f"{index}.bmp")
        prepare_inline(source.parent, str(store), sizes=(SIZE,))
        stream = io.StringIO()
        opened = Gallery(str(store), SIZE).split("train")
        open_embedded(Toy(str(store)), folder, opened, stream=stream)
        kept.append((opened.digest, "vectors" not in stream.getvalue()))
    assert len({digest for digest, _ in kept}) == 1
    assert [reused for _, reused in kept] == [False, False, True]


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
@pytest.mark.parametrize("part", ["vectors", "lengths", "index.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_a_damaged_index_is_rebuilt(
    toy: Toy, split: Split, tmp_path: Path, kind: str, part: str, how: str
) -> None:
    """Damage of any file of the index is detected."""
    intact = opened(toy, tmp_path, split, kind)
    expected = np.array(intact.index.vectors.array)
    file = next((tmp_path / "train" / kind).glob(f"{part}*"))
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    if how == "remove":
        file.unlink()
    else:
        file.write_bytes(data if how == "flip" else data[:-10])
    again = opened(toy, tmp_path, split, kind)
    np.testing.assert_array_equal(again.index.vectors.array, expected)
    assert toy.embedded == 78


def test_a_damaged_index_is_rebuilt_from_an_intact_one(
    toy: Toy, split: Split, tmp_path: Path
) -> None:
    """The vectors of an intact index of another kind are used."""
    opened(toy, tmp_path, split, "lsh")
    opened(toy, tmp_path, split, "exact")
    next((tmp_path / "train" / "exact").glob("vectors*")).unlink()
    opened(toy, tmp_path, split, "exact")
    assert toy.embedded == 39


def test_mirrored_copies_follow_all_rows(toy: Toy, split: Split, tmp_path: Path) -> None:
    """The copy of row r is vector N + r; quarantined rows have no copy either."""
    toy.mirrored = True
    embedded = opened(toy, tmp_path, split)
    rows, images = pixels(toy.store, "train")
    assert embedded.mirrored
    assert len(embedded.index) == 84
    np.testing.assert_allclose(
        embedded.index.vectors.array[42 + rows], toy.embed_images(images[:, :, ::-1]), atol=1e-6
    )
    np.testing.assert_array_equal(np.flatnonzero(embedded.readable), rows)
    assert not embedded.index.vectors.usable[42 + split.excluded].any()


def test_a_mirrored_copy_in_the_same_block_is_recognised(
    toy: Toy, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The division into blocks does not matter."""
    toy.mirrored = True
    expected = np.array(opened(toy, tmp_path / "one", split).index.vectors.array)
    rows = Toy.embed_split

    def at_once(self: Toy, name: str) -> Any:
        blocks = list(rows(self, name))
        yield tuple(np.concatenate([block[part] for block in blocks]) for part in (0, 1))

    monkeypatch.setattr(Toy, "embed_split", at_once)
    embedded = opened(toy, tmp_path / "two", split)
    np.testing.assert_array_equal(embedded.index.vectors.array, expected)


def test_a_graph_is_kept_while_its_library_is_missing(
    toy: Toy, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The graph is slow to build, and the library may be installed again."""
    opened(toy, tmp_path, split, "hnsw")
    load = vector_store.load

    def without(folder: Path, *words: Any, **options: Any) -> Index:
        if folder.name == "hnsw":
            raise TesseraeError("nearest neighbours other than exact need the package faiss-cpu")
        return load(folder, *words, **options)

    monkeypatch.setattr(vector_store, "load", without)
    opened(toy, tmp_path, split, "exact")
    monkeypatch.setattr(vector_store, "load", load)
    embedded = toy.embedded
    opened(toy, tmp_path, split, "hnsw")
    assert toy.embedded == embedded == 78


def test_an_interrupted_run_leaves_no_partial_vectors(
    toy: Toy, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next run computes them and removes temporary files."""
    rows = Toy.embed_split

    def broken(self: Toy, name: str) -> Iterator[Any]:
        for number, block in enumerate(rows(self, name)):
            if number == 3:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(Toy, "embed_split", broken)
    with pytest.raises(KeyboardInterrupt):
        opened(toy, tmp_path, split)
    assert not (tmp_path / "train").exists()
    dead = tmp_path / ".tmp" / "train-dead"
    dead.mkdir(parents=True)
    (dead / "vectors").write_bytes(b"left behind")
    monkeypatch.setattr(Toy, "embed_split", rows)
    opened(toy, tmp_path, split)
    assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["train.lock"]


def test_a_failed_graph_keeps_the_vectors(
    toy: Toy, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vectors are saved before the graph is built."""
    build = vector_store.build

    def fails(kind: str, *words: Any, **options: Any) -> Index:
        if kind == "hnsw":
            raise MemoryError
        return build(kind, *words, **options)

    monkeypatch.setattr(vector_store, "build", fails)
    with pytest.raises(MemoryError):
        opened(toy, tmp_path, split, "hnsw")
    monkeypatch.setattr(vector_store, "build", build)
    opened(toy, tmp_path, split, "hnsw")
    assert toy.embedded == 39


def test_a_model_without_some_rows_is_refused(
    toy: Toy, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows without a vector would never be answers, and nobody would notice."""
    rows = Toy.embed_split
    monkeypatch.setattr(Toy, "embed_split", lambda self, name: list(rows(self, name))[1:])
    with pytest.raises(TesseraeError, match="no vectors for 5 of 39 rows of train, such as row"):
        opened(toy, tmp_path, split)


def test_vectors_of_quarantined_rows_are_dropped(
    toy: Toy, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Features may be older than the quarantine of their row."""
    rows = Toy.embed_split

    def more(self: Toy, name: str) -> Iterator[Any]:
        yield from rows(self, name)
        yield split.excluded, np.ones((len(split.excluded), self.dim), np.float32)

    monkeypatch.setattr(Toy, "embed_split", more)
    embedded = opened(toy, tmp_path, split)
    assert not embedded.readable[split.excluded].any()


def test_progress_is_shown(toy: Toy, split: Split, tmp_path: Path) -> None:
    """Progress shows the number of images and the kind of index."""
    stream = io.StringIO()
    open_embedded(toy, tmp_path, split, "hnsw", stream=stream)
    assert "train: vectors, 39 images" in stream.getvalue()
    assert "building the index (hnsw)" in stream.getvalue()


def test_a_full_disk_is_a_one_line_error(
    toy: Toy, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process is not killed by a mapping that cannot be written."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vector_store.os, "posix_fallocate", full)
    with pytest.raises(StoreError, match=r"cannot write vectors to .*No space left"):
        opened(toy, tmp_path, split)


def test_an_unwritable_run_is_a_one_line_error(toy: Toy, split: Split, tmp_path: Path) -> None:
    """The error names the folder."""
    (tmp_path / "search").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot write to .*search"):
        opened(toy, tmp_path / "search", split)


def test_many_rows_are_searched_by_a_graph() -> None:
    """A small number of rows has an exact index."""
    assert [kind_for(n) for n in (1, EXACT_ROWS, EXACT_ROWS + 1, 1_281_167)] == [
        "exact", "exact", "hnsw", "hnsw",
    ]  # fmt: skip


def test_a_moved_run_keeps_its_vectors(toy: Toy, split: Split, tmp_path: Path) -> None:
    """Stored vectors contain no path."""
    opened(toy, tmp_path / "one", split, "hnsw")
    shutil.move(tmp_path / "one", tmp_path / "two")
    opened(toy, tmp_path / "two", split, "hnsw")
    assert toy.embedded == 39


@pytest.mark.parametrize("link", ["search", "search/train", "search/train/exact", "search/.tmp"])
def test_links_out_of_the_run_are_refused(
    toy: Toy, split: Split, tmp_path: Path, link: str
) -> None:
    """A link in another person's run may lead to a folder of photographs."""
    victim = tmp_path / "victim"
    for name in ("exact", "train/exact", "train/lsh", ".tmp"):
        (victim / name).mkdir(parents=True)
        (victim / name / "photograph").write_text("mine")
    before = sorted(victim.rglob("*"))
    run = tmp_path / "run"
    (run / link).parent.mkdir(parents=True)
    (run / link).symlink_to(victim)
    with pytest.raises(StoreError, match="by a symbolic link"):
        opened(toy, run / "search", split, "exact")
    assert sorted(victim.rglob("*")) == before
