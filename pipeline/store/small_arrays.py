"""Reads the small arrays of a split, of one or two numbers for each row, without zarr.

Their chunks are decoded here because importing zarr would double the start of a loader.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store import layout
from pipeline.store.checksum import CHECKSUM_BYTES, has_valid_checksum
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan


def read_small_array(
    objects: Objects, plan: Plan, name: str, dtype: np.dtype[Any], columns: int | None = None
) -> NDArray[Any]:
    """Read an array of a split that has one or several numbers for each row.

    Args:
        objects: The objects of the store.
        plan: The plan of the split, for its name and number of rows.
        name: The name of the array in the split, such as `label` or `jpeg256@90/offset`.
        dtype: The type of its numbers, little-endian.
        columns: The numbers of a row; None for a one-dimensional array (default: None).

    Returns:
        (num_rows,) or (num_rows, columns) of *dtype*.

    Raises:
        StoreDamagedError: A chunk is missing or damaged.
        StoreError: The array does not fit into memory, or the request to an object store failed.
        OSError: The disk reports an error.
    """
    chunk_rows = layout.small_chunk_rows(plan.num_rows)
    chunks = -(-plan.num_rows // chunk_rows)
    shape, suffix = ((), "") if columns is None else ((columns,), ".0")
    try:
        values = np.empty((chunks * chunk_rows, *shape), dtype)
    except MemoryError:
        raise StoreError(
            f"{layout.plan(plan.split)} states {plan.num_rows:,} rows: this machine has too little"
            f" memory for {layout.array(plan.split, name)}."
        ) from None
    num_bytes = values[:chunk_rows].nbytes + CHECKSUM_BYTES
    for chunk in range(chunks):
        path = layout.small_chunk(plan.split, name, chunk) + suffix
        try:
            data = objects.get(path, num_bytes)
        except FileNotFoundError:
            raise StoreDamagedError(f"{path} is missing. Run `tesserae repair`.") from None
        if len(data) != num_bytes or not has_valid_checksum(data):
            raise StoreDamagedError(f"{path} is damaged. Run `tesserae repair`.")
        values[chunk * chunk_rows : (chunk + 1) * chunk_rows] = np.frombuffer(
            data, dtype, (num_bytes - CHECKSUM_BYTES) // dtype.itemsize
        ).reshape(chunk_rows, *shape)
    return values[: plan.num_rows]
