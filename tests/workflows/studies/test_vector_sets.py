"""The vectors of a study: words and images, what is left out, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import StoreError, TesseraeError
from pipeline.features.reader import open_features
from tests.workflows.devise.small import Small, make_small
from tests.workflows.studies.vectors import clustered_vectors, write_words
from workflows.studies import vector_sets
from workflows.studies.cosine.options import CosineOptions
from workflows.studies.neighbours.options import NeighboursOptions
from workflows.studies.vector_sets import open_vector_sets


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Return a small store with features."""
    return make_small(tmp_path_factory.mktemp("vectors"))


@pytest.fixture(autouse=True)
def _allow_small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_sets, "MIN_VECTORS", 30)


def options(**choices: Any) -> CosineOptions:
    """Return the options of a study."""
    return CosineOptions(**choices)


def test_words_are_in_the_order_of_the_file_without_zeros(tmp_path: Path) -> None:
    """A limit takes the most frequent ones, and the identity changes with the numbers."""
    file = write_words(tmp_path / "words.txt", 1_200)
    (words,) = open_vector_sets(options(word_vectors=str(file)))
    assert (len(words.vectors), words.num_dropped, words.name) == (1_199, 1, "words")
    assert "words.txt, 1,199 x 12; 1 vector left out" in words.describe()
    (first,) = open_vector_sets(options(word_vectors=str(file), max_vectors=1_000))
    assert np.array_equal(first.vectors, words.vectors[:999])
    write_words(file, 1_200, seed=1)
    (changed,) = open_vector_sets(options(word_vectors=str(file)))
    assert changed.identity["digest"] != words.identity["digest"]


def test_images_have_their_labels_and_queries_of_another_split(small: Small) -> None:
    """Rows and labels belong together."""
    (images,) = open_vector_sets(options(store=str(small.store)))
    train, val = (open_features(small.store, small.features, s) for s in ("train", "val"))
    assert np.array_equal(images.vectors, train.rows(train.readable))
    assert images.labels is not None
    assert np.array_equal(images.labels, train.split.labels[train.readable])
    assert images.queries is not None
    assert np.array_equal(images.queries, val.rows(val.readable))
    assert small.features in images.origin


def test_labels_are_those_of_the_vectors_that_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A vector without a direction is left out with its label; the identity is of queries, too."""
    vectors = clustered_vectors(60, 4)
    vectors[5] = 0

    def opened(store: str, name: str, split: str) -> Any:
        array = vectors if split == "train" else vectors[::-1]
        labels = np.arange(60) if split == "train" else np.arange(60)[::-1]
        return SimpleNamespace(
            readable=np.arange(2, 60), rows=lambda rows: array[rows],
            split=SimpleNamespace(labels=labels),
        )  # fmt: skip

    monkeypatch.setattr(vector_sets, "open_features", opened)
    (images,) = open_vector_sets(options(store="s", features="x"))
    assert images.labels is not None
    assert images.queries is not None
    assert images.query_labels is not None
    assert np.array_equal(images.vectors, vectors[images.labels])
    assert np.array_equal(images.queries, vectors[images.query_labels])
    assert (len(images.labels), images.num_dropped) == (57, 2)
    others = replace(images, queries=2 * images.queries)
    assert others.identity["digest"] != images.identity["digest"]


def test_both_kinds_are_returned(small: Small, tmp_path: Path) -> None:
    """Words come first."""
    file = write_words(tmp_path / "words.txt")
    names = [
        vector_set.name
        for vector_set in open_vector_sets(
            options(store=str(small.store), word_vectors=str(file), features=small.features)
        )
    ]
    assert names == ["words", "images"]


def test_what_cannot_be_measured_is_refused(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what is wrong and what to do."""
    file = str(write_words(tmp_path / "words.txt", 20))
    with pytest.raises(
        TesseraeError, match=r"has 19 vectors .*expected at least 30.* Pass a larger"
    ):
        list(open_vector_sets(options(word_vectors=file)))
    equal = tmp_path / "equal.txt"
    equal.write_text("40 2\n" + "".join(f"w{i} 1 2\n" for i in range(40)))
    with pytest.raises(TesseraeError, match=r"all 40 vectors of .*equal.txt are equal"):
        list(open_vector_sets(options(word_vectors=str(equal))))
    with pytest.raises(ValueError, match="expected --word-vectors FILE or --store STORE"):
        options()
    with pytest.raises(ValueError, match="--features is x, but there is no store"):
        options(word_vectors=file, features="x")
    with pytest.raises(ValueError, match="are both train: expected two splits"):
        options(store="s", query_split="train")
    with pytest.raises(ValueError, match="expected one of them"):
        NeighboursOptions(store="s", word_vectors=file)
    with pytest.raises(StoreError, match=r"has no split 'test': it has 'train', 'val'"):
        list(open_vector_sets(options(store=str(small.store), split="test")))
    with pytest.raises(StoreError, match="nowhere"):
        list(open_vector_sets(options(store=str(tmp_path / "nowhere"))))
    monkeypatch.setattr(vector_sets, "finished_features", lambda *_: [])
    with pytest.raises(ValueError, match=r"split 'train' of .* has no features of a network"):
        list(open_vector_sets(options(store=str(small.store))))


def test_too_few_queries_of_a_split_are_refused(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their figures would be noise, however many vectors are searched."""
    monkeypatch.setattr(vector_sets, "MIN_QUERIES", 25)
    with pytest.raises(TesseraeError, match=r"split val of .* has 24 vectors .* at least 25"):
        list(open_vector_sets(options(store=str(small.store))))
