"""One task of `prepare`: one shard of every image array, from the source's bytes to a commit.

    read -> crc32c -> decode once -> resize to each size, encode -> chunk -> shard objects
    -> table part -> commit, last

A task may run twice, or beside a lost copy of itself: recipe, plan and source alone determine what
it writes, each object appears complete or not at all, and the commit lists only durable ones.
"""

from __future__ import annotations

import functools
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace

import pyarrow as pa

from pipeline.errors import StoreMismatchError
from pipeline.images.rejection import CRASHED, STATUS_WORDS, TIMEOUT
from pipeline.images.rows import Row
from pipeline.ingest.readahead import read_ahead
from pipeline.ingest.render import Render, open_renderer, render_row
from pipeline.ingest.report import ShardReport, Stopwatch, report_on, software
from pipeline.ingest.worker import ShardTaskConfig, Workspace, check_run_active, workspace
from pipeline.store import layout, records, table
from pipeline.store.commit import Commit, ObjectRecord
from pipeline.store.encoded_shard import EncodedShardComposer
from pipeline.store.fingerprint import fingerprint
from pipeline.store.shard import ShardComposer
from pipeline.store.table import TableRow

EMPTY_ROW = (b"", 0, 0)
"""The bytes, height and width of a quarantined row of an encoded array."""


@dataclass(frozen=True)
class ShardResult:
    """The objects that a task writes for one shard, and the counts of its rows."""

    arrays: dict[str, ObjectRecord]
    """The shard object of each image array, by its name."""
    part: ObjectRecord | None
    """The table part; None if only shard objects are written."""
    counts: dict[str, int]
    """The number of rows by status, in words."""
    bytes_in: int

    @property
    def objects(self) -> list[ObjectRecord]:
        """All objects, the shard objects first."""
        return [*self.arrays.values(), *([] if self.part is None else [self.part])]


def prepare_shard(config: ShardTaskConfig, shard: int, *, isolated: bool = False) -> ShardReport:
    """Make one shard of every image array that it lacks, and commit it.

    The shard objects of these arrays and, for a new shard, the table part are written first, the
    commit last. Images that cannot be decoded are quarantined: their rows are zeros, or empty in
    encoded arrays. If an image takes longer than the configuration allows, the watchdog ends this
    process, unless the configuration says that nothing restarts it.

    Args:
        config: The arguments that all tasks of the run share: a `ShardTaskConfig` with at least
            `store`, `split`, `run` and `arrays`; `watched=False` where nothing restarts the
            process.
        shard: The number of the shard, from 0.
        isolated: True to decode image by image in a child with limits on time and memory, and to
            quarantine images that fail there twice (default: False).

    Returns:
        The report of the task: `counts`, the number of rows by the name of their status, such as
        `readable`; `bytes_in` and `bytes_out`, those read and written; `seconds` by name of the
        step, such as `decode`; `host`; and in `written_objects` the names of the objects written,
        relative to the store and without the commit. If the shard was complete before, nothing is
        written: the report has the counts of its commit, 0 bytes, no seconds and no written
        objects.

    Raises:
        ReadError: An image could not be read after several tries, as when the source does not
            exist; nothing is committed.
        StoreMismatchError: The source's bytes differ from those committed before, or this machine
            makes other pixels or runs other code.
        StoreError: The store could not be read or written, on a disk the run has not begun or has
            ended, there is no such split, shard or planned array, or the encoded rows do not fit
            into their shard.
    """
    check_run_active(config.store, config.run)
    space = workspace(config)
    before = records.load_commit(space.objects, config.split, shard)
    if before is not None and not records.belongs(space.plan, before):
        before = None
    missing = [name for name in config.arrays if before is None or name not in before.shard_objects]
    if before is not None and not missing:
        return report_on(before, isolated=isolated)
    result, watch = _make_shard(space, shard, missing, before, isolated=isolated)
    after = _new_commit(space, shard, before, result, watch)
    space.objects.put(layout.commit(config.split, shard), after.encode())
    watch.lap("sync")
    return report_on(
        after,
        isolated=isolated,
        written_objects=tuple(
            written.name
            for written in after.objects
            if before is None or written not in before.objects
        ),
        seconds=watch.seconds,
        bytes_in=result.bytes_in,
    )


def rebuild_shard(
    config: ShardTaskConfig, shard: int, *, arrays: tuple[str, ...], part: bool
) -> ShardReport:
    """Make the damaged objects of a committed shard again, and nothing else.

    They replace the objects in the store only if they are those that the commit records.

    Args:
        config: The arguments that all tasks of the run share: a `ShardTaskConfig` with at least
            `store`, `split`, `run` and `arrays`, of which all of *arrays* are. The time limit of an
            image is that of the commit, if it records one.
        shard: The number of the shard, from 0; its commit must be intact.
        arrays: The names of the image arrays whose shard object is damaged, all of which the commit
            has; empty if only the table part is.
        part: True if the table part is damaged. If the commit counts images that crashed or hung a
            decoder, all images are then decoded in a child.

    Returns:
        The report of the task: `counts` of the commit, the number of rows by the name of their
        status; `bytes_in` and `bytes_out`, those read and written; `seconds` by name of the step;
        `host`; and in `written_objects` the names of the objects written, relative to the store.

    Raises:
        StoreMismatchError: The shard has no intact commit, the objects made from the source now
            differ from it, it lacks one of *arrays*, or this machine makes other pixels or runs
            other code.
        ReadError: An image could not be read after several tries; nothing is replaced.
        StoreError: The store could not be read or written, or on a disk the run has not begun or
            has ended.
    """
    space = workspace(config)
    commit = records.load_commit(space.objects, config.split, shard)
    if commit is None or not records.belongs(space.plan, commit):
        raise StoreMismatchError(
            f"shard {shard} of split {config.split!r} has no commit to compare with. Run `tesserae"
            " prepare` again."
        )
    # The damaged part listed the images that crashed or hung a decoder; the commit only counts
    # them. If there are any, every image is decoded in a sandbox.
    isolated = part and any(STATUS_WORDS[word] in commit.counts for word in (CRASHED, TIMEOUT))
    # The time limit of the commit, so that the same images time out again.
    limit = config.image_seconds if commit.image_seconds is None else commit.image_seconds
    space = workspace(replace(config, image_seconds=limit))

    def approve(result: ShardResult) -> None:
        wrong = [written.name for written in result.objects if written not in commit.objects]
        if wrong:
            raise StoreMismatchError(
                f"{', '.join(wrong)}: decoding the source again gives other bytes than were"
                " committed. The source or the software has changed."
            )

    before = None if part else commit
    result, watch = _make_shard(space, shard, arrays, before, isolated=isolated, approve=approve)
    return report_on(
        commit,
        isolated=isolated,
        written_objects=tuple(written.name for written in result.objects),
        seconds=watch.seconds,
        bytes_in=result.bytes_in,
    )


def _make_shard(
    space: Workspace,
    shard: int,
    arrays: Sequence[str],
    committed: Commit | None,
    *,
    isolated: bool,
    approve: Callable[[ShardResult], None] = lambda result: None,
) -> tuple[ShardResult, Stopwatch]:
    # A commit has a table part; without a commit, one is made. No existing object is replaced
    # before *approve* accepts the new ones.
    watch = Stopwatch()
    committed_part = None if committed is None else _committed_part(space, committed)
    with ExitStack() as stack:
        composers = [stack.enter_context(_open_composer(space, shard, name)) for name in arrays]
        render = stack.enter_context(open_renderer(space, arrays, watch, isolated=isolated))
        lines = _fill_shard(space, shard, composers, render, committed_part, watch)
        finishing: list[Callable[[], None]] = [composer.finish for composer in composers]
        part = None
        if committed is None:
            name, data = layout.part(space.config.split, shard), table.encode_part(lines)
            part = fingerprint(name, data)
            finishing.append(functools.partial(space.objects.put, name, data))
        result = ShardResult(
            {
                name: composer.write_index()
                for name, composer in zip(arrays, composers, strict=True)
            },
            part,
            dict(Counter(STATUS_WORDS[line.status] for line in lines)),
            sum(line.num_bytes for line in lines),
        )
        approve(result)
        # Finishing an object waits for the disk; in parallel all of them wait once.
        at_once = len(finishing) if space.objects.finish_together else 1
        with ThreadPoolExecutor(at_once, "finish") as pool:
            for finished in [pool.submit(finish) for finish in finishing]:
                finished.result()
    watch.lap("sync")
    return result, watch


def _committed_part(space: Workspace, commit: Commit) -> pa.Table:
    return table.load_part(space.objects, commit.table.name, space.plan.rows(commit.shard))


@contextmanager
def _open_composer(
    space: Workspace, shard: int, array: str
) -> Iterator[ShardComposer | EncodedShardComposer]:
    writer = space.objects.create(layout.array_shard(space.config.split, array, shard))
    recipe = space.recipe
    try:
        if array.isdecimal():
            yield ShardComposer(
                writer,
                row_bytes=int(array) ** 2 * 3,
                shard_rows=recipe.shard_rows,
                chunk_rows=recipe.chunk_rows,
                codec=recipe.codec,
            )
        else:
            geometry = space.encoded_plans[array].geometry(recipe.shard_rows)
            yield EncodedShardComposer(writer, geometry)
    finally:
        writer.abort()


def _append(composer: ShardComposer | EncodedShardComposer, row: Row | None) -> None:
    """Append one row to a shard; None stands for a quarantined one."""
    if isinstance(composer, EncodedShardComposer):
        composer.append(*(EMPTY_ROW if row is None else row))
    else:
        composer.append(bytes(composer.row_bytes) if row is None else row)  # type: ignore[arg-type]


def _fill_shard(
    space: Workspace,
    shard: int,
    composers: Sequence[ShardComposer | EncodedShardComposer],
    render: Render,
    committed_part: pa.Table | None,
    watch: Stopwatch,
) -> list[TableRow]:
    samples = space.rows.shard(shard)
    quarantined = [None] * len(composers)
    lines: list[TableRow] = []
    config = space.config
    images = read_ahead(
        space.reader,
        samples,
        limit=space.recipe.max_image_bytes,
        readers=space.readers,
        max_attempts=config.max_read_attempts,
        retry_delay_seconds=config.retry_delay_seconds,
    )
    with closing(images):
        for position, (sample, data) in enumerate(zip(samples, images, strict=True)):
            watch.lap("read")
            line, rows = render_row(space, sample, data, render, committed_part, position)
            lines.append(line)
            for composer, row in zip(composers, rows or quarantined, strict=True):
                _append(composer, row)
            watch.lap("write")
    return lines


def _new_commit(
    space: Workspace,
    shard: int,
    before: Commit | None,
    result: ShardResult,
    watch: Stopwatch,
) -> Commit:
    arrays = {name: written for name, written in result.arrays.items() if name.isdecimal()}
    encoded = {name: written for name, written in result.arrays.items() if name not in arrays}
    if result.part is None:
        assert before is not None
        return replace(
            before, arrays={**before.arrays, **arrays}, encoded={**before.encoded, **encoded}
        )
    rows = space.plan.rows(shard)
    return Commit(
        split=space.config.split,
        shard=shard,
        plan=space.plan.digest,
        start=rows.start,
        stop=rows.stop,
        arrays=arrays,
        table=result.part,
        counts=result.counts,
        provenance={
            "host": socket.gethostname(),
            "image_seconds": space.config.image_seconds,
            "seconds": {step: round(spent, 3) for step, spent in watch.seconds.items()},
            "software": software(),
        },
        format=space.plan.format,
        encoded=encoded,
    )
