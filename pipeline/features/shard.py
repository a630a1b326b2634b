"""One task of `features`: the features of one shard, from its pixels to a commit.

As with images, a task may run twice or beside a lost copy of itself, each object appears complete
or not at all, and the commit comes last. But two machines may compute slightly different bytes of
the same pixels. So an object is never replaced: of two tasks that make the same shard the first to
write it wins, and the other commits what the first wrote.

A network's sums depend on how images are batched and on how many threads take part in a sum. So
batches start anew with each shard, and a single thread computes each; several threads may compute
several batches.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import code_digest
from pipeline.backbone.determinism import probe_pictures
from pipeline.backbone.load import open_backbone
from pipeline.backbone.network import Backbone
from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.features.batches import Shared, batches, read_chunks
from pipeline.features.probes import KEY, encode_probe, is_another
from pipeline.ingest.shard import check_begun
from pipeline.store import features, layout, records
from pipeline.store.commit import Commit, Written
from pipeline.store.features import FeatureCommit, FeatureRecipe
from pipeline.store.objects import Objects, open_objects
from pipeline.store.shard import ShardComposer
from pipeline.store.split import open_split


@dataclass(frozen=True, kw_only=True)
class FeatureWork:
    """The arguments that all tasks of a run share. It is small, since each task carries it."""

    store: str
    split: str
    run: str
    name: str
    """The name of the features, whose recipe is in the store."""
    trunk: str
    """The folder or name of the network."""
    kinds: tuple[str, ...]
    gpu: bool = False
    probe: str = ""
    """The probe of the network on the machine that began the features; empty: no comparison."""
    code: str = ""
    """The `pipeline.code_digest.digest` of the client; workers must match it. Empty: no check."""


@dataclass(frozen=True, kw_only=True)
class FeatureReport:
    """A summary of a task."""

    shard: int
    num_rows: int
    bytes_out: int
    seconds: float


PROGRESS_SECONDS = 2.0
"""The minimum time between two progress messages of a task."""


def progress_topic(run: str) -> str:
    """Return the topic of the Dask events that report the progress of the tasks of *run*."""
    return f"features-{run}"


class _ProgressReporter:
    """Reports to the client how many rows of a shard are computed, as Dask events."""

    def __init__(self, work: FeatureWork, shard: int) -> None:
        self._topic, self._shard = progress_topic(work.run), shard
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


class FeatureWorkspace:
    """The open store and network that a worker keeps between the tasks of a run."""

    def __init__(self, work: FeatureWork) -> None:
        """Open the store and the network.

        Raises:
            StoreMismatchError: They differ from those that the run was started with.
        """
        code_digest.check(work.code)
        self.work = work
        self.objects: Objects = open_objects(work.store, work.run)
        self.recipe = features.load_recipe(self.objects, work.name)
        self.split = open_split(self.objects, work.split, [self.recipe.stored_size])
        self.backbone = open_recipe(self.recipe, work.trunk, _device(gpu=work.gpu))
        self.probe = probe_of(self.backbone, self.recipe.precision)
        if is_another(work.probe, self.probe, self.recipe.precision):
            raise StoreMismatchError(_makes_others(self.recipe, self.backbone.device))
        self.readable = np.ones(self.split.plan.num_rows, bool)
        self.readable[self.split.absent] = False
        """(num_rows,) bool: True for rows that are not in quarantine."""


workspace = functools.lru_cache(maxsize=1)(FeatureWorkspace)


def _device(*, gpu: bool) -> torch.device:
    if gpu and not torch.cuda.is_available():
        raise StoreError(
            f"on {socket.gethostname()} a worker has a GPU that torch {torch.__version__} cannot"
            " use: install a torch for it there, or pass --gpus 0."
        )
    return torch.device("cuda" if gpu else "cpu")


def open_recipe(recipe: FeatureRecipe, trunk: str, device: torch.device) -> Backbone:
    """Open the network that makes the features of *recipe*.

    Raises:
        StoreMismatchError: The network at *trunk* has other weights or another transform.
        TesseraeError: There is no network at *trunk*.
    """
    backbone = open_backbone(trunk, device, cut=recipe.cut or None, pooling=recipe.pooling)
    opened = (
        backbone.digest,
        backbone.size,
        backbone.mean,
        backbone.std,
        backbone.transform.channels,
    )
    expected = (recipe.weights, recipe.input_size, recipe.mean, recipe.std, recipe.channels)
    if opened != expected:
        raise StoreMismatchError(
            f"on {socket.gethostname()} {trunk} is not the network of the features {recipe.name}:"
            " it has other weights or another transform, or is read by another version of"
            f" transformers than {version('transformers')}."
        )
    backbone.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return backbone


def probe_of(backbone: Backbone, precision: str) -> str:
    """Return the network's features of the probe images on this machine, as text."""
    with _reproducible_sums(backbone.device):
        return encode_probe(features_of(backbone, probe_pictures(backbone.size), precision))


def _makes_others(recipe: FeatureRecipe, device: torch.device) -> str:
    return (
        f"on {socket.gethostname()} torch {torch.__version__} on {device.type} computes different"
        f" features for the same images than those that {recipe.name} was started with. Install"
        " the same torch there, or compute all of them on machines of one kind."
    )


def check_probe(recipe: FeatureRecipe, recorded: str, measured: str) -> None:
    """Refuse to continue features that another torch or device began with different results.

    Raises:
        StoreMismatchError: The probes differ by more than the tolerance.
    """
    if is_another(recorded, measured, recipe.precision):
        raise StoreMismatchError(_makes_others(recipe, torch.device("cpu")))


def extract_shard(work: FeatureWork, shard: int, threads: int = 1) -> FeatureReport:
    """Make the features of one shard, of each kind that it lacks, and commit them.

    Args:
        work: The arguments of the run.
        shard: Number of the shard.
        threads: Number of threads that compute, each its own batches (default: 1).

    Raises:
        StoreDamagedError: The shard's images are damaged.
        StoreError: The store cannot be written, or is not the one in which the run was started.
    """
    started = time.monotonic()
    check_begun(work.store, work.run)
    space = workspace(work)
    images = _images(space, shard)
    pixels = images.arrays[str(space.recipe.stored_size)]
    before = features.load_commit(space.objects, space.recipe, space.split.plan, shard)
    intact: dict[str, Written] = {}
    if before is not None and before.pixels == pixels.digest:
        intact = intact_arrays(space.objects, before)
    missing = [kind for kind in work.kinds if kind not in intact]
    written = intact | (_make(space, shard, pixels, missing, threads) if missing else {})
    if missing:
        after = FeatureCommit(
            features=space.recipe.digest,
            split=work.split,
            shard=shard,
            plan=space.split.plan.digest,
            pixels=pixels.digest,
            arrays=written,
            provenance=_provenance(space, time.monotonic() - started),
            format=space.recipe.format,
        )
        name = layout.features_commit(work.name, work.split, shard)
        space.objects.put(name, after.encode())
    return FeatureReport(
        shard=shard,
        num_rows=images.stop - images.start,
        bytes_out=sum(written[kind].num_bytes for kind in missing),
        seconds=time.monotonic() - started,
    )


def _provenance(space: FeatureWorkspace, seconds: float) -> dict[str, object]:
    return {
        "seconds": round(seconds, 3),
        "host": socket.gethostname(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "device": space.backbone.device.type,
        KEY: space.probe,
    }


def _images(space: FeatureWorkspace, shard: int) -> Commit:
    """Return the commit of the shard's images.

    Raises:
        StoreError: It is missing, or counts other readable rows than the split's record.
    """
    plan = space.split.plan
    rows = plan.rows(shard)
    commit = records.load_commit(space.objects, plan.split, shard)
    if commit is None or commit.plan != plan.digest:
        raise StoreError(
            f"shard {shard} of split {plan.split!r} is not committed. Run `tesserae verify`."
        )
    readable = int(space.readable[rows.start : rows.stop].sum())
    if readable != commit.counts.get("readable", 0):
        raise StoreError(
            f"shard {shard} of split {plan.split!r} was rebuilt after the split was finished. Run"
            " the same command again once `tesserae verify` finds no damage."
        )
    return commit


def intact_arrays(objects: Objects, commit: FeatureCommit) -> dict[str, Written]:
    """Return the arrays of a commit that exist at their committed size, by kind."""
    return {
        kind: written
        for kind, written in commit.arrays.items()
        if objects.size(written.name) == written.num_bytes
    }


def _make(
    space: FeatureWorkspace, shard: int, pixels: Written, kinds: Sequence[str], threads: int
) -> dict[str, Written]:
    work, written = space.work, {}
    for kind, rows in _compute(space, shard, pixels, kinds, threads).items():
        name = layout.features_shard(work.name, work.split, kind, shard)
        written[kind] = _write(space, name, rows)
    return written


class _Memory:
    """A writer that collects a shard of features in memory, to be stored in one operation."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.data = bytearray()

    def write(self, data: memoryview) -> None:
        """Append the bytes of *data*."""
        self.data += data

    def finish(self) -> None:
        """Do nothing: the collected bytes are stored by the caller."""


def _write(space: FeatureWorkspace, name: str, rows: NDArray[np.floating]) -> Written:
    recipe = space.recipe
    memory = _Memory(name)
    composer = ShardComposer(
        memory,
        row_bytes=recipe.row_bytes,
        shard_rows=recipe.shard_rows,
        chunk_rows=recipe.chunk_rows,
        codec="none",
    )
    for row in rows:
        composer.append(row.tobytes())
    written = composer.end()
    if space.objects.put_new(name, bytes(memory.data)):
        return written
    # Another task was first. Its bytes may differ in the last digits; commit those.
    existing = records.fingerprint(name, space.objects.get(name))
    if existing.num_bytes != written.num_bytes:
        raise StoreDamagedError(
            f"{name} was written by another task and is damaged. Run the same command again."
        )
    return existing


def _compute(
    space: FeatureWorkspace, shard: int, pixels: Written, kinds: Sequence[str], threads: int
) -> dict[str, NDArray[np.floating]]:
    """Return kind -> (n, d) little-endian features of the rows, zeros for quarantined ones."""
    recipe, rows = space.recipe, space.split.plan.rows(shard)
    dtype = np.dtype(recipe.dtype).newbyteorder("<")
    features_by_kind = {kind: np.zeros((len(rows), recipe.dim), dtype) for kind in kinds}
    readable = space.readable[rows.start : rows.stop]
    chunks = read_chunks(space.objects, pixels, space.split.recipe, recipe.stored_size)
    shared = Shared(batches(chunks, readable, space.backbone.batch))
    progress = _ProgressReporter(space.work, shard)

    def compute() -> None:
        for rows_in_shard, batch in shared:
            images = torch.from_numpy(batch).permute(0, 3, 1, 2).to(space.backbone.device)
            for kind in kinds:
                oriented = images.flip(3) if kind == "mirrored" else images
                computed = features_of(space.backbone, oriented, recipe.precision)
                with np.errstate(over="ignore"):  # checked below, where the row is named
                    features_by_kind[kind][rows_in_shard] = computed
            progress.add(len(rows_in_shard))

    _in_threads(compute, threads, space.backbone.device)
    for kind, values in features_by_kind.items():
        bad_rows = np.flatnonzero(~np.isfinite(values).all(1))
        if len(bad_rows):
            raise StoreError(
                f"the network's features of row {rows[bad_rows[0]]} ({kind}) contain NaN or"
                " infinity. Compute in --precision float32 and store --dtype float32."
            )
    return features_by_kind


def _in_threads(compute: Callable[[], None], threads: int, device: torch.device) -> None:
    with _reproducible_sums(device):
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


@contextmanager
def _reproducible_sums(device: torch.device) -> Iterator[None]:
    """Make torch's sums reproducible inside the block: one thread, and full float32 on a GPU."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        # cuDNN computes convolutions in TF32, and may choose another algorithm each time.
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.set_num_threads(before)


def features_of(backbone: Backbone, images: torch.Tensor, precision: str) -> NDArray[np.float32]:
    """Return features of images, (n, 3, h, w) uint8 -> (n, d) float32, in *precision*."""
    device = backbone.device
    use_bfloat16 = precision == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16) if use_bfloat16 else contextlib.nullcontext():
        computed: NDArray[np.float32] = backbone.features(images.to(device)).cpu().numpy()
    return computed
