"""One task that computes derived rows: the rows of one shard, from its pixels to a commit.

As with images, a task may run twice or at the same time as a lost copy of itself, each object
appears complete or not at all, and the commit is written last. But two machines may compute
slightly different bytes from the same pixels. So an object is never replaced: of two tasks that
compute the same shard, the first to write it wins, and the other commits what the first wrote.

A network's sums depend on how images are batched and on how many threads take part in a sum. So
batches start anew with each shard, and a single thread computes each; several threads may compute
several batches.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.features.batches import batches, read_chunks
from pipeline.features.encoded_batches import decode_batch, decoding_threads, encoded_batches
from pipeline.features.probes import KEY
from pipeline.features.worker import (
    RowTaskConfig,
    RowWorkspace,
    open_workspace,
    reproducible_sums,
)
from pipeline.ingest.worker import check_run_active
from pipeline.store import derived, records
from pipeline.store.commit import Commit, ObjectRecord
from pipeline.store.derived import DerivedCommit
from pipeline.store.fingerprint import object_digest
from pipeline.store.objects import Objects, ObjectWriter
from pipeline.store.shard import ShardComposer


@dataclass(frozen=True, kw_only=True)
class RowsReport:
    """A summary of a finished task."""

    shard: int
    """The number of the shard."""
    num_rows: int
    """The number of its rows, those in quarantine included."""
    bytes_out: int
    """The number of bytes that the task wrote."""
    seconds: float
    """The duration of the task."""


PROGRESS_SECONDS = 2.0
"""The minimum time between two progress messages of a task."""


def progress_topic(run: str) -> str:
    """Return the topic of the Dask events that report the progress of the tasks of *run*.

    An event is `{"shard": number, "rows": rows of it that are computed so far}`. A task sends one
    at most every 2 s, and none if it is faster.

    Args:
        run: The name of the run.

    Returns:
        `rows-<run>`.
    """
    return f"rows-{run}"


class _ProgressReporter:
    """Reports to the client how many rows of a shard are computed, as Dask events."""

    def __init__(self, config: RowTaskConfig, shard: int) -> None:
        self._topic, self._shard = progress_topic(config.run), shard
        self._rows, self._last_message = 0, time.monotonic()
        from distributed import (
            get_worker,  # not at the top: a search imports this module without Dask
        )

        self._log_event: Callable[[str, dict[str, int]], None] = lambda *_: None
        with contextlib.suppress(ValueError):  # not in a worker: there is no one to report to
            self._log_event = get_worker().log_event

    def add(self, rows: int) -> None:
        """Count *rows* more."""
        self._rows += rows
        now = time.monotonic()
        if now - self._last_message >= PROGRESS_SECONDS:
            self._last_message = now
            self._log_event(self._topic, {"shard": self._shard, "rows": self._rows})


def compute_shard(config: RowTaskConfig, shard: int, threads: int = 1) -> RowsReport:
    """Compute the rows of one shard, of each kind that it lacks, and commit them in the store.

    Rows of each kind become one object, which is never replaced if it exists; the commit is written
    last, durably. In a Dask worker, progress is reported as events. The process keeps the network
    of the last call open for the next one.

    Args:
        config: The arguments of the run, such as a `pipeline.features.worker.FeatureTaskConfig`:
            the path or URL of the `store`, the `split`, the name of the `run`, which
            `Objects.begin` must have begun, the `name` of the set, whose recipe is in the store,
            what the network is opened by, the `kinds` to compute, and `gpu`, True to compute on one
            (default: False). Its `probe` and `code` are compared with those of this process unless
            they are empty (the default).
        shard: The number of the shard, from 0.
        threads: The number of threads that compute, each its own batches, at least 1 (default: 1).
            On a GPU there are always two.

    Returns:
        A summary: the number of the `shard`, `num_rows` with those in quarantine, `bytes_out`, the
        bytes written (0 if the shard lacked nothing), and the duration in `seconds`.

    Raises:
        StoreDamagedError: The shard's images are damaged.
        StoreMismatchError: This process has another version of the code, or another network, than
            the run was started with.
        StoreError: The store cannot be written, or is not the one in which the run was started, or
            on a disk the run has not begun or has ended; there is no set of that name or no such
            split; the shard's images are not committed; a GPU is required and cannot be used; or a
            feature is NaN or infinite.
        TesseraeError: The network cannot be opened.
    """
    started = time.monotonic()
    check_run_active(config.store, config.run)
    workspace = open_workspace(config)
    recipe, plan = workspace.recipe, workspace.split.plan
    images = _image_commit(workspace, shard)
    pixels = images.shard_objects[recipe.array_name]
    before = derived.load_commit(workspace.objects, recipe, plan, shard)
    intact: dict[str, ObjectRecord] = {}
    if before is not None and before.pixels == pixels.digest:
        intact = intact_arrays(workspace.objects, before)
    missing = [kind for kind in config.kinds if kind not in intact]
    written = intact
    if missing:
        written = intact | _write_kinds(workspace, shard, pixels, missing, threads)
        after = recipe.commit_of(
            split=config.split,
            shard=shard,
            plan=plan.digest,
            pixels=pixels.digest,
            arrays=written,
            provenance=_provenance(workspace, time.monotonic() - started),
        )
        name = recipe.family.names.commit(config.name, config.split, shard)
        workspace.objects.put(name, after.encode())
    return RowsReport(
        shard=shard,
        num_rows=images.stop - images.start,
        bytes_out=sum(written[kind].num_bytes for kind in missing),
        seconds=time.monotonic() - started,
    )


def _provenance(workspace: RowWorkspace, seconds: float) -> dict[str, object]:
    return {
        "seconds": round(seconds, 3),
        "host": socket.gethostname(),
        "torch": torch.__version__,
        **workspace.network.software,
        "device": workspace.network.device.type,
        KEY: workspace.probe,
    }


def _image_commit(workspace: RowWorkspace, shard: int) -> Commit:
    """Return the commit of the shard's images.

    Raises:
        StoreError: It is missing, or counts other readable rows than the split's record.
    """
    plan = workspace.split.plan
    rows = plan.rows(shard)
    commit = records.load_commit(workspace.objects, plan.split, shard)
    if commit is None or commit.plan != plan.digest:
        raise StoreError(
            f"shard {shard} of split {plan.split!r} is not committed. Run `tesserae verify`."
        )
    readable = int(workspace.split.readable[rows.start : rows.stop].sum())
    if readable != commit.counts.get("readable", 0):
        raise StoreError(
            f"shard {shard} of split {plan.split!r} was rebuilt after the split was finished. Run"
            " the same command again once `tesserae verify` finds no damage."
        )
    return commit


def intact_arrays(objects: Objects, commit: DerivedCommit) -> dict[str, ObjectRecord]:
    """Return the arrays of a commit that exist at their committed size; their bytes are not read.

    Args:
        objects: The objects of the store.
        commit: The commit of the rows of a shard, as `pipeline.store.derived.load_commit` returns
            it.

    Returns:
        The record of each such object by its kind; empty if there is none.

    Raises:
        StoreError: The request to an object store failed.
        OSError: The disk reports an error.
    """
    return {
        kind: written
        for kind, written in commit.arrays.items()
        if objects.size(written.name) == written.num_bytes
    }


Computed = tuple[NDArray[np.int64], dict[str, NDArray[Any]]]
"""Rows within a shard, (n,) int64, and their values by kind, (n, ...)."""


def _write_kinds(
    workspace: RowWorkspace,
    shard: int,
    pixels: ObjectRecord,
    kinds: Sequence[str],
    threads: int,
) -> dict[str, ObjectRecord]:
    """Compute the rows of a shard and write an object for each kind, with at most some in memory.

    Quarantined rows are zeros.
    """
    recipe, config = workspace.recipe, workspace.config
    num_rows = len(workspace.split.plan.rows(shard))
    progress = _ProgressReporter(config, shard)
    with contextlib.ExitStack() as stack:
        writers, composers = {}, {}
        for kind in kinds:
            name = recipe.family.names.shard(config.name, config.split, kind, shard)
            writers[kind] = workspace.objects.create(name)
            stack.callback(writers[kind].abort)  # without effect once it is finished
            composers[kind] = ShardComposer(
                writers[kind],
                row_bytes=recipe.row_bytes,
                shard_rows=recipe.shard_rows,
                chunk_rows=recipe.chunk_rows,
                codec="none",
            )
        batches = _computed_batches(workspace, shard, pixels, kinds, threads)
        stack.enter_context(contextlib.closing(batches))
        appended = 0
        for rows_in_shard, values in batches:
            for kind, composer in composers.items():
                _append(composer, rows_in_shard, values[kind], appended)
            appended = int(rows_in_shard[-1]) + 1
            progress.add(len(rows_in_shard))
        written = {}
        for kind, composer in composers.items():
            _append_zeros(composer, num_rows - appended)
            written[kind] = _finish(workspace.objects, writers[kind], composer.write_index())
        return written


def _append(
    composer: ShardComposer, rows_in_shard: NDArray[np.int64], values: NDArray[Any], appended: int
) -> None:
    """Append rows to a shard that has *appended* rows, and zeros for those between them."""
    for row, value in zip(rows_in_shard.tolist(), values, strict=True):
        _append_zeros(composer, row - appended)
        composer.append(value.tobytes())
        appended = row + 1


def _append_zeros(composer: ShardComposer, num_rows: int) -> None:
    for _ in range(num_rows):
        composer.append(bytes(composer.row_bytes))


def _finish(objects: Objects, writer: ObjectWriter, written: ObjectRecord) -> ObjectRecord:
    """Give a shard object its name unless it has one already; return the record of the object."""
    if writer.finish_new():
        return written
    # Another task was first. Its bytes may differ in the last digits; commit those.
    if objects.size(written.name) != written.num_bytes:
        raise StoreDamagedError(
            f"{written.name} was written by another task and is damaged. Run the same command"
            " again."
        )
    return replace(written, digest=object_digest(objects, written.name))


def _computed_batches(
    workspace: RowWorkspace,
    shard: int,
    pixels: ObjectRecord,
    kinds: Sequence[str],
    threads: int,
) -> Generator[Computed]:
    """Yield the rows of a shard in ascending order, without those in quarantine."""
    recipe, network = workspace.recipe, workspace.network
    dtype = np.dtype(recipe.dtype).newbyteorder("<")
    first_row = workspace.split.plan.rows(shard).start

    with _open_batches(workspace, shard, pixels) as (stored_batches, to_pixels):

        def compute(batch: tuple[NDArray[np.int64], Any]) -> Computed:
            """Compute one batch; several threads run it at once."""
            rows_in_shard, stored = batch
            pixels_of_rows = to_pixels(rows_in_shard, stored)
            images = torch.from_numpy(pixels_of_rows).permute(0, 3, 1, 2).to(network.device)
            values = {}
            for kind in kinds:
                with np.errstate(over="ignore"):  # checked below, where the row is named
                    values[kind] = network.compute(images, kind).astype(dtype, copy=False)
                _check_finite(values[kind], first_row + rows_in_shard, kind)
            return rows_in_shard, values

        yield from _compute_in_order(compute, stored_batches, threads, network.device)


def _check_finite(values: NDArray[Any], rows: NDArray[np.int64], kind: str) -> None:
    if values.dtype.kind != "f":
        return
    bad_rows = np.flatnonzero(~np.isfinite(values).all(1))
    if len(bad_rows):
        raise StoreError(
            f"the network's features of row {rows[bad_rows[0]]} ({kind}) contain NaN or"
            " infinity. Compute in --precision float32 and store --dtype float32."
        )


@contextlib.contextmanager
def _open_batches(
    workspace: RowWorkspace, shard: int, record: ObjectRecord
) -> Iterator[
    tuple[
        Iterator[tuple[NDArray[np.int64], Any]],
        Callable[[NDArray[np.int64], Any], NDArray[np.uint8]],
    ]
]:
    """Open the batches of a shard as they are stored, and a function that returns their pixels.

    A batch is rows within the shard, (n,) int64, and their pixels or bytes.
    """
    recipe, split, batch_rows = workspace.recipe, workspace.split, workspace.network.batch_rows
    rows = split.plan.rows(shard)
    readable = split.readable[rows.start : rows.stop]
    decoder = workspace.decoder
    if recipe.encoded is None or decoder is None:
        chunks = read_chunks(workspace.objects, record, split.recipe, recipe.stored_size)
        yield batches(chunks, readable, batch_rows), lambda _, pixels: pixels
        return
    encoded = encoded_batches(
        workspace.objects,
        record,
        split.encoded[recipe.encoded],
        rows.start + np.flatnonzero(readable),
        batch_rows,
    )
    # Beside a GPU, cores are idle. Without one, each computes batches of its own.
    decoding = workspace.network.device.type == "cuda"
    with ThreadPoolExecutor(decoding_threads(), "decode") as pool:
        threads = pool if decoding else None

        def decode(rows_in_shard: NDArray[np.int64], data: Any) -> NDArray[np.uint8]:
            split_rows = rows.start + rows_in_shard
            return decode_batch(decoder, split_rows, data, recipe.stored_size, threads)

        yield ((each - rows.start, data) for each, data in encoded), decode


def _compute_in_order(
    compute: Callable[[tuple[NDArray[np.int64], Any]], Computed],
    stored_batches: Iterator[tuple[NDArray[np.int64], Any]],
    threads: int,
    device: torch.device,
) -> Iterator[Computed]:
    """Yield the results of batches in their order, computed by several threads at once."""
    with reproducible_sums(device):
        if device.type == "cuda":
            threads = 2  # one copies images while the other waits for the GPU
        if threads == 1:
            yield from map(compute, stored_batches)
            return
        pending: deque[Future[Computed]] = deque()
        # torch's number of threads is a setting of each thread.
        with ThreadPoolExecutor(threads, "rows", torch.set_num_threads, (1,)) as pool:
            for batch in stored_batches:
                pending.append(pool.submit(compute, batch))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
