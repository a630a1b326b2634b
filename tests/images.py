"""Small images and stores for tests, generated without a network."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline import sources
from pipeline.ingest import planning
from pipeline.ingest.finish import finish_split
from pipeline.ingest.report import ShardReport
from pipeline.ingest.shard_task import prepare_shard
from pipeline.ingest.source_index import Origin
from pipeline.ingest.worker import ShardTaskConfig, workspace
from pipeline.sources.options import SourceOptions
from pipeline.store import records
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.options import StoreOptions
from pipeline.store.plan import Plan

SMALL = {"shard_rows": 4, "chunk_rows": 2}
"""The options of a store with few rows in several shards."""
ENCODED = ("jpeg:16@90", "original")
"""The encoded rows of a small store, each in arrays of its own."""
SMALL_OPTIONS = (
    *("--sizes", 8, 16, "--encoded", *ENCODED, "--shard-rows", 4, "--chunk-rows", 2),
    *("--max-bad", 1, "--workers", 1),
)
"""The options of the command for such a store, also where every image is broken."""


def jpeg(seed: int, width: int = 60, height: int = 45, mode: str = "RGB", **options: Any) -> bytes:
    """Return a small smooth JPEG, which differs for each seed."""
    rng = np.random.default_rng(seed)
    bands = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    coarse = rng.integers(0, 256, (6, 8, bands), np.uint8).squeeze()
    image = Image.fromarray(coarse, mode).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def make_folder(root: Path, images: int, classes: int = 3, bad: int = 0) -> Path:
    """Write class folders with *images* small JPEGs, the last *bad* of which are truncated."""
    for number in range(images):
        wnid = f"n{number % classes:08d}"
        file = root / wnid / f"{wnid}_{number}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        data = jpeg(number, 40 + number % 37, 40 + number % 23)
        broken = number >= images - bad
        file.write_bytes(data[: len(data) // 2] if broken else data)
    return root


def plan_inline(
    source: Path, store: str, *, run: str = "train-inline", split: str = "train", **choices: Any
) -> tuple[Objects, Plan, ShardTaskConfig]:
    """Plan a split in this process, as `tesserae prepare` does before it starts a cluster.

    Args:
        source: The folder or archive of the images.
        store: The folder or URL of the store.
        run: The name of the run.
        split: The split.
        choices: Fields of `StoreOptions` that differ from those of a small store.
    """
    store_options = StoreOptions(**{"sizes": (8, 16), "shard_rows": 8, "chunk_rows": 4, **choices})
    objects = open_objects(store, run)
    objects.begin()
    source_options = SourceOptions(rules=planning.source_rules(objects))
    opened = sources.open_source(str(source), split, options=source_options)
    listing = planning.read_listing(opened.list(lambda _: None))
    classes = planning.classes_of({split: (opened, listing)}, source_options.rules)
    recipe = planning.resolve_recipe(objects, store_options, classes)
    origin = Origin(
        source=str(source),
        kind=opened.kind,
        root=opened.root,
        fingerprint=opened.fingerprint(),
        listing=listing.digest,
        num_bytes=listing.num_bytes,
    )
    plan = planning.make_plan(objects, split, recipe, listing, origin, store_options.seed)
    encoded_plans = planning.plan_encoded(objects, plan, store_options.encodings)
    planning.write_metadata(objects, recipe, plan, store_options.sizes, encoded_plans)
    workspace.cache_clear()  # a test may have changed what lies under it
    config = ShardTaskConfig(
        store=objects.url,
        split=split,
        run=run,
        arrays=store_options.array_names,
        watched=False,  # no watchdog may end the process of the tests
        retry_delay_seconds=0.001,
    )
    return objects, plan, config


def prepare_inline(source: Path, store: str, **choices: Any) -> list[ShardReport]:
    """Prepare the missing shards of a split in this process, without Dask."""
    objects, plan, config = plan_inline(source, store, **choices)
    commits = records.load_commits(objects, plan)
    missing = [
        shard
        for shard in range(plan.num_shards)
        if shard not in commits or not commits[shard].shard_objects.keys() >= {*config.arrays}
    ]
    reports = [prepare_shard(config, shard) for shard in missing]
    finish_split(store, config.split, config.run)
    objects.end()
    return reports


def linked_folder(root: Path, originals: list[Path], images: int) -> Path:
    """Write class folders with *images* links to *originals*."""
    for number in range(images):
        file = root / f"n{number % 7:08d}" / f"n{number % 7:08d}_{number}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(originals[number % len(originals)])
    return root


def reproducible_files(store: Path, *, provenance: bool = False) -> Iterator[tuple[str, Path]]:
    """Yield the name and path of every reproducible file of a store.

    Commits and plans, which record who wrote what and when, are included only with *provenance*.
    Temporary files, caches and the report never are.
    """
    excluded = (".tmp", ".cache", "report.html") + (() if provenance else ("commits", "splits"))
    for file in sorted(store.rglob("*")):
        name = file.relative_to(store)
        if file.is_file() and name.parts[0] not in excluded:
            yield str(name), file


def contents(store: Path, *, provenance: bool = False) -> dict[str, bytes]:
    """Return the bytes of every reproducible file, by name."""
    return {
        name: file.read_bytes() for name, file in reproducible_files(store, provenance=provenance)
    }
