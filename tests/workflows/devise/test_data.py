"""What is made before a run, and what is asked for."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.features.reader import open_features
from pipeline.store import features as feature_records
from pipeline.store import records
from pipeline.store.objects import open_objects
from tests.workflows.devise.small import SIZE, Small, make_small, small_stage
from workflows.devise import data as module
from workflows.devise.class_space import load_space
from workflows.devise.class_splits import SEEN, UNSEEN, VALIDATION
from workflows.devise.data import gather, seen_features
from workflows.devise.options import Options
from workflows.preparation.features import Wish


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """48 and 24 pictures of six classes."""
    return make_small(tmp_path_factory.mktemp("devise"))


@pytest.fixture
def asked(small: Small, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Wish]]:
    """The features that were asked for: (split, what)."""
    found: list[tuple[str, Wish]] = []
    recipe = feature_records.load_recipe(open_objects(str(small.store)), small.features)

    def make(wish: Wish, split: str, cluster: Any) -> Any:
        found.append((split, wish))
        return recipe

    monkeypatch.setattr(module.features, "make", make)
    return found


def options(small: Small, **choices: Any) -> Options:
    """Of a small run."""
    return Options(trunk=str(small.trunk), words=str(small.words), batch_size=8, **choices)


def words(small: Small, run: Path, held_out: str | None = None) -> argparse.Namespace:
    """Of the command line."""
    return argparse.Namespace(store=str(small.store), run=str(run), split="train",
                              held_out=held_out)  # fmt: skip


def test_pictures_to_judge_by_are_not_mirrored(
    small: Small, asked: list[tuple[str, Wish]], tmp_path: Path
) -> None:
    """And are of the size that is learned from."""
    data, files = gather(words(small, tmp_path), options(small), None, "val")  # type: ignore[arg-type]
    (train, first), (val, second) = asked
    assert (train, val) == ("train", "val")
    assert (first.mirrored, second.mirrored) == (True, False)
    assert (first.choices.stored_size, second.choices.stored_size) == (None, SIZE)
    assert replace(second, mirrored=True, choices=first.choices) == first
    assert data.held_out is not None
    assert list(files) == ["space.npz"]


def test_a_run_goes_on_with_the_size_that_it_began_with(
    small: Small, asked: list[tuple[str, Wish]], tmp_path: Path
) -> None:
    """Though by now the store may have one that fits better."""
    small_stage(small, tmp_path)
    (tmp_path / "options.json").write_text(json.dumps({"options": {"stored_size": SIZE}}))
    _, files = gather(words(small, tmp_path), options(small), None, None)  # type: ignore[arg-type]
    assert [wish.choices.stored_size for _, wish in asked] == [SIZE]
    assert files == {}


def test_a_split_of_other_sizes_judges_nothing(
    small: Small,
    asked: list[tuple[str, Wish]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """That is said, and refused if it was asked for."""
    load = records.load_done

    def of_another_size(objects: Any, split: str) -> Any:
        return SimpleNamespace(sizes=(48,)) if split == "val" else load(objects, split)

    monkeypatch.setattr(module.records, "load_done", of_another_size)
    data, _ = gather(words(small, tmp_path), options(small), None, "val")  # type: ignore[arg-type]
    assert data.held_out is None
    assert [split for split, _ in asked] == ["train"]
    said = "split 'val' has no pictures of 32 px"
    assert f"notice: {said}: this run is not evaluated" in capsys.readouterr().out
    with pytest.raises(StoreError, match=f"{said}, as 'train' has"):
        gather(words(small, tmp_path, "val"), options(small), None, "val")  # type: ignore[arg-type]


def test_where_features_lie_is_said_by_pictures_of_seen_classes_alone(small: Small) -> None:
    """What an unseen class looks like must not be known before it is judged."""
    found = open_features(str(small.store), small.features, "train")
    seen = np.array([1, 4])
    rows = found.readable[np.isin(found.split.labels[found.readable], seen)]
    measured = seen_features(str(small.store), "train", small.features, seen)
    assert 0 < len(rows) < len(found.readable)
    np.testing.assert_array_equal(measured, found.rows(rows))


def test_nothing_is_learned_from_classes_to_choose_by(
    small: Small, asked: list[tuple[str, Wish]], tmp_path: Path
) -> None:
    """They judge what is learned from the others; the unseen ones do not even judge."""
    chosen = options(small, unseen="1", validation=2)
    data, files = gather(words(small, tmp_path), chosen, None, "val")  # type: ignore[arg-type]
    (tmp_path / "space.npz").write_bytes(files["space.npz"])
    space = load_space(tmp_path)
    assert [len(space.labels(part)) for part in (SEEN, VALIDATION, UNSEEN)] == [3, 2, 1]
    learned = {label for batch in data.train for label in batch.labels.tolist()}
    assert learned == set(space.labels(SEEN).tolist())
    assert data.held_out is not None
    judged = {label for batch in data.held_out for label in batch.labels.tolist()}
    assert judged == set(space.labels(SEEN, VALIDATION).tolist())
