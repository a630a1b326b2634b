"""What one task does: the features of one shard, from its pixels to a commit.

As with images, a task may run twice or beside its own ghost, what it writes appears whole or not at
all, and the commit comes last. But two machines may make other bytes of the same pixels. So an
object is never replaced: of two tasks that make the same shard the first to write it wins, and the
other commits what the first wrote.

A network's sums depend on how pictures are batched and on how many threads take part in a sum. So
batches begin anew with each shard, and each is computed by one thread; several may compute several.
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
    """What all tasks of a run share. Small: it travels with each of them."""

    store: str
    split: str
    run: str
    name: str
    """Of the features, whose recipe is there."""
    trunk: str
    """Folder or name of the network."""
    kinds: tuple[str, ...]
    gpu: bool = False
    probe: str = ""
    """What the network made of the probe pictures where the features were begun; empty = nothing
    is compared."""
    code: str = ""
    """What `pipeline.code_digest.digest` says where the run was begun; empty = any will do."""


@dataclass(frozen=True, kw_only=True)
class FeatureReport:
    """What a task says of its shard."""

    shard: int
    num_rows: int
    bytes_out: int
    seconds: float


PROGRESS_SECONDS = 2.0
"""Between two words of a task about how far it is, at least."""


def progress_topic(run: str) -> str:
    """Return the topic of the Dask events in which tasks of *run* say how far they are."""
    return f"features-{run}"


class _Teller:
    """Tells whoever started the run how many rows of a shard are computed: it may take long."""

    def __init__(self, work: FeatureWork, shard: int) -> None:
        self._topic, self._shard = progress_topic(work.run), shard
        self._rows, self._told = 0, time.monotonic()
        self._lock = threading.Lock()
        from distributed import get_worker  # in a task it is there; a search does without

        self._tell: Callable[[str, dict[str, int]], None] = lambda *_: None
        with contextlib.suppress(ValueError):  # called by no worker: nobody listens
            self._tell = get_worker().log_event

    def add(self, rows: int) -> None:
        """Count *rows* more; may be called by many threads."""
        with self._lock:
            self._rows += rows
            now = time.monotonic()
            if now - self._told >= PROGRESS_SECONDS:
                self._told = now
                self._tell(self._topic, {"shard": self._shard, "rows": self._rows})


class Workspace:
    """What a worker keeps open between the tasks of a run."""

    def __init__(self, work: FeatureWork) -> None:
        """Open store and network.

        Raises:
            StoreMismatchError: They are not those that the run was begun with.
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
        """(num_rows,) bool: rows that are not in quarantine."""


workspace = functools.lru_cache(maxsize=1)(Workspace)


def _device(*, gpu: bool) -> torch.device:
    if gpu and not torch.cuda.is_available():
        raise StoreError(
            f"on {socket.gethostname()} a worker has a GPU that torch {torch.__version__} cannot"
            " use: install a torch for it there, or pass --gpus 0."
        )
    return torch.device("cuda" if gpu else "cpu")


def open_recipe(recipe: FeatureRecipe, trunk: str, device: torch.device) -> Backbone:
    """The network that makes the features of *recipe*.

    Raises:
        StoreMismatchError: What is at *trunk* has other weights or another transform.
        TesseraeError: There is none.
    """
    found = open_backbone(trunk, device, cut=recipe.cut or None, pooling=recipe.pooling)
    here = (found.digest, found.size, found.mean, found.std, found.transform.channels)
    wanted = (recipe.weights, recipe.input_size, recipe.mean, recipe.std, recipe.channels)
    if here != wanted:
        raise StoreMismatchError(
            f"on {socket.gethostname()} {trunk} is another network than the one that the features"
            f" {recipe.name} are of: it has other weights or another transform, or is read by"
            f" another transformers than {version('transformers')}."
        )
    found.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return found


def probe_of(backbone: Backbone, precision: str) -> str:
    """Return what a network makes of the probe pictures here, as text."""
    with _exact(backbone.device):
        return encode_probe(features_of(backbone, probe_pictures(backbone.size), precision))


def _makes_others(recipe: FeatureRecipe, device: torch.device) -> str:
    return (
        f"on {socket.gethostname()} torch {torch.__version__} on {device.type} makes other features"
        f" of the same pictures than those that {recipe.name} was begun with. Install the same"
        " torch there, or make all of them on machines of one kind."
    )


def check_probe(recipe: FeatureRecipe, known: str, here: str) -> None:
    """Refuse to go on with features that another torch or device has begun otherwise.

    Raises:
        StoreMismatchError: The probes are too far from each other.
    """
    if is_another(known, here, recipe.precision):
        raise StoreMismatchError(_makes_others(recipe, torch.device("cpu")))


def make_features(work: FeatureWork, shard: int, threads: int = 1) -> FeatureReport:
    """Make the features of one shard, of each kind that it lacks, and commit them.

    Args:
        work: What the run is.
        shard: Which shard.
        threads: How many compute, each its own batches.

    Raises:
        StoreDamagedError: The shard's images are damaged.
        StoreError: The store cannot be written, or is another than where the run was begun.
    """
    began = time.monotonic()
    check_begun(work.store, work.run)
    space = workspace(work)
    images = _images(space, shard)
    pixels = images.arrays[str(space.recipe.stored_size)]
    before = features.load_commit(space.objects, space.recipe, space.split.plan, shard)
    kept: dict[str, Written] = {}
    if before is not None and before.pixels == pixels.digest:
        kept = still_there(space.objects, before)
    missing = [kind for kind in work.kinds if kind not in kept]
    written = kept | (_make(space, shard, pixels, missing, threads) if missing else {})
    if missing:
        after = FeatureCommit(
            features=space.recipe.digest,
            split=work.split,
            shard=shard,
            plan=space.split.plan.digest,
            pixels=pixels.digest,
            arrays=written,
            provenance=_provenance(space, time.monotonic() - began),
            format=space.recipe.format,
        )
        name = layout.features_commit(work.name, work.split, shard)
        space.objects.put(name, after.encode())
    return FeatureReport(
        shard=shard,
        num_rows=images.stop - images.start,
        bytes_out=sum(written[kind].num_bytes for kind in missing),
        seconds=time.monotonic() - began,
    )


def _provenance(space: Workspace, seconds: float) -> dict[str, object]:
    return {
        "seconds": round(seconds, 3),
        "host": socket.gethostname(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "device": space.backbone.device.type,
        KEY: space.probe,
    }


def _images(space: Workspace, shard: int) -> Commit:
    """The commit of the shard's images.

    Raises:
        StoreError: There is none, or the split says otherwise which of its rows can be read.
    """
    plan = space.split.plan
    rows = plan.rows(shard)
    found = records.load_commit(space.objects, plan.split, shard)
    if found is None or found.plan != plan.digest:
        raise StoreError(
            f"shard {shard} of split {plan.split!r} is not committed. Run `tesserae verify`."
        )
    readable = int(space.readable[rows.start : rows.stop].sum())
    if readable != found.counts.get("readable", 0):
        raise StoreError(
            f"shard {shard} of split {plan.split!r} was made anew since the split was finished."
            " When `tesserae verify` says that it is whole, run the same command again."
        )
    return found


def still_there(objects: Objects, kept: FeatureCommit) -> dict[str, Written]:
    """What a commit vouches for and is there, as large as it was."""
    return {
        kind: written
        for kind, written in kept.arrays.items()
        if objects.size(written.name) == written.num_bytes
    }


def _make(
    space: Workspace, shard: int, pixels: Written, kinds: Sequence[str], threads: int
) -> dict[str, Written]:
    work, found = space.work, {}
    for kind, rows in _compute(space, shard, pixels, kinds, threads).items():
        name = layout.features_shard(work.name, work.split, kind, shard)
        found[kind] = _write(space, name, rows)
    return found


class _Memory:
    """Where a shard of features is composed: it is small, and written in one go."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.data = bytearray()

    def write(self, data: memoryview) -> None:
        """Append *data*."""
        self.data += data

    def finish(self) -> None:
        """Nothing: only all of it is an object."""


def _write(space: Workspace, name: str, rows: NDArray[np.floating]) -> Written:
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
    there = records.fingerprint(name, space.objects.get(name))
    if there.num_bytes != written.num_bytes:
        raise StoreDamagedError(f"{name} appeared damaged. Run the same command again.")
    return there


def _compute(
    space: Workspace, shard: int, pixels: Written, kinds: Sequence[str], threads: int
) -> dict[str, NDArray[np.floating]]:
    """Features of a shard's rows, zeros for those in quarantine: kind -> (n, d) little-endian."""
    recipe, rows = space.recipe, space.split.plan.rows(shard)
    dtype = np.dtype(recipe.dtype).newbyteorder("<")
    out = {kind: np.zeros((len(rows), recipe.dim), dtype) for kind in kinds}
    readable = space.readable[rows.start : rows.stop]
    chunks = read_chunks(space.objects, pixels, space.split.recipe, recipe.stored_size)
    shared = Shared(batches(chunks, readable, space.backbone.batch))
    teller = _Teller(space.work, shard)

    def compute() -> None:
        for places, batch in shared:
            images = torch.from_numpy(batch).permute(0, 3, 1, 2).to(space.backbone.device)
            for kind in kinds:
                seen = images.flip(3) if kind == "mirrored" else images
                made = features_of(space.backbone, seen, recipe.precision)
                with np.errstate(over="ignore"):  # it is looked for below, and its row is named
                    out[kind][places] = made
            teller.add(len(places))

    _in_threads(compute, threads, space.backbone.device)
    for kind, values in out.items():
        bad = np.flatnonzero(~np.isfinite(values).all(1))
        if len(bad):
            raise StoreError(
                f"the network gives no finite numbers for row {rows[bad[0]]} ({kind}). Compute in"
                " --precision float32 and store --dtype float32."
            )
    return out


def _in_threads(compute: Callable[[], None], threads: int, device: torch.device) -> None:
    with _exact(device):
        if device.type == "cuda":
            threads = 2  # one reads and copies while the other waits for the GPU
        if threads == 1:
            compute()
            return

        def alone(_: int) -> None:
            torch.set_num_threads(1)  # of each thread by itself
            compute()

        with ThreadPoolExecutor(threads, "features") as pool:
            list(pool.map(alone, range(threads)))


@contextmanager
def _exact(device: torch.device) -> Iterator[None]:
    """The same sums each time: by one thread, and on a GPU in what was asked for, no shorter."""
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=False
        ):
            yield
    finally:
        torch.set_num_threads(before)


def features_of(backbone: Backbone, images: torch.Tensor, precision: str) -> NDArray[np.float32]:
    """Features of pictures, (n, 3, h, w) uint8 -> (n, d) float32, in the given precision."""
    device = backbone.device
    lower = precision == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16) if lower else contextlib.nullcontext():
        made: NDArray[np.float32] = backbone.features(images.to(device)).cpu().numpy()
    return made
