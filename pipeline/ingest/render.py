"""Turns the bytes of an image into its row in every array and its line of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import google_crc32c
import pyarrow as pa

from pipeline.errors import DecodeError, ReadError, StoreDamagedError, StoreMismatchError
from pipeline.images.rejection import CRASHED, READABLE, STATUS_WORDS, TIMEOUT
from pipeline.images.resize import fit_box
from pipeline.images.rows import (
    JPEG,
    ORIGINAL,
    SQUARE,
    ImageProperties,
    Row,
    RowFormat,
    make_rows,
)
from pipeline.images.sandbox import IsolatedDecoder
from pipeline.ingest.readahead import Unread
from pipeline.ingest.report import Stopwatch
from pipeline.ingest.source_index import Sample
from pipeline.ingest.worker import Workspace
from pipeline.store import layout
from pipeline.store.encoding import parse_encoding
from pipeline.store.table import TableRow

Render = Callable[[bytes], tuple[ImageProperties, list[Row]]]
"""A function from an image's bytes to its row in every array; it raises DecodeError."""


def row_format(array: str) -> RowFormat:
    """Return the form in which an image array holds its rows.

    Args:
        array: The name of the array: a size in pixels as text, such as `224`, or that of encoded
            rows, such as `jpeg256@90`.

    Raises:
        ValueError: It is neither.
    """
    if array.isdecimal():
        return RowFormat(SQUARE, int(array))
    encoding = parse_encoding(array)
    if encoding.is_original:
        return RowFormat(ORIGINAL)
    return RowFormat(JPEG, encoding.short_side, encoding.quality)


@contextmanager
def open_renderer(
    space: Workspace, arrays: Sequence[str], watch: Stopwatch, *, isolated: bool
) -> Iterator[Render]:
    """Yield a function that decodes, resizes and encodes images inside the block.

    With *isolated*, a child process does, which starts with the first image and is ended with
    the block. Otherwise this process does, under the watchdog of *space*: unless its configuration
    has `watched` False, an alarm of the process (SIGALRM) ends it if one image takes too long.

    Args:
        space: The open store and source, as `pipeline.ingest.worker.workspace(config)` returns
            them, whose recipe and limits apply.
        arrays: The names of the arrays that get a row: `224`, `jpeg256@90`, ...
        watch: The stopwatch of the task, to which the seconds of `decode`, `resize` and `encode`
            are added; a child counts all of them as `decode`. What passed since its last lap
            counts, too, so the caller calls `lap` before each image.
        isolated: True to decode in a child with limits on time and memory.

    Yields:
        A function that takes all bytes of an image file. It returns a tuple of the
        `ImageProperties` of the image and a list with its row in each of *arrays*, in their
        order: (size, size, 3) uint8 RGB in C order, as bytes, or an `EncodedRow`. It raises
        DecodeError, which has a `status` and a `reason`, for bytes that are no readable image, and
        with *isolated* also for an image that crashes a child twice or exceeds its limit of time or
        memory. Call it in the thread that entered the block.
    """
    recipe, config = space.recipe, space.config
    formats = [row_format(array) for array in arrays]
    if not isolated:

        def render(data: bytes) -> tuple[ImageProperties, list[Row]]:
            """Return the properties and the rows of an image, made in this process."""
            with space.watchdog:
                return make_rows(
                    data,
                    formats,
                    filter=recipe.filter,
                    decode_arguments=recipe.decode_arguments,
                    lap=watch.lap,
                )

        yield render
        return
    with IsolatedDecoder(
        timeout_seconds=config.image_seconds, memory_limit=config.image_memory
    ) as child:

        def render_in_child(data: bytes) -> tuple[ImageProperties, list[Row]]:
            """Return the properties and the rows of an image, made in the child process."""
            rendered = child.make_rows(
                data, formats, filter=recipe.filter, decode_arguments=recipe.decode_arguments
            )
            watch.lap("decode")
            return rendered

        yield render_in_child


def render_row(
    space: Workspace,
    sample: Sample,
    data: bytes | Unread,
    render: Render,
    committed_part: pa.Table | None,
    position: int,
) -> tuple[TableRow, list[Row] | None]:
    """Return a row's line of the table, and its row in each array; None if it is quarantined.

    A row that was committed before must have the same bytes and status again. An image that crashed
    or hung a decoder then is not decoded: its row gets the same status and reason.

    Args:
        space: The open store and source, as `pipeline.ingest.worker.workspace(config)` returns
            them.
        sample: The sample of the row, as `SourceIndex.shard` returns it.
        data: All its bytes, or the status and reason for not reading them.
        render: The function that decodes it, which `open_renderer` yields; its block is open.
        committed_part: The shard's part of the table, if it was committed before; otherwise None.
        position: The position of the row in the shard, from 0.

    Returns:
        A tuple of the line of the table, with one attribute for each of its columns, such as
        `status` and `reason`; and a list of its row in each array, in the order of *render*: (size,
        size, 3) uint8 RGB in C order as bytes, or an `EncodedRow`. In place of the list there is
        None if the row is quarantined: the caller stores zeros, or an empty row.

    Raises:
        ReadError: The bytes differ from those that were spooled.
        StoreMismatchError: The bytes, or their status, differ from those committed before.
        StoreDamagedError: The sample has a label that the store does not have.
    """
    checksum = None if isinstance(data, Unread) else google_crc32c.value(data)
    expected = _committed_status(sample, checksum, committed_part, position)
    if expected in (CRASHED, TIMEOUT):  # it crashed or hung a decoder before
        return _quarantined_row(
            space, sample, checksum, expected, _committed_reason(committed_part, position)
        ), None
    rows = None
    try:
        if isinstance(data, Unread):
            raise DecodeError(data.status, data.reason)  # noqa: TRY301 - as the decoder would
        facts, rows = render(data)
    except DecodeError as e:
        line = _quarantined_row(space, sample, checksum, e.status, e.reason)
    else:
        line = _readable_row(space, sample, checksum, facts)
    if expected is not None and expected != line.status:
        was = STATUS_WORDS.get(expected, "unknown")
        raise StoreMismatchError(
            f"row {sample.row} ({sample.key!r}) was {was} when it was committed and is"
            f" {STATUS_WORDS[line.status]} now, from the same bytes."
        )
    return line, rows


def _committed_status(
    sample: Sample, checksum: int | None, committed_part: pa.Table | None, position: int
) -> int | None:
    if checksum is not None and sample.crc32c not in (None, checksum):
        raise ReadError(
            f"{sample.path} is damaged at byte {sample.offset}: {sample.key!r} has crc32c"
            f" {_checksum_text(checksum)}, {_checksum_text(sample.crc32c)} was written. Delete it,"
            " and prepare again."
        )
    if committed_part is None:
        return None
    committed = committed_part["crc32c"][position].as_py()
    if committed != checksum:
        raise StoreMismatchError(
            f"row {sample.row}: the bytes of {sample.key!r} are not those that were committed"
            f" (crc32c {_checksum_text(checksum)}, was {_checksum_text(committed)})."
            " Restore the original image."
        )
    return int(committed_part["status"][position].as_py())


def _checksum_text(checksum: int | None) -> str:
    return "unknown: the file is too large to read" if checksum is None else f"{checksum:08x}"


def _committed_reason(committed_part: pa.Table | None, position: int) -> str:
    return "" if committed_part is None else str(committed_part["reason"][position].as_py())


def _readable_row(
    space: Workspace, sample: Sample, checksum: int | None, facts: ImageProperties
) -> TableRow:
    return TableRow(
        sample.row,
        sample.key,
        _wnid_of(space, sample),
        sample.label,
        facts.width,
        facts.height,
        facts.mode,
        facts.format,
        sample.num_bytes,
        checksum,
        fit_box(facts.width, facts.height, space.recipe.fit),
        READABLE,
        facts.remark or None,
    )


def _quarantined_row(
    space: Workspace, sample: Sample, checksum: int | None, status: int, reason: str
) -> TableRow:
    return TableRow(
        sample.row,
        sample.key,
        _wnid_of(space, sample),
        sample.label,
        None,
        None,
        None,
        None,
        sample.num_bytes,
        checksum,
        None,
        status,
        reason,
    )


def _wnid_of(space: Workspace, sample: Sample) -> str:
    if sample.label >= len(space.recipe.classes):
        raise StoreDamagedError(
            f"{layout.source_index(space.config.split)} gives row {sample.row} the label"
            f" {sample.label}: expected -1 to {len(space.recipe.classes) - 1}. Pass --data SOURCE"
            " to list it again."
        )
    return space.recipe.classes[sample.label][0] if sample.label >= 0 else ""
