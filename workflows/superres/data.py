"""The training data of super-resolution: which arrays of a store make its pairs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.loader import Crop, Loader
from pipeline.store.encoding import fitting_encoding, parse_encoding
from pipeline.store.layout import MAX_SIZE
from pipeline.urls import is_url
from workflows.cluster_kinds import CommandCluster
from workflows.evaluation.image_quality import WINDOW
from workflows.superres.choices import BICUBIC, DEFAULT_SCALE, SCALES, STORED, largest_pair
from workflows.superres.critic import MIN_SIDE
from workflows.superres.options import ORIGINAL_SIDE, SuperresOptions
from workflows.superres.stage import pair_maker
from workflows.training.image_rows import FinishedArrays, finished_arrays, stored_sizes
from workflows.training.run_folder import RunFolder
from workflows.training.run_options import RunOptions
from workflows.training.stage import Data

EVALUATED_SIDE = 240
"""The largest side of the centre of encoded pictures that is evaluated, in pixels."""
SIDE_STEP = 12
"""The number that such a side is a multiple of, in pixels, and so of every scale."""
HELD_OUT_BATCH = 8
"""The number of held-out rows that are read at once."""


@dataclass(frozen=True)
class PairArrays:
    """The arrays of a store that the pairs are made of."""

    scale: int
    """The factor between the two sizes."""
    degradation: str
    """The origin of the low-resolution images, one of
    `workflows.superres.choices.DEGRADATIONS`."""
    sizes: tuple[int, ...] = ()
    """The sides of the squares that are read, in pixels: both sizes for `stored`, otherwise one."""
    encoded: str | None = None
    """The encoding of the rows that originals are decoded from, such as `original`; None = they
    are squares."""

    def __str__(self) -> str:
        """Return a sentence for the terminal."""
        if self.degradation == STORED:
            low, high = self.sizes
            return f"pairs of stored images, {low} px and {high} px."
        made = "reduced" if self.degradation == BICUBIC else "blurred, reduced and compressed"
        originals = (
            f"pictures of the encoded rows {self.encoded}" if self.encoded
            else f"stored images of {self.sizes[0]} px"
        )  # fmt: skip
        return f"pairs of {originals} and the same {made} by {self.scale}."


def choose_arrays(store: str, arrays: FinishedArrays, options: SuperresOptions) -> PairArrays:
    """Return the arrays that the pairs are made of.

    They are those of the options. Otherwise they are the two stored sizes with a whole ratio whose
    originals are largest, or else the largest originals. Patches fit into them.

    Args:
        store: Folder or URL of the store, for messages.
        arrays: The arrays that it has.
        options: The options of the stage.

    Raises:
        StoreError: The store has no such arrays.
    """
    if options.encoded is not None:
        return PairArrays(
            options.scale or DEFAULT_SCALE,
            options.degradation or BICUBIC,
            encoded=parse_encoding(options.encoded).text,
        )
    if options.degradation in (None, STORED):
        pair = largest_pair(arrays.sizes, options.scale, options.patch_size)
        if pair is not None:
            return PairArrays(pair[1] // pair[0], STORED, pair)
    if options.degradation == STORED:
        raise StoreError(_no_pairs(store, arrays, options))
    scale = options.scale or DEFAULT_SCALE
    degradation = options.degradation or BICUBIC
    smallest = scale * options.patch_size
    if arrays.sizes and arrays.sizes[-1] >= smallest:
        return PairArrays(scale, degradation, arrays.sizes[-1:])
    if arrays.encodings:
        encoding = fitting_encoding(arrays.encodings, MAX_SIZE)
        return PairArrays(scale, degradation, encoded=encoding.text)
    raise StoreError(
        f"{store} has {arrays}: expected originals of at least {smallest} px, {scale} times"
        f" --patch-size {options.patch_size}. Add them with `tesserae prepare ... --sizes"
        f" {max(288, smallest)}` or `--encoded original`, or pass a smaller --patch-size."
    )


def _no_pairs(store: str, arrays: FinishedArrays, options: SuperresOptions) -> str:
    small = largest_pair(arrays.sizes, options.scale)
    if small is not None:
        return (
            f"--patch-size is {options.patch_size}: the low-resolution images of {store} have"
            f" {small[0]} px. Pass at most {small[0]}, or add larger sizes with `tesserae prepare"
            " ... --sizes 72 288`."
        )
    scales = SCALES if options.scale is None else (options.scale,)
    ratios = [
        f"{high} / {low} is {high / low:.2f}"
        for low, high in product(arrays.sizes, arrays.sizes)
        if low < high
    ]
    facts = f" ({'; '.join(ratios)})" if ratios else ""
    expected = " or ".join(", ".join(map(str, scales)).rsplit(", ", 1))
    scale = options.scale or DEFAULT_SCALE
    return (
        f"{store} has {arrays}{facts}: --degradation {STORED} needs two sizes of which one is"
        f" {expected} times the other. Add them with `tesserae prepare ... --sizes"
        f" {ORIGINAL_SIDE // scale} {ORIGINAL_SIDE}`, or pass"
        f" --degradation {BICUBIC}, which reduces the originals itself."
    )


def choose_options(run_options: RunOptions, options: SuperresOptions) -> SuperresOptions:
    """Return the options with the scale, the degradation, the encoding and the warm-up of a run.

    Which arrays are read is printed.

    Args:
        run_options: The options of the run, with its store, training split and folder.
        options: The options of the stage, with the choices that a run has recorded.

    Raises:
        StoreError: The store lacks suitable arrays.
    """
    chosen = choose_arrays(run_options.store, _arrays_of(run_options), options)
    print(f"notice: training on {chosen}", flush=True)
    return replace(
        options,
        scale=chosen.scale,
        degradation=chosen.degradation,
        encoded=chosen.encoded,
        # A run that goes on to a later step must not interrupt the critic.
        warmup_steps=options.critic_starts if options.adversarial_weight else options.warmup_steps,
    )


def _arrays_of(run_options: RunOptions) -> FinishedArrays:
    """Return the arrays that a run chooses from: those that the store had when it began."""
    store, split = run_options.store, run_options.split
    arrays = finished_arrays(store, split)
    return replace(arrays, sizes=stored_sizes(store, split, RunFolder(run_options.folder)))


def prepare_data(
    run_options: RunOptions, options: SuperresOptions, cluster: CommandCluster, held_out: str | None
) -> tuple[Data, dict[str, bytes]]:
    """Open the pairs of a run.

    Args:
        run_options: The options of the run, with its store, training split and folder.
        options: The options of the stage, as `choose_options` returns them.
        cluster: The cluster of the command, which is not used.
        held_out: The split to evaluate on; None for no evaluation.

    Returns:
        The loaders of both splits, that of held-out rows None without suitable ones; and no further
        files of the run folder.

    Raises:
        StoreError: The store has fewer images than a batch, or images smaller than a patch; or the
            held-out split is named, and none of its images can be evaluated.
        TesseraeError: The network of the perceptual loss cannot be used.
    """
    arrays = _arrays_of(run_options)
    chosen = choose_arrays(run_options.store, arrays, options)
    check_critic(options, chosen)
    options.check_network(None)
    train = pair_loader(run_options.store, run_options.split, options, chosen, training=True)
    if not len(train):
        cure = "--batch-size or --patch-size" if train.num_rows else "--patch-size"
        small = f" of at least {train.sizes[0]} px" if chosen.encoded else ""
        raise StoreError(
            f"split {run_options.split!r} has {train.num_rows:,} readable images{small}, fewer than"
            f" --batch-size {options.batch_size}. Pass a smaller {cure}."
        )
    _print_left_out(train, "a patch")
    evaluated = None
    if held_out is not None:
        evaluated = _held_out_loader(run_options, held_out, options, chosen)
    return Data(train, evaluated, (), sizes=arrays.sizes), {}


def pair_loader(
    store: str, split: str, options: SuperresOptions, arrays: PairArrays, *, training: bool
) -> Loader:
    """Return the loader of what the pairs of a split are made of.

    Args:
        store: Folder or URL of the store.
        split: Name of the split.
        options: The options of the stage.
        arrays: The arrays to read.
        training: True for patches in random order; False for whole squares, or the centres of
            encoded pictures, in the order of their rows.

    Raises:
        StoreError: The split lacks the arrays.
    """
    location = store if is_url(store) else str(Path(store).absolute())
    source: dict[str, Any] = {"sizes": arrays.sizes}
    if arrays.encoded is not None:
        side = _evaluated_side(arrays.encoded)
        if training:
            side = arrays.scale * (options.patch_size + 2 * pair_maker(options).margin)
        crop = Crop("random" if training else "centre", pixels=side)
        source = {"sizes": (side,), "encoded": arrays.encoded, "crop": crop}
    return Loader(
        location,
        split,
        **source,
        batch_size=options.batch_size if training else HELD_OUT_BATCH,
        drop_last=training,
        seed=options.seed,
        **options.loader_arguments(training=training),
    )


def _evaluated_side(encoded: str) -> int:
    """Return the side of the centre of a picture that is evaluated, in pixels."""
    encoding = parse_encoding(encoded)
    if encoding.is_original:
        return EVALUATED_SIDE
    return min(EVALUATED_SIDE, max(1, encoding.short_side // SIDE_STEP) * SIDE_STEP)


def _held_out_loader(
    run_options: RunOptions, split: str, options: SuperresOptions, arrays: PairArrays
) -> Loader | None:
    """Return the loader of held-out images; None, after a notice, if none can be evaluated."""
    loader = pair_loader(run_options.store, split, options, arrays, training=False)
    _print_left_out(loader, "what is evaluated")
    # A border as wide as the scale is left out of the metrics, of which SSIM needs a window.
    smallest = WINDOW + 2 * arrays.scale
    if len(loader) and loader.sizes[-1] >= smallest:
        return loader
    problem = (
        f"the images of split {split!r} have {loader.sizes[-1]} px, and an evaluation needs"
        f" {smallest}" if len(loader) else f"split {split!r} has no image that can be evaluated"
    )  # fmt: skip
    if run_options.held_out is not None:
        raise StoreError(f"{problem}. Pass another --held-out, or --held-out none.")
    print(f"notice: {problem}: this run is not evaluated.", flush=True)
    return None


def check_critic(options: SuperresOptions, arrays: PairArrays) -> None:
    """Refuse patches that are too small for the critic.

    Args:
        options: The options of the stage.
        arrays: The arrays that the pairs are made of.

    Raises:
        StoreError: The message names the size of the originals and `--patch-size`.
    """
    original = arrays.scale * options.patch_size
    if options.adversarial_weight and original < MIN_SIDE:
        raise StoreError(
            f"--patch-size is {options.patch_size}: its original has {original} px, and the critic"
            f" takes at least {MIN_SIDE}. Pass at least {-(-MIN_SIDE // arrays.scale)}."
        )


def _print_left_out(loader: Loader, purpose: str) -> None:
    """Print how many encoded pictures are smaller than the squares of a loader, if there are any.

    Args:
        loader: The loader.
        purpose: What the squares are, as a phrase.
    """
    if loader.encoded is None:
        return
    whole = Loader(loader.store, loader.split, sizes=loader.sizes, encoded=loader.encoded)
    left_out = whole.num_rows - loader.num_rows
    if left_out:
        print(
            f"notice: {left_out:,} of {whole.num_rows:,} pictures of split {loader.split!r} are"
            f" smaller than {loader.sizes[0]} px, the side of {purpose}, and are left out.",
            flush=True,
        )
