"""A run of DeViSE searches stores that it was not trained on."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import StoreDamagedError, TesseraeError
from pipeline.features.reader import Features
from pipeline.store.features import load_feature_recipe
from pipeline.store.open import open_objects
from tests.images import jpeg, prepare_inline
from tests.workflows.devise.small import SIZE, Small, features_inline, make_small
from tests.workflows.training.inline import inline_ranks
from workflows.cli import main
from workflows.devise import model as devise_model
from workflows.devise.model import DeviseModel, TrunkIdentity, open_devise_model
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


def test_images_take_the_place_of_damaged_features(
    small: Small, trained: Path, photos: Path, embedded_images: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Rows whose features were read come once."""
    features_inline(photos, small.trunk, "train")
    expected = vectors_of(open_model(trained, store=str(photos)))
    assert embedded_images == []
    monkeypatch.setattr(devise_model, "MAX_BLOCK_ROWS", 8)
    read = Features.rows
    calls: list[int] = []

    def damaged(features: Features, rows: Any, *words: Any) -> Any:
        calls.append(len(rows))
        if len(calls) == 2:
            raise StoreDamagedError("a chunk is damaged.")
        return read(features, rows, *words)

    monkeypatch.setattr(Features, "rows", damaged)
    stream = io.StringIO()
    blocks = [*open_model(trained, store=str(photos), stream=stream).embed_split("train")]
    rows = np.concatenate([rows for rows, _ in blocks])
    vectors = np.concatenate([vectors for _, vectors in blocks])
    assert sorted(rows.tolist()) == list(range(20))
    np.testing.assert_allclose(vectors[np.argsort(rows)], expected, atol=1e-4)
    assert sum(embedded_images) == 12
    assert "the images are read, since a chunk is damaged" in stream.getvalue()


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


def test_a_copy_without_the_features_of_the_run_is_embedded(
    small: Small, trained: Path, tmp_path: Path, embedded_images: list[int]
) -> None:
    """Its images are the same, so its vectors are, too."""
    expected = vectors_of(open_model(trained))
    copy = Path(shutil.copytree(small.store, tmp_path / "copy"))
    shutil.rmtree(copy / "features")
    model = open_model(trained, store=str(copy))
    assert isinstance(model, OtherStoreModel)
    np.testing.assert_allclose(vectors_of(model), expected, atol=1e-4)
    assert sum(embedded_images) == len(expected)


def test_a_store_is_the_own_one_if_it_has_what_the_run_reads(small: Small, trained: Path) -> None:
    """Splits that are named must all have it; otherwise one is enough."""
    store, model = str(small.store), open_devise_model(trained)
    from_images = replace(model, features=None)
    assert model.can_read(store, ())
    assert model.can_read(store, ["train"])
    assert not model.can_read(store, ["train", "missing"])
    assert not replace(model, features="Another-0123").can_read(store, ())
    assert from_images.can_read(store, ())
    assert from_images.can_read(store, ["train"])
    assert not from_images.can_read(store, ["train", "missing"])
    assert not replace(from_images, size=SIZE + 1).can_read(store, ())


def test_features_of_another_trunk_are_not_taken(
    small: Small, trained: Path, photos: Path, tmp_path: Path, embedded_images: list[int]
) -> None:
    """A network of the same kind with other weights has computed them."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(small.trunk, tmp_path / "trunk")
    weights = tmp_path / "trunk" / "model.safetensors"
    save_file({name: value * 1.5 for name, value in load_file(weights).items()}, weights)
    features_inline(photos, tmp_path / "trunk", "train")
    vectors_of(open_model(trained, store=str(photos)))
    assert sum(embedded_images) == 20


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("weights", "0" * 64),
        ("cut", "layer.3"),
        ("pooling", "max"),
        ("input_size", 64),
        ("mean", (0.4, 0.5, 0.5)),
        ("std", (0.4, 0.5, 0.5)),
        ("channels", "BGR"),
        ("precision", "bfloat16"),
    ],
)
def test_the_identity_of_a_trunk_has_all_that_decides_features(
    small: Small, name: str, value: Any
) -> None:
    """What concerns the store alone is not part of it."""
    recipe = load_feature_recipe(open_objects(str(small.store)), small.features)
    identity = TrunkIdentity.of_recipe(recipe)
    assert TrunkIdentity.of_recipe(replace(recipe, **{name: value})) != identity
    elsewhere = replace(recipe, trunk="x", images="0" * 64, dtype="float16", shard_rows=2048)
    assert TrunkIdentity.of_recipe(elsewhere) == identity


def test_features_of_another_crop_are_not_taken(
    small: Small, trained: Path, tmp_path: Path
) -> None:
    """Those of a store of encoded rows are of the whole centre square."""
    source, store = tmp_path / "source", tmp_path / "photos"
    source.mkdir()
    for index in range(8):
        (source / f"photo{index}.JPEG").write_bytes(jpeg(5_000 + index, 60, 48))
    prepare_inline(source, str(store), sizes=(), encoded=("jpeg:40@90",))
    features_inline(store, small.trunk, "train")
    model = open_devise_model(trained)
    assert model.embed_stored_features(str(store), "train", "jpeg40@90", 1.0) is not None
    assert model.embed_stored_features(str(store), "train", "jpeg40@90", 0.875) is None
    assert model.embed_stored_features(str(store), "train", "32", 1.0) is None


def test_without_its_store_a_run_has_the_identity_of_its_trunk(small: Small, trained: Path) -> None:
    """It is that of the recipe, and that of another trunk at the path is another."""
    from safetensors.torch import load_file, save_file

    with_store = open_devise_model(trained)
    moved = small.root / "elsewhere"
    weights = small.trunk / "model.safetensors"
    original = weights.read_bytes()
    small.store.rename(moved)
    try:
        alone = open_devise_model(trained)
        assert alone.trunk_identity == with_store.trunk_identity
        assert alone.image_digest == with_store.image_digest
        save_file({name: value * 1.5 for name, value in load_file(weights).items()}, weights)
        assert open_devise_model(trained).image_digest != with_store.image_digest
    finally:
        weights.write_bytes(original)
        moved.rename(small.store)


def test_a_trunk_that_the_run_has_trained_embeds_another_store(small: Small, photos: Path) -> None:
    """Stored features are not taken then, and the weights are those of the checkpoint."""
    folder = small.root / "trained-trunk"
    command = (
        *("train", "devise", small.store, "--run", folder, "--trunk", "new", "--learn", "all"),
        *("--word-vectors", small.words, "--batch-size", 8, "--hidden-units", 16, "--steps", 1),
        *("--width", 8, "--threads-per-rank", 1, "--no-dashboard"),
    )
    with pytest.MonkeyPatch.context() as patch, inline_ranks(patch):
        assert main([str(word) for word in command]) == 0
    model = open_devise_model(folder)
    assert model.trunk_state is not None
    weights = model.trunk.model.state_dict()
    assert all(bool((weights[name] == value).all()) for name, value in model.trunk_state.items())
    engine = open_engine(folder, store=str(photos))
    try:
        expected = model.embed_images(engine.gallery.rows("train", SIZE, [7]))[0]
        np.testing.assert_allclose(engine.embedded["train"].vector(7), expected, atol=1e-5)
    finally:
        engine.close()


def test_splits_that_are_named_decide_the_images(trained: Path, photos: Path) -> None:
    """A split without the size that the others have is searched if it is named."""
    prepare_inline(
        photos.parent / "source", str(photos), sizes=(40,), split="other", run="other-inline",
        serves=48,
    )  # fmt: skip
    assert open_model(trained, store=str(photos)).stored_size == SIZE
    assert open_model(trained, store=str(photos), splits=("other",)).stored_size == 40


def test_a_run_with_the_settings_of_a_model_is_a_run(
    trained: Path, photos: Path, tmp_path: Path
) -> None:
    """`export` may have written them into the folder."""
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "config.json").write_text("{}")
    assert isinstance(open_model(tmp_path / "run"), DeviseModel)
