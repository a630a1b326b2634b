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
"""The choices of a store with few rows in several shards."""
SMALL_OPTIONS = (
    *("--sizes", 8, 16, "--shard-rows", 4, "--chunk-rows", 2, "--max-bad", 1, "--workers", 1),
)
"""The options of the command for such a store, also where every image is broken."""


def jpeg(seed: int, width: int = 60, height: int = 45, mode: str = "RGB", **options: Any) -> bytes:
    """Return a small smooth JPEG, which differs for each seed."""
    rng = np.random.default_rng(seed)
    bands = {"L": 1, "RGB": 3, "CMYK": 4}[mode]
    coarse = rng.integers(0, 256, (6, 8, bands), np.uint8).squeeze()
    picture = Image.fromarray(coarse, mode).resize((width, height), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90, **options)
    return file.getvalue()


def make_folder(root: Path, images: int, classes: int = 3, bad: int = 0) -> Path:
    """Write class folders with *images* small JPEGs, the last *bad* of which are broken."""
    for place in range(images):
        wnid = f"n{place % classes:08d}"
        file = root / wnid / f"{wnid}_{place}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        data = jpeg(place, 40 + place % 37, 40 + place % 23)
        broken = place >= images - bad
        file.write_bytes(data[: len(data) // 2] if broken else data)
    return root


def plan_inline(
    source: Path, store: str, *, run: str = "train-inline", split: str = "train", **choices: Any
) -> tuple[Objects, Plan, ShardTaskConfig]:
    """Plan a split in this process, as `tesserae prepare` does before it starts a cluster."""
    chosen = StoreOptions(**{"sizes": (8, 16), "shard_rows": 8, "chunk_rows": 4, **choices})
    objects = open_objects(store, run)
    objects.begin()
    rules = SourceOptions(rules=planning.source_rules(objects))
    opened = sources.open_source(str(source), split, options=rules)
    listed = planning.read_listing(opened.list(lambda _: None))
    classes = planning.classes_of({split: (opened, listed)}, rules.rules)
    recipe = planning.resolve_recipe(objects, chosen, classes)
    origin = Origin(
        source=str(source),
        kind=opened.kind,
        root=opened.root,
        fingerprint=opened.fingerprint(),
        listing=listed.digest,
        num_bytes=listed.num_bytes,
    )
    plan = planning.make_plan(objects, split, recipe, listed, origin, chosen.seed)
    planning.write_metadata(objects, recipe, plan, chosen.sizes)
    workspace.cache_clear()  # a test may have changed what lies under it
    work = ShardTaskConfig(
        store=objects.url,
        split=split,
        run=run,
        sizes=chosen.sizes,
        watched=False,  # nobody would start this process again
        retry_delay_seconds=0.001,
    )
    return objects, plan, work


def prepare_inline(source: Path, store: str, **choices: Any) -> list[ShardReport]:
    """Prepare the missing shards of a split in this process, without Dask."""
    objects, plan, work = plan_inline(source, store, **choices)
    commits = records.load_commits(objects, plan)
    todo = [
        s
        for s in range(plan.num_shards)
        if s not in commits or not commits[s].sizes >= set(work.sizes)
    ]
    reports = [prepare_shard(work, shard) for shard in todo]
    finish_split(store, work.split, work.run)
    objects.end()
    return reports


def linked_folder(root: Path, originals: list[Path], images: int) -> Path:
    """Write class folders with *images* links to *originals*."""
    for place in range(images):
        file = root / f"n{place % 7:08d}" / f"n{place % 7:08d}_{place}.JPEG"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(originals[place % len(originals)])
    return root


def promised(store: Path, *, provenance: bool = False) -> Iterator[tuple[str, Path]]:
    """Yield the name and path of every reproducible file of a store.

    Commits and plans, which record who wrote what and when, are included only with *provenance*.
    Temporary files, caches and the report never are.
    """
    left_out = (".tmp", ".cache", "report.html") + (() if provenance else ("commits", "splits"))
    for file in sorted(store.rglob("*")):
        name = file.relative_to(store)
        if file.is_file() and name.parts[0] not in left_out:
            yield str(name), file


def contents(store: Path, *, provenance: bool = False) -> dict[str, bytes]:
    """Return the bytes of every reproducible file, by name."""
    return {name: file.read_bytes() for name, file in promised(store, provenance=provenance)}
