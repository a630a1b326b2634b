"""The rows of a store that a stage of images reads: stored squares, or squares of encoded rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.errors import StoreError
from pipeline.store import records
from pipeline.store.encoding import Encoding, fitting_encoding, parse_encoding
from pipeline.store.layout import MAX_SIZE
from pipeline.store.open import open_objects
from workflows.training.options import TrainingOptions

if TYPE_CHECKING:  # it loads torch, which --help does not need
    from workflows.training.run_folder import RunFolder


@dataclass(frozen=True)
class ImageRows:
    """The images that a loader yields. The fields are arguments of `pipeline.loader.Loader`."""

    size: int
    """The side of the squares, in pixels."""
    encoded: str | None = None
    """The encoding, such as `jpeg:256@90`, of the rows that they are decoded from; None = they are
    stored."""


@dataclass(frozen=True)
class FinishedArrays:
    """The finished image arrays of a split."""

    sizes: tuple[int, ...]
    """The sides of its stored squares, in pixels, ascending."""
    encodings: tuple[str, ...]
    """Its encodings, such as `jpeg:256@90`."""

    def __str__(self) -> str:
        """Return a phrase for a sentence, such as `images of 72, 224 px`."""
        arrays = []
        if self.sizes:
            arrays.append(f"images of {', '.join(map(str, self.sizes))} px")
        if self.encodings:
            arrays.append(f"encoded rows {', '.join(self.encodings)}")
        return " and ".join(arrays) or "no finished images"


def finished_arrays(store: str, split: str) -> FinishedArrays:
    """Return the arrays that a split has; of an unfinished one, those of the finished splits.

    Args:
        store: Folder or URL of the store.
        split: Name of the split, which need not exist.

    Raises:
        StoreError: There is no store.
    """
    objects = open_objects(store)
    records.load_recipe(objects)
    done = {name: records.load_finish_record(objects, name)
            for name in records.stored_splits(objects)}  # fmt: skip
    finished = [done[split]] if done.get(split) is not None else list(done.values())
    sizes = {size for record in finished if record is not None for size in record.sizes}
    names = {name for record in finished if record is not None for name in record.encoded}
    encodings = (parse_encoding(name).text for name in sorted(names))
    return FinishedArrays(tuple(sorted(sizes)), tuple(encodings))


def image_size_of(options: TrainingOptions) -> int:
    """Return the side of the images that a stage trains on, in pixels (224 if it has no option)."""
    return int(getattr(options, "image_size", 0) or 224)


def with_choices(store: str, split: str, options: TrainingOptions, *, gpu: bool) -> TrainingOptions:
    """Return the options of a stage of images, with choices that suit the store and the machine.

    Args:
        store: Folder or URL of the store.
        split: Name of the split to train on.
        options: The options of the stage.
        gpu: True if ranks have GPUs.

    Raises:
        StoreError: There is no store.
    """
    arrays = finished_arrays(store, split)
    encodings = [parse_encoding(text) for text in arrays.encodings]
    short_sides = tuple(224 if e.is_original else e.short_side for e in encodings)
    return options.for_store(arrays.sizes, short_sides, gpu=gpu)


def choose_rows(
    store: str, split: str, options: TrainingOptions, run: RunFolder | None = None
) -> ImageRows:
    """Return the rows that a stage of images reads.

    They are those of the option `encoded`; otherwise the stored squares that the run has read so
    far, or the smallest that are large enough, and encoded rows if there are none.

    Args:
        store: Folder or URL of the store.
        split: Name of the split to train on.
        options: The options of the stage.
        run: The run folder, which may hold no run yet (default: there is none).

    Raises:
        StoreError: There is no store, or it has no suitable rows.
        ValueError: The pictures of the encoding are smaller than the images to train on, or the
            options exclude encoded rows.
    """
    if options.encoded is not None:
        return decoded_rows(parse_encoding(options.encoded), options)
    image_size = image_size_of(options)
    arrays = finished_arrays(store, split)
    large_enough = [size for size in arrays.sizes if size >= image_size]
    if large_enough:
        recorded = _recorded_size(run)
        return ImageRows(recorded if recorded in large_enough else large_enough[0])
    if arrays.encodings:
        encoding = fitting_encoding(arrays.encodings, image_size)
        if encoding.suffices_for(image_size):
            return decoded_rows(encoding, options)
    raise StoreError(
        f"{store} has {arrays}: expected at least {image_size} px. Add that size with `tesserae"
        f" prepare ... --sizes {suggested_store_size(image_size)}`, or encoded rows with `--encoded"
        f" jpeg:{max(256, image_size)}@90`, or pass a smaller --image-size."
    )


def evaluated_rows(
    store: str,
    split: str,
    options: TrainingOptions,
    rows: ImageRows,
    run: RunFolder | None = None,
) -> ImageRows:
    """Return the rows of a split that a stage of images evaluates.

    Args:
        store: Folder or URL of the store.
        split: Name of the held-out split.
        options: The options of the stage.
        rows: The rows that it trains on, which are evaluated unless the images are of another size.
        run: The run folder, which may hold no run yet (default: there is none). Squares that the
            run has evaluated so far are evaluated again.

    Raises:
        StoreError: The split has no images that are large enough.
        ValueError: The pictures of the encoding are too small.
    """
    size = options.evaluated_size
    if size is None:
        return rows
    if rows.encoded is not None:  # the loader cuts the centre, with no room for random crops
        encoding = parse_encoding(rows.encoded)
        if not encoding.suffices_for(size):
            raise ValueError(
                f"--evaluation-size is {size}: the pictures of {encoding.text} are smaller. Pass a"
                " smaller one."
            )
        return ImageRows(size, rows.encoded)
    if size == image_size_of(options):
        return rows
    sizes = finished_arrays(store, split).sizes
    recorded = _recorded_data(run).get("held_out_size")
    large_enough = [stored for stored in sizes if stored >= size]
    if not large_enough:
        listed = ", ".join(map(str, sizes))
        raise StoreError(
            f"--evaluation-size is {size}: split {split!r} has images of {listed} px. Pass a"
            f" smaller one, or add a size with `tesserae prepare ... --sizes {size}`."
        )
    return ImageRows(recorded if recorded in large_enough else large_enough[0])


def stored_sizes(store: str, split: str, run: RunFolder | None = None) -> tuple[int, ...]:
    """Return the sides of the stored squares that a run chooses from, in pixels, ascending.

    They are those that the store had when the run began, as another size must not change the run.

    Args:
        store: Folder or URL of the store.
        split: Name of the split to train on.
        run: The run folder, which may hold no run yet (default: there is none).
    """
    sizes = finished_arrays(store, split).sizes
    recorded = _recorded_data(run).get("sizes")
    return tuple(size for size in sizes if size in recorded) if recorded else sizes


def suggested_store_size(size: int) -> int:
    """Return the side of stored images, in pixels, that suits training at *size* px.

    It is 72 for 64 to 72 px, which leaves room for random crops, else *size*.

    Args:
        size: Side of the images to train on, in pixels.
    """
    return 72 if 64 <= size <= 72 else size


def _recorded_size(run: RunFolder | None) -> int | None:
    """Return the stored size that the run has used so far; None for a new run.

    The store may have got another size since then, which must not change the run.
    """
    if run is None or not run.holds_run():
        return None
    size: int | None = run.read_options()["options"].get("stored_size")
    return size


def _recorded_data(run: RunFolder | None) -> dict[str, Any]:
    """Return what the run has recorded on its data; nothing of a new run or an early version."""
    if run is None or not run.holds_run():
        return {}
    return run.read_options().get("data") or {}


def decoded_rows(encoding: Encoding, options: TrainingOptions) -> ImageRows:
    """Return the squares that a stage needs of encoded rows, neither larger nor smaller.

    Their side is that to which the device would resize large squares. So a random crop on the
    device has room, as it has in stored squares.

    Args:
        encoding: The encoding of the rows.
        options: The options of the stage.

    Raises:
        ValueError: The pictures are smaller than the images to train on, or the options exclude
            encoded rows.
    """
    image_size = image_size_of(options)
    limit = MAX_SIZE if encoding.is_original else encoding.short_side
    if limit < image_size:
        raise ValueError(
            f"--encoded is {encoding.text}: its pictures have a short side of at most {limit} px,"
            f" and --image-size is {image_size}. Pass a smaller --image-size, or another encoding."
        )
    if not getattr(options, "resize", True):
        raise ValueError(
            "--no-resize cuts stored squares at their scale, and encoded rows"
            f" ({encoding.text}) are always resized. Omit it, or prepare squares with --sizes."
        )
    side = options.resized_side(MAX_SIZE) or image_size
    return ImageRows(min(side, limit), encoding.text)
