"""The checks before hours of streaming, and the spool that streaming leaves."""

import gzip
import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ReadError, SourceError, TesseraeError
from pipeline.ingest import planning
from pipeline.sources import open_source
from pipeline.sources.spool import spool_block
from pipeline.store import records
from pipeline.store.open import open_objects
from tests.images import jpeg
from tests.inline import tesserae
from tests.pipeline.sources.archives.test_folder_layout import kaggle
from tests.pipeline.sources.layouts import made_pictures, tar_bytes, write_folder
from workflows.preparation import plans
from workflows.preparation.options import PrepareOptions
from workflows.preparation.spooling import check_early, naming_spools_in_errors, preparable_splits


def table(path: Path, labels: list[int], names: list[str]) -> Path:
    features = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    columns = {"image": [b"x"] * len(labels), "label": labels}
    annotated = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(features)})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(annotated, path)
    return path.parent


def test_classes_of_several_splits_are_compared_before_an_image_is_read(tmp_path, capsys):
    """Two splits have different names for a number."""
    root = table(tmp_path / "train-0.parquet", [0, 1], ["cat", "dog"])
    table(root / "val-0.parquet", [0, 1], ["dog", "cat"])
    parts = {split: open_source(root, split) for split in ("train", "val")}
    with pytest.raises(SourceError, match="cat"):
        check_early(parts, 2)
    check_early({"train": parts["train"]}, 2)
    assert "train: columns: images 'image', labels 'label', names None" in capsys.readouterr().out


def test_an_archive_that_belongs_to_no_split_is_named(tmp_path, capsys):
    """The split of the other archives is in their names."""
    for name in ("train-0.tar", "extra.tar"):
        (tmp_path / name).write_bytes(tar_bytes(made_pictures()))
    check_early({"train": open_source(tmp_path, "train")}, 2)
    assert "extra.tar is skipped: its name indicates no split" in capsys.readouterr().out


def test_a_split_without_classes_is_left_out_with_a_notice(tmp_path, capsys):
    """The only split of a source must have classes."""
    path = tmp_path / "imagenet_object_localization_patched2019.tar.gz"
    path.write_bytes(gzip.compress(tar_bytes(kaggle(annotated=False))))
    parts = {split: open_source(path, split) for split in ("train", "val")}
    assert preparable_splits(parts) == ["train"]
    output = capsys.readouterr().out
    assert output.startswith("split val is skipped: the images of")
    assert "LOC_val_solution.csv, next to them." in output
    with pytest.raises(SourceError, match="have no classes"):
        preparable_splits({"val": parts["val"]})
    folder = {"train": open_source(write_folder(tmp_path / "x", made_pictures()), "train")}
    assert preparable_splits(folder) == ["train"]


@pytest.mark.parametrize("error", [SourceError, TesseraeError, ReadError])
def test_an_error_after_streaming_reports_the_spool(tmp_path, error):
    """The error names the spool, its size, and that it may be reused or removed."""
    spool = str(tmp_path / "spool")

    def fail() -> None:
        with naming_spools_in_errors([spool]):
            raise error("no good.")

    with pytest.raises(error, match=r"^no good\.$"):
        fail()
    root = table(tmp_path / "x" / "train-0.parquet", [0], ["cat"])
    for block in open_source(root, "train").blocks():
        spool_block(block, spool)
    with pytest.raises(error, match=r"^no good\. The streamed data stay in .*: the same command"):
        fail()


def test_columns_are_flags_of_prepare(tmp_path, monkeypatch, capsys):
    """An unknown column is refused with the existing ones, and so is a column without a table."""
    pictures = [jpeg(i) for i in range(4)]
    columns = {
        "photo": pictures,
        "thumbnail": [b"no picture"] * 4,
        "fine_label": ["cat", "dog", "cat", "dog"],
        "super": ["pet", "pet", "pet", "pet"],
    }
    (tmp_path / "x").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "x" / "t.parquet")
    words = ("prepare", tmp_path / "x", "--sizes", 8, "--no-dashboard")
    named = ("--image-column", "photo", "--label-column", "super")
    assert tesserae(monkeypatch, *words, tmp_path / "a", *named) == 0
    assert re.search(r"1 class.*\n +0 +pet", capsys.readouterr().out)
    assert tesserae(monkeypatch, *words, tmp_path / "b") == 0
    out = capsys.readouterr().out
    assert "labels 'fine_label', names None" in out
    assert "(--label-column for" not in out
    assert tesserae(monkeypatch, *words, tmp_path / "c", "--label-column", "nosuch") == 1
    assert "has no column 'nosuch', which --label-column names: it has 'photo', " in (
        capsys.readouterr().err
    )
    write_folder(tmp_path / "y", made_pictures())
    words = ("prepare", tmp_path / "y", "--sizes", 8, "--no-dashboard")
    assert tesserae(monkeypatch, *words, tmp_path / "d", "--name-column", "x") == 1
    assert "--name-column is 'x': it is for Parquet files" in capsys.readouterr().err


def test_a_spool_of_other_columns_is_replaced(tmp_path, monkeypatch, capsys):
    """The labels of the failed run would otherwise be those of the next one."""
    columns = {"image": [jpeg(0), jpeg(1)], "label": ["x", "y"], "other": ["cat", "dog"]}
    (tmp_path / "x").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "x" / "t.parquet")
    words = ("prepare", tmp_path / "x", tmp_path / "store", "--sizes", 8, "--no-dashboard")
    with monkeypatch.context() as patch:
        patch.setattr(planning, "classes_of", _refuse)
        assert tesserae(monkeypatch, *words) == 1
    assert "The streamed data stay in" in capsys.readouterr().err
    assert tesserae(monkeypatch, *words, "--label-column", "other") == 0
    output = capsys.readouterr().out
    assert "of another source or other options from the spool" in output
    assert "0  cat" in output
    assert "1  dog" in output


def _refuse(*_: object) -> None:
    raise SourceError("these classes cannot be.")


@pytest.mark.parametrize("packing", ["folder", "tar"])
def test_listed_val_images_that_contradict_the_table_are_refused(tmp_path, packing):
    """Images in folders and in archives are compared before they are listed."""
    files = {"n02119789/ILSVRC2012_val_00000001.JPEG": b"1"}
    if packing == "tar":
        files = {"val.tar": tar_bytes(files)}
    root = write_folder(tmp_path / "x", files)
    text = "ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4\n"
    (tmp_path / "LOC_val_solution.csv").write_text(text)
    objects = open_objects(str(tmp_path / "store"))
    part = plans.OpenSplit("val", "val-1", open_source(root, "val"), objects)
    with pytest.raises(
        SourceError, match=r"is sorted into n02119789, but .* lists it as n01440764"
    ):
        plans._list_source(part, None, None)


def test_a_store_is_not_listed_if_the_split_exists(tmp_path, monkeypatch):
    """Listing reads every object of a store, so only a possibly misspelt name causes it."""
    root = write_folder(tmp_path / "x", {"cat/1.jpg": b"1"})
    options = PrepareOptions(source=str(root), store=str(tmp_path / "s"))
    listings: list[object] = []
    monkeypatch.setattr(planning, "_stored_recipe", lambda objects: None)
    monkeypatch.setattr(
        records, "stored_splits", lambda objects: listings.append(objects) or ["vall"]
    )
    plans.open_split_for_prepare(options, "train")
    assert listings == []
    assert (
        plans.open_split_for_prepare(options, "vall").split == "vall"
    )  # the store has it: it goes on
    assert len(listings) == 1


def test_streamed_val_images_that_contradict_the_table_are_refused(tmp_path, monkeypatch, capsys):
    """The images are refused before any is decoded."""
    name, output, right = "ILSVRC2012_val_00000001", "n02119789", "n01440764"
    columns = {"image": [jpeg(0)], "filename": [f"{name}.JPEG"], "label": [output]}
    (tmp_path / "x").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "x" / "val.parquet")
    solution = tmp_path / "LOC_val_solution.csv"
    words = ("prepare", tmp_path / "x", tmp_path / "store", "--sizes", 8, "--no-dashboard")
    solution.write_text(f"ImageId,PredictionString\n{name},{right} 1 2 3 4\n")
    assert tesserae(monkeypatch, *words) == 1
    assert f"{name}.JPEG is sorted into {output}, but {solution} lists it as {right}" in (
        capsys.readouterr().err
    )
    solution.write_text(f"ImageId,PredictionString\n{name},{output} 1 2 3 4\n")
    assert tesserae(monkeypatch, *words) == 0
