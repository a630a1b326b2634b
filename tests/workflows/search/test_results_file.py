"""Results of a search as files."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import StoreDamagedError
from pipeline.store import arrays
from pipeline.store.open import open_objects
from tests.images import jpeg, prepare_inline
from tests.workflows.search.conftest import Opener
from tests.workflows.search.toy import CLASSES, SIZE, SIZES, Toy
from workflows.search.engine import Answer, Engine, SearchOptions
from workflows.search.image_index import ImageCopy, ImageHit
from workflows.search.query import parse_query
from workflows.search.results_file import COLUMNS, FORMATS, format_of_name, write_results
from workflows.search.word_index import WordHit


def written(answer: Answer, engine: Engine, format: str) -> bytes:
    file = io.BytesIO()
    write_results(answer, engine.gallery, format, file)
    return file.getvalue()


def table(data: bytes) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(data.decode(), newline="")))


@pytest.fixture
def answer(engine: Engine) -> Answer:
    return engine.search(parse_query("red + blue"), SearchOptions(k=5, to="both"))


def test_the_table_has_a_line_for_each_result(engine: Engine, answer: Answer) -> None:
    """Images come before words, and numbers are exact."""
    rows = table(written(answer, engine, "csv"))
    assert list(rows[0]) == [*COLUMNS]
    assert [(row["kind"], row["rank"]) for row in rows] == [
        (kind, str(rank)) for kind in ("image", "word") for rank in range(1, 6)
    ]
    for row, hit in zip(rows[:5], answer.images, strict=True):
        assert (row["split"], int(row["row"]), row["key"]) == (hit.split, hit.row, hit.key)
        assert float(row["score"]) == hit.score
        assert (int(row["label"]), row["wnid"], row["words"]) == (hit.label, hit.wnid, hit.words)
    for row, word in zip(rows[5:], answer.words, strict=True):
        assert (row["words"], float(row["score"])) == (word.words, word.score)
        assert row["also"] == "; ".join(word.also)
        assert (row["split"], row["row"], row["key"]) == ("", "", "")


def test_names_from_data_are_read_back(engine: Engine) -> None:
    """Commas, quotes, newlines and letters of any script are values of their cells."""
    key = 'n0/a, "b"\nc\u202e\u00e9\u65e5.png'
    copies = (ImageCopy("val", 7, 0.25, "n0/d.png"), ImageCopy("val", 9, 0.125, key))
    hit = ImageHit("train", 3, 0.5, 2, "n0", "crane, bird", "crane", key, copies)
    hostile = Answer("a", (hit,), (WordHit("x\ny", "", 0.5, ("p", "q"), ""),))
    first, second = table(written(hostile, engine, "csv"))
    assert (first["key"], first["words"], first["copies"]) == (key, "crane, bird", "#val:7 #val:9")
    assert (second["words"], second["also"]) == ("x\ny", "p; q")
    document = json.loads(written(hostile, engine, "json"))
    assert document == json.loads(json.dumps(asdict(hostile)))


def test_no_cell_is_a_formula(engine: Engine) -> None:
    """A spreadsheet would compute it; the document has names as they are."""
    names = ["=1+1", "+1", "-1", "@A1", "\tx", "\rx", "a=b", "'"]
    words = tuple(WordHit(name, "", 0.5, (), "") for name in names)
    answer = Answer("red", (), words)
    rows = table(written(answer, engine, "csv"))
    assert [row["words"] for row in rows] == [*(f"'{name}" for name in names[:6]), "a=b", "'"]
    assert [word["words"] for word in json.loads(written(answer, engine, "json"))["words"]] == names


def test_the_archive_has_the_images_of_the_results(engine: Engine, answer: Answer) -> None:
    """Squares of the largest size are PNG files of exactly the stored pixels."""
    data = written(answer, engine, "zip")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        assert archive.read("results.csv") == written(answer, engine, "csv")
        assert archive.read("results.json") == written(answer, engine, "json")
        objects = open_objects(engine.model.store)
        for rank, hit in enumerate(answer.images, 1):
            file = archive.read(f"images/{rank:04d}-{hit.split}-{hit.row}.png")
            size = max(SIZES)
            stored = arrays.read_pixel_rows(objects, hit.split, size, hit.row, hit.row + 1)[0]
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(file))), stored)
        assert len(archive.namelist()) == 7
    assert written(answer, engine, "zip") == data


def test_encoded_rows_are_archived_byte_for_byte(open_run: Opener, tmp_path: Path) -> None:
    """The largest of them are taken, here the bytes of the source files."""
    for number in range(6):
        file = tmp_path / "source" / CLASSES[number % 2][0] / f"{number}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(jpeg(number, 60, 40))
    store = str(tmp_path / "store")
    prepare_inline(tmp_path / "source", store, sizes=(SIZE,), encoded=("jpeg:32@80", "original"))
    engine = open_run(Toy(store))
    answer = engine.search(parse_query("red"), SearchOptions(k=6, fold=False))
    with zipfile.ZipFile(io.BytesIO(written(answer, engine, "zip"))) as archive:
        for rank, hit in enumerate(answer.images, 1):
            source = (tmp_path / "source" / hit.key).read_bytes()
            assert archive.read(f"images/{rank:04d}-train-{hit.row}.jpg") == source


def test_an_image_that_cannot_be_read_is_named_in_the_archive(
    engine: Engine, answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other images and the results are there."""
    image_file = engine.gallery.image_file

    def damaged(split: str, row: int) -> Any:
        if (split, row) == (answer.images[1].split, answer.images[1].row):
            raise StoreDamagedError("shard 3 is damaged.")
        return image_file(split, row)

    monkeypatch.setattr(engine.gallery, "image_file", damaged)
    with zipfile.ZipFile(io.BytesIO(written(answer, engine, "zip"))) as archive:
        (error,) = [name for name in archive.namelist() if name.endswith(".error.txt")]
        assert error.startswith("images/0002-")
        assert archive.read(error) == b"shard 3 is damaged.\n"
        assert len(archive.namelist()) == 7


def test_an_answer_without_results_is_a_table_without_lines(engine: Engine) -> None:
    """All three files can be read."""
    empty = Answer("a", (), ())
    assert table(written(empty, engine, "csv")) == []
    assert json.loads(written(empty, engine, "json"))["images"] == []
    with zipfile.ZipFile(io.BytesIO(written(empty, engine, "zip"))) as archive:
        assert archive.namelist() == ["results.csv", "results.json"]


@pytest.mark.parametrize(
    ("name", "format"),
    [("a.csv", "csv"), ("A.ZIP", "zip"), ("a.b.json", "json"), ("csv", None), ("a.txt", None)],
)
def test_the_format_follows_from_the_name(name: str, format: str | None) -> None:
    """Names of other files have none."""
    assert format_of_name(name) == format
    assert {"csv", "json", "zip"} == {*FORMATS}
