"""DeViSE on a store of encoded rows alone: its data, its training, its report and its search."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import StoreError
from pipeline.features.loader import FeatureLoader
from pipeline.loader import Loader
from pipeline.loader.crops import Crop
from pipeline.store import features as feature_records
from pipeline.store.open import open_objects
from tests.commands import run as run_command
from tests.images import jpeg, prepare_inline
from tests.workflows.devise.small import (
    CLASSES,
    SIZE,
    WNIDS,
    WORDS,
    Small,
    features_inline,
    small_trunk,
    small_words,
)
from workflows.devise import data as module
from workflows.devise.data import prepare_data
from workflows.devise.model import open_devise_model
from workflows.devise.options import DeviseOptions
from workflows.devise.stage import TRAINING_CROP, Devise
from workflows.search.engine import open_engine
from workflows.search.query import parse_query
from workflows.training.run_options import RunOptions
from workflows.training.world import World

ENCODING = "jpeg:40@90"
SECONDS = 110.0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Create a store of encoded rows of 60 x 48 pixels, with features of both splits."""
    root = tmp_path_factory.mktemp("encoded")
    table = root / "source" / "words.txt"
    table.parent.mkdir(parents=True)
    table.write_text("".join(f"{w}\t{n}\n" for w, n in zip(WNIDS, WORDS, strict=True)))
    store = root / "store"
    for split, count in (("train", 48), ("val", 24)):
        for index in range(count):
            wnid = WNIDS[index % CLASSES]
            file = root / "source" / split / wnid / f"{split}{index}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(jpeg(index + 1_000 * (split == "val"), 60, 48))
        prepare_inline(root / "source", str(store), split=split, sizes=(), encoded=(ENCODING,))
    trunk = small_trunk(root / "trunk")
    names = {features_inline(store, trunk, split) for split in ("train", "val")}
    return Small(root, store, trunk, small_words(root / "words.txt"), names.pop())


@pytest.fixture
def extractions(small: Small, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Record the options of each extraction of features, which the store has already."""
    calls: list[Any] = []
    recipe = feature_records.load_feature_recipe(open_objects(str(small.store)), small.features)

    def extract(options: Any, split: str, cluster: Any) -> Any:
        calls.append(options.feature_options)
        return recipe

    monkeypatch.setattr(module.features, "compute_split_features", extract)
    return calls


def prepare(small: Small, run: Path, held_out: str | None = "val", **choices: Any) -> Any:
    """Prepare the data of a run."""
    fields = {"trunk": str(small.trunk), "word_vectors": str(small.words), "batch_size": 8}
    options = DeviseOptions(**{**fields, **choices})
    run_options = RunOptions(store=str(small.store), run=run)
    cluster: Any = None
    return options, *prepare_data(run_options, options, cluster, held_out)


@pytest.mark.parametrize("encoded", [None, ENCODING])
def test_a_head_learns_from_features_of_encoded_rows(
    small: Small, extractions: list[Any], tmp_path: Path, encoded: str | None
) -> None:
    """The held-out features are of the same rows; a store without squares needs no option."""
    _, data, files = prepare(small, tmp_path, encoded=encoded)
    assert isinstance(data.train, FeatureLoader)
    assert isinstance(data.held_out, FeatureLoader)
    assert [(options.encoded, options.stored_size) for options in extractions] == [
        (encoded, None), ("jpeg40@90", None),
    ]  # fmt: skip
    assert list(files) == ["space.npz"]


def test_a_resumed_run_keeps_its_encoded_rows(
    small: Small, extractions: list[Any], tmp_path: Path
) -> None:
    """Also if they were chosen because the store had no squares then."""
    _, _, files = prepare(small, tmp_path)
    extractions.clear()
    (tmp_path / "space.npz").write_bytes(files["space.npz"])
    recorded = {"stored_size": SIZE, "features": small.features}
    (tmp_path / "options.json").write_text(json.dumps({"options": recorded}))
    prepare(small, tmp_path, held_out=None)
    assert [(options.encoded, options.stored_size) for options in extractions] == [
        ("jpeg40@90", None)
    ]


@pytest.mark.parametrize("trunk", ["new", None])
def test_a_trunk_learns_from_crops_that_the_loader_cuts(
    small: Small, extractions: list[Any], tmp_path: Path, trunk: str | None
) -> None:
    """The device mirrors and normalises them; evaluations read the centre."""
    choices = {} if trunk is None else {"trunk": trunk, "feature_size": 40, "width": 8}
    options, data, files = prepare(small, tmp_path, encoded=ENCODING, learn="all", **choices)
    side = 40 if trunk else SIZE
    for loader, crop in ((data.train, TRAINING_CROP), (data.held_out, Crop())):
        assert isinstance(loader, Loader)
        assert (loader.sizes, loader.encoded, loader.crop) == ((side,), "jpeg40@90", crop)
    (tmp_path / "space.npz").write_bytes(files["space.npz"])
    stage = Devise(options, SimpleNamespace(
        train=data.train, held_out=data.held_out, folder=str(tmp_path), ranks_on_host=1,
    ), World())  # type: ignore[arg-type]  # fmt: skip
    loader = data.train.for_rank(0, 1)
    first = next(iter(loader))
    batch = stage.batches.take()
    assert batch.rows.tolist() == first.rows.tolist()
    assert stage.trunk is not None
    mean, std = stage.trunk.mean[0], stage.trunk.std[0]
    plain = (first.images.float() / 255 - mean) / std
    for image, expected in zip(batch.images, plain, strict=True):
        mirrored = expected.flip(2)
        assert min((image - expected).abs().max(), (image - mirrored).abs().max()) < 1e-5
    assert np.isfinite(stage.advance()["loss"].item())
    assert "seen_hit1" in stage.evaluate()[0]
    stage.batches.close()
    torch.set_grad_enabled(True)


def test_a_store_without_the_images_is_refused_by_name(
    small: Small, extractions: list[Any], tmp_path: Path
) -> None:
    """Rows to train on must be named, so that the run records which it reads."""
    for choices in ({"learn": "all"}, {"learn": "all", "trunk": "new"}):
        with pytest.raises(StoreError, match=r"no stored squares: pass --encoded jpeg:40@90"):
            prepare(small, tmp_path, **choices)
    with pytest.raises(StoreError, match=r"no finished encoded rows original: it has jpeg40@90"):
        prepare(small, tmp_path, learn="all", trunk="new", encoded="original")
    with pytest.raises(StoreError, match=r"--feature-size is 8: --trunk new needs"):
        prepare(small, tmp_path, learn="all", trunk="new", encoded=ENCODING, feature_size=8)
    with pytest.raises(ValueError, match="--encoded: encoding is 'jpeg'"):
        prepare(small, tmp_path, encoded="jpeg")
    with pytest.raises(ValueError, match="--feature-size is 32: it selects stored squares"):
        prepare(small, tmp_path, encoded=ENCODING, feature_size=32)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "words",
    [(), ("--encoded", ENCODING, "--learn", "all", "--trunk", "new", "--width", 8)],
)
def test_a_store_of_encoded_rows_is_trained_on_reported_and_searched(
    small: Small, tmp_path: Path, words: tuple[object, ...]
) -> None:
    """From the command to answers: by a head on features, and by a new trunk."""
    folder = tmp_path / "run"
    trunk = () if words else ("--trunk", small.trunk)
    done = run_command(
        "train", "devise", small.store, "--run", folder, *trunk, "--word-vectors", small.words,
        "--batch-size", 8, "--hidden-units", 16, "--steps", 4, "--eval-every", 2,
        "--threads-per-rank", 1, "--no-dashboard", *words, scratch=tmp_path, seconds=SECONDS,
    )  # fmt: skip
    assert done.status == 0, done.err
    model = open_devise_model(folder)
    assert (model.encoded, model.size) == ("jpeg40@90", 64 if words else SIZE)
    reported = run_command("report", folder, scratch=tmp_path, seconds=SECONDS)
    assert reported.status == 0, reported.err
    assert "not evaluated" not in reported.out
    engine = open_engine(folder)
    try:
        assert set(engine.embedded) == {"train", "val"}
        answer = engine.search(parse_query("dog"))
        assert answer.images
        rows = engine.gallery.rows("val", model.size, [0])
        np.testing.assert_allclose(
            model.embed_images(rows)[0], engine.embedded["val"].vector(0), atol=1e-4
        )
    finally:
        engine.close()
    grid = tmp_path / "grid.png"
    found = run_command(
        "search", folder, "dog", "--grid", grid, "--image",
        next((small.root / "source" / "val").rglob("*.JPEG")), scratch=tmp_path, seconds=SECONDS,
    )  # fmt: skip
    assert found.status == 0, found.err
    assert grid.stat().st_size > 0
