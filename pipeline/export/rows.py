"""The rows of a shard as files of images, with their keys and classes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from pipeline.errors import StoreDamagedError
from pipeline.images.formats import BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP, format_of
from pipeline.store import arrays, layout, records, table
from pipeline.store.arrow_files import open_parquet
from pipeline.store.encoded_shard import read_rows_of_shard
from pipeline.store.encoding import is_array_name
from pipeline.store.split import Split

MAX_READ_BYTES = 2**25
"""The maximum bytes of pixels that are held at once, unless a single row has more."""
EXTENSIONS = {
    JPEG.name: "jpg",
    PNG.name: "png",
    WEBP.name: "webp",
    GIF.name: "gif",
    BMP.name: "bmp",
    TIFF.name: "tiff",
    PPM.name: "ppm",
}
"""The extension of the files of each format that a store may hold."""


class ExportedRow(NamedTuple):
    """A readable row of a split."""

    row: int
    """The number of the row in the split."""
    key: str
    """The canonical name of the sample, such as `n01440764/n01440764_10026`."""
    wnid: str
    label: int
    """0 to C-1, or -1 for none."""
    extension: str
    """The extension of a file with `data`, such as `jpg`."""
    data: bytes
    """The bytes of an image file."""


def read_exported_rows(split: Split, array: str, shard: int) -> Iterator[ExportedRow]:
    """Yield the readable rows of a shard in their order.

    Stored squares become PNG files, whose pixels are exactly theirs. Encoded rows are yielded byte
    for byte.

    Args:
        split: A finished split, opened with the array.
        array: The name of the array, such as `224` or `jpeg256@90`.
        shard: The number of the shard, from 0.

    Raises:
        StoreDamagedError: The table or a shard is missing or damaged.
        StoreError: The store cannot be read.
    """
    rows = split.plan.rows(shard)
    samples = _read_samples(split, rows)
    files = _encoded_files if is_array_name(array) else _png_files
    for row, extension, data in files(split, array, shard, rows):
        at = row - rows.start
        key, wnid = str(samples["key"][at]), str(samples["wnid"][at])
        yield ExportedRow(row, key, wnid, int(split.labels[row]), extension, data)


def _read_samples(split: Split, rows: range) -> pa.Table:
    name = layout.table(split.plan.split)
    try:
        with split.objects.open(name) as file:
            return table.read_table_rows(open_parquet(file), rows.start, rows.stop)
    except (OSError, pa.ArrowException) as e:
        first = (str(e).splitlines() or [type(e).__name__])[0]
        raise StoreDamagedError(
            f"{name} cannot be read ({first[:120]}). Run `tesserae repair`."
        ) from e


def _encoded_files(
    split: Split, name: str, shard: int, rows: range
) -> Iterator[tuple[int, str, bytes]]:
    commit = records.load_commit(split.objects, split.plan.split, shard)
    if commit is None or name not in commit.encoded:
        raise StoreDamagedError(f"shard {shard} has no {name}. Run `tesserae repair`.")
    written = commit.encoded[name]
    geometry = split.encoded[name].geometry
    data, _ = read_rows_of_shard(split.objects, written, geometry, 0, len(rows))
    for row in rows:
        if split.readable[row]:
            file = data[row - rows.start]
            yield row, extension_of(file), file


def _png_files(
    split: Split, size: str, shard: int, rows: range
) -> Iterator[tuple[int, str, bytes]]:
    name = layout.shard(split.plan.split, int(size), shard)
    if split.objects.size(name) is None:  # zarr would read zeros
        raise StoreDamagedError(f"{name} is missing. Run `tesserae repair`.")
    chunk = split.recipe.chunk_rows
    step = max(1, MAX_READ_BYTES // (chunk * int(size) ** 2 * 3)) * chunk
    for start in range(rows.start, rows.stop, step):
        stop = min(start + step, rows.stop)
        try:
            pixels = arrays.read_pixel_rows(split.objects, split.plan.split, int(size), start, stop)
        except ValueError as e:
            raise StoreDamagedError(f"{name} is damaged ({e}). Run `tesserae repair`.") from e
        for row in range(start, stop):
            if split.readable[row]:
                yield row, "png", encode_png(pixels[row - start])


def extension_of(data: bytes) -> str:
    """Return the extension of an image file by its first bytes, such as `jpg`; `bin`: unknown.

    Args:
        data: The bytes of the file.
    """
    detected = format_of(data)
    return EXTENSIONS.get("" if detected is None else detected.name, "bin")


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Return an image as the bytes of a PNG file, which has exactly its pixels.

    Args:
        pixels: The image, (h, w, 3) uint8 RGB.
    """
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
