"""A finished split as a dask array, for analyses of all its pixels."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError
from pipeline.images.crop_decode import RowDecodeError, decode_crops
from pipeline.store import arrays, layout, records
from pipeline.store.encoded_shard import EncodedGeometry, read_rows_of_shard
from pipeline.store.encoding import parse_encoding
from pipeline.store.open import open_objects
from pipeline.store.split import open_split


class SplitView(NamedTuple):
    """All rows of a split, in the order of the store."""

    images: da.Array
    """The images, (num_rows, size, size, 3) uint8 RGB; zeros for unreadable rows."""
    labels: NDArray[np.int32]
    """The labels, (num_rows,) int32; -1 for none."""
    readable: NDArray[np.bool_]
    """The readable rows, (num_rows,) bool; false for quarantined rows."""


def view(
    store: str | os.PathLike[str],
    split: str = "train",
    size: int = 224,
    *,
    encoded: str | None = None,
    chunk_rows: int | None = None,
) -> SplitView:
    """Return the images of a finished split as a dask array, with its labels and readable rows.

    The labels and the readable rows are read now. Pixels are read from the store when a chunk is
    computed, so a Dask worker that computes one must reach *store* under the same address. Then
    `compute` raises StoreDamagedError if a shard object is missing or damaged.

    Args:
        store: The folder or URL of the store.
        split: The name of the split (default: `train`).
        size: The side of the squares in pixels, one of those that the store has, or with *encoded*
            any from 1 to 4,096 (default: 224).
        encoded: The encoded rows to decode in place of stored squares, such as `jpeg:256@90`: the
            largest square in the centre of each picture, resized to *size* with antialiasing
            (default: stored squares).
        chunk_rows: The rows in a chunk of the dask array, at least 1 (default: those of a shard).

    Returns:
        A named tuple of three parts, each with all `num_rows` rows of the split in the order of the
        store. `images` is a lazy dask array, (num_rows, size, size, 3) uint8 RGB, 0 to 255, in
        chunks of (chunk_rows, size, size, 3), of which the last may be shorter, with zeros for
        unreadable rows. `labels` is a numpy array in memory, (num_rows,) int32, -1 for no class.
        `readable` is a numpy array in memory, (num_rows,) bool, False for quarantined rows.

    Raises:
        StoreError: There is no store, it cannot be read, it has no such split, size or encoded
            rows, or the split is not finished.
        ValueError: *chunk_rows* is less than 1, *encoded* is no encoding, or *size* is out of
            range.

    Examples:
        >>> split = tesserae.view("store", size=72)
        >>> split.images[split.readable].mean(axis=(0, 1, 2)).compute().shape
        (3,)
    """
    objects = open_objects(os.fspath(store))
    name = None if encoded is None else parse_encoding(encoded).array_name
    if name is None:
        opened = open_split(objects, split, [size])
    elif 1 <= size <= layout.MAX_SIZE:
        opened = open_split(objects, split, [], encoded=[name])
    else:
        raise ValueError(f"size is {size}: expected 1 to {layout.MAX_SIZE:,} pixels.")
    rows = opened.recipe.shard_rows if chunk_rows is None else chunk_rows
    if rows < 1:
        raise ValueError(f"chunk_rows is {rows}: expected at least 1.")
    num_rows = opened.plan.num_rows
    starts = range(0, num_rows, rows)

    read: Any = _read_chunk_of_view
    options: dict[str, Any] = {}
    if name is not None:
        read = _decode_chunk_of_view
        recipe = opened.recipe
        options = {
            "encoded": name,
            "geometry": opened.encoded[name].geometry,
            "decoding": {
                "exif": recipe.exif,
                "rules": recipe.decode_rules,
                "missing_end": recipe.missing_end,
            },
        }
    images = da.map_blocks(
        read,
        chunks=(tuple(min(rows, num_rows - at) for at in starts), (size,), (size,), (3,)),
        dtype=np.uint8,
        meta=np.empty((0, 0, 0, 0), np.uint8),
        name=f"{split}-{name or ''}{size}-{opened.digest[:16]}-{rows}",
        url=objects.url,
        split=split,
        size=size,
        shard_rows=opened.recipe.shard_rows,
        **options,
    )
    return SplitView(images, opened.labels, opened.readable)


def _read_chunk_of_view(
    block_info: dict[int | None, dict[str, list[tuple[int, int]]]],
    url: str,
    split: str,
    size: int,
    shard_rows: int,
) -> NDArray[np.uint8]:
    start, stop = block_info[None]["array-location"][0]
    objects = open_objects(url)
    for shard in range(start // shard_rows, -(-stop // shard_rows)):
        name = layout.shard(split, size, shard)
        if objects.size(name) is None:  # zarr would read zeros
            raise StoreDamagedError(f"{name} is missing. Run `tesserae repair`.")
    try:
        return arrays.read_pixel_rows(objects, split, size, start, stop)
    except ValueError as e:
        where = f"rows {start} to {stop - 1} of {layout.array(split, str(size))}"
        raise StoreDamagedError(f"{where} are damaged ({e}). Run `tesserae repair`.") from e


def _decode_chunk_of_view(
    block_info: dict[int | None, dict[str, list[tuple[int, int]]]],
    url: str,
    split: str,
    size: int,
    shard_rows: int,
    encoded: str,
    geometry: EncodedGeometry,
    decoding: dict[str, Any],
) -> NDArray[np.uint8]:
    start, stop = block_info[None]["array-location"][0]
    objects = open_objects(url)
    pixels = np.zeros((stop - start, size, size, 3), np.uint8)
    for shard in range(start // shard_rows, -(-stop // shard_rows)):
        commit = records.load_commit(objects, split, shard)
        if commit is None or encoded not in commit.encoded:
            raise StoreDamagedError(f"shard {shard} has no {encoded}. Run `tesserae repair`.")
        first, last = max(start, commit.start), min(stop, commit.stop)
        rows = range(first - commit.start, last - commit.start)
        written = commit.encoded[encoded]
        data, shapes = read_rows_of_shard(objects, written, geometry, rows.start, rows.stop)
        readable = np.flatnonzero(shapes[:, 0])
        shapes = shapes[readable]
        squares = np.empty((len(readable), size, size, 3), np.uint8)
        try:
            decode_crops(
                [data[row] for row in readable], shapes, _centre_squares(shapes), squares,
                **decoding,
            )  # fmt: skip
        except RowDecodeError as e:
            row = int(first + readable[e.index])
            raise StoreDamagedError(
                f"{written.name} is damaged (row {row}: {e.reason}). Run `tesserae repair`."
            ) from e
        pixels[first - start + readable] = squares
    return pixels


def _centre_squares(shapes: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return left, top, right and bottom of the largest centre squares of pictures, (n, 4)."""
    height, width = shapes.T
    side = np.minimum(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    return np.stack([left, top, left + side, top + side], 1)
