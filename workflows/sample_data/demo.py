"""The implementation of `tesserae demo`: sample, prepare, verify, train and search in sequence."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

from pipeline import sources
from pipeline.errors import StoreError, TesseraeError
from pipeline.installation import command_path, install_advice
from pipeline.store import layout
from pipeline.store.encoding import parse_encoding
from pipeline.store.open import open_objects
from workflows import cli
from workflows.preparation import prepare
from workflows.preparation.options import PrepareOptions
from workflows.preparation.verify import verify_split
from workflows.reports.store_report import report_store
from workflows.sample_data import imagenette, sample
from workflows.sample_data.options import DemoOptions
from workflows.terminal.formatting import counted

DEMO_MARK = ".made-by-demo"
"""The suffix of the file beside a run that the demo created, and may therefore remove."""
GAN_PIXELS = 32
"""The side of the images that the small GAN generates."""
SIZES = (GAN_PIXELS, 72, 224, 288)
ENCODING = parse_encoding("jpeg:128@90")
"""The encoded rows beside the squares, small enough to cost the demo no time."""
SHARD_ROWS = 128
"""The rows per shard, fewer than by default, so that even the sample has several shards."""

GAN_SHARE = 0.6
"""The fraction of the training time that the GAN gets; DeViSE gets the rest."""
SUPERRES_STEPS = 200
"""The number of steps of super-resolution for each minute of training: a number, not a time, so
that it surpasses bicubic interpolation on a slow machine, too."""
MAX_BAD = 0.1
"""The permitted fraction of unreadable rows: the sample has an empty and a truncated file."""


def run_demo(demo: DemoOptions) -> int:
    """Run the demo, and print where its results are; the working folder is created if missing.

    Args:
        demo: The options. Without `data` the source is the embedded sample, which is written to
            `sample` in the folder `dir`; with `imagenette`, an archive of 342 MB is downloaded into
            `dir`. The store and the runs are written into `dir`, too, and the runs of an earlier
            demo there are removed. With 0 `minutes` nothing is trained.

    Returns:
        The exit status, 0; also if training was skipped, because torch is not installed or the
        images are too few.

    Raises:
        ClusterError: The workers cannot be started.
        TesseraeError: A step failed, or --dir holds runs that the demo did not create.
        ValueError: `images` is less than 14, two for each class of the sample.
    """
    source, notice = _source(demo.data, demo.dir, demo.images)
    store = demo.dir / ("store" if not demo.data else f"store-{Path(demo.data).stem}")
    splits = sources.source_splits(source, demo.source_kind, demo.source_options)
    options = PrepareOptions(
        **demo.as_arguments(),
        source=source,
        store=str(store),
        split=tuple(splits) or ("train",),
        sizes=SIZES,
        encoded=(ENCODING.text,),
        shard_rows=SHARD_ROWS,
        workers=demo.workers,
        max_bad=MAX_BAD,
    )
    print(f"== prepare {source} into {store}", flush=True)
    runs = prepare.prepare(options)
    print(f"== verify {store}", flush=True)
    objects = open_objects(str(store))
    wrong = [p for split in options.split for p in verify_split(objects, split)[1]]
    if wrong:
        raise TesseraeError(
            f"{wrong[0].name}: {wrong[0].description}. Run `tesserae repair {store}`."
        )
    trained = demo.minutes > 0 and _train_gan(store, demo.dir / "run", GAN_SHARE * demo.minutes)
    if trained:
        _train_superres(store, demo.dir / "superres", max(1, round(SUPERRES_STEPS * demo.minutes)))
    hierarchy = Path(source) / sample.HIERARCHY
    searched = trained and hierarchy.is_file()
    if searched:
        _train_and_search_devise(
            store,
            hierarchy,
            demo.dir / "search",
            (1 - GAN_SHARE) * demo.minutes,
        )
    print("== results", flush=True)
    report_store(str(store), runs, notice=notice)
    print(f"Report of the store: {store / layout.REPORT}")
    print(f"Images of the store, to open with zarr: {store / layout.IMAGES}")
    jpegs = layout.array(options.split[0], ENCODING.array_name)
    print(f"  JPEGs of {ENCODING.short_side} px and kept aspect among them: {store / jpegs}")
    if trained:
        print(f"Report of the GAN, with samples: {demo.dir / 'run' / 'report.html'}")
        upscaler = demo.dir / "superres"
        print(f"Report of super-resolution, beside bicubic: {upscaler / 'report.html'}")
        print(f"  Enlarge an image: {command_path()} upscale {upscaler} IMAGE -o large.png")
    if searched:
        print(f"Report of DeViSE, with search results: {demo.dir / 'search' / 'report.html'}")
        print(f"  Search it: {command_path()} search {demo.dir / 'search'} --serve")
    return 0


def _train_superres(store: Path, folder: Path, steps: int) -> None:
    """Train a small network to enlarge images from 72 to 288 px, and compare it with bicubic."""
    print(f"== train super-resolution for {counted(steps, 'step')}", flush=True)
    _remove_demo_run(folder)
    arguments = [
        *("train", "superres", str(store), "--run", str(folder), "--network", "fsrcnn"),
        *("--scale", "4", "--learning-rate", "1e-3", "--ema-decay", "0.95"),
        *("--schedule", "constant", "--evaluated-images", "16", "--eval-every", "100"),
        *("--ranks", "1", "--steps", str(steps)),
    ]
    cli.dispatch(arguments)
    cli.dispatch(["report", str(folder)])


def _train_and_search_devise(store: Path, hierarchy: Path, folder: Path, minutes: float) -> None:
    """Train a small DeViSE network to map images to their place in the taxonomy, and search it."""
    print(f"== train DeViSE for {minutes:g} min, and search", flush=True)
    _remove_demo_run(folder)
    arguments = [
        *("train", "devise", str(store), "--run", str(folder), "--trunk", "new", "--learn", "all"),
        *("--hierarchy", str(hierarchy), "--batch-size", "64", "--trunk-learning-rate", "1e-3"),
        *("--feature-size", "72", "--width", "16", "--hidden-units", "256", "--ranks", "1"),
        *("--eval-every", "50", "--minutes", str(minutes), "--steps", "200"),
    ]
    cli.dispatch(arguments)
    cli.dispatch(["report", str(folder)])
    cli.dispatch(["search", str(folder), "vehicle", "--k", "5"])


def _remove_demo_run(folder: Path) -> None:
    """Remove an earlier run of the demo, and mark the next one as the demo's.

    Raises:
        TesseraeError: The folder holds something that the demo did not create.
    """
    mark = folder.with_name(f".{folder.name}{DEMO_MARK}")
    if folder.exists():
        if not (mark.is_file() and (folder / "options.json").is_file()):
            raise TesseraeError(
                f"{folder} was not created by the demo: move it away, or pass another --dir."
            )
        shutil.rmtree(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    mark.touch()


def _train_gan(store: Path, folder: Path, minutes: float) -> bool:
    """Train a small GAN for *minutes*; return False, with a message, if that is not possible."""
    print(f"== train a GAN for {minutes:g} min", flush=True)
    if importlib.util.find_spec("torch") is None:
        print(f"torch is not installed: {install_advice('train')}, then run the demo again.")
        return False
    _remove_demo_run(folder)
    arguments = [
        *("train", "wgan", str(store), "--run", str(folder), "--image-size", str(GAN_PIXELS)),
        *("--objective", "hinge", "--critic-steps", "1", "--critic-norm", "spectral", "--flip"),
        *("--generator-width", "32", "--critic-width", "32", "--ema-decay", "0.99", "--ranks", "1"),
        *("--eval-every", "200", "--minutes", str(minutes), "--steps", "1000000"),
    ]
    try:
        cli.dispatch(arguments)
    except StoreError as e:  # too few images for a single batch
        print(f"GAN not trained: {e}")
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
    for line in sample.sample_lines(summary):
        print(line)
    return str(summary.directory), sample.NOTICE[0].upper() + sample.NOTICE[1:] + "."
