"""From photographs to a verified store in one go: sample, prepare, verify, and pictures.

Without --data it works on an embedded sample, made from photographs inside scikit-image: a check
of the plumbing, not a result. `--data imagenette` fetches a public set; any other --data names a
folder or archive of yours.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from cluster.cores import cores
from pipeline import sources
from pipeline.errors import TesseraeError
from pipeline.ingest.planning import Choices
from pipeline.store import layout
from pipeline.store.objects import open_objects
from workflows import imagenette, prepare, sample
from workflows.summary import report_store
from workflows.verify import verify_split

SAMPLE_IMAGES = 400
SHARD_ROWS = 128
"""Less than usual, so that even a sample has several shards to deal out."""

MAX_BAD = 0.1
"""The sample has an empty and a truncated file in it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of `tesserae demo`."""
    parser.add_argument("--data", default="", help="your images, or `imagenette` (the sample)")
    parser.add_argument("--dir", type=Path, default=Path("demo"), help="where to work (demo)")
    parser.add_argument("--images", type=int, default=SAMPLE_IMAGES, help="of the sample (400)")
    parser.add_argument("--workers", type=int, help="processes (one a core)")


def run(args: argparse.Namespace) -> int:
    """Sample, prepare, verify, show."""
    source, notice = _source(args.data, args.dir, args.images)
    store = args.dir / ("store" if not args.data else f"store-{Path(args.data).stem}")
    options = prepare.Options(
        source=source,
        store=str(store),
        splits=tuple(sources.splits(source)) or ("train",),
        choices=Choices(shard_rows=SHARD_ROWS),
        workers=args.workers or cores(),
        max_bad=MAX_BAD,
    )
    print(f"== prepare {source} into {store}", flush=True)
    runs = prepare.prepare(options)
    print(f"== verify {store}", flush=True)
    objects = open_objects(str(store))
    wrong = [p for split in options.splits for p in verify_split(objects, split)[1]]
    if wrong:
        raise TesseraeError(f"{wrong[0].name}: {wrong[0].what}. Run `tesserae repair {store}`.")
    print("== what is there", flush=True)
    report_store(str(store), runs, notice=notice)
    print(f"Look at {store / layout.REPORT} in a browser; open {store / layout.IMAGES} with zarr.")
    return 0


def _source(data: str, folder: Path, images: int) -> tuple[str, str]:
    if data in imagenette.ARCHIVES:
        return str(imagenette.fetch(data, folder)), ""
    if data:
        return data, ""
    print("== sample", flush=True)
    summary = sample.make_sample(folder / "sample", images)
    for line in sample.lines(summary):
        print(line)
    return str(summary.directory), sample.NOTICE[0].upper() + sample.NOTICE[1:] + "."
