"""The work of `tesserae train`: prepare if asked to, then train a stage on the cluster."""

from __future__ import annotations

import argparse
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.cores import cores
from cluster.ranks.world import Wanted, gpus_there
from pipeline import sources
from pipeline.errors import StoreError, TesseraeError
from pipeline.ingest.planning import Choices
from pipeline.store import records
from pipeline.store.objects import open_objects
from pipeline.urls import is_url
from workflows import session
from workflows.preparation import prepare
from workflows.session import Cluster
from workflows.training.options import FREE, SHRINK_FROM, Training
from workflows.training.stages import STAGES, load_name

if TYPE_CHECKING:  # it loads torch, which --help does not need
    from workflows.training.loop import Data
    from workflows.training.run_folder import RunFolder


HELD_OUT = ("val", "test")
"""Splits that nothing is learned from, if there are such."""
LOOK_SECONDS = 0.2


def run(args: argparse.Namespace) -> int:
    """Prepare, if that is asked for, and train."""
    options = _options_of(args.stage).read(args).located()
    _check(args)
    if session.work_for_first(args):
        return 0
    from workflows.training.holding import held
    from workflows.training.run_folder import RunFolder

    folder = Path(args.run or f"runs/{args.stage}")
    run = RunFolder(folder)
    try:
        with held(run):
            if run.begun():
                options = options.as_before(run.asked()["options"])
            _check_run(args, options, run)
            with _cluster(args) as cluster, _prepared(args, options, cluster):
                state = _train(args, options, cluster, run)
        _say_result(folder, state)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"Run the same command again to go on in {folder}.") from None
    return 0


def _say_result(folder: Path, state: str) -> None:
    samples = sorted((folder / "samples").glob("*.png"))
    print(f"{folder}: {state}. `tesserae report {folder}` shows it.", flush=True)
    if samples:
        print(f"Look at {samples[-1]}.", flush=True)


def _check(args: argparse.Namespace) -> None:
    if args.ranks and args.gpus and args.ranks != args.gpus:
        raise ValueError(f"--ranks is {args.ranks}, --gpus {args.gpus}: name one of them.")
    session.check_where(args.cluster)


def _check_run(args: argparse.Namespace, options: Training, run: RunFolder) -> None:
    """Refuse a folder of a run with other options, before anything is made for it."""
    run.check(
        {"stage": STAGES[args.stage].stage, **options.as_dict()},
        free=FREE,
        complete=options.complete,
        changeable=options.changeable(),
        from_step=args.from_step,
    )
    if args.from_step is not None:
        run.at(args.from_step)


def _options_of(stage: str) -> type[Training]:
    found: type[Training] = load_name(STAGES[stage].options)
    return found


def _cluster(args: argparse.Namespace) -> Cluster:
    made = session.of(args)
    if args.ranks is None or args.gpus:
        made.use_gpus(args.gpus)
    if args.data is None and args.workers is None:
        made.shape(args.ranks or 1)  # nobody decodes
    elif args.ranks is not None and args.ranks > (args.workers or cores()):
        made.shape(args.ranks)
    return made


# --- preparing ------------------------------------------------------------------------------------


@contextmanager
def _prepared(args: argparse.Namespace, options: Training, cluster: Cluster) -> Iterator[None]:
    """Make the split that is learned from; then make the others while the block runs."""
    if args.data is None:
        yield
        return
    how = prepare.source_options(args)
    splits = sources.splits(args.data, args.source_kind, how) or [args.split]
    if args.split not in splits:
        raise ValueError(f"--split is {args.split!r}: {args.data} has {', '.join(splits)}.")
    wish = prepare.Options(
        source=args.data,
        store=args.store,
        splits=(args.split, *(split for split in splits if split != args.split)),
        choices=Choices(sizes=(_size_to_prepare(args.store, options),)),
        kind=args.source_kind,
        source_options=how,
        max_bad=args.max_bad,
        workers=args.workers or cores(),
        cluster=args.cluster,
        certs=args.certs,
    )
    cluster.look()
    plans = prepare.plan_splits(wish, cluster)
    prepare.prepare_split(wish, args.split, cluster, plans)
    others = _Others(wish, cluster, plans)
    others.start()
    try:
        yield
    except BaseException:
        cluster.interrupt()
        others.join()
        raise
    others.wait()


class _Others(threading.Thread):
    """Makes the splits that are not learned from."""

    def __init__(self, wish: prepare.Options, cluster: Cluster, plans: prepare.Plans) -> None:
        super().__init__(name="prepare", daemon=True)
        self._wish = wish
        self._cluster = cluster
        self._plans = plans
        self._error: BaseException | None = None

    def run(self) -> None:
        """Prepare one after the other."""
        try:
            for split in self._wish.splits[1:]:
                prepare.prepare_split(self._wish, split, self._cluster, self._plans)
        except BaseException as e:  # noqa: BLE001 - it is raised by `wait`
            self._error = e
            if isinstance(e, Exception):
                print(f"notice: {e} Training goes on.", flush=True)

    def wait(self) -> None:
        """Wait for the end, and raise what went wrong."""
        while self.is_alive():
            self._cluster.keep()
            self.join(LOOK_SECONDS)
        if self._error is not None:
            raise self._error


def _size_to_prepare(store: str, options: Training) -> int:
    if options.prepared_size is not None:
        return options.prepared_size
    wanted = _image_size(options)
    try:
        found = _sizes(store)
    except StoreError:
        found = []
    fitting = [size for size in found if size >= wanted]
    return min(fitting) if fitting else near_size(wanted)


def near_size(wanted: int) -> int:
    """The side to prepare for pictures of *wanted* px: a little more where that is usual."""
    return 72 if 64 <= wanted <= 72 else wanted


# --- training -------------------------------------------------------------------------------------


def _train(args: argparse.Namespace, options: Training, cluster: Cluster, run: RunFolder) -> str:
    from workflows.training.launch import train_on

    stage = STAGES[args.stage]
    files: dict[str, bytes] = {}
    if stage.gather is None:
        data = _data(args, options, run)
    else:
        data, files = load_name(stage.gather)(args, options, cluster, _held_out(args))
    there = gpus_there(cluster.client)
    if args.gpus and not cluster.stands and args.gpus > there:
        raise TesseraeError(f"--gpus is {args.gpus}: this machine has {there}.")
    gpus = there if args.gpus is None and args.ranks is None else (args.gpus or 0)
    wanted = Wanted(
        gpus or args.ranks or 1,
        gpu=bool(gpus),
        batch=options.batch_size,
        seconds=args.rank_timeout,
        option="--rank-timeout",
    )
    return train_on(
        cluster, wanted, stage.stage, options, data, run, from_step=args.from_step, files=files
    )


def _size_before(run: RunFolder) -> int | None:
    """The stored size that a run has learned from so far: the store may have others by now."""
    try:
        return int(run.asked()["options"]["stored_size"])
    except (TesseraeError, KeyError):
        return None


def _data(args: argparse.Namespace, options: Training, run: RunFolder) -> Data:
    from pipeline.loader import Loader
    from workflows.training.loop import Data

    wanted = _image_size(options)
    fitting = [size for size in _sizes(args.store) if size >= wanted]
    size = _size_before(run) if _size_before(run) in fitting else min(fitting, default=None)
    if size is None:
        held = ", ".join(map(str, _sizes(args.store)))
        raise StoreError(
            f"{args.store} holds pictures of {held} px: expected at least {wanted}. Prepare that"
            " size too, or pass a smaller --image-size."
        )
    loader = Loader(
        Path(args.store).absolute() if not is_url(args.store) else args.store,
        args.split,
        size=size,
        batch_size=options.batch_size,
        seed=options.seed,
        **options.loading(),
    )
    _say_crop(options, size, wanted)
    if not len(loader):
        raise StoreError(
            f"split {args.split!r} has {loader.num_rows} pictures: expected at least one batch of"
            f" {options.batch_size}."
        )
    unlabelled = int((loader.labels < 0).sum())
    options.check_labels(len(loader.classes), unlabelled)
    held_out = _held_out(args)
    other = None
    if held_out is not None:
        other = Loader(
            loader.store,
            held_out,
            size=size,
            batch_size=options.batch_size,
            **options.loading(learns=False),
        )
        if not len(other) and args.held_out is not None:
            raise StoreError(
                f"--held-out {held_out} has {other.num_rows} pictures: expected at least one batch"
                f" of {options.batch_size}."
            )
        other = other if len(other) else None
    return Data(loader, other, tuple(words or wnid for wnid, words in loader.classes))


def _say_crop(options: Training, stored: int, size: int) -> None:
    """Say what is done with pictures that are much larger than what is learned from."""
    if stored < SHRINK_FROM * size:
        return
    shrunk = options.shrunk_side(stored)
    if shrunk is None:
        share = f"{(size / stored) ** 2:.0%}"
        print(f"notice: {size} px are cut out of pictures of {stored} px: {share} of each.")
        return
    print(
        f"notice: pictures of {stored} px are resized to {shrunk} px on the device. A store of"
        f" {near_size(size)} px would be read {(stored / near_size(size)) ** 2:.0f} times as fast:"
        f" `tesserae prepare --sizes {near_size(size)}`."
    )


def _held_out(args: argparse.Namespace) -> str | None:
    objects = open_objects(args.store)
    finished = [s for s in records.splits(objects) if records.load_done(objects, s) is not None]
    if args.held_out == "none":
        return None
    if args.held_out is not None:
        if args.held_out not in finished:
            raise StoreError(
                f"--held-out is {args.held_out!r}: finished splits are {', '.join(finished)}."
            )
        return str(args.held_out)
    return next((s for s in HELD_OUT if s in finished and s != args.split), None)


def _image_size(options: Training) -> int:
    return int(getattr(options, "image_size", 0) or 224)


def _sizes(store: str) -> list[int]:
    objects = open_objects(store)
    records.load_recipe(objects)
    done = (records.load_done(objects, split) for split in records.splits(objects))
    return sorted({size for one in done if one is not None for size in one.sizes})
