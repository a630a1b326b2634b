"""The data of a store's report, collected from stores with encoded rows and from a damaged one."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.store import layout
from pipeline.store.open import open_objects
from tests.images import ENCODED, SMALL, make_folder, prepare_inline
from workflows.reports import encoded_images
from workflows.reports.store_model import ReportModel
from workflows.reports.store_report import collect_report, report_store


def test_a_split_without_a_plan_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other split is reported as before."""
    store = tmp_path / "store"
    for split in ("train", "val"):
        source = make_folder(tmp_path / "source" / split, 5)
        prepare_inline(source.parent, str(store), split=split, **SMALL)
    for name in (layout.plan("train"), layout.ledger("train")):
        (store / name).unlink()
    capsys.readouterr()
    report_store(str(store), {})
    output = capsys.readouterr().out
    assert "val: finished, 5 rows" in output
    assert "train: " not in output
    assert (store / layout.REPORT).exists()


def collected(folder: Path, **options: object) -> ReportModel:
    """Return the report of a small store with some arrays."""
    store = str(folder / "store")
    prepare_inline(make_folder(folder / "images", 9, bad=1), store, **{**SMALL, **options})
    return collect_report(open_objects(store), {}, "")


def test_every_array_but_the_source_files_has_a_grid(tmp_path: Path) -> None:
    """The bytes of all arrays are counted, and the encoder is listed beside the decoder."""
    report = collected(tmp_path, encoded=ENCODED)
    assert report.arrays == ["8", "16", "original", "jpeg16@90"]
    assert [(grid.array, grid.height) for grid in report.image_grids] == [
        ("8", 8), ("16", 16), ("jpeg16@90", 16),
    ]  # fmt: skip
    assert all(len(grid.images) == 8 for grid in report.image_grids)
    assert "Pillow" in report.versions["encoder"]


def test_source_files_alone_are_shown_as_thumbnails(tmp_path: Path) -> None:
    """The page would otherwise hold files of megabytes."""
    report = collected(tmp_path, sizes=(), encoded=("original",))
    (grid,) = report.image_grids
    assert (grid.array, len(grid.images)) == ("original", 8)
    files = {file.read_bytes() for file in (tmp_path / "images").rglob("*.JPEG")}
    assert not files & {image for _, image in grid.images}
    assert "encoder" not in report.versions


def test_rows_that_are_no_images_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of somebody else may hold any bytes; a grid without images is left out, too."""
    monkeypatch.setattr(encoded_images.EncodedImages, "read", lambda *_: [b"<svg onload=alert()>"])
    report = collected(tmp_path, sizes=(), encoded=ENCODED)
    assert report.image_grids == ()
