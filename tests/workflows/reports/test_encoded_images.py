"""Encoded rows on a page: as they are stored, or as thumbnails."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from pipeline.store import records
from pipeline.store.open import open_objects
from tests.images import ENCODED, SMALL, jpeg, make_folder, prepare_inline
from workflows.reports import encoded_images
from workflows.reports.encoded_images import EncodedImages


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    source = make_folder(folder / "images", 6)
    prepare_inline(source, str(folder / "store"), encoded=ENCODED, **SMALL)
    return folder / "store"


def open_rows(store: Path, array: str) -> EncodedImages:
    objects = open_objects(str(store))
    return EncodedImages.open(objects, records.load_plan(objects, "train"), array)


def picture(data: bytes | None) -> Image.Image:
    """Return the picture of a file, which must be a JPEG."""
    assert data is not None
    opened = Image.open(io.BytesIO(data))
    assert opened.format == "JPEG"
    return opened


def test_rows_of_any_shard_are_read(store: Path) -> None:
    """Rows are counted in the split, of which the second shard begins with row 4."""
    rows = open_rows(store, "original")
    files = {file.read_bytes() for file in (store.parent / "images").rglob("*.JPEG")}
    assert {*rows.read(0, 4), *rows.read(4, 6)} == files
    assert rows.read(5, 6) == [rows.read(4, 6)[1]]


def test_a_short_jpeg_row_is_shown_as_it_is_stored(store: Path) -> None:
    """A browser scales it."""
    rows = open_rows(store, "jpeg16@90")
    assert rows.page_image(5, 8) == rows.read(5, 6)[0]


def test_a_long_jpeg_row_and_a_source_file_become_thumbnails(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are at most as high as asked for, and keep their proportions."""
    monkeypatch.setattr(encoded_images, "MAX_EMBEDDED_BYTES", 10)
    for array in ("jpeg16@90", "original"):
        rows = open_rows(store, array)
        for row in range(6):
            stored, shown = picture(rows.read(row, row + 1)[0]), picture(rows.page_image(row, 12))
            assert shown.height == 12
            assert abs(shown.width - stored.width * 12 / stored.height) <= 1


def test_a_wide_strip_becomes_less_high(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page would otherwise embed megabytes of one picture."""
    monkeypatch.setattr(EncodedImages, "read", lambda *_: [jpeg(1, 900, 30)])
    assert picture(open_rows(store, "original").page_image(0, 20)).size == (80, 3)


@pytest.mark.parametrize("kind", ["png", "cmyk"])
def test_other_files_than_plain_jpegs_become_thumbnails(
    store: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The rows of a foreign store may be any files, and browsers differ in CMYK."""
    file = io.BytesIO()
    Image.linear_gradient("L").save(file, "PNG")
    data = file.getvalue() if kind == "png" else jpeg(2, mode="CMYK")
    monkeypatch.setattr(EncodedImages, "read", lambda *_: [data])
    shown = picture(open_rows(store, "jpeg16@90").page_image(0, 16))
    assert (shown.mode, shown.height) == ("RGB", 16)


@pytest.mark.parametrize("data", [b"", b"<script>alert(1)</script>", jpeg(0)[:300]])
def test_what_is_no_image_is_not_shown(
    store: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """No such bytes reach a page."""
    monkeypatch.setattr(EncodedImages, "read", lambda *_: [data])
    assert open_rows(store, "jpeg16@90").page_image(0, 16) is None


def test_rows_that_are_not_committed_are_an_error(store: Path) -> None:
    """The file that is missing is named."""
    with pytest.raises(FileNotFoundError, match=r"jpeg16@90/bytes/c\.9"):
        open_rows(store, "jpeg16@90").read(36, 37)
