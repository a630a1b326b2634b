"""Decoding rows again from the source, to compare them with what a store holds.

The store is read by zarr here, not by the code that wrote it: two ways must meet.
"""

from __future__ import annotations

from collections.abc import Iterator

import google_crc32c
import numpy as np

from pipeline.decode import READABLE, STATUS_WORDS, decode
from pipeline.errors import DecodeError, ReadError, StoreError
from pipeline.ingest.check import Problem
from pipeline.ingest.rows import Sample
from pipeline.ingest.shard import Work, Workspace
from pipeline.order import row_order
from pipeline.resize import resize_into
from pipeline.store import arrays, layout, records, table
from pipeline.store.objects import Objects


def recheck_rows(objects: Objects, split: str, num_rows: int) -> Iterator[Problem]:
    """Decode *num_rows* rows of a finished split again, and yield each that differs.

    Args:
        objects: The store.
        split: A finished split.
        num_rows: How many rows, spread over the split; always the same ones.

    Raises:
        StoreError: The split is not finished, or where its source is is not known.
        StoreMismatchError: This machine makes other pixels than the recipe.
    """
    done = records.load_done(objects, split)
    if done is None:
        raise StoreError(f"split {split!r} is not finished: there is nothing to compare with.")
    work = Work(store=objects.url, split=split, run="reader", sizes=done.sizes, watched=False)
    space = Workspace(work)
    chosen = sorted(row_order(done.num_rows, seed=1)[:num_rows].tolist())
    for shard in sorted({row // space.plan.shard_rows for row in chosen}):
        samples = {sample.row: sample for sample in space.rows.shard(shard)}
        part = table.decode_part(objects.get(layout.part(split, shard)))
        for row in (row for row in chosen if row in samples):
            line = part.slice(row - space.plan.rows(shard).start, 1).to_pylist()[0]
            what = _difference(space, samples[row], line)
            if what is not None:
                name = layout.array(split, "*")
                yield Problem(name, f"row {row} ({samples[row].key!r}): {what}")


def _difference(space: Workspace, sample: Sample, line: dict[str, object]) -> str | None:
    try:
        data = space.reader.read(sample.path, sample.offset, sample.num_bytes)
    except ReadError as e:
        return str(e)
    if google_crc32c.value(data) != line["crc32c"]:
        return "the source's bytes are not those that were committed"
    recipe = space.recipe
    pixels = {size: np.zeros((size, size, 3), np.uint8) for size in space.work.sizes}
    status = READABLE
    try:
        decoded = decode(data, fit=recipe.fit, serves=recipe.serves, exif=recipe.exif)
        for size, out in pixels.items():
            resize_into(decoded, size, fit=recipe.fit, filter=recipe.filter, out=out)
    except DecodeError as e:
        status = e.status
    if status != line["status"]:
        return f"is {STATUS_WORDS[status]} now"
    for size, out in pixels.items():
        stored = arrays.read_rows(space.objects, space.work.split, size, sample.row, sample.row + 1)
        if not np.array_equal(stored[0], out):
            return f"other pixels at {size} px"
    return None
