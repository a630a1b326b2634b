"""Results of a search as a file: a table, a document, or both with the images."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from pipeline.errors import StoreError
from workflows.search.engine import Answer
from workflows.search.gallery import Gallery
from workflows.search.query import QueryError
from workflows.terminal.formatting import bytes_text

CSV, JSON, ZIP = "csv", "json", "zip"
FORMATS = {CSV: "text/csv; charset=utf-8", JSON: "application/json", ZIP: "application/zip"}
"""The media types of files of results, by the extension of their names."""
COLUMNS = (
    *("kind", "rank", "score", "split", "row", "label", "wnid", "words", "key"),
    *("copies", "also"),
)
"""The columns of the table: those of `ImageHit` and `WordHit` that programs and people read."""
TABLE, DOCUMENT, IMAGES_FOLDER = "results.csv", "results.json", "images"
"""The names of the files and of the folder in an archive."""
FORMULAS = ("=", "+", "-", "@", "\t", "\r")
"""The first characters of what spreadsheets take for a formula."""
_TIME = (1980, 1, 1, 0, 0, 0)
"""The time of all files in an archive, so that equal results are equal bytes."""


def format_of_name(name: str) -> str | None:
    """Return the format of a file of results by its name, one of `FORMATS`; None: another.

    Args:
        name: The name or path, with an extension in any case.
    """
    extension = Path(name).suffix.removeprefix(".").lower()
    return extension if extension in FORMATS else None


def write_results(
    answer: Answer,
    gallery: Gallery,
    format: str,
    file: IO[bytes],
    *,
    max_bytes: int | None = None,
) -> None:
    """Write the results of a search.

    The table has a line for each result, images before words, with the columns `COLUMNS`; copies of
    an image are named by `#split:row`. The document has the fields of `Answer`. The archive has
    both, and each image as `images/0001-train-1234.jpg`, with its rank, split and row: the largest
    encoded row, byte for byte, or else the largest square as PNG.

    Args:
        answer: The answer of `Engine.search`.
        gallery: The images of the store.
        format: `csv`, `json` or `zip`.
        file: The file, open for writing at its start.
        max_bytes: The size that the files in an archive may have together (default: any).

    Raises:
        QueryError: The files in the archive are larger than *max_bytes*.
        OSError: The file cannot be written.
        KeyError: There is no such format.
    """
    if format == ZIP:
        _write_archive(answer, gallery, file, math.inf if max_bytes is None else max_bytes)
    else:
        file.write({CSV: _table, JSON: _document}[format](answer))


def _document(answer: Answer) -> bytes:
    return (json.dumps(asdict(answer), indent=2, ensure_ascii=False) + "\n").encode()


def _table(answer: Answer) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    for rank, image in enumerate(answer.images, 1):
        values = {name: value for name, value in asdict(image).items() if name in COLUMNS}
        copies = " ".join(f"#{copy.split}:{copy.row}" for copy in image.copies)
        writer.writerow(_cells({**values, "kind": "image", "rank": rank, "copies": copies}))
    for rank, word in enumerate(answer.words, 1):
        values = {name: value for name, value in asdict(word).items() if name in COLUMNS}
        also = "; ".join(word.also)
        writer.writerow(_cells({**values, "kind": "word", "rank": rank, "also": also}))
    return text.getvalue().encode()


def _cells(values: dict[str, Any]) -> dict[str, Any]:
    """Return values of which no text is a formula for a spreadsheet: these get an apostrophe."""
    return {
        name: f"'{value}" if isinstance(value, str) and value.startswith(FORMULAS) else value
        for name, value in values.items()
    }


def _write_archive(answer: Answer, gallery: Gallery, file: IO[bytes], max_bytes: float) -> None:
    num_bytes = 0
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in _archived_files(answer, gallery):
            num_bytes += len(data)
            if num_bytes > max_bytes:
                raise QueryError(
                    f"the images have more than {bytes_text(int(max_bytes))}: ask for fewer"
                    " results, or use `tesserae search --save` beside the store."
                )
            # Images are compressed already.
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data)


def _archived_files(answer: Answer, gallery: Gallery) -> Iterator[tuple[str, bytes]]:
    yield TABLE, _table(answer)
    yield DOCUMENT, _document(answer)
    for rank, hit in enumerate(answer.images, 1):
        name = f"{IMAGES_FOLDER}/{rank:04d}-{re.sub(r'[^A-Za-z0-9.-]', '_', hit.split)}-{hit.row}"
        try:
            extension, data = gallery.image_file(hit.split, hit.row)
        except StoreError as e:  # the other images are of use
            yield f"{name}.error.txt", f"{e}\n".encode()
        else:
            yield f"{name}.{extension}", data
