"""`tesserae search` with a CLIP-like model of random weights, whose ranks have no meaning."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.store import arrays
from pipeline.store.open import open_objects
from tests.images import prepare_inline
from tests.workflows.devise.tiny_clip import SIZE, tiny_clip, tiny_siglip
from tests.workflows.search.toy import paint
from workflows.cli import main
from workflows.devise.clip import Clip
from workflows.search.clip_model import CLASS_VECTORS, ClipModel
from workflows.search.model import open_model
from workflows.search.other_store import vectors_folder_of, vectors_root

CLASSES = ("ant", "boat", "great cat")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prepare a store of two splits, whose classes are called as their folders."""
    root = tmp_path_factory.mktemp("clip")
    for split, first in (("train", 0), ("val", 100)):
        for index in range(12):
            file = root / split / CLASSES[index % 3] / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            paint(index % 7, first + index).save(file)
        run = f"{split}-inline"
        prepare_inline(root / split, str(root / "store"), sizes=(SIZE,), split=split, run=run)
    return str(root / "store")


@pytest.fixture(scope="module", params=[tiny_clip, tiny_siglip])
def model(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a tiny model in a folder."""
    folder: Path = request.param(tmp_path_factory.mktemp("model") / "tiny")
    return folder


def search(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, Any, str]:
    """Run the command; return exit status, its JSON output and standard error."""
    capsys.readouterr()
    status = main(["search", *map(str, words), "--json"])
    captured = capsys.readouterr()
    return status, json.loads(captured.out) if captured.out else None, captured.err


def test_a_sentence_finds_images(model: Path, store: str, capsys: Any) -> None:
    """The order is that of the cosines of the model's vectors of sentence and images."""
    sentence = "two people on a red boat, at night"
    status, answer, errors = search(
        capsys, model, sentence, "--store", store, "--split", "val", "--k", 12
    )
    assert status == 0, errors
    clip = Clip(model)
    pixels = arrays.read_pixel_rows(open_objects(store), "val", SIZE, 0, 12)
    vectors = clip.embed_images(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    scores = (vectors @ clip.embed_texts([sentence]).T)[:, 0]
    assert [hit["row"] for hit in answer["images"]] == np.argsort(-scores).tolist()
    np.testing.assert_allclose(
        [h["score"] for h in answer["images"]], np.sort(scores)[::-1], atol=1e-5
    )
    assert answer["passed_over"] == []


def test_an_image_is_described_by_the_classes_of_the_store(
    model: Path, store: str, capsys: Any
) -> None:
    """The words of a row are the classes by the model's scores, and are computed once."""
    command = (model, "#val:3", "--store", store, "--to", "words", "--k", 3)
    status, answer, errors = search(capsys, *command)
    assert status == 0, errors
    clip = Clip(model)
    classes = [(name, name) for name in CLASSES]
    pixels = arrays.read_pixel_rows(open_objects(store), "val", SIZE, 3, 4)
    vector = clip.embed_images(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    scores = (vector @ clip.embed_class_names(classes).T)[0]
    best = [CLASSES[label] for label in np.argsort(-scores)]
    assert [hit["wnid"] for hit in answer["words"]] == best
    assert (model / vectors_folder_of(store) / CLASS_VECTORS).exists()
    assert search(capsys, *command) == (0, answer, "")


def test_sentences_rows_and_images_are_combined(
    model: Path, store: str, tmp_path: Path, capsys: Any
) -> None:
    """The query language is that of a run; a class is found by its name."""
    image = next((Path(store).parent / "val").rglob("*.png"))
    query = '"a boat - at night" + 2*#val:3 - great cat + @'
    status, answer, errors = search(capsys, model, query, "--store", store, "--image", image)
    assert status == 0, errors
    assert len(answer["images"]) == 10


def test_a_model_needs_a_store(model: Path, tmp_path: Path, capsys: Any) -> None:
    """Without --store the message says what is missing; a path without a store is named."""
    status, _, errors = search(capsys, model, "a boat")
    assert (status, errors.count("\n")) == (1, 1)
    assert "--store is required" in errors
    status, _, errors = search(capsys, model, "a boat", "--store", tmp_path / "nothing")
    assert (status, errors.count("\n")) == (1, 1)
    assert "no store at" in errors


def test_vectors_are_kept_in_another_folder(store: str, tmp_path: Path, capsys: Any) -> None:
    """Nothing is written to the folder of the model then, and damaged vectors are made again."""
    model = tiny_clip(tmp_path / "model")
    before = sorted(path.name for path in model.rglob("*"))
    folder = tmp_path / "vectors"
    command = (model, "a boat", "--store", store, "--vectors", folder)
    status, answer, errors = search(capsys, *command)
    assert status == 0, errors
    assert sorted(path.name for path in model.rglob("*")) == before
    vectors = vectors_root(model, folder) / vectors_folder_of(store)
    assert (vectors / "train" / "exact").is_dir()
    file = vectors / CLASS_VECTORS
    file.write_bytes(file.read_bytes()[:-20])
    status, again, errors = search(capsys, *command)
    assert (status, again) == (0, answer)
    assert "3 class names: vectors" in errors


def test_one_folder_keeps_the_vectors_of_several_models(
    store: str, tmp_path: Path, capsys: Any
) -> None:
    """Those of a model of the same name elsewhere are not taken for outdated ones."""
    folder = tmp_path / "vectors"
    models = [tiny_clip(tmp_path / "a" / "model"), tiny_clip(tmp_path / "b" / "model", seed=1)]
    answers = []
    for number, model in enumerate([*models, *models]):
        status, answer, errors = search(
            capsys, model, "a boat", "--store", store, "--vectors", folder
        )
        assert (status, "vectors" in errors) == (0, number < 2), errors
        answers.append(answer)
    assert answers[:2] == answers[2:]


def test_vectors_of_class_names_belong_to_weights_and_classes(tmp_path: Path) -> None:
    """Those of another model or of other classes are computed again."""
    from safetensors.torch import load_file, save_file

    model = tiny_clip(tmp_path / "model")

    def opened(*names: str) -> Any:
        stream = io.StringIO()
        classes = [(name, name) for name in names]
        clip_model = ClipModel(model, classes, tmp_path / "vectors", stream=stream)
        assert clip_model.class_vectors.shape == (len(names), 8)
        return clip_model.class_vectors, bool(stream.getvalue())

    first, computed = opened("ant", "boat")
    assert computed
    again, computed = opened("ant", "boat")
    assert (np.array_equal(again, first), computed) == (True, False)
    swapped, computed = opened("boat", "ant")
    np.testing.assert_allclose(swapped, first[::-1], atol=1e-6)
    assert computed
    weights = model / "model.safetensors"
    state = load_file(weights)
    state["text_projection.weight"][:, 0] += 1
    save_file(state, weights, metadata={"format": "pt"})
    other, computed = opened("boat", "ant")
    assert computed
    assert not np.allclose(other, swapped)


def test_a_model_that_crops_takes_the_centre(store: str, tmp_path: Path) -> None:
    """The splits that are named decide which images are taken, as with a run."""
    model = tiny_clip(tmp_path / "model")
    fields = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "crop_size": 16,
              "size": {"shortest_edge": 20}, "do_center_crop": True}  # fmt: skip
    (model / "preprocessor_config.json").write_text(json.dumps(fields))
    assert open_model(model, store=store).crop_share == 0.8
    other = str(tmp_path / "store")
    source = Path(store).parent / "val"
    prepare_inline(source, other, sizes=(SIZE, 20), split="large", run="large-inline")
    prepare_inline(source, other, sizes=(SIZE,), split="small", run="small-inline")
    assert open_model(model, store=other).stored_size == SIZE
    assert open_model(model, store=other, splits=("large",)).stored_size == 20
