"""Vectors of a split: made once, whole or not at all; made anew when what they are of changed."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import StoreError, TesseraeError
from pipeline.neighbours import KINDS, Index
from pipeline.store.split import Split
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
def test_every_readable_row_has_its_vector_and_no_other_one_has(
    toy: Toy, split: Split, tmp_path: Path, kind: str
) -> None:
    """Row by row, whatever the index; what is in quarantine is zeros."""
    made = opened(toy, tmp_path, split, kind)
    rows, images = pixels(toy.store, "train")
    assert made.index.kind == kind
    np.testing.assert_array_equal(np.flatnonzero(made.readable), rows)
    for row, vector in zip(rows.tolist(), toy.images(images), strict=True):
        np.testing.assert_allclose(made.vector(row), vector, atol=1e-6)
    assert len(split.absent) == 3
    assert not made.index.vectors.array[split.absent].any()
    found = made.index.search(made.sample(1000), len(made.index)).rows
    assert set(found[found >= 0].tolist()) == set(rows.tolist())


def test_what_is_there_is_not_made_again(toy: Toy, split: Split, tmp_path: Path) -> None:
    """Nor are pictures embedded again for an index of another kind."""
    first = opened(toy, tmp_path, split)
    assert toy.embedded == 39
    for kind in (None, "lsh", "hnsw", "exact", "lsh"):
        again = opened(toy, tmp_path, split, kind)
        np.testing.assert_array_equal(again.index.vectors.array, first.index.vectors.array)
    assert toy.embedded == 39


def test_who_comes_second_waits_for_who_came_first(toy: Toy, split: Split, tmp_path: Path) -> None:
    """And has the same, made once."""
    with ThreadPoolExecutor(3) as pool:
        made = list(pool.map(lambda _: opened(toy, tmp_path, split, "lsh"), range(3)))
    assert toy.embedded == 39
    assert [one.index.kind for one in made] == ["lsh"] * 3


def test_an_index_that_is_not_exact_leaves_no_second_copy(
    toy: Toy, split: Split, tmp_path: Path
) -> None:
    """Unless it was asked for."""
    opened(toy, tmp_path, split, "hnsw")
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["hnsw"]
    opened(toy, tmp_path, split, "exact")
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["exact", "hnsw"]
    opened(toy, tmp_path, split, "lsh")
    assert sorted(path.name for path in (tmp_path / "train").iterdir()) == ["exact", "hnsw", "lsh"]
    assert toy.embedded == 39


def test_another_model_makes_other_vectors(toy: Toy, split: Split, tmp_path: Path) -> None:
    """And those of the old one are gone, of every kind."""
    opened(toy, tmp_path, split, "lsh")
    opened(toy, tmp_path, split, "exact")
    other = Toy(toy.store, (*toy.classes, ("n00000009", "more")))
    assert other.digest != toy.digest
    opened(other, tmp_path, split, "exact")
    assert other.embedded == 39
    assert [path.name for path in (tmp_path / "train").iterdir()] == ["exact"]


def test_other_pictures_have_other_vectors(toy: Toy, tmp_path: Path) -> None:
    """A store whose quarantine is another is another."""
    other = make_store(tmp_path / "other", bad=5)
    first, second = Gallery(toy.store, SIZE), Gallery(other, SIZE)
    opened(toy, tmp_path / "run", first.splits["train"])
    twin = Toy(other)
    made = opened(twin, tmp_path / "run", second.splits["train"])
    assert twin.embedded == 37 == int(made.readable.sum())


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
@pytest.mark.parametrize("part", ["vectors", "lengths", "index.json"])
@pytest.mark.parametrize("how", ["flip", "cut", "remove"])
def test_what_is_damaged_is_made_anew(
    toy: Toy, split: Split, tmp_path: Path, kind: str, part: str, how: str
) -> None:
    """Whichever file it is."""
    whole = opened(toy, tmp_path, split, kind)
    expected = np.array(whole.index.vectors.array)
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


def test_a_sibling_that_is_whole_stands_in_for_what_is_damaged(
    toy: Toy, split: Split, tmp_path: Path
) -> None:
    """Its vectors are the same."""
    opened(toy, tmp_path, split, "lsh")
    opened(toy, tmp_path, split, "exact")
    next((tmp_path / "train" / "exact").glob("vectors*")).unlink()
    opened(toy, tmp_path, split, "exact")
    assert toy.embedded == 39


def test_mirrored_copies_lie_behind_all_rows(toy: Toy, split: Split, tmp_path: Path) -> None:
    """Row r's is N + r; those in quarantine have none either."""
    toy.mirrored = True
    made = opened(toy, tmp_path, split)
    rows, images = pixels(toy.store, "train")
    assert made.mirrored
    assert len(made.index) == 84
    np.testing.assert_allclose(
        made.index.vectors.array[42 + rows], toy.images(images[:, :, ::-1]), atol=1e-6
    )
    np.testing.assert_array_equal(np.flatnonzero(made.readable), rows)
    assert not made.index.vectors.usable[42 + split.absent].any()


def test_a_copy_in_the_same_block_is_a_copy(
    toy: Toy, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a model hands them out."""
    toy.mirrored = True
    expected = np.array(opened(toy, tmp_path / "one", split).index.vectors.array)
    rows = Toy.rows

    def at_once(self: Toy, name: str) -> Any:
        blocks = list(rows(self, name))
        yield tuple(np.concatenate([block[part] for block in blocks]) for part in (0, 1))

    monkeypatch.setattr(Toy, "rows", at_once)
    made = opened(toy, tmp_path / "two", split)
    np.testing.assert_array_equal(made.index.vectors.array, expected)


def test_a_graph_is_kept_where_its_library_is_missing(
    toy: Toy, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It took its time, and the library may come back."""
    opened(toy, tmp_path, split, "hnsw")
    load = vector_store.load

    def without(place: Path, *words: Any, **options: Any) -> Index:
        if place.name == "hnsw":
            raise TesseraeError("nearest neighbours other than exact need the package faiss-cpu")
        return load(place, *words, **options)

    monkeypatch.setattr(vector_store, "load", without)
    opened(toy, tmp_path, split, "exact")
    monkeypatch.setattr(vector_store, "load", load)
    embedded = toy.embedded
    opened(toy, tmp_path, split, "hnsw")
    assert toy.embedded == embedded == 78


def test_a_run_that_was_broken_off_leaves_nothing_to_be_taken_for_vectors(
    toy: Toy, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one makes them, and removes what is left."""
    rows = Toy.rows

    def broken(self: Toy, name: str) -> Iterator[Any]:
        for place, block in enumerate(rows(self, name)):
            if place == 3:
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(Toy, "rows", broken)
    with pytest.raises(KeyboardInterrupt):
        opened(toy, tmp_path, split)
    assert not (tmp_path / "train").exists()
    dead = tmp_path / ".tmp" / "train-dead"
    dead.mkdir(parents=True)
    (dead / "vectors").write_bytes(b"left behind")
    monkeypatch.setattr(Toy, "rows", rows)
    opened(toy, tmp_path, split)
    assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["train.lock"]


def test_a_graph_that_cannot_be_built_costs_no_embedding(
    toy: Toy, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What took hours is kept before what takes minutes begins."""
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
    """They would never be found, and nobody would know."""
    rows = Toy.rows
    monkeypatch.setattr(Toy, "rows", lambda self, name: list(rows(self, name))[1:])
    with pytest.raises(TesseraeError, match="no vectors of 5 of 39 rows of train, such as row"):
        opened(toy, tmp_path, split)


def test_a_row_in_quarantine_stays_there_whatever_the_model_says(
    toy: Toy, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its features may have been kept before it went there."""
    rows = Toy.rows

    def more(self: Toy, name: str) -> Iterator[Any]:
        yield from rows(self, name)
        yield split.absent, np.ones((len(split.absent), self.dim), np.float32)

    monkeypatch.setattr(Toy, "rows", more)
    made = opened(toy, tmp_path, split)
    assert not made.readable[split.absent].any()


def test_progress_is_shown(toy: Toy, split: Split, tmp_path: Path) -> None:
    """How many of how many."""
    said = io.StringIO()
    open_embedded(toy, tmp_path, split, "hnsw", stream=said)
    assert "train: vectors, 39 images" in said.getvalue()
    assert "building the index (hnsw)" in said.getvalue()


def test_no_room_is_a_sentence(
    toy: Toy, split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not a process that dies of a mapping that cannot be written."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(vector_store.os, "posix_fallocate", full)
    with pytest.raises(StoreError, match=r"no room for vectors at .*No space left"):
        opened(toy, tmp_path, split)


def test_a_run_that_cannot_be_written_is_a_sentence(toy: Toy, split: Split, tmp_path: Path) -> None:
    """It names the folder."""
    (tmp_path / "search").write_text("a file")
    with pytest.raises(StoreError, match=r"cannot write to .*search"):
        opened(toy, tmp_path / "search", split)


def test_many_rows_are_searched_by_a_graph() -> None:
    """Few by looking at all of them."""
    assert [kind_for(n) for n in (1, EXACT_ROWS, EXACT_ROWS + 1, 1_281_167)] == [
        "exact", "exact", "hnsw", "hnsw",
    ]  # fmt: skip


def test_a_moved_run_takes_its_vectors_along(toy: Toy, split: Split, tmp_path: Path) -> None:
    """Nothing in it names a place."""
    opened(toy, tmp_path / "one", split, "hnsw")
    shutil.move(tmp_path / "one", tmp_path / "two")
    opened(toy, tmp_path / "two", split, "hnsw")
    assert toy.embedded == 39


@pytest.mark.parametrize("link", ["search", "search/train", "search/train/exact", "search/.tmp"])
def test_a_folder_that_leads_out_of_the_run_is_neither_written_nor_removed(
    toy: Toy, split: Split, tmp_path: Path, link: str
) -> None:
    """A run may be somebody else's: `exact` might be a folder of photographs."""
    victim = tmp_path / "victim"
    for name in ("exact", "train/exact", "train/lsh", ".tmp"):
        (victim / name).mkdir(parents=True)
        (victim / name / "photograph").write_text("mine")
    before = sorted(victim.rglob("*"))
    run = tmp_path / "run"
    (run / link).parent.mkdir(parents=True)
    (run / link).symlink_to(victim)
    with pytest.raises(StoreError, match="by a link"):
        opened(toy, run / "search", split, "exact")
    assert sorted(victim.rglob("*")) == before
