"""What one task does: one shard of every size, from the source's bytes to a commit.

    read -> crc32c -> decode once -> resize to each size -> chunk -> shard objects -> table part
    -> commit, last

A task may run twice, or beside its own ghost: what it writes is decided by recipe, plan and
source alone, appears whole or not at all, and the commit vouches only for what is durable.
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
from pipeline.sources.reader import Reader
from pipeline.store import layout, recipe, records, table
from pipeline.store.commit import Commit, Written
from pipeline.store.objects import Objects, open_objects
from pipeline.store.shard import ShardComposer
from pipeline.store.table import Line
from pipeline.urls import is_url


@dataclass(frozen=True, kw_only=True)
class Work:
    """What all tasks of a run share. Small: it travels with each of them."""

    store: str
    split: str
    run: str
    sizes: tuple[int, ...]
    image_seconds: float = 60.0
    """A picture that takes longer is hung."""
    image_memory: int = 4 * 2**30
    """Bytes that the child may use that decodes pictures one by one."""
    watched: bool = True
    """Whether somebody restarts a worker that a picture has hung."""
    code: str = ""
    """What `pipeline.code_digest.digest` says where the run was begun; empty = any will do."""
    read_tries: int = 4
    read_pause: float = 0.5
    """Seconds before the second try to read an image."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """What a task says of its shard, in a few hundred bytes."""

    shard: int
    num_rows: int
    counts: dict[str, int]
    """Rows by status, in words."""
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    """By stage: read, decode, resize, write, sync."""
    host: str = ""
    isolated: bool = False
    made: tuple[str, ...] = ()
    """The objects that were written; none if the shard was whole already."""


@dataclass(frozen=True)
class Facts:
    """What a picture was."""

    width: int
    height: int
    mode: str
    format: str
    remark: str


@dataclass(frozen=True)
class Made:
    """What was written of one shard, and what was seen."""

    arrays: dict[int, Written]
    """The shard object of each size."""
    part: Written | None
    """The table part, where it was wanted."""
    counts: dict[str, int]
    """Rows by status, in words."""
    bytes_in: int

    @property
    def objects(self) -> list[Written]:
        """All of it."""
        return [*self.arrays.values(), *([] if self.part is None else [self.part])]


Paint = Callable[[bytes], tuple[Facts, list[bytes]]]
"""Turns an image's bytes into the squares of every size, or raises DecodeError."""


class Workspace:
    """What a worker keeps open between the tasks of a run."""

    def __init__(self, work: Work) -> None:
        """Open the store and check that this machine makes the recipe's pixels.

        Raises:
            StoreMismatchError: It does not.
        """
        self.work = work
        code_digest.check(work.code)
        self.objects: Objects = open_objects(work.store, work.run)
        self.recipe = records.load_recipe(self.objects)
        self.plan = records.load_plan(self.objects, work.split)
        self.rows = Rows(self.objects, self.plan)
        self.reader = Reader(self.rows.origin.root)
        self.remote = is_url(self.rows.origin.root)
        self.watchdog = Watchdog(work.image_seconds if work.watched else 0.0)
        _check_pixels(self.recipe)


workspace = functools.lru_cache(maxsize=2)(Workspace)


def check_begun(store: str, run: str) -> None:
    """Refuse a folder that is not the one in which the run was begun, or whose run has ended.

    Raises:
        StoreError: With what every machine needs.
    """
    begun = Path(store) / layout.TEMPORARY / run
    if not is_url(store) and not begun.is_dir():
        raise StoreError(
            f"on {socket.gethostname()} {store} is not the folder in which the run was begun,"
            " or the run has ended. Every machine must have the same folder under the same path:"
            " use a network file system, or an object store."
        )


def _check_pixels(kept: recipe.Recipe) -> None:
    made = probe.probe(kept.filter, rules=kept.decode_rules)
    here = replace(kept, decoder=made.decoder, resizer=made.resizer, software=probe.description())
    try:
        recipe.check_same(kept, here)
    except StoreMismatchError as e:
        raise StoreMismatchError(f"on {socket.gethostname()}: {e}") from None


def prepare_shard(work: Work, shard: int, *, isolated: bool = False) -> Report:
    """Make one shard at every size that it lacks, and commit it.

    Args:
        work: What the run is.
        shard: Which shard.
        isolated: Decode picture by picture in a child with limits on time and memory, and
            quarantine what fails there twice.

    Raises:
        ReadError: An image could not be read, several times; nothing is committed.
        StoreMismatchError: The source's bytes are not those of before.
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
    made, watch = _make(space, shard, missing, before, isolated=isolated)
    after = _commit(space, shard, before, made, watch)
    space.objects.put(layout.commit(work.split, shard), after.encode())
    watch.lap("sync")
    return _report(
        after,
        isolated=isolated,
        made=tuple(
            written.name
            for written in after.objects
            if before is None or written not in before.objects
        ),
        seconds=watch.seconds,
        bytes_in=made.bytes_in,
    )


def rebuild_shard(work: Work, shard: int, *, sizes: tuple[int, ...], part: bool) -> Report:
    """Make again the damaged objects of a committed shard, and nothing else.

    Args:
        work: What the run is.
        shard: Which shard; its commit must be whole.
        sizes: The sizes whose shard object is damaged.
        part: Whether the table part is damaged.

    Raises:
        StoreMismatchError: What the source gives now is not what was committed.
    """
    space = workspace(work)
    kept = records.load_commit(space.objects, work.split, shard)
    if kept is None or not records.belongs(space.plan, kept):
        raise StoreMismatchError(f"shard {shard} of split {work.split!r} has no commit to follow.")
    # Which pictures must not be decoded again the part would say; that there are any, the commit.
    poisonous = part and any(STATUS_WORDS[word] in kept.counts for word in (CRASHED, TIMEOUT))
    # What was hung then is to be hung now.
    limit = work.image_seconds if kept.image_seconds is None else kept.image_seconds
    space = workspace(replace(work, image_seconds=limit))

    def approve(made: Made) -> None:
        wrong = [written.name for written in made.objects if written not in kept.objects]
        if wrong:
            raise StoreMismatchError(
                f"{', '.join(wrong)}: made again from the source, but not as it was committed. The"
                " source or the software has changed since."
            )

    before = None if part else kept
    made, watch = _make(space, shard, sizes, before, isolated=poisonous, approve=approve)
    return _report(kept, made=tuple(w.name for w in made.objects), seconds=watch.seconds)


def _make(
    space: Workspace,
    shard: int,
    sizes: Sequence[int],
    kept: Commit | None,
    *,
    isolated: bool,
    approve: Callable[[Made], None] = lambda made: None,
) -> tuple[Made, Stopwatch]:
    # What was kept has a table part; without it, there is one to be made. Nothing that is there
    # is replaced before it is approved.
    watch = Stopwatch()
    known = None if kept is None else _part(space, kept)
    with ExitStack() as stack:
        composers = [stack.enter_context(_composer(space, shard, size)) for size in sizes]
        paint = stack.enter_context(_painter(space, sizes, watch, isolated=isolated))
        lines = _fill(space, shard, composers, paint, known, watch)
        finishing: list[Callable[[], None]] = [composer.finish for composer in composers]
        part = None
        if kept is None:
            name, data = layout.part(space.work.split, shard), table.encode_part(lines)
            part = records.fingerprint(name, data)
            finishing.append(functools.partial(space.objects.put, name, data))
        made = Made(
            {size: composer.end() for size, composer in zip(sizes, composers, strict=True)},
            part,
            dict(Counter(STATUS_WORDS[line.status] for line in lines)),
            sum(line.num_bytes for line in lines),
        )
        approve(made)
        # Where each only waits for the disk, it is one wait.
        at_once = len(finishing) if space.objects.finish_together else 1
        with ThreadPoolExecutor(at_once, "finish") as pool:
            for finished in [pool.submit(finish) for finish in finishing]:
                finished.result()
    watch.lap("sync")
    return made, watch


def _part(space: Workspace, kept: Commit) -> pa.Table:
    return table.load_part(space.objects, kept.table.name, space.plan.rows(kept.shard))


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
    paint: Paint,
    known: pa.Table | None,
    watch: Stopwatch,
) -> list[Line]:
    samples = space.rows.shard(shard)
    black = [bytes(composer.row_bytes) for composer in composers]
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
        for place, (sample, data) in enumerate(zip(samples, images, strict=True)):
            watch.lap("read")
            line, squares = _paint_row(space, sample, data, paint, known, place)
            lines.append(line)
            for composer, square in zip(composers, squares or black, strict=True):
                composer.append(square)
            watch.lap("write")
    return lines


def _paint_row(
    space: Workspace,
    sample: Sample,
    data: bytes | Unread,
    paint: Paint,
    known: pa.Table | None,
    place: int,
) -> tuple[Line, list[bytes] | None]:
    checksum = None if isinstance(data, Unread) else google_crc32c.value(data)
    expected = _expected(sample, checksum, known, place)
    if expected in (CRASHED, TIMEOUT):  # never give it to the decoder again
        return _quarantined(space, sample, checksum, expected, _reason(known, place)), None
    squares = None
    try:
        if isinstance(data, Unread):
            raise DecodeError(data.status, data.reason)  # noqa: TRY301 - as the decoder would
        facts, squares = paint(data)
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
    sample: Sample, checksum: int | None, known: pa.Table | None, place: int
) -> int | None:
    if checksum is not None and sample.crc32c not in (None, checksum):
        raise ReadError(
            f"{sample.path} is damaged at byte {sample.offset}: {sample.key!r} has crc32c"
            f" {_hex(checksum)}, {_hex(sample.crc32c)} was written. Delete it, and prepare again."
        )
    if known is None:
        return None
    if known["crc32c"][place].as_py() != checksum:
        raise StoreMismatchError(
            f"row {sample.row}: the bytes of {sample.key!r} are not those that were committed"
            f" (crc32c {_hex(checksum)}, was {_hex(known['crc32c'][place].as_py())}). Bring the"
            " original image back."
        )
    return int(known["status"][place].as_py())


def _hex(checksum: int | None) -> str:
    return "of a file that is not read whole" if checksum is None else f"{checksum:08x}"


def _reason(known: pa.Table | None, place: int) -> str:
    return "" if known is None else str(known["reason"][place].as_py())


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
def _painter(
    space: Workspace, sizes: Sequence[int], watch: Stopwatch, *, isolated: bool
) -> Iterator[Paint]:
    if not isolated:
        yield functools.partial(_paint_here, space, tuple(sizes), watch)
        return
    work = space.work
    with IsolatedDecoder(
        timeout_seconds=work.image_seconds, memory_limit=work.image_memory
    ) as child:
        yield functools.partial(_paint_in_child, child, space, tuple(sizes), watch)


def _paint_here(
    space: Workspace, sizes: Sequence[int], watch: Stopwatch, data: bytes
) -> tuple[Facts, list[bytes]]:
    recipe = space.recipe
    with space.watchdog:
        decoded = decode(data, **recipe.decoding)
        watch.lap("decode")
        squares = [resize(decoded, size, fit=recipe.fit, filter=recipe.filter) for size in sizes]
        watch.lap("resize")
    return _facts(decoded), squares


def _facts(picture: Decoded | Resized) -> Facts:
    return Facts(picture.width, picture.height, picture.mode, picture.format, picture.remark)


def _paint_in_child(
    child: IsolatedDecoder,
    space: Workspace,
    sizes: Sequence[int],
    watch: Stopwatch,
    data: bytes,
) -> tuple[Facts, list[bytes]]:
    recipe = space.recipe
    painted = child.decode_resize(data, sizes=tuple(sizes), filter=recipe.filter, **recipe.decoding)
    watch.lap("decode")
    return _facts(painted), [painted.pixels[size] for size in sizes]


def _commit(
    space: Workspace,
    shard: int,
    before: Commit | None,
    made: Made,
    watch: Stopwatch,
) -> Commit:
    arrays = {str(size): written for size, written in made.arrays.items()}
    if made.part is None:
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
        table=made.part,
        counts=made.counts,
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
    found = {"python": platform.python_version()}
    for name in ("dask", "numpy", "pyarrow", "simplejpeg", "tesserae"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _report(
    kept: Commit,
    *,
    isolated: bool = False,
    made: tuple[str, ...] = (),
    seconds: dict[str, float] | None = None,
    bytes_in: int = 0,
) -> Report:
    return Report(
        shard=kept.shard,
        num_rows=kept.stop - kept.start,
        counts=kept.counts,
        bytes_in=bytes_in,
        bytes_out=sum(written.num_bytes for written in kept.objects if written.name in made),
        seconds=seconds or {},
        host=socket.gethostname(),
        isolated=isolated,
        made=made,
    )


class Stopwatch:
    """Seconds by stage: each lap counts from the end of the one before."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """The time since the last lap was spent on *stage*."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._last
        self._last = now
