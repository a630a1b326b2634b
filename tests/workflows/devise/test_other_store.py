"""A run of DeViSE searches stores that it was not trained on."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import TesseraeError
from tests.images import jpeg, prepare_inline
from tests.workflows.devise.small import SIZE, Small, features_inline, make_small
from tests.workflows.training.inline import inline_ranks
from workflows.cli import main
from workflows.devise.model import DeviseModel, open_devise_model
from workflows.search.engine import open_engine
from workflows.search.model import open_model
from workflows.search.other_store import OtherStoreModel, vectors_folder_of
from workflows.search.query import parse_query


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Create a store with 48 training and 24 validation images of six classes."""
    return make_small(tmp_path_factory.mktemp("devise"))


@pytest.fixture(scope="module")
def trained(small: Small) -> Path:
    """Train a run of two steps on stored features; return its folder."""
    folder = small.root / "run"
    command = (
        *("train", "devise", small.store, "--run", folder, "--trunk", small.trunk),
        *("--word-vectors", small.words, "--batch-size", 8, "--hidden-units", 16, "--steps", 2),
        *("--threads-per-rank", 1, "--no-dashboard"),
    )
    with pytest.MonkeyPatch.context() as patch, inline_ranks(patch):
        assert main([str(word) for word in command]) == 0
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Prepare a store without classes of 20 images, of the size that the trunk takes."""
    source = tmp_path / "source"
    source.mkdir()
    for index in range(20):
        (source / f"photo{index}.JPEG").write_bytes(jpeg(5_000 + index, 40, 36))
    store = tmp_path / "photos"
    prepare_inline(source, str(store), sizes=(SIZE, 48), serves=48)
    return store


@pytest.fixture
def embedded_images(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Record the number of images of each call of the trunk."""
    counts: list[int] = []
    embed_images = DeviseModel.embed_images

    def embed(model: DeviseModel, images: Any) -> Any:
        counts.append(len(images))
        return embed_images(model, images)

    monkeypatch.setattr(DeviseModel, "embed_images", embed)
    return counts


def vectors_of(model: Any, split: str = "train") -> Any:
    """Return the vectors of all rows of a split, in the order of rows."""
    blocks = [vectors for _, vectors in model.embed_split(split)]
    return np.concatenate(blocks)


def test_images_are_embedded_by_the_trunk(
    trained: Path, photos: Path, embedded_images: list[int]
) -> None:
    """Words find images of a store without classes; vectors are kept apart from the run's own."""
    engine = open_engine(trained, store=str(photos))
    try:
        assert sum(embedded_images) == 20
        hits = engine.search(parse_query("dog")).images
        assert len(hits) == 10
        assert {hit.words for hit in hits} == {""}
        model = open_devise_model(trained)
        expected = model.embed_images(engine.gallery.rows("train", SIZE, [hits[0].row]))[0]
        vector = engine.embedded["train"].vector(hits[0].row)
        np.testing.assert_allclose(vector, expected, atol=1e-5)
    finally:
        engine.close()
    assert (trained / vectors_folder_of(str(photos)) / "train" / "exact").is_dir()
    embedded_images.clear()
    open_engine(trained, store=str(photos)).close()
    assert embedded_images == []


def test_stored_features_of_the_same_trunk_are_read(
    small: Small, trained: Path, photos: Path, embedded_images: list[int]
) -> None:
    """They give the vectors of the images; those of another size or block are not taken."""
    from_pixels = vectors_of(open_model(trained, store=str(photos)))
    assert sum(embedded_images) == 20
    features_inline(photos, small.trunk, "train", stored_size=48)
    embedded_images.clear()
    vectors_of(open_model(trained, store=str(photos)))
    assert sum(embedded_images) == 20
    features_inline(photos, small.trunk, "train")
    embedded_images.clear()
    stored = vectors_of(open_model(trained, store=str(photos)))
    assert embedded_images == []
    np.testing.assert_allclose(stored, from_pixels, atol=1e-4)


def test_another_trunk_at_the_same_path_is_refused(
    small: Small, trained: Path, photos: Path, tmp_path: Path
) -> None:
    """Its vectors would be of another space than the run's head."""
    from safetensors.torch import load_file, save_file

    weights = small.trunk / "model.safetensors"
    original = weights.read_bytes()
    try:
        save_file({name: value * 1.5 for name, value in load_file(weights).items()}, weights)
        model = open_model(trained, store=str(photos))
        with pytest.raises(TesseraeError, match="is not the network of the features"):
            vectors_of(model)
        image = np.zeros((1, SIZE, SIZE, 3), np.uint8)
        with pytest.raises(TesseraeError, match="is not the network of the features"):
            open_devise_model(trained).embed_images(image)
    finally:
        weights.write_bytes(original)


def test_the_store_of_the_run_need_not_be_there(
    small: Small, trained: Path, photos: Path, tmp_path: Path
) -> None:
    """Without it, the trunk that the run names is taken as it is."""
    expected = vectors_of(open_model(trained, store=str(photos)))
    moved = small.root / "elsewhere"
    small.store.rename(moved)
    try:
        model = open_model(trained, store=str(photos))
        assert isinstance(model, OtherStoreModel)
        np.testing.assert_allclose(vectors_of(model), expected, atol=1e-5)
        own = open_model(trained, store=str(moved))
        assert (own.vectors_folder, own.store) == ("search", str(moved))
        with pytest.raises(TesseraeError, match="pass its location with --store"):
            open_model(trained).encoded  # noqa: B018 - the store is opened when it is first used
    finally:
        moved.rename(small.store)


def test_a_copy_of_the_store_of_the_run_is_its_own(
    small: Small, trained: Path, tmp_path: Path
) -> None:
    """A store with the plan of the training split is not another one, wherever it lies."""
    shutil.copytree(small.store, tmp_path / "copy")
    model = open_model(trained, store=str(tmp_path / "copy"))
    assert not isinstance(model, OtherStoreModel)
    assert model.store == str(tmp_path / "copy")
