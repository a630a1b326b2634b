"""Classes from the source to the store: what commands print, store and refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.store import arrays, layout, records
from pipeline.store.open import open_objects
from tests.images import jpeg
from tests.inline import tesserae

SMALL = ("--sizes", "8", "--shard-rows", "4", "--chunk-rows", "2", "--workers", "1")


def write(root: Path, *names: str) -> Path:
    """Write small images; a file with `broken` in its name is no image."""
    for index, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x" if "broken" in name else jpeg(index, 20, 20))
    return root


def labels(store: Path, split: str = "train") -> dict[str, int]:
    """Return the label of each key."""
    values = arrays.read_small(open_objects(str(store)), split, "label").tolist()
    lines = pq.read_table(store / layout.table(split)).to_pylist()
    return {line["key"]: values[line["row"]] for line in lines}


def test_classes_are_those_of_all_splits_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A class that train lacks has its label before val is prepared; all classes are printed."""
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


def test_a_class_that_the_store_lacks_is_refused_before_any_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither of two splits is planned if the second one has such a class."""
    source = write(tmp_path / "source", "train/a/1.jpg", "val/a/2.jpg", "test/b/3.jpg")
    store = tmp_path / "store"
    assert tesserae(monkeypatch, "prepare", source, store, *SMALL, "--split", "train") == 0
    assert tesserae(monkeypatch, "prepare", source, store, *SMALL, "--split", "val", "test") == 1
    assert "1 class is not among the store's 1: 'b'" in capsys.readouterr().err
    assert records.stored_splits(open_objects(str(store))) == ["train"]


def test_the_hubs_numbers_are_the_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels follow the order of the Hub's names; -1 and null are no class."""
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


def test_source_numbers_are_printed_with_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The numbers begin at 1 and have gaps; numbers and labels are both stored."""
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


def test_a_class_without_a_readable_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The class has a label, but all of its images are quarantined."""
    source = write(tmp_path / "source", "a/1.jpg", "a/2.jpg", "b/broken.jpg")
    words = ("prepare", source, tmp_path / "store", *SMALL, "--max-bad", "1")
    assert tesserae(monkeypatch, *words) == 0
    assert "train: no image of 1 class could be read: b" in capsys.readouterr().out


def test_a_store_records_how_its_source_is_read(
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


def test_a_store_may_have_no_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A flat folder has label -1, or one class with a given name."""
    source = write(tmp_path / "source", "1.jpg", "2.jpg")
    assert tesserae(monkeypatch, "prepare", source, tmp_path / "a", *SMALL) == 0
    assert set(labels(tmp_path / "a").values()) == {-1}
    assert "no classes: the label of every image is -1" in capsys.readouterr().out
    words = ("prepare", source, tmp_path / "b", *SMALL, "--class-name", "pet")
    assert tesserae(monkeypatch, *words) == 0
    assert labels(tmp_path / "b") == {"pet/1.jpg": 0, "pet/2.jpg": 0}


def test_rows_left_out_by_limit_and_test_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A limit selects whole shards, at least one; a named test split is prepared."""
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
