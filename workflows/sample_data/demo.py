"""The work of `tesserae demo`: sample, prepare, verify, train and search, one after the other."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from pathlib import Path

from cluster.cores import cores
from pipeline import sources
from pipeline.errors import StoreError, TesseraeError
from pipeline.ingest.planning import Choices
from pipeline.store import layout
from pipeline.store.objects import open_objects
from workflows import cli
from workflows.preparation import prepare
from workflows.preparation.verify import verify_split
from workflows.reports.store_summary import report_store
from workflows.sample_data import imagenette, sample

MARK = ".made-by-demo"
"""The ending of the file beside a run that says that the demo made it, and may remove it."""
TRAINED = 32
"""Side in pixels of what the small GAN makes."""
SIZES = (TRAINED, 72, 224, 288)
SHARD_ROWS = 128
"""Less than usual, so that even a sample has several shards to deal out."""

GAN_SHARE = 0.6
"""Of the minutes of training."""
MAX_BAD = 0.1
"""The sample has an empty and a truncated file in it."""


def run(args: argparse.Namespace) -> int:
    """Sample, prepare, verify, show."""
    source, notice = _source(args.data, args.dir, args.images)
    store = args.dir / ("store" if not args.data else f"store-{Path(args.data).stem}")
    how = prepare.source_options(args)
    options = prepare.Options(
        source=source,
        store=str(store),
        splits=tuple(sources.splits(source, options=how)) or ("train",),
        source_options=how,
        choices=Choices(sizes=SIZES, shard_rows=SHARD_ROWS),
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
    trained = args.minutes > 0 and _train(store, args.dir / "run", GAN_SHARE * args.minutes)
    hierarchy = Path(source) / sample.HIERARCHY
    searched = trained and hierarchy.is_file()
    if searched:
        _search(store, hierarchy, args.dir / "search", (1 - GAN_SHARE) * args.minutes)
    print("== what is there", flush=True)
    report_store(str(store), runs, notice=notice)
    print(f"Look at {store / layout.REPORT} in a browser; open {store / layout.IMAGES} with zarr.")
    if trained:
        print(f"Look at {args.dir / 'run' / 'report.html'}: what a minute of training makes.")
    if searched:
        print(f"Look at {args.dir / 'search' / 'report.html'}: pictures that words find. Or ask:")
        print(f"  make search RUN={args.dir / 'search'}")
    return 0


def _search(store: Path, hierarchy: Path, folder: Path, minutes: float) -> None:
    """Train a small net to map pictures to what they are kinds of, and ask it."""
    print(f"== train DeViSE for {minutes:g} min, and search", flush=True)
    _clear(folder)
    words = [
        *("train", "devise", str(store), "--run", str(folder), "--trunk", "new", "--learn", "all"),
        *("--hierarchy", str(hierarchy), "--batch-size", "64", "--trunk-rate", "1e-3"),
        *("--feature-size", "72", "--width", "16", "--hidden", "256", "--ranks", "1"),
        *("--look-every", "50", "--minutes", str(minutes), "--steps", "200"),
    ]
    cli.dispatch(words)
    cli.dispatch(["report", str(folder)])
    cli.dispatch(["search", str(folder), "vehicle", "--k", "5"])


def _clear(folder: Path) -> None:
    """Remove a run of the demo's own, which is made anew, and mark that the next one is."""
    mark = folder.with_name(f".{folder.name}{MARK}")
    if folder.exists():
        if not (mark.is_file() and (folder / "options.json").is_file()):
            raise TesseraeError(
                f"{folder} is no run that the demo made: move it away, or pass --dir."
            )
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _train(store: Path, folder: Path, minutes: float) -> bool:
    """Train a GAN for a while, or say why not; whether it was trained."""
    print(f"== train a GAN for {minutes:g} min", flush=True)
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed: run `make setup EXTRAS=train`, and this again.")
        return False
    _clear(folder)
    words = [
        *("train", "wgan", str(store), "--run", str(folder), "--image-size", str(TRAINED)),
        *("--objective", "hinge", "--critic-steps", "1", "--critic-norm", "spectral", "--flip"),
        *("--generator-width", "32", "--critic-width", "32", "--ema", "0.99", "--ranks", "1"),
        *("--look-every", "200", "--minutes", str(minutes), "--steps", "1000000"),
    ]
    try:
        cli.dispatch(words)
    except StoreError as e:  # of few pictures there is no batch
        print(f"not trained: {e}")
        return False
    cli.dispatch(["report", str(folder)])
    return True


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
