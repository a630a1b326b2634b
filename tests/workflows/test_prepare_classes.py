"""Classes from the source to the store, through the commands: what is said, stored and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.store import arrays, layout, records
from pipeline.store.objects import open_objects
from tests.inline import tesserae
from tests.pictures import jpeg

SMALL = ("--sizes", "8", "--shard-rows", "4", "--chunk-rows", "2", "--workers", "1")


def write(root: Path, *names: str) -> Path:
    """Small pictures, or nothing that is one where a name says `broken`."""
    for index, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" if "broken" in name else jpeg(index, 20, 20))
    return root


def labels(store: Path, split: str = "train") -> dict[str, int]:
    """Key -> label."""
    values = arrays.read_small(open_objects(str(store)), split, "label").tolist()
    lines = pq.read_table(store / layout.table(split)).to_pylist()
    return {line["key"]: values[line["row"]] for line in lines}


def test_classes_are_those_of_all_splits_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that train has no image of has its label before val is made; each is said."""
    names = ("train/ant/1.jpg", "train/fox/2.jpg", "val/bee/3.jpg", "val/@eaDir/x.jpg")
    source = write(tmp_path / "source", *names)
    (source / "train" / "cow").mkdir()
    for order in (("train", "val"), ("val", "train")):
        store = tmp_path / "-".join(order)
        assert tesserae(monkeypatch, "prepare", source, store, *SMALL, "--split", *order) == 0
        assert labels(store) == {"ant/1.jpg": 0, "fox/2.jpg": 3}
        assert labels(store, "val") == {"bee/3.jpg": 1}
        output = capsys.readouterr().out
        assert "4 classes: label, class\n      0  ant\n      1  bee\n      2  cow\n" in output
        assert "classes without images: cow" in output
        assert "val: skipped: 1 of a system or NAS (such as '@eaDir')" in output
        assert output.index("4 classes") < output.index("rows in total")
    assert tesserae(monkeypatch, "info", store) == 0
    output = capsys.readouterr().out
    assert "      1  bee\n" in output
    assert "skipped: 1 of a system or NAS" in output


def test_a_class_that_the_store_has_not_is_refused_before_any_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also when it is in the second of two splits: nothing is planned, and nothing made."""
    source = write(tmp_path / "source", "train/a/1.jpg", "val/a/2.jpg", "test/b/3.jpg")
    store = tmp_path / "store"
    assert tesserae(monkeypatch, "prepare", source, store, *SMALL, "--split", "train") == 0
    assert tesserae(monkeypatch, "prepare", source, store, *SMALL, "--split", "val", "test") == 1
    assert "1 class is not among the store's 1: 'b'" in capsys.readouterr().err
    assert records.splits(open_objects(str(store))) == ["train"]


def test_the_hubs_numbers_are_the_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the order of its names; -1 and null are no class; the numbers are in the recipe."""
    features = {"label": {"names": ["zebra", "ant", "crane", "crane"], "_type": "ClassLabel"}}
    images = [{"bytes": jpeg(k, 20, 20), "path": f"{k}.png"} for k in range(5)]
    table = pa.table({"image": images, "label": pa.array([3, 1, 2, -1, None])})
    hub = {"huggingface": json.dumps({"info": {"features": features}})}
    (tmp_path / "source").mkdir()
    pq.write_table(table.replace_schema_metadata(hub), tmp_path / "source" / "train-0.parquet")
    store = tmp_path / "store"
    assert tesserae(monkeypatch, "prepare", tmp_path / "source", store, *SMALL) == 0
    assert labels(store) == {
        "crane#3/0.png": 3,
        "ant/1.png": 1,
        "crane#2/2.png": 2,
        "-/3.png": -1,
        "-/4.png": -1,
    }
    recipe = records.load_recipe(open_objects(str(store)))
    assert recipe.classes == (
        ("zebra", ""),
        ("ant", ""),
        ("crane#2", "crane"),
        ("crane#3", "crane"),
    )
    assert recipe.class_numbers == (0, 1, 2, 3)
    output = capsys.readouterr().out
    assert "train: 2 images without a class (label -1)" in output
    assert "classes without images: zebra" in output


def test_numbers_that_are_no_labels_are_said_with_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """They begin at 1 and have holes: both columns are shown, and both are stored."""
    table = pa.table({"image": [jpeg(k, 20, 20) for k in range(3)], "label": [1, 12, 2]})
    (tmp_path / "source").mkdir()
    pq.write_table(table, tmp_path / "source" / "a.parquet")
    store = tmp_path / "store"
    assert tesserae(monkeypatch, "prepare", tmp_path / "source", store, *SMALL) == 0
    assert [label for _, label in sorted(labels(store).items())] == [0, 2, 1]
    output = capsys.readouterr().out
    assert (
        "3 classes: label, number in the source, class\n      0    1  1\n      1    2  2\n"
        in output
    )
    assert "number 1 is label 0" in output
    recipe = records.load_recipe(open_objects(str(store)))
    assert (recipe.wnids, recipe.class_numbers) == (["1", "2", "12"], (1, 2, 12))


def test_a_class_whose_images_are_all_in_quarantine_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has a label and no picture."""
    source = write(tmp_path / "source", "a/1.jpg", "a/2.jpg", "b/broken.jpg")
    words = ("prepare", source, tmp_path / "store", *SMALL, "--max-bad", "1")
    assert tesserae(monkeypatch, *words) == 0
    assert "train: no image of 1 class could be read: b" in capsys.readouterr().out


def test_a_store_remembers_how_its_source_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeated command resumes, and repair reads moved images with the recorded options."""
    source = write(tmp_path / "source", "dog/1.jpg", "dog/more/2.jpg", "cat/3.jpg", "4.jpg")
    how = ("--recursive", "first", "--ignore", "4.*")
    words = ("prepare", source, tmp_path / "store", *SMALL)
    assert tesserae(monkeypatch, *words) == 1
    assert tesserae(monkeypatch, *words, *how) == 0
    expected = {"cat/3.jpg": 0, "dog/1.jpg": 1, "dog/more__2.jpg": 1}
    assert labels(tmp_path / "store") == expected
    moved = tmp_path / "moved"
    shutil.move(source, moved)
    (tmp_path / "store" / layout.shard("train", 8, 0)).unlink()
    assert tesserae(monkeypatch, "repair", tmp_path / "store", "--data", moved) == 0
    assert labels(tmp_path / "store") == expected


def test_images_of_no_class_make_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flat folder: label -1, or one class by its name."""
    source = write(tmp_path / "source", "1.jpg", "2.jpg")
    assert tesserae(monkeypatch, "prepare", source, tmp_path / "a", *SMALL) == 0
    assert set(labels(tmp_path / "a").values()) == {-1}
    assert "no classes: the label of every image is -1" in capsys.readouterr().out
    words = ("prepare", source, tmp_path / "b", *SMALL, "--class-name", "pet")
    assert tesserae(monkeypatch, *words) == 0
    assert labels(tmp_path / "b") == {"pet/1.jpg": 0, "pet/2.jpg": 0}


def test_what_a_limit_and_a_flat_test_split_leave_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where the limit is less than a shard; a split of an odd name that is there goes on."""
    source = write(tmp_path / "source", *(f"train/cat/{k}.jpg" for k in range(6)), "test/0.jpg")
    words = ("prepare", source, tmp_path / "store", *SMALL)
    assert tesserae(monkeypatch, *words, "--limit", "1") == 0
    output = capsys.readouterr().out
    assert "split test is skipped: 1 image without a class directly in " in output
    assert "train: --limit 1 selects 4 of 6 images: 1 whole shard of up to 4" in output
    assert tesserae(monkeypatch, *words, "--limit", "5", "--split", "train", "test") == 0
    output = capsys.readouterr().out
    assert "train: --limit 5 selects 6 of 6 images: 2 whole shards of up to 4" in output
    assert "skipped" not in output
