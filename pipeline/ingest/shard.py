"""One task of `prepare`: one shard of every size, from the source's bytes to a commit.

    read -> crc32c -> decode once -> resize to each size -> chunk -> shard objects -> table part
    -> commit, last

A task may run twice, or beside a lost copy of itself: recipe, plan and source alone determine what
it writes, each object appears complete or not at all, and the commit vouches only for durable ones.
"""

from __future__ import annotations

import functools
import platform
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import google_crc32c
import pyarrow as pa

from pipeline import code_digest
from pipeline.errors import (
    DecodeError,
    ReadError,
    StoreDamagedError,
    StoreError,
    StoreMismatchError,
)
from pipeline.images import probe
from pipeline.images.decode import CRASHED, READABLE, STATUS_WORDS, TIMEOUT, Decoded, decode
from pipeline.images.resize import fit_box, resize
from pipeline.images.sandbox import IsolatedDecoder, Resized
from pipeline.ingest.readahead import Unread, read_ahead
from pipeline.ingest.source_index import Rows, Sample
from pipeline.ingest.watchdog import Watchdog
from pipeline.sources.reader import SourceReader
from pipeline.store import layout, recipe, records, table
from pipeline.store.commit import Commit, Written
from pipeline.store.objects import Objects, open_objects
from pipeline.store.shard import ShardComposer
from pipeline.store.table import Line
from pipeline.urls import is_url


@dataclass(frozen=True, kw_only=True)
class Work:
    """The arguments that all tasks of a run share. It is small, since each task carries it."""

    store: str
    split: str
    run: str
    sizes: tuple[int, ...]
    image_seconds: float = 60.0
    """The time limit in seconds for decoding one image."""
    image_memory: int = 4 * 2**30
    """The memory limit in bytes of the child that decodes image by image."""
    watched: bool = True
    """True if a nanny restarts workers, so that the watchdog may end a hung one."""
    code: str = ""
    """The `pipeline.code_digest.digest` of the client; workers must match it. Empty: no check."""
    read_tries: int = 4
    read_pause: float = 0.5
    """The seconds before the second try to read an image."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """A summary of a task, of a few hundred bytes."""

    shard: int
    num_rows: int
    counts: dict[str, int]
    """The number of rows by status, in words."""
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """The seconds spent in each stage: read, decode, resize, write, sync."""
    host: str = ""
    isolated: bool = False
    made: tuple[str, ...] = ()
    """The names of the objects that were written; empty if the shard was complete before."""


@dataclass(frozen=True)
class Facts:
    """The properties of a decoded image."""

    width: int
    height: int
    mode: str
    format: str
    remark: str


@dataclass(frozen=True)
class ShardResult:
    """The objects that a task writes for one shard, and the counts of its rows."""

    arrays: dict[int, Written]
    """The shard object of each size."""
    part: Written | None
    """The table part; None if only shard objects are written."""
    counts: dict[str, int]
    """The number of rows by status, in words."""
    bytes_in: int

    @property
    def objects(self) -> list[Written]:
        """All objects, the shard objects first."""
        return [*self.arrays.values(), *([] if self.part is None else [self.part])]


Render = Callable[[bytes], tuple[Facts, list[bytes]]]
"""A function from an image's bytes to its squares of every size; it raises DecodeError."""


class Workspace:
    """The open files and readers that a worker keeps between the tasks of a run."""

    def __init__(self, work: Work) -> None:
        """Open the store and check that this machine makes the recipe's pixels.

        Raises:
            StoreMismatchError: This machine makes other pixels, or runs other code.
        """
        self.work = work
        code_digest.check(work.code)
        self.objects: Objects = open_objects(work.store, work.run)
        self.recipe = records.load_recipe(self.objects)
        self.plan = records.load_plan(self.objects, work.split)
        self.rows = Rows(self.objects, self.plan)
        self.reader = SourceReader(self.rows.origin.root)
        self.remote = is_url(self.rows.origin.root)
        self.watchdog = Watchdog(work.image_seconds if work.watched else 0.0)
        _check_pixels(self.recipe)


workspace = functools.lru_cache(maxsize=2)(Workspace)


def check_begun(store: str, run: str) -> None:
    """Check that *store* is the folder in which the run was started, and that the run goes on.

    Raises:
        StoreError: It is another folder of the same path, or the run has ended.
    """
    # Each run has a folder for its temporary files: another machine's local disk has none.
    run_folder = Path(store) / layout.TEMPORARY / run
    if not is_url(store) and not run_folder.is_dir():
        raise StoreError(
            f"on {socket.gethostname()} {store} is not the folder that the command writes to, or"
            " the command has ended. Every machine must have the same folder under the same path:"
            " use a network file system, or an object store."
        )


def _check_pixels(stored: recipe.Recipe) -> None:
    probed = probe.probe(stored.filter, rules=stored.decode_rules)
    local = replace(
        stored, decoder=probed.decoder, resizer=probed.resizer, software=probe.description()
    )
    try:
        recipe.check_same(stored, local)
    except StoreMismatchError as e:
        raise StoreMismatchError(f"on {socket.gethostname()}: {e}") from None


def prepare_shard(work: Work, shard: int, *, isolated: bool = False) -> Report:
    """Make one shard at every size that it lacks, and commit it.

    Args:
        work: The arguments of the run.
        shard: Number of the shard.
        isolated: Decode image by image in a child with limits on time and memory, and quarantine
            images that fail there twice.

    Raises:
        ReadError: An image could not be read after several tries; nothing is committed.
        StoreMismatchError: The source's bytes differ from those committed before.
        StoreError: The store could not be written.
    """
    check_begun(work.store, work.run)
    space = workspace(work)
    before = records.load_commit(space.objects, work.split, shard)
    if before is not None and not records.belongs(space.plan, before):
        before = None
    missing = [size for size in work.sizes if before is None or size not in before.sizes]
    if before is not None and not missing:
        return _report(before, isolated=isolated)
    result, watch = _make(space, shard, missing, before, isolated=isolated)
    after = _commit(space, shard, before, result, watch)
    space.objects.put(layout.commit(work.split, shard), after.encode())
    watch.lap("sync")
    return _report(
        after,
        isolated=isolated,
        written_names=tuple(
            written.name
            for written in after.objects
            if before is None or written not in before.objects
        ),
        seconds=watch.seconds,
        bytes_in=result.bytes_in,
    )


def rebuild_shard(work: Work, shard: int, *, sizes: tuple[int, ...], part: bool) -> Report:
    """Make the damaged objects of a committed shard again, and nothing else.

    Args:
        work: The arguments of the run.
        shard: Number of the shard; its commit must be intact.
        sizes: The sizes whose shard object is damaged.
        part: True if the table part is damaged.

    Raises:
        StoreMismatchError: The objects made from the source now differ from the commit.
    """
    space = workspace(work)
    commit = records.load_commit(space.objects, work.split, shard)
    if commit is None or not records.belongs(space.plan, commit):
        raise StoreMismatchError(
            f"shard {shard} of split {work.split!r} has no commit to compare with. Run `tesserae"
            " prepare` again."
        )
    # The damaged part listed the images that crashed or hung a decoder; the commit only counts
    # them. If there are any, every image is decoded in a sandbox.
    isolated = part and any(STATUS_WORDS[word] in commit.counts for word in (CRASHED, TIMEOUT))
    # The time limit of the commit, so that the same images time out again.
    limit = work.image_seconds if commit.image_seconds is None else commit.image_seconds
    space = workspace(replace(work, image_seconds=limit))

    def approve(result: ShardResult) -> None:
        wrong = [written.name for written in result.objects if written not in commit.objects]
        if wrong:
            raise StoreMismatchError(
                f"{', '.join(wrong)}: decoding the source again gives other bytes than were"
                " committed. The source or the software has changed."
            )

    before = None if part else commit
    result, watch = _make(space, shard, sizes, before, isolated=isolated, approve=approve)
    return _report(
        commit, written_names=tuple(w.name for w in result.objects), seconds=watch.seconds
    )


def _make(
    space: Workspace,
    shard: int,
    sizes: Sequence[int],
    committed: Commit | None,
    *,
    isolated: bool,
    approve: Callable[[ShardResult], None] = lambda result: None,
) -> tuple[ShardResult, Stopwatch]:
    # A commit has a table part; without a commit, one is made. No existing object is replaced
    # before *approve* accepts the new ones.
    watch = Stopwatch()
    committed_part = None if committed is None else _part(space, committed)
    with ExitStack() as stack:
        composers = [stack.enter_context(_composer(space, shard, size)) for size in sizes]
        render = stack.enter_context(_renderer(space, sizes, watch, isolated=isolated))
        lines = _fill(space, shard, composers, render, committed_part, watch)
        finishing: list[Callable[[], None]] = [composer.finish for composer in composers]
        part = None
        if committed is None:
            name, data = layout.part(space.work.split, shard), table.encode_part(lines)
            part = records.fingerprint(name, data)
            finishing.append(functools.partial(space.objects.put, name, data))
        result = ShardResult(
            {size: composer.end() for size, composer in zip(sizes, composers, strict=True)},
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


def _part(space: Workspace, commit: Commit) -> pa.Table:
    return table.load_part(space.objects, commit.table.name, space.plan.rows(commit.shard))


@contextmanager
def _composer(space: Workspace, shard: int, size: int) -> Iterator[ShardComposer]:
    writer = space.objects.create(layout.shard(space.work.split, size, shard))
    recipe = space.recipe
    try:
        yield ShardComposer(
            writer,
            row_bytes=size * size * 3,
            shard_rows=recipe.shard_rows,
            chunk_rows=recipe.chunk_rows,
            codec=recipe.codec,
        )
    finally:
        writer.abort()


def _fill(
    space: Workspace,
    shard: int,
    composers: Sequence[ShardComposer],
    render: Render,
    committed_part: pa.Table | None,
    watch: Stopwatch,
) -> list[Line]:
    samples = space.rows.shard(shard)
    zero_rows = [bytes(composer.row_bytes) for composer in composers]
    lines: list[Line] = []
    work = space.work
    images = read_ahead(
        space.reader,
        samples,
        limit=space.recipe.max_image_bytes,
        remote=space.remote,
        tries=work.read_tries,
        pause=work.read_pause,
    )
    with closing(images):
        for position, (sample, data) in enumerate(zip(samples, images, strict=True)):
            watch.lap("read")
            line, squares = _render_row(space, sample, data, render, committed_part, position)
            lines.append(line)
            for composer, square in zip(composers, squares or zero_rows, strict=True):
                composer.append(square)
            watch.lap("write")
    return lines


def _render_row(
    space: Workspace,
    sample: Sample,
    data: bytes | Unread,
    render: Render,
    committed_part: pa.Table | None,
    position: int,
) -> tuple[Line, list[bytes] | None]:
    checksum = None if isinstance(data, Unread) else google_crc32c.value(data)
    expected = _expected(sample, checksum, committed_part, position)
    if expected in (CRASHED, TIMEOUT):  # it crashed or hung a decoder before
        return _quarantined(
            space, sample, checksum, expected, _reason(committed_part, position)
        ), None
    squares = None
    try:
        if isinstance(data, Unread):
            raise DecodeError(data.status, data.reason)  # noqa: TRY301 - as the decoder would
        facts, squares = render(data)
    except DecodeError as e:
        line = _quarantined(space, sample, checksum, e.status, e.reason)
    else:
        line = _readable(space, sample, checksum, facts)
    if expected is not None and expected != line.status:
        was = STATUS_WORDS.get(expected, "unknown")
        raise StoreMismatchError(
            f"row {sample.row} ({sample.key!r}) was {was} when it was committed and is"
            f" {STATUS_WORDS[line.status]} now, from the same bytes."
        )
    return line, squares


def _expected(
    sample: Sample, checksum: int | None, committed_part: pa.Table | None, position: int
) -> int | None:
    if checksum is not None and sample.crc32c not in (None, checksum):
        raise ReadError(
            f"{sample.path} is damaged at byte {sample.offset}: {sample.key!r} has crc32c"
            f" {_hex(checksum)}, {_hex(sample.crc32c)} was written. Delete it, and prepare again."
        )
    if committed_part is None:
        return None
    if committed_part["crc32c"][position].as_py() != checksum:
        raise StoreMismatchError(
            f"row {sample.row}: the bytes of {sample.key!r} are not those that were committed"
            f" (crc32c {_hex(checksum)}, was {_hex(committed_part['crc32c'][position].as_py())})."
            " Restore the original image."
        )
    return int(committed_part["status"][position].as_py())


def _hex(checksum: int | None) -> str:
    return "unknown: the file is too large to read" if checksum is None else f"{checksum:08x}"


def _reason(committed_part: pa.Table | None, position: int) -> str:
    return "" if committed_part is None else str(committed_part["reason"][position].as_py())


def _readable(space: Workspace, sample: Sample, checksum: int | None, facts: Facts) -> Line:
    return Line(
        sample.row,
        sample.key,
        _wnid(space, sample),
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


def _quarantined(
    space: Workspace, sample: Sample, checksum: int | None, status: int, reason: str
) -> Line:
    return Line(
        sample.row,
        sample.key,
        _wnid(space, sample),
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


def _wnid(space: Workspace, sample: Sample) -> str:
    if sample.label >= len(space.recipe.classes):
        raise StoreDamagedError(
            f"{layout.rows(space.work.split)} gives row {sample.row} the label {sample.label}:"
            f" expected -1 to {len(space.recipe.classes) - 1}. Pass --data SOURCE to list it again."
        )
    return space.recipe.classes[sample.label][0] if sample.label >= 0 else ""


@contextmanager
def _renderer(
    space: Workspace, sizes: Sequence[int], watch: Stopwatch, *, isolated: bool
) -> Iterator[Render]:
    if not isolated:
        yield functools.partial(_render_in_process, space, tuple(sizes), watch)
        return
    work = space.work
    with IsolatedDecoder(
        timeout_seconds=work.image_seconds, memory_limit=work.image_memory
    ) as child:
        yield functools.partial(_render_in_child, child, space, tuple(sizes), watch)


def _render_in_process(
    space: Workspace, sizes: Sequence[int], watch: Stopwatch, data: bytes
) -> tuple[Facts, list[bytes]]:
    recipe = space.recipe
    with space.watchdog:
        decoded = decode(data, **recipe.decoding)
        watch.lap("decode")
        squares = [resize(decoded, size, fit=recipe.fit, filter=recipe.filter) for size in sizes]
        watch.lap("resize")
    return _facts(decoded), squares


def _facts(image: Decoded | Resized) -> Facts:
    return Facts(image.width, image.height, image.mode, image.format, image.remark)


def _render_in_child(
    child: IsolatedDecoder,
    space: Workspace,
    sizes: Sequence[int],
    watch: Stopwatch,
    data: bytes,
) -> tuple[Facts, list[bytes]]:
    recipe = space.recipe
    resized = child.decode_resize(data, sizes=tuple(sizes), filter=recipe.filter, **recipe.decoding)
    watch.lap("decode")
    return _facts(resized), [resized.pixels[size] for size in sizes]


def _commit(
    space: Workspace,
    shard: int,
    before: Commit | None,
    result: ShardResult,
    watch: Stopwatch,
) -> Commit:
    arrays = {str(size): written for size, written in result.arrays.items()}
    if result.part is None:
        assert before is not None
        return replace(before, arrays={**before.arrays, **arrays})
    rows = space.plan.rows(shard)
    return Commit(
        split=space.work.split,
        shard=shard,
        plan=space.plan.digest,
        start=rows.start,
        stop=rows.stop,
        arrays=arrays,
        table=result.part,
        counts=result.counts,
        provenance={
            "host": socket.gethostname(),
            "image_seconds": space.work.image_seconds,
            "seconds": {stage: round(spent, 3) for stage, spent in watch.seconds.items()},
            "software": _software(),
        },
        format=space.plan.format,
    )


@functools.cache
def _software() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in ("dask", "numpy", "pyarrow", "simplejpeg", "tesserae"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _report(
    commit: Commit,
    *,
    isolated: bool = False,
    written_names: tuple[str, ...] = (),
    seconds: dict[str, float] | None = None,
    bytes_in: int = 0,
) -> Report:
    return Report(
        shard=commit.shard,
        num_rows=commit.stop - commit.start,
        counts=commit.counts,
        bytes_in=bytes_in,
        bytes_out=sum(
            written.num_bytes for written in commit.objects if written.name in written_names
        ),
        seconds=seconds or {},
        host=socket.gethostname(),
        isolated=isolated,
        made=written_names,
    )


class Stopwatch:
    """A stopwatch that adds up seconds by stage; each lap starts at the end of the previous one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to *stage*."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
