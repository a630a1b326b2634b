"""The training data of a stage of images: its loaders, and what follows from the store."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import StoreError
from pipeline.store import records
from pipeline.store.open import open_objects
from pipeline.urls import is_url
from workflows.evaluation import HELD_OUT
from workflows.training.image_rows import (
    ImageRows,
    choose_rows,
    evaluated_rows,
    image_size_of,
    stored_sizes,
    suggested_store_size,
    with_choices,
)
from workflows.training.options import MIN_RESIZE_RATIO, TrainingOptions
from workflows.training.run_options import RunOptions

if TYPE_CHECKING:  # these load torch, which --help does not need
    from pipeline.loader import Loader
    from workflows.training.run_folder import RunFolder
    from workflows.training.stage import Data


def open_images(
    run_options: RunOptions, options: TrainingOptions, run: RunFolder, *, gpu: bool
) -> tuple[TrainingOptions, Data]:
    """Open the training data of a stage of images, and choose what its options leave open.

    The choices are printed.

    Args:
        run_options: The store, the split to train on and the held-out split.
        options: The options of the stage.
        run: The run folder, which may hold no run yet; what it has recorded is chosen again.
        gpu: True if ranks have GPUs.

    Returns:
        The options with all values that follow from the store and the machine, and the loaders of
        whole batches with the classes.

    Raises:
        StoreError: The store lacks the split or suitable images, or has fewer images than a batch.
        ValueError: The options do not go with the images or the labels of the store.
        TesseraeError: The network cannot be created.
    """
    from workflows.training.stage import Data

    store, split = run_options.store, run_options.split
    chosen = with_choices(store, split, options, gpu=gpu)
    rows = choose_rows(store, split, chosen, run)
    _print_rows(run_options, chosen, rows)
    chosen = replace(chosen, encoded=rows.encoded)
    train = _training_loader(run_options, chosen, rows)
    data = Data(
        train,
        _held_out_loader(run_options, chosen, rows, run),
        tuple(words or wnid for wnid, words in train.classes),
        sizes=stored_sizes(store, split, run),
    )
    chosen = chosen.for_rows(train.num_rows).for_classes(data.classes)
    chosen.check_network(data.classes)
    _print_choices(options, chosen)
    return chosen, data


def _location(run_options: RunOptions) -> str | Path:
    store = run_options.store
    return store if is_url(store) else Path(store).absolute()


def _included_labels(run_options: RunOptions, options: TrainingOptions) -> range | None:
    """Return the labels of the rows that are read; None for all rows."""
    if not options.labelled_rows_only:
        return None
    return range(len(records.load_recipe(open_objects(run_options.store)).classes))


def _training_loader(run_options: RunOptions, options: TrainingOptions, rows: ImageRows) -> Loader:
    from pipeline.loader import Loader

    labels = _included_labels(run_options, options)
    loader = Loader(
        _location(run_options),
        run_options.split,
        **asdict(rows),
        batch_size=options.batch_size,
        seed=options.seed,
        include_labels=labels,
        **options.loader_arguments(),
    )
    if labels is None:
        unlabelled = int((loader.labels < 0).sum())
    else:  # those that are left out and could be read
        every_row = Loader(_location(run_options), run_options.split, **asdict(rows))
        unlabelled = every_row.num_rows - loader.num_rows
    options.check_labels(len(loader.classes), unlabelled)
    kind = "readable" if labels is None else "readable, labelled"
    if labels is not None and not loader.num_rows:
        raise StoreError(
            f"split {run_options.split!r} has no readable image with a label. Pass another --split."
        )
    if not len(loader):
        raise StoreError(
            f"split {run_options.split!r} has {loader.num_rows} {kind} images, fewer than"
            f" --batch-size {options.batch_size}. Pass a smaller --batch-size."
        )
    if labels is not None and unlabelled:
        print(f"notice: {unlabelled:,} images without a label are left out.", flush=True)
    return loader


def _held_out_loader(
    run_options: RunOptions, options: TrainingOptions, rows: ImageRows, run: RunFolder
) -> Loader | None:
    """Return the loader of the held-out split; None if there is none, or no suitable image."""
    from pipeline.loader import Loader

    held_out = held_out_split(run_options)
    if held_out is None:
        return None
    labels = _included_labels(run_options, options)
    loader = Loader(
        _location(run_options),
        held_out,
        **asdict(evaluated_rows(run_options.store, held_out, options, rows, run)),
        batch_size=options.batch_size,
        include_labels=labels,
        **options.loader_arguments(training=False),
    )
    if len(loader):
        return loader
    if labels is not None:
        problem = f"split {held_out!r} has no readable image with a label"
        if run_options.held_out is not None:
            raise StoreError(f"{problem}. Pass another --held-out, or --held-out none.")
        print(f"notice: {problem}: this run is not evaluated.", flush=True)
    elif run_options.held_out is not None:
        raise StoreError(
            f"--held-out {held_out} has {loader.num_rows} readable images, fewer than"
            f" --batch-size {options.batch_size}. Pass a smaller --batch-size, or --held-out none."
        )
    return None


def _print_choices(options: TrainingOptions, chosen: TrainingOptions) -> None:
    """Print the options that were chosen because they were not named."""
    choices = {
        field.name: getattr(chosen, field.name)
        for field in fields(chosen)
        if not getattr(options, field.name) and getattr(chosen, field.name)
    }
    choices.pop("encoded", None)  # `_print_rows` tells it
    if choices:
        listed = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in choices.items())
        print(f"chosen for this store and this machine: {listed}", flush=True)


def _print_rows(run_options: RunOptions, options: TrainingOptions, rows: ImageRows) -> None:
    """Print which rows are read without having been asked for, and how they become smaller."""
    stored, size = rows.size, image_size_of(options)
    if rows.encoded is not None and options.encoded is None:
        print(
            f"notice: images of {stored} px are decoded from the encoded rows {rows.encoded} of"
            f" split {run_options.split!r}."
        )
    if rows.encoded is not None or stored < MIN_RESIZE_RATIO * size:
        return
    if getattr(options, "crop", "none") == "resized":
        return  # regions of any size are resized: larger squares lose nothing
    resized = options.resized_side(stored)
    suggested = suggested_store_size(size)
    if resized is None:
        share = f"{(size / stored) ** 2:.0%}"
        print(
            f"notice: training on {size} px crops, {share} of the area of each {stored} px image."
        )
        return
    print(
        f"notice: {stored} px images are resized to {resized} px on the device. Reading a"
        f" {suggested} px array would be {(stored / suggested) ** 2:.0f} times as fast:"
        f" `tesserae prepare ... --sizes {suggested}`."
    )


def held_out_split(run_options: RunOptions) -> str | None:
    """Return the name of the split to evaluate on; None if there is none.

    Args:
        run_options: The store, its training split, and the held-out split if it is named.

    Raises:
        StoreError: The named split is not finished.
    """
    objects = open_objects(run_options.store)
    finished = [
        s
        for s in records.stored_splits(objects)
        if records.load_finish_record(objects, s) is not None
    ]
    if run_options.held_out == "none":
        return None
    if run_options.held_out is not None:
        if run_options.held_out not in finished:
            names = ", ".join(finished)
            raise StoreError(
                f"--held-out is {run_options.held_out!r}: expected none or a finished split:"
                f" {names}."
            )
        return run_options.held_out
    return next((s for s in HELD_OUT if s in finished and s != run_options.split), None)
