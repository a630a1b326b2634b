"""The source, the store and the recipe of the study, which must belong together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from pipeline import sources
from pipeline.errors import SourceError, StoreError, StoreMismatchError
from pipeline.ingest import planning
from pipeline.ingest.planning import Listing
from pipeline.ingest.render import row_format
from pipeline.ingest.worker import local_encoder
from pipeline.loader import Loader
from pipeline.order import row_order
from pipeline.store import layout, records, table
from pipeline.store.encoded_plan import check_same_encoder
from pipeline.store.encoding import ORIGINAL, fitting_encoding, parse_encoding
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.options import StoreOptions
from pipeline.store.plan import Plan
from pipeline.store.split import open_split
from pipeline.urls import is_url
from workflows.classify.stage import Classify
from workflows.studies.options import ParityOptions, ParityRecipe
from workflows.studies.parity import ACCURACY, ENCODED, RAW
from workflows.studies.parity.source_images import Rendering, SourceImages, SourceSamples
from workflows.training.image_rows import (
    ImageRows,
    decoded_rows,
    evaluated_rows,
    finished_arrays,
    image_size_of,
    with_choices,
)
from workflows.training.stage import Data
from workflows.training.world import World


@dataclass(frozen=True)
class ParityData:
    """Everything that the runs of the study share. It can be sent to other processes."""

    store: str
    """The absolute path of the store, or its URL."""
    split: str
    """The training split."""
    held_out: str
    """The split to evaluate on."""
    recipe: ParityRecipe
    """The options of the stage, complete but for the seed and the form of images."""
    rows: Mapping[str, ImageRows]
    """The rows to read of each form of images, `raw` or `encoded`, that the store has."""
    samples: SourceSamples
    """The images of the training split in the source, as many as the loader yields."""
    classes: tuple[str, ...]
    """The names of the classes by label."""
    window_chunks: int
    """The number of chunks in a window of the windowed order."""
    chunk_rows: int
    """The number of rows in a chunk."""
    workers: int
    """The number of worker processes of a DataLoader."""

    @property
    def window_rows(self) -> int:
        """The number of rows in a window of the windowed order."""
        return self.window_chunks * self.chunk_rows

    @property
    def trained_form(self) -> str:
        """The form of images on which arms are trained: that of the recipe, or raw if there is."""
        if self.recipe.encoded is not None or RAW not in self.rows:
            return ENCODED
        return RAW

    def recipe_for(self, form: str, seed: int) -> ParityRecipe:
        """Return the options of the stage for a form of images and a seed."""
        return replace(self.recipe, encoded=self.rows[form].encoded, seed=seed)

    def loader(self, form: str, *, seed: int, order: str = "random") -> Loader:
        """Return a loader of whole training batches.

        Args:
            form: The form of the images.
            seed: Seed of the order and of random crops.
            order: `random` or `windowed` (default random).
        """
        rows = self.rows[form]
        options = replace(self.recipe_for(form, seed), order=order)
        loader = Loader(
            self.store,
            self.split,
            **asdict(rows),
            batch_size=options.batch_size,
            seed=seed,
            include_labels=range(len(self.classes)),
            **options.loader_arguments(),
        )
        if order == "windowed":
            loader.window_bytes = self._window_bytes(rows)
        return loader

    def _window_bytes(self, rows: ImageRows) -> int:
        """Return the bytes of a window, from which the loader counts its chunks, rounding down."""
        row_bytes: float = 3 * rows.size**2
        if rows.encoded is not None:
            name = parse_encoding(rows.encoded).array_name
            split = open_split(open_objects(self.store), self.split, [], encoded=[name])
            row_bytes = split.encoded[name].num_bytes_of_rows / split.plan.num_rows
        return math.ceil((self.window_chunks + 0.5) * self.chunk_rows * row_bytes)

    def held_out_loader(self, form: str) -> Loader:
        """Return the loader of the held-out split.

        Args:
            form: The form of the images.

        Raises:
            StoreError: The split has no images that are large enough.
            ValueError: The pictures of the encoding are too small.
        """
        options = self.recipe_for(form, 0)
        rows = evaluated_rows(self.store, self.held_out, options, self.rows[form])
        return Loader(
            self.store,
            self.held_out,
            **asdict(rows),
            batch_size=options.batch_size,
            include_labels=range(len(self.classes)),
            **options.loader_arguments(training=False),
        )

    def images(self, loader: Loader) -> SourceImages:
        """Return the plain dataset whose images have the pixels that a loader yields.

        The store's recipe is read, but none of its images.

        Args:
            loader: The loader, whose array, size, crop and seed count.
        """
        objects = open_objects(self.store)
        recipe = records.load_recipe(objects)
        array = str(loader.sizes[0]) if loader.encoded is None else loader.encoded
        rendering = Rendering(
            size=loader.sizes[0],
            row_format=row_format(array),
            filter=recipe.filter,
            decode_arguments=recipe.decode_arguments,
            crop=loader.crop,
            crop_arguments={
                "exif": recipe.exif and array == ORIGINAL,
                "rules": recipe.decode_rules,
                "missing_end": recipe.missing_end,
            },
            seed=loader.seed,
        )
        return SourceImages(self.samples, rendering)

    def stage(
        self, form: str, loader: Loader, world: World, held_out: Loader | None = None
    ) -> Classify:
        """Return a new stage, whose initial weights follow from the seed of a loader.

        It sets torch's global seed.

        Args:
            form: The form of the images.
            loader: The loader of whole training batches.
            world: The rank that the stage runs in.
            held_out: The loader of held-out images (default: none).
        """
        sizes = finished_arrays(self.store, self.split).sizes
        torch.manual_seed(loader.seed)
        data = Data(loader, held_out, self.classes, ranks_on_host=world.size, sizes=sizes)
        return Classify(self.recipe_for(form, loader.seed), data, world)


def open_parity_data(
    options: ParityOptions,
    recipe: ParityRecipe,
    *,
    report: Callable[[str], None] = lambda line: None,
) -> ParityData:
    """List the source, compare it with the store, and complete the recipe.

    Args:
        options: The options of the study.
        recipe: The options of the stage that the command line names.
        report: A function that gets one line for each remark (default: none is shown).

    Raises:
        SourceError: The source cannot be listed, or its images not be read one by one.
        StoreMismatchError: The source is not that of the store, or this machine makes other pixels.
        StoreError: The store lacks a split or suitable images, or has fewer images than a batch.
        ValueError: The options do not go with the images of the store.
        TesseraeError: The network cannot be created.
    """
    objects = open_objects(options.store)
    store_recipe = records.load_recipe(objects)
    _check_splits(options, objects)
    # It compares the pixels that decoder and resizer make here with those of the store.
    planning.check_options(objects, StoreOptions())
    samples = _list_samples(options, objects)
    recipe = _with_choices(options, recipe)
    rows = _rows_of_forms(options, recipe, report)
    _check_encoders(objects, options.split, rows)
    chunk_rows = store_recipe.chunk_rows
    data = ParityData(
        store=options.store if is_url(options.store) else str(Path(options.store).absolute()),
        split=options.split,
        held_out=options.held_out,
        recipe=recipe,
        rows=rows,
        samples=samples,
        classes=tuple(words or wnid for wnid, words in store_recipe.classes),
        window_chunks=max(1, options.window_rows // chunk_rows),
        chunk_rows=chunk_rows,
        workers=options.dataloader_workers,
    )
    recipe.check_labels(len(data.classes), 0)
    loader = data.loader(data.trained_form, seed=0)
    if not len(loader):
        raise StoreError(
            f"split {options.split!r} has {loader.num_rows} readable, labelled images, fewer than"
            f" --batch-size {recipe.batch_size}. Pass a smaller --batch-size."
        )
    # Quarantined images, and those without a label, are of no arm.
    included = loader.epoch_order(0).rows(0, loader.num_rows)
    recipe = recipe.for_rows(loader.num_rows).for_classes(data.classes)
    data = replace(data, recipe=recipe, samples=samples.of_rows(included))
    data.recipe.check_network(data.classes)
    if ACCURACY in options.parts:
        _check_accuracy_part(options, data)
    return data


def _check_splits(options: ParityOptions, objects: Objects) -> None:
    finished = [
        split
        for split in records.stored_splits(objects)
        if records.load_finish_record(objects, split) is not None
    ]
    flags = {"--split": options.split}
    if ACCURACY in options.parts:
        flags["--held-out"] = options.held_out
    for flag, split in flags.items():
        if split not in finished:
            names = ", ".join(finished) or "none"
            raise StoreError(
                f"{flag} is {split!r}: expected a finished split of {options.store}, of which there"
                f" are: {names}."
            )


def _check_accuracy_part(options: ParityOptions, data: ParityData) -> None:
    if not len(data.held_out_loader(data.trained_form)):
        raise StoreError(
            f"split {data.held_out!r} has no readable image with a label. Pass another --held-out."
        )
    if data.window_rows >= len(data.samples):
        raise ValueError(
            f"--window-rows is {options.window_rows}: expected fewer than the {len(data.samples):,}"
            f" images of split {data.split!r}, in chunks of {data.chunk_rows}, as a window is to be"
            " a part of them."
        )


# --- the source -----------------------------------------------------------------------------------


def _list_samples(options: ParityOptions, objects: Objects) -> SourceSamples:
    """Return the images of the source with their rows, after comparing them with the store."""
    rules = planning.source_rules(objects)
    source_options = replace(options.source_options, rules=rules)
    source = sources.open_source(options.source, options.split, options.source_kind, source_options)
    if source.access == "blocks":
        raise SourceError(
            f"{options.source} is of the kind {source.kind}, whose images cannot be read one by"
            " one, as a dataset of torch's DataLoader must. Pass a folder of them, and a store that"
            " was prepared from it."
        )
    listing = planning.read_listing(source.list(lambda count: None))
    plan = records.load_plan(objects, options.split)
    if listing.digest != plan.listing:
        raise StoreMismatchError(_first_difference(options, objects, plan, listing.table))
    labels = _labels_of(listing, records.load_recipe(objects).wnids)
    order = row_order(plan.num_rows, plan.seed)
    _check_labels(options, objects, listing, labels[order])
    rows = np.empty(plan.num_rows, np.int64)
    rows[order] = np.arange(plan.num_rows)
    columns = listing.table.column_names
    keys = tuple(listing.table["key"].to_pylist())
    paths = listing.table["path"].to_pylist() if "path" in columns else keys
    return SourceSamples(
        root=source.root,
        keys=keys,
        paths=tuple(path or key for path, key in zip(paths, keys, strict=True)),
        offsets=listing.table["offset"].to_numpy() if "offset" in columns else None,
        num_bytes=listing.table["num_bytes"].to_numpy(),
        labels=labels.astype(np.int64),
        rows=rows,
    )


def _labels_of(listing: Listing, wnids: list[str]) -> NDArray[np.int32]:
    """Return the label of each sample by its class in the source; -1 for none."""
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    labels = np.full(listing.table.num_rows, -1, np.int32)
    for name, start, stop in listing.runs:
        labels[start:stop] = label_of.get(name, -1)
    return labels


def _check_labels(
    options: ParityOptions, objects: Objects, listing: Listing, labels: NDArray[np.int32]
) -> None:
    stored = open_split(objects, options.split, []).labels
    different = np.flatnonzero(stored != labels)
    if len(different):
        row = int(different[0])
        plan = records.load_plan(objects, options.split)
        key = listing.table["key"][int(row_order(plan.num_rows, plan.seed)[row])].as_py()
        raise StoreMismatchError(
            f"{key!r} has the label {labels[row]} by its class in {options.source} and"
            f" {stored[row]} in {options.store}: expected the same ones. Pass the source that the"
            " store was prepared from."
        )


def _first_difference(
    options: ParityOptions, objects: Objects, plan: Plan, listed: pa.Table
) -> str:
    """Return the sentence about a source that is not that of the store."""
    in_source = dict(zip(listed["key"].to_pylist(), listed["num_bytes"].to_pylist(), strict=True))
    in_store: dict[str, int] = {}
    for shard in range(plan.num_shards):
        part = table.load_part(objects, layout.part(plan.split, shard), plan.rows(shard))
        in_store |= dict(zip(part["key"].to_pylist(), part["num_bytes"].to_pylist(), strict=True))
    different = sorted(
        key for key in in_source.keys() | in_store.keys() if in_source.get(key) != in_store.get(key)
    )
    key = different[0]
    if key not in in_source:
        difference = f"{key!r} is in the store and not in the source"
    elif key not in in_store:
        difference = f"{key!r} is in the source and not in the store"
    else:
        difference = f"{key!r} has {in_source[key]:,} bytes in the source, {in_store[key]:,} in the"
        difference += " store"
    return (
        f"{options.source} is not the source of split {plan.split!r} of {options.store}:"
        f" {difference}, the first of {len(different):,} differences. Pass the source that the"
        " store was prepared from, and the same options for it."
    )


# --- the store ------------------------------------------------------------------------------------


def _with_choices(options: ParityOptions, recipe: ParityRecipe) -> ParityRecipe:
    chosen = with_choices(options.store, options.split, recipe, gpu=False)
    assert isinstance(chosen, ParityRecipe)
    return chosen


def _rows_of_forms(
    options: ParityOptions, recipe: ParityRecipe, report: Callable[[str], None]
) -> dict[str, ImageRows]:
    """Return the rows to read of each form of images that the store has in a sufficient size."""
    arrays = finished_arrays(options.store, options.split)
    size = image_size_of(recipe)
    rows = {}
    large_enough = [stored for stored in arrays.sizes if stored >= size]
    if large_enough:
        rows[RAW] = ImageRows(min(large_enough))
    else:
        report(
            f"notice: split {options.split!r} has no squares of {size} px or more: raw pixels are"
            f" left out. Add them with `tesserae prepare ... --sizes {size}`."
        )
    encoding = None
    if recipe.encoded is not None:
        encoding = parse_encoding(recipe.encoded)
        if encoding.text not in arrays.encodings:
            raise StoreError(
                f"--encoded is {encoding.text}: split {options.split!r} of {options.store} has"
                f" {arrays}. Pass one of these, or add it with `tesserae prepare ... --encoded"
                f" {encoding.text}`."
            )
    elif arrays.encodings:
        encoding = fitting_encoding(arrays.encodings, size)
        encoding = encoding if encoding.suffices_for(size) else None
    if encoding is not None:
        rows[ENCODED] = decoded_rows(encoding, recipe)
    else:
        report(
            f"notice: split {options.split!r} has no encoded rows of {size} px or more: they are"
            f" left out. Add them with `tesserae prepare ... --encoded jpeg:{size}@90`."
        )
    if not rows:
        raise StoreError(
            f"{options.store} has {arrays}: expected at least {size} px. Pass a smaller"
            " --image-size."
        )
    return rows


def _check_encoders(objects: Objects, split: str, rows: Mapping[str, ImageRows]) -> None:
    """Refuse encoded rows that this machine would encode otherwise."""
    encoded = rows[ENCODED].encoded if ENCODED in rows else None
    if encoded is None:
        return
    encoding = parse_encoding(encoded)
    plan = records.load_plan(objects, split)
    stored = records.load_encoded_plan(objects, plan, encoding.array_name)
    check_same_encoder(stored, *local_encoder(encoding))
