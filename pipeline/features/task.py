"""What one task does: the features of one shard, from its pixels to a commit.

As with images, a task may run twice or beside its own ghost, what it writes appears whole or not at
all, and the commit comes last. A network's sums depend on how pictures are batched and on how many
threads take part; so batches begin anew with each shard, and there is one thread.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import identity
from pipeline.backbone import Backbone, open_backbone
from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.ingest.shard import check_begun
from pipeline.loader.reader import Reader, reader_of
from pipeline.store import features, layout, records
from pipeline.store.commit import Written
from pipeline.store.features import FeatureCommit, FeatureRecipe
from pipeline.store.objects import Objects, open_objects
from pipeline.store.shard import ShardComposer
from pipeline.store.split import open_split

CACHE_BYTES = 2**26
"""Of pixels that are kept of a store that is read by whole chunks: the task's own come once."""


BATCH = 64
"""Pictures that are read at once."""


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
    repair: bool = False
    """Whether to read what is committed, and make anew what is damaged."""
    code: str = ""
    """What `pipeline.identity.digest` says where the run was begun; empty = any will do."""


@dataclass(frozen=True, kw_only=True)
class FeatureReport:
    """What a task says of its shard."""

    shard: int
    num_rows: int
    bytes_out: int
    seconds: float


class Workspace:
    """What a worker keeps open between the tasks of a run."""

    def __init__(self, work: FeatureWork) -> None:
        """Open store and network.

        Raises:
            StoreMismatchError: They are not those that the run was begun with.
        """
        if work.code not in ("", identity.digest()):
            raise StoreMismatchError(
                f"on {socket.gethostname()} there is another Tesserae than where the run was begun."
                " Install the same on both, and start the worker again."
            )
        self.objects: Objects = open_objects(work.store, work.run)
        self.recipe = features.load_recipe(self.objects, work.name)
        size = self.recipe.stored_size
        self.split = open_split(self.objects, work.split, [size])
        self.reader: Reader = reader_of(self.split, size, cache_bytes=CACHE_BYTES)
        self.device = torch.device("cuda" if work.gpu else "cpu")
        self.backbone = open_recipe(self.recipe, work.trunk, self.device)
        self.lost = np.zeros(self.split.plan.num_rows, bool)
        self.lost[self.split.absent] = True
        """(num_rows,) bool: rows in quarantine."""


workspace = functools.lru_cache(maxsize=1)(Workspace)


def open_recipe(recipe: FeatureRecipe, trunk: str, device: torch.device) -> Backbone:
    """The network that makes the features of *recipe*.

    Raises:
        StoreMismatchError: What is at *trunk* has other weights or another transform.
        TesseraeError: There is none.
    """
    found = open_backbone(trunk, device, cut=recipe.cut or None, pooling=recipe.pooling)
    here = (found.digest, found.size, found.mean, found.std)
    if here != (recipe.weights, recipe.input_size, recipe.mean, recipe.std):
        raise StoreMismatchError(
            f"on {socket.gethostname()} {trunk} is another network than the one that the features"
            f" {recipe.name} are of: it has other weights or another transform."
        )
    found.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return found


def make_features(work: FeatureWork, shard: int) -> FeatureReport:
    """Make the features of one shard, of each kind that it lacks, and commit them.

    Raises:
        StoreDamagedError: The shard's images are damaged.
        StoreError: The store cannot be written, or is another than where the run was begun.
    """
    began = time.monotonic()
    check_begun(work.store, work.run)
    space = workspace(work)
    plan = space.split.plan
    images = records.load_commit(space.objects, work.split, shard)
    if images is None:
        raise StoreError(f"shard {shard} of split {work.split!r} is not committed.")
    pixels = images.arrays[str(space.recipe.stored_size)].digest
    before = features.load_commit(space.objects, space.recipe, plan, shard)
    kept = {}
    if before is not None and before.pixels == pixels:
        kept = still_there(space.objects, before, repair=work.repair)
    missing = [kind for kind in work.kinds if kind not in kept]
    written = dict(kept)
    if missing:
        written |= _make(space, work, shard, missing)
        after = FeatureCommit(
            features=space.recipe.digest,
            split=work.split,
            shard=shard,
            plan=plan.digest,
            pixels=pixels,
            arrays=written,
            provenance={
                "seconds": round(time.monotonic() - began, 3),
                "host": socket.gethostname(),
                "torch": torch.__version__,
                "device": space.device.type,
            },
        )
        name = layout.features_commit(work.name, work.split, shard)
        space.objects.put(name, after.encode())
    return FeatureReport(
        shard=shard,
        num_rows=len(plan.rows(shard)),
        bytes_out=sum(written[kind].num_bytes for kind in missing),
        seconds=time.monotonic() - began,
    )


def still_there(objects: Objects, kept: FeatureCommit, *, repair: bool) -> dict[str, Written]:
    """What a commit vouches for and is there: of its size, or just as it was written."""
    return {
        kind: written
        for kind, written in kept.arrays.items()
        if objects.size(written.name) == written.num_bytes
        and (not repair or records.is_there(objects, written))
    }


def _make(
    space: Workspace, work: FeatureWork, shard: int, kinds: Sequence[str]
) -> dict[str, Written]:
    rows = space.split.plan.rows(shard)
    made = _compute(space, np.arange(rows.start, rows.stop), kinds)
    found = {}
    with ExitStack() as stack:
        for kind in kinds:
            name = layout.features_shard(work.name, work.split, kind, shard)
            composer = stack.enter_context(_composer(space, name))
            for row in made[kind]:
                composer.append(row.tobytes())
            found[kind] = composer.end()
            composer.finish()
    return found


@contextmanager
def _composer(space: Workspace, name: str) -> Iterator[ShardComposer]:
    writer = space.objects.create(name)
    recipe = space.recipe
    try:
        yield ShardComposer(
            writer,
            row_bytes=recipe.row_bytes,
            shard_rows=recipe.shard_rows,
            chunk_rows=recipe.chunk_rows,
            codec="none",
        )
    finally:
        writer.abort()


def _compute(
    space: Workspace, rows: NDArray[np.int64], kinds: Sequence[str]
) -> dict[str, NDArray[np.floating]]:
    """Features of *rows*, zeros for those in quarantine: kind -> (n, d) little-endian."""
    recipe = space.recipe
    dtype = np.dtype(recipe.dtype).newbyteorder("<")
    out = {kind: np.zeros((len(rows), recipe.dim), dtype) for kind in kinds}
    there = np.flatnonzero(~space.lost[rows])
    with _one_thread(space.device), ThreadPoolExecutor(1, "disk") as disk:
        for places in np.array_split(there, range(BATCH, len(there), BATCH)):
            images = _images(space, rows[places], disk)
            for kind in kinds:
                mirrored = images.flip(3) if kind == "mirrored" else images
                made = features_of(space.backbone, mirrored, recipe.precision)
                with np.errstate(over="ignore"):  # it is seen below, with its row
                    out[kind][places] = made
    for kind, values in out.items():
        bad = np.flatnonzero(~np.isfinite(values).all(1))
        if len(bad):
            raise StoreError(
                f"the network gives no finite numbers for row {rows[bad[0]]} ({kind}). Compute in"
                " --precision float32 and store --dtype float32."
            )
    return out


def _images(space: Workspace, rows: NDArray[np.int64], disk: ThreadPoolExecutor) -> torch.Tensor:
    size = space.recipe.stored_size
    pixels = np.empty((len(rows), size, size, 3), np.uint8)
    try:
        space.reader.gather(rows, pixels, disk)
    except StoreDamagedError as e:
        raise StoreDamagedError(f"{e} Features are made of whole images alone.") from e
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def features_of(backbone: Backbone, images: torch.Tensor, precision: str) -> NDArray[np.float32]:
    """Features of pictures, (n, 3, h, w) uint8 -> (n, d) float32, in the given precision."""
    device = next(backbone.model.parameters()).device
    lower = precision == "bfloat16"
    with torch.autocast(device.type, torch.bfloat16) if lower else contextlib.nullcontext():
        made: NDArray[np.float32] = backbone.features(images.to(device)).cpu().numpy()
    return made


@contextmanager
def _one_thread(device: torch.device) -> Iterator[None]:
    before = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
