"""`tesserae classify`: what it prints, and that it sees what an evaluation sees."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from pipeline.loader import Loader
from tests.images import prepare_inline
from tests.workflows.classify.small import (
    CLASSES,
    ENCODED,
    HELD_OUT_ROWS,
    class_store,
    train_inline,
)
from workflows.classify.model import open_classifier
from workflows.cli import main
from workflows.runs import classify_images
from workflows.training.run_folder import RunFolder

CHOSEN = ("--network", "resnet9", "--image-size", 16, "--epochs", 2, "--learning-rate", 0.2)
KINDS: dict[str, tuple[object, ...]] = {
    "squares": (),
    "larger squares": ("--evaluation-size", 18),
    "smaller squares": ("--evaluation-size", 8),
    "not evaluated": ("--evaluation-size", 18, "--held-out", "none", "--steps", 6),
    "mirrored": ("--mirrored-evaluation",),
    "encoded": ("--encoded", ENCODED),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, its source, and a run of each kind."""
    folder = tmp_path_factory.mktemp("images")
    store = class_store(folder, encoded=(ENCODED,))
    with pytest.MonkeyPatch.context() as patch:
        for name, words in KINDS.items():
            assert train_inline(patch, store, folder / name, *CHOSEN, *words) == 0
    return folder


def classify(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Return the exit status, the output and the errors of `tesserae classify`."""
    capsys.readouterr()
    status = main(["classify", *map(str, words)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def rows_of_files(folder: Path) -> dict[str, int]:
    """Return the row of each file of the split val."""
    table = pq.read_table(folder / "store" / "samples" / "val.parquet").to_pylist()
    return {str(folder / "source" / "val" / line["key"]): line["row"] for line in table}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_the_probabilities_of_its_row(
    folder: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    """The image of a file is that which the store has of it; encoded rows were compressed again."""
    words = (folder / kind, folder / "source" / "val", "--format", "json", "--top", 6)
    status, out, err = classify(capsys, *words)
    assert (status, err) == (0, "")
    rows = rows_of_files(folder)
    trained = open_classifier(folder / kind)
    loader = trained.loader(str(folder / "store"), "val")
    expected = torch.cat([scores.softmax(1) for scores, _ in trained.scores(loader)])
    documents = [json.loads(line) for line in out.splitlines()]
    assert [document["image"] for document in documents] == sorted(rows)
    tolerance = 0.08 if kind == "encoded" else 2e-5
    for document in documents:
        probabilities = {c["name"]: c["probability"] for c in document["classes"]}
        of_row = dict(zip(CLASSES, expected[rows[document["image"]]].tolist(), strict=True))
        assert probabilities == pytest.approx(of_row, abs=tolerance)
        listed = [c["probability"] for c in document["classes"]]
        assert listed == sorted(listed, reverse=True)
        assert sum(listed) == pytest.approx(1, abs=1e-4)


def test_the_evaluated_squares_are_those_of_the_training(folder: Path) -> None:
    """The smallest squares that suffice are read, also if there was no evaluation."""
    sides = {kind: open_classifier(folder / kind).stored_side for kind in KINDS}
    assert sides == {
        "squares": 16, "larger squares": 20, "smaller squares": 8, "not evaluated": 20,
        "mirrored": 16, "encoded": 16,
    }  # fmt: skip
    for kind, side in sides.items():
        loader = open_classifier(folder / kind).loader(str(folder / "store"), "val")
        assert isinstance(loader, Loader)
        assert loader.sizes == (side,)


def test_the_held_out_split_may_have_other_squares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The side is that of the evaluated ones, whatever the training split has."""
    store = class_store(tmp_path, sizes=(16, 20))
    prepare_inline(tmp_path / "source", str(store), split="val", sizes=(18,), serves=24)
    words = (*CHOSEN, "--steps", 1, "--evaluation-size", 17)
    assert train_inline(monkeypatch, store, tmp_path / "run", *words) == 0
    assert open_classifier(tmp_path / "run").stored_side == 18


def test_the_formats_hold_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Text has a line for an image, CSV one for a class of it, and JSON an object."""
    file = sorted((folder / "source" / "val").rglob("*.JPEG"))[0]
    words = (folder / "squares", file, "--top", 2)
    status, text, err = classify(capsys, *words)
    assert (status, err) == (0, "")
    _, json_text, _ = classify(capsys, *words, "--format", "json")
    (document,) = [json.loads(line) for line in json_text.splitlines()]
    best = [(c["class"], c["name"], c["probability"]) for c in document["classes"]]
    assert document["image"] == str(file)
    assert len(best) == 2
    listed = ", ".join(f"{name} {probability:.1%}" for _, name, probability in best)
    assert text == f"{file}: {listed}\n"
    _, csv_text, _ = classify(capsys, *words, "--format", "csv")
    assert "\r" not in csv_text
    table = list(csv.DictReader(io.StringIO(csv_text)))
    assert [(row["image"], row["rank"], row["class"], row["name"]) for row in table] == [
        (str(file), str(rank), wnid, name) for rank, (wnid, name, _) in enumerate(best, 1)
    ]
    probabilities = [float(row["probability"]) for row in table]
    assert probabilities == pytest.approx([probability for *_, probability in best])


def test_all_classes_are_listed_at_most(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A larger --top lists all classes."""
    file = next((folder / "source" / "val").rglob("*.JPEG"))
    _, out, _ = classify(capsys, folder / "squares", file, "--top", 99, "--format", "csv")
    assert len(out.splitlines()) == 1 + len(CLASSES)


def test_a_png_is_classified_as_it_would_be_stored(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image with transparency, in grey or of one pixel has probabilities too."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 31, 4), np.uint8)
    Image.fromarray(pixels, "RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(pixels[..., 0], "L").save(tmp_path / "grey.png")
    Image.new("RGB", (1, 1), (200, 40, 40)).save(tmp_path / "dot.png")
    for kind in ("squares", "encoded"):
        status, out, err = classify(capsys, folder / kind, tmp_path, "--top", 1)
        assert (status, err) == (0, "")
        assert len(out.splitlines()) == 3


def test_folders_are_searched_by_name(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files that are no images are passed over in folders, of whatever name."""
    data = next((folder / "source" / "val").rglob("*.JPEG")).read_bytes()
    for name in ("b/2.jpg", "a/image", "a/10.jpg", "c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    (tmp_path / "a" / "notes.jpg").write_text("no image")
    (tmp_path / "a" / "empty.jpg").write_bytes(b"")
    status, out, err = classify(capsys, folder / "squares", tmp_path, "--format", "json")
    assert (status, err) == (0, "")
    names = [json.loads(line)["image"] for line in out.splitlines()]
    assert names == [f"{tmp_path}/{n}" for n in ("c.jpg", "a/10.jpg", "a/image", "b/2.jpg")]


def test_many_images_are_classified_in_batches(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each has the same probabilities as alone, and an unreadable one takes no place in them."""
    source = folder / "source" / "val"
    whole = classify(capsys, folder / "squares", source, "--format", "json")[1]
    monkeypatch.setattr(classify_images, "BATCH_ROWS", 4)
    files = sorted(source.rglob("*.JPEG"))
    files = [*files[:3], folder / "nothing.jpg", *files[3:]]
    status, out, err = classify(capsys, folder / "squares", *files, "--format", "json")
    assert status == 1
    assert err.count("\n") == 2
    pairs = zip(map(json.loads, whole.splitlines()), map(json.loads, out.splitlines()), strict=True)
    count = 0
    for expected, actual in pairs:
        count += 1
        assert actual["image"] == expected["image"]
        for first, second in zip(actual["classes"], expected["classes"], strict=True):
            assert first["probability"] == pytest.approx(second["probability"], abs=2e-5)
    assert count == HELD_OUT_ROWS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file {file}: expected an image."),
        ("~nobody-of-that-name/x.jpg", "there is no file ~nobody-of-that-name/x.jpg: expected an"),
        (b"text", "{file}: the file is not an image"),
        (b"", "{file}: the file is not an image"),
        (b"\xff\xd8\xff\xe0 a JPEG that ends", "{file}: the image cannot be read"),
    ],
)
def test_an_unreadable_image_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    content: bytes | str | None, message: str,
) -> None:  # fmt: skip
    """Standard error names it once, others are classified, and the exit status is 1."""
    file: Path | str = tmp_path / "image.jpg"
    if isinstance(content, bytes):
        Path(file).write_bytes(content)
    elif content is not None:
        file = content
    status, out, err = classify(capsys, folder / "squares", file)
    assert (status, out) == (1, "")
    assert err.startswith(message.format(file=file))
    assert err.count("\n") == 1
    good = next((folder / "source" / "val").rglob("*.JPEG"))
    status, out, err = classify(capsys, folder / "squares", good, file, good)
    assert status == 1
    assert len(out.splitlines()) == 2
    assert err.splitlines()[1] == "1 of 3 images could not be read."


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("{folder}/squares", "{empty}"),
            "{empty} has no images: expected a folder of JPEG",
        ),
        (("{folder}/squares",), "IMAGE"),
        (("{folder}/squares", "x.jpg", "--top", "0"), "--top is 0: expected at least 1"),
        (("{folder}/squares", "x.jpg", "--format", "xml"), "invalid choice: 'xml'"),
        (("{folder}/squares", "x.jpg", "--device", "abacus"), "--device is 'abacus'"),
        (("{folder}/squares", "x.jpg", "--store", "{empty}"), "pass its location with --store"),
        (("{empty}", "x.jpg"), "is not a run folder: it has no options.json"),
        (("{folder}/gan", "x.jpg"), "{folder}/gan is not a run of `tesserae train classify`."),
    ],
)
def test_an_impossible_command_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...], message: str,
) -> None:  # fmt: skip
    """The command ends with one sentence and exit status 1, without output."""
    if not (folder / "gan").exists():
        RunFolder(folder / "gan").create_or_continue({"stage": "wgan"}, {})
    named: list[Any] = [word.format(folder=folder, empty=tmp_path) for word in words]
    status, out, err = classify(capsys, *named)
    assert (status, out) == (1, "")
    assert message.format(folder=folder, empty=tmp_path) in err
    assert err.count("\n") == 1


def test_a_name_that_no_encoding_has_is_printed(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file may have bytes in its name that are no text."""
    data = next((folder / "source" / "val").rglob("*.JPEG")).read_bytes()
    (tmp_path / "a\udcff\n.jpg").write_bytes(data)
    for kind in ("text", "json", "csv"):
        status, out, err = classify(capsys, folder / "squares", tmp_path, "--format", kind)
        assert (status, err) == (0, "")
        assert out
