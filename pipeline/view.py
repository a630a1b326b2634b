"""A finished split as a dask array, for studies of all of its pixels."""

from __future__ import annotations

import os
from typing import NamedTuple

import dask.array as da
import numpy as np
from numpy.typing import NDArray

from pipeline.store import arrays
from pipeline.store.objects import open_objects
from pipeline.store.split import open_split


class SplitView(NamedTuple):
    """All rows of a split, in the order of the store."""

    images: da.Array
    """(num_rows, size, size, 3) uint8 RGB; zeros where a row is not readable."""
    labels: NDArray[np.int32]
    """(num_rows,) int32; -1 where there is no class."""
    readable: NDArray[np.bool_]
    """(num_rows,) bool: false for quarantined rows."""


def view(
    store: str | os.PathLike[str],
    split: str = "train",
    size: int = 224,
    *,
    chunk_rows: int | None = None,
) -> SplitView:
    """View a finished split; its pixels are read where and when a chunk is computed.

    Args:
        store: Folder or URL of the store.
        split: Which split.
        size: Side of the squares in pixels.
        chunk_rows: Rows of a chunk of the dask array (those of a shard).

    Raises:
        StoreError: There is no such split or size, or it is not finished.
        ValueError: *chunk_rows* is less than 1.
    """
    objects = open_objects(os.fspath(store))
    opened = open_split(objects, split, [size])
    rows = opened.recipe.shard_rows if chunk_rows is None else chunk_rows
    if rows < 1:
        raise ValueError(f"chunk_rows is {rows}: expected at least 1.")
    num_rows = opened.plan.num_rows
    readable = np.ones(num_rows, bool)
    readable[opened.absent] = False
    starts = range(0, num_rows, rows)

    images = da.map_blocks(
        _read,
        chunks=(tuple(min(rows, num_rows - at) for at in starts), (size,), (size,), (3,)),
        dtype=np.uint8,
        meta=np.empty((0, 0, 0, 0), np.uint8),
        name=f"{split}-{size}-{opened.digest[:16]}-{rows}",
        url=objects.url,
        split=split,
        size=size,
    )
    return SplitView(images, opened.labels, readable)


def _read(
    block_info: dict[int | None, dict[str, list[tuple[int, int]]]], url: str, split: str, size: int
) -> NDArray[np.uint8]:
    start, stop = block_info[None]["array-location"][0]
    return arrays.read_rows(open_objects(url), split, size, start, stop)
