"""One task of `features`: the features of one shard, from its pixels to a commit.

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
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.features.batches import ThreadSafeIterator, batches, read_chunks
from pipeline.features.encoded_batches import decode_batch, decoding_threads, encoded_batches
from pipeline.features.probes import KEY
from pipeline.features.worker import (
    FeatureTaskConfig,
    FeatureWorkspace,
    compute_features,
    open_workspace,
    reproducible_sums,
)
from pipeline.ingest.worker import check_run_active
from pipeline.store import features, layout, records
from pipeline.store.commit import Commit, ObjectRecord
from pipeline.store.features import FeatureCommit
from pipeline.store.fingerprint import fingerprint
from pipeline.store.objects import Objects
from pipeline.store.shard import ShardComposer


@dataclass(frozen=True, kw_only=True)
class FeatureReport:
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
        `features-<run>`.
    """
    return f"features-{run}"


class _ProgressReporter:
    """Reports to the client how many rows of a shard are computed, as Dask events."""

    def __init__(self, config: FeatureTaskConfig, shard: int) -> None:
        self._topic, self._shard = progress_topic(config.run), shard
        self._rows, self._last_message = 0, time.monotonic()
        self._lock = threading.Lock()
        from distributed import (
            get_worker,  # not at the top: a search imports this module without Dask
        )

        self._log_event: Callable[[str, dict[str, int]], None] = lambda *_: None
        with contextlib.suppress(ValueError):  # not in a worker: there is no one to report to
            self._log_event = get_worker().log_event

    def add(self, rows: int) -> None:
        """Count *rows* more. It is thread-safe."""
        with self._lock:
            self._rows += rows
            # The lock also bounds the rate: only one thread reports in each interval.
            now = time.monotonic()
            if now - self._last_message >= PROGRESS_SECONDS:
                self._last_message = now
                self._log_event(self._topic, {"shard": self._shard, "rows": self._rows})


def extract_shard(config: FeatureTaskConfig, shard: int, threads: int = 1) -> FeatureReport:
    """Compute the features of one shard, of each kind that it lacks, and commit them in the store.

    Features of each kind become one object, which is never replaced if it exists; the commit is
    written last, durably. In a Dask worker, progress is reported as events. The process keeps the
    network of the last call open for the next one.

    Args:
        config: The arguments of the run, a `pipeline.features.worker.FeatureTaskConfig`: the path
            or URL of the `store`, the `split`, the name of the `run`, which `Objects.begin` must
            have begun, the `name` of the features, whose recipe is in the store, the folder or name
            of the network as `trunk`, the `kinds` to compute, of `plain` and `mirrored`, and `gpu`,
            True to compute on one (default: False). Its `probe` and `code` are compared with those
            of this process unless they are empty (the default).
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
            on a disk the run has not begun or has ended; there are no features of that name or no
            such split; the shard's images are not committed; a GPU is required and cannot be used;
            or a feature is NaN or infinite.
        TesseraeError: The network cannot be opened.
    """
    started = time.monotonic()
    check_run_active(config.store, config.run)
    workspace = open_workspace(config)
    images = _image_commit(workspace, shard)
    pixels = images.shard_objects[workspace.recipe.array_name]
    before = features.load_feature_commit(
        workspace.objects, workspace.recipe, workspace.split.plan, shard
    )
    intact: dict[str, ObjectRecord] = {}
    if before is not None and before.pixels == pixels.digest:
        intact = intact_feature_arrays(workspace.objects, before)
    missing = [kind for kind in config.kinds if kind not in intact]
    written = intact | (
        _extract_kinds(workspace, shard, pixels, missing, threads) if missing else {}
    )
    if missing:
        after = FeatureCommit(
            features=workspace.recipe.digest,
            split=config.split,
            shard=shard,
            plan=workspace.split.plan.digest,
            pixels=pixels.digest,
            arrays=written,
            provenance=_provenance(workspace, time.monotonic() - started),
            format=workspace.recipe.format,
        )
        name = layout.features_commit(config.name, config.split, shard)
        workspace.objects.put(name, after.encode())
    return FeatureReport(
        shard=shard,
        num_rows=images.stop - images.start,
        bytes_out=sum(written[kind].num_bytes for kind in missing),
        seconds=time.monotonic() - started,
    )


def _provenance(workspace: FeatureWorkspace, seconds: float) -> dict[str, object]:
    return {
        "seconds": round(seconds, 3),
        "host": socket.gethostname(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "device": workspace.backbone.device.type,
        KEY: workspace.probe,
    }


def _image_commit(workspace: FeatureWorkspace, shard: int) -> Commit:
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


def intact_feature_arrays(objects: Objects, commit: FeatureCommit) -> dict[str, ObjectRecord]:
    """Return the arrays of a commit that exist at their committed size; their bytes are not read.

    Args:
        objects: The objects of the store.
        commit: The commit of the features of a shard, as
            `pipeline.store.features.load_feature_commit` returns it.

    Returns:
        The record of each such object by its kind, `plain` or `mirrored`; empty if there is none.

    Raises:
        StoreError: The request to an object store failed.
        OSError: The disk reports an error.
    """
    return {
        kind: written
        for kind, written in commit.arrays.items()
        if objects.size(written.name) == written.num_bytes
    }


def _extract_kinds(
    workspace: FeatureWorkspace,
    shard: int,
    pixels: ObjectRecord,
    kinds: Sequence[str],
    threads: int,
) -> dict[str, ObjectRecord]:
    config, written = workspace.config, {}
    for kind, rows in _compute_rows(workspace, shard, pixels, kinds, threads).items():
        name = layout.features_shard(config.name, config.split, kind, shard)
        written[kind] = _write(workspace, name, rows)
    return written


class _MemoryWriter:
    """A writer that collects a shard of features in memory, to be stored in one operation."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.data = bytearray()

    def write(self, data: memoryview) -> None:
        """Append the bytes of *data*."""
        self.data += data

    def finish(self) -> None:
        """Do nothing: the collected bytes are stored by the caller."""


def _write(workspace: FeatureWorkspace, name: str, rows: NDArray[np.floating]) -> ObjectRecord:
    recipe = workspace.recipe
    memory = _MemoryWriter(name)
    composer = ShardComposer(
        memory,
        row_bytes=recipe.row_bytes,
        shard_rows=recipe.shard_rows,
        chunk_rows=recipe.chunk_rows,
        codec="none",
    )
    for row in rows:
        composer.append(row.tobytes())
    written = composer.write_index()
    if workspace.objects.put_new(name, bytes(memory.data)):
        return written
    # Another task was first. Its bytes may differ in the last digits; commit those.
    existing = fingerprint(name, workspace.objects.get(name))
    if existing.num_bytes != written.num_bytes:
        raise StoreDamagedError(
            f"{name} was written by another task and is damaged. Run the same command again."
        )
    return existing


def _compute_rows(
    workspace: FeatureWorkspace,
    shard: int,
    pixels: ObjectRecord,
    kinds: Sequence[str],
    threads: int,
) -> dict[str, NDArray[np.floating]]:
    """Return kind -> (n, d) little-endian features of the rows, zeros for quarantined ones."""
    recipe, rows = workspace.recipe, workspace.split.plan.rows(shard)
    device = workspace.backbone.device
    dtype = np.dtype(recipe.dtype).newbyteorder("<")
    features_by_kind = {kind: np.zeros((len(rows), recipe.dim), dtype) for kind in kinds}
    progress = _ProgressReporter(workspace.config, shard)

    with _open_batches(workspace, shard, pixels) as (shared, to_pixels):

        def compute() -> None:
            """Compute batches until there are none; several threads run it at once."""
            for rows_in_shard, stored in shared:
                batch = to_pixels(rows_in_shard, stored)
                images = torch.from_numpy(batch).permute(0, 3, 1, 2).to(device)
                for kind in kinds:
                    oriented = images.flip(3) if kind == "mirrored" else images
                    computed = compute_features(workspace.backbone, oriented, recipe.precision)
                    with np.errstate(over="ignore"):  # checked below, where the row is named
                        features_by_kind[kind][rows_in_shard] = computed
                progress.add(len(rows_in_shard))

        _in_threads(compute, threads, device)
    for kind, values in features_by_kind.items():
        bad_rows = np.flatnonzero(~np.isfinite(values).all(1))
        if len(bad_rows):
            raise StoreError(
                f"the network's features of row {rows[bad_rows[0]]} ({kind}) contain NaN or"
                " infinity. Compute in --precision float32 and store --dtype float32."
            )
    return features_by_kind


StoredBatches = ThreadSafeIterator[tuple[NDArray[np.int64], Any]]
"""Batches as they are stored: rows within the shard, (n,) int64, and their pixels or bytes."""


@contextlib.contextmanager
def _open_batches(
    workspace: FeatureWorkspace, shard: int, record: ObjectRecord
) -> Iterator[tuple[StoredBatches, Callable[[NDArray[np.int64], Any], NDArray[np.uint8]]]]:
    """Open the batches of a shard, and a function that returns the pixels of one."""
    recipe, split, batch_rows = workspace.recipe, workspace.split, workspace.backbone.batch_size
    rows = split.plan.rows(shard)
    readable = split.readable[rows.start : rows.stop]
    decoder = workspace.decoder
    if recipe.encoded is None or decoder is None:
        chunks = read_chunks(workspace.objects, record, split.recipe, recipe.stored_size)
        yield ThreadSafeIterator(batches(chunks, readable, batch_rows)), lambda _, pixels: pixels
        return
    encoded = encoded_batches(
        workspace.objects,
        record,
        split.encoded[recipe.encoded],
        rows.start + np.flatnonzero(readable),
        batch_rows,
    )
    # Beside a GPU, cores are idle. Without one, each computes batches of its own.
    decoding = workspace.backbone.device.type == "cuda"
    with ThreadPoolExecutor(decoding_threads(), "decode") as pool:
        threads = pool if decoding else None

        def decode(rows_in_shard: NDArray[np.int64], data: Any) -> NDArray[np.uint8]:
            split_rows = rows.start + rows_in_shard
            return decode_batch(decoder, split_rows, data, recipe.stored_size, threads)

        yield ThreadSafeIterator((each - rows.start, data) for each, data in encoded), decode


def _in_threads(compute: Callable[[], None], threads: int, device: torch.device) -> None:
    with reproducible_sums(device):
        if device.type == "cuda":
            threads = 2  # one reads and copies images while the other waits for the GPU
        if threads == 1:
            compute()
            return

        def compute_alone(_: int) -> None:
            torch.set_num_threads(1)  # torch's setting is per thread
            compute()

        with ThreadPoolExecutor(threads, "features") as pool:
            list(pool.map(compute_alone, range(threads)))
