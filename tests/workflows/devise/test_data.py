"""Tests of the preparation of a run: features, word space and loaders."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.backbone.choices import NEW
from pipeline.errors import StoreError
from pipeline.features.reader import open_features
from pipeline.store import features as feature_records
from pipeline.store import records
from pipeline.store.open import open_objects
from pipeline.wordvectors.vectors import ClassVectors
from tests.images import make_folder, prepare_inline
from tests.workflows.devise.small import SIZE, Small, make_small, small_stage
from workflows.devise import data as module
from workflows.devise.class_splits import LEFT_OUT, SEEN, UNSEEN, VALIDATION
from workflows.devise.data import prepare_data, seen_features
from workflows.devise.options import DeviseOptions
from workflows.devise.word_space import load_word_space
from workflows.preparation.options import FeaturesOptions
from workflows.training.run_options import RunOptions


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Create a store with 48 training and 24 validation images of six classes."""
    return make_small(tmp_path_factory.mktemp("devise"))


@pytest.fixture
def extractions(small: Small, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, FeaturesOptions]]:
    """Record calls that extract features, as (split, configuration)."""
    calls: list[tuple[str, FeaturesOptions]] = []
    recipe = feature_records.load_feature_recipe(open_objects(str(small.store)), small.features)

    def make(wish: FeaturesOptions, split: str, cluster: Any) -> Any:
        calls.append((split, wish))
        return recipe

    monkeypatch.setattr(module.features, "compute_split_features", make)
    return calls


def options(small: Small, **choices: Any) -> DeviseOptions:
    """Return the options of a small run."""
    return DeviseOptions(
        trunk=str(small.trunk), word_vectors=str(small.words), batch_size=8, **choices
    )


def words(small: Small, run: Path, held_out: str | None = None) -> RunOptions:
    """Return the options of a run."""
    return RunOptions(store=str(small.store), run=run, held_out=held_out)


def test_evaluation_images_are_not_mirrored(
    small: Small, extractions: list[tuple[str, FeaturesOptions]], tmp_path: Path
) -> None:
    """Evaluation images have the size of the training images, without mirrored copies."""
    data, files = prepare_data(words(small, tmp_path), options(small), None, "val")  # type: ignore[arg-type]
    (train, first), (val, second) = extractions
    assert (train, val) == ("train", "val")
    assert (first.mirrored, second.mirrored) == (True, False)
    assert (first.feature_options.stored_size, second.feature_options.stored_size) == (None, SIZE)
    assert replace(second, mirrored=True, size=first.size) == first
    assert data.held_out is not None
    assert list(files) == ["space.npz"]


def test_classes_are_counted_by_the_source_of_their_vector(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Classes that are left out are listed with the reason, also two of them."""
    how = ("token", "taxonomy", "none", "none", "token")
    names = tuple(f"noun{number}" for number in range(5))
    vectors = ClassVectors(names, names, np.zeros((5, 2), np.float32), how, ((),) * 5)
    module._print_classes(vectors, np.array([SEEN, UNSEEN, *3 * [LEFT_OUT]], np.int8))
    assert capsys.readouterr().out.splitlines() == [
        "class vectors: 2 from a token that equals a name, 1 from the hierarchy,"
        " 2 without a vector",
        "notice: 2 classes left out, without a vector: noun2; noun3",
        "notice: 1 class left out, without a training image: noun4",
        "classes: 1 seen, 0 for validation, 1 unseen",
    ]


def test_a_resumed_run_keeps_its_image_size(
    small: Small, extractions: list[tuple[str, FeaturesOptions]], tmp_path: Path
) -> None:
    """A resumed run keeps its size even if the store has a better one by now."""
    small_stage(small, tmp_path)
    (tmp_path / "options.json").write_text(json.dumps({"options": {"stored_size": SIZE}}))
    _, files = prepare_data(words(small, tmp_path), options(small), None, None)  # type: ignore[arg-type]
    assert [wish.feature_options.stored_size for _, wish in extractions] == [SIZE]
    assert files == {}


def test_a_split_of_other_sizes_is_not_evaluated_on(
    small: Small,
    extractions: list[tuple[str, FeaturesOptions]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A default split is skipped with a notice; a named one is refused."""
    load = records.load_finish_record

    def of_another_size(objects: Any, split: str) -> Any:
        return SimpleNamespace(array_names=("48",)) if split == "val" else load(objects, split)

    monkeypatch.setattr(module.records, "load_finish_record", of_another_size)
    data, _ = prepare_data(words(small, tmp_path), options(small), None, "val")  # type: ignore[arg-type]
    assert data.held_out is None
    assert [split for split, _ in extractions] == ["train"]
    problem = "split 'val' has no images of 32 px"
    assert f"notice: {problem}: this run is not evaluated" in capsys.readouterr().out
    with pytest.raises(StoreError, match=f"{problem}, which split 'train' has. Add it with"):
        prepare_data(words(small, tmp_path, "val"), options(small), None, "val")  # type: ignore[arg-type]


def test_a_split_of_encoded_rows_alone_has_classes_but_no_input(
    small: Small, tmp_path: Path
) -> None:
    """The error says how to add the square images that the trunk needs."""
    store = str(tmp_path / "store")
    source = make_folder(tmp_path / "images", 3, classes=3, bad=1)
    prepare_inline(source, store, sizes=(), encoded=("original",))
    assert module._classes_with_images(store, "train", 3).tolist() == [True, True, False]
    chosen = replace(options(small), trunk=NEW, learn="all")
    with pytest.raises(StoreError, match=r"no finished square images.*needs 32 px or more.*72`"):
        module._new_input(chosen, store, "train", None)


def test_feature_statistics_use_seen_classes_alone(small: Small) -> None:
    """Images of unseen classes do not influence the feature statistics."""
    stored = open_features(str(small.store), small.features, "train")
    seen = np.array([1, 4])
    rows = stored.readable[np.isin(stored.split.labels[stored.readable], seen)]
    measured = seen_features(str(small.store), "train", small.features, seen)
    assert 0 < len(rows) < len(stored.readable)
    np.testing.assert_array_equal(measured, stored.rows(rows))


def test_validation_classes_are_not_trained_on(
    small: Small, extractions: list[tuple[str, FeaturesOptions]], tmp_path: Path
) -> None:
    """Validation classes are evaluated on but not trained on; unseen classes are neither."""
    chosen = options(small, unseen_classes="1", validation_classes=2)
    data, files = prepare_data(words(small, tmp_path), chosen, None, "val")  # type: ignore[arg-type]
    (tmp_path / "space.npz").write_bytes(files["space.npz"])
    space = load_word_space(tmp_path)
    assert [len(space.labels(part)) for part in (SEEN, VALIDATION, UNSEEN)] == [3, 2, 1]
    learned = {label for batch in data.train for label in batch.labels.tolist()}
    assert learned == set(space.labels(SEEN).tolist())
    assert data.held_out is not None
    evaluated = {label for batch in data.held_out for label in batch.labels.tolist()}
    assert evaluated == set(space.labels(SEEN, VALIDATION).tolist())
