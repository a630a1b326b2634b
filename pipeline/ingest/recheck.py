"""Decodes rows again from the source, to compare them with a store.

The store is read by zarr here, not by the code that wrote it, as an independent check.
"""

from __future__ import annotations

from collections.abc import Iterator

import google_crc32c

from pipeline.errors import DecodeError, ReadError, StoreError
from pipeline.images.encode import EncodedRow
from pipeline.images.rejection import CRASHED, READABLE, STATUS_WORDS, TIMEOUT
from pipeline.images.rows import SQUARE, Row, make_rows
from pipeline.ingest.readahead import Unread, read_or_skip
from pipeline.ingest.render import row_format
from pipeline.ingest.shard_task import EMPTY_ROW
from pipeline.ingest.source_index import Sample, load_origin
from pipeline.ingest.worker import ShardTaskConfig, Workspace
from pipeline.order import row_order
from pipeline.store import arrays, layout, records, table
from pipeline.store.integrity import Problem
from pipeline.store.objects import Objects


def recheck_rows(objects: Objects, split: str, num_rows: int) -> Iterator[Problem]:
    """Decode *num_rows* rows of a finished split again, and yield each that differs.

    Rows are compared one by one as the caller iterates; nothing is written. A row that has crashed
    or hung a decoder before is not decoded: its source bytes are compared, and its stored pixels
    must be zeros.

    Args:
        objects: The objects of the store.
        split: The name of a finished split.
        num_rows: The number of rows, at least 0, spread over the split; always the same ones. More
            than the split has stand for all.

    Yields:
        A problem for each row whose source cannot be read, has other bytes, or gives another
        status, and for each image array in which it gives another row; a shard object that is
        missing counts as another row. Its `name` is the path of the image or the name of the object
        in the store, its `description` a phrase that begins with the row and its key.

    Raises:
        StoreError: The split is not finished, or the location of its source is unknown or does not
            exist. Like the other errors, it is raised when the caller iterates, not at the call.
        StoreMismatchError: This machine makes other pixels than the recipe.
        StoreDamagedError: A part of the table is missing or damaged.
        ValueError: A chunk of stored pixels, or the index of a shard, does not match its checksum.
        OSError: The disk reports an error.
    """
    done = records.load_finish_record(objects, split)
    if done is None:
        raise StoreError(
            f"split {split!r} is not finished: there is nothing to compare with. Run `tesserae"
            " prepare` first."
        )
    _check_source_exists(objects, split)
    config = ShardTaskConfig(
        store=objects.url, split=split, run="reader", arrays=done.array_names, watched=False
    )
    space = Workspace(config)
    chosen = sorted(row_order(done.num_rows, seed=1)[:num_rows].tolist())
    for shard in sorted({row // space.plan.shard_rows for row in chosen}):
        samples = {sample.row: sample for sample in space.rows.shard(shard)}
        name = layout.part(split, shard)
        part = table.load_part(objects, name, space.plan.rows(shard))
        for row in (row for row in chosen if row in samples):
            line = part.slice(row - space.plan.rows(shard).start, 1).to_pylist()[0]
            yield from _differences_from_store(space, shard, samples[row], line)


def _check_source_exists(objects: Objects, split: str) -> None:
    origin = load_origin(objects, records.load_plan(objects, split))
    if origin.exists:
        return
    if origin.root == f"{objects.url}/{layout.spool(split)}":
        raise StoreError(
            f"the images of split {split!r} can only be streamed, and their spool was removed when"
            f" the split was finished. To compare them, run `tesserae prepare {origin.source}`"
            " into another folder."
        )
    raise StoreError(
        f"the images of split {split!r} were in {origin.root}, which does not exist. Run `tesserae"
        " repair` with --data SOURCE and their present location."
    )


def _differences_from_store(
    space: Workspace, shard: int, sample: Sample, line: dict[str, object]
) -> Iterator[Problem]:
    row = f"row {sample.row} ({sample.key!r})"
    split = space.config.split
    image = f"{space.rows.origin.root}/{sample.path}"
    try:
        data = read_or_skip(space.reader, sample, space.recipe.max_image_bytes)
    except ReadError as e:
        yield Problem(image, f"{row}: {e}")
        return
    checksum = None if isinstance(data, Unread) else google_crc32c.value(data)
    if checksum != line["crc32c"]:
        yield Problem(image, f"{row}: its source bytes differ from the committed ones")
        return
    status, rows = _decode_source_row(space, data, line["status"])
    if status != line["status"]:
        yield Problem(layout.part(split, shard), f"{row}: it is {STATUS_WORDS[status]} now")
        return
    for array, expected in zip(space.config.arrays, rows, strict=True):
        if _stored_row(space, array, sample.row) != expected:
            difference = "decodes to other pixels" if array.isdecimal() else "gives other bytes"
            yield Problem(layout.array_shard(split, array, shard), f"{row}: it {difference} now")


def _stored_row(space: Workspace, array: str, row: int) -> Row:
    objects, split = space.objects, space.config.split
    if array.isdecimal():
        return arrays.read_pixel_rows(objects, split, int(array), row, row + 1).tobytes()
    return EncodedRow(*arrays.read_encoded_row(objects, split, array, row))


def _decode_source_row(
    space: Workspace, data: bytes | Unread, expected: object
) -> tuple[int, list[Row]]:
    recipe = space.recipe
    formats = [row_format(array) for array in space.config.arrays]
    quarantined: list[Row] = [
        bytes(each.side**2 * 3) if each.kind == SQUARE else EncodedRow(*EMPTY_ROW)
        for each in formats
    ]
    if expected in (CRASHED, TIMEOUT):  # it crashed or hung a decoder before: do not decode it
        return int(str(expected)), quarantined
    if isinstance(data, Unread):
        return data.status, quarantined
    try:
        _, rows = make_rows(
            data, formats, filter=recipe.filter, decode_arguments=recipe.decode_arguments
        )
    except DecodeError as e:
        return e.status, quarantined
    return READABLE, rows
