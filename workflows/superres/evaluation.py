"""The evaluation of a network that enlarges images: similarity to the originals, with intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from pipeline.errors import TesseraeError
from pipeline.store import records
from pipeline.store.open import open_objects
from workflows.evaluation.class_accuracy import Interval, bootstrap, sum_per_class
from workflows.evaluation.evaluated_run import EvaluatedRun
from workflows.evaluation.evaluated_split import evaluated_split
from workflows.evaluation.image_quality import luma, psnr, ssim, without_border
from workflows.evaluation.options import EvaluationOptions
from workflows.reports.table import Table
from workflows.superres import bicubic
from workflows.superres.choices import BLUR_JPEG
from workflows.superres.comparison import compare_crops
from workflows.superres.evaluated_images import (
    EvaluatedPair,
    PairSource,
    SplitPairs,
    UnsuitableImageError,
    arrays_of_run,
    open_folder,
)
from workflows.superres.judge import Judge, open_judge
from workflows.superres.model import TrainedUpscaler, open_upscaler
from workflows.terminal.formatting import counted
from workflows.terminal.progress import Progress
from workflows.training.run_folder import RunFolder

MIN_INTERVAL_IMAGES = 5
"""The number of images from which on a mean has an interval: that of fewer is far too narrow."""
DRAWN_IMAGES = 1_000_000
"""The number of images, about, in all bootstrap draws of a mean together."""
MIN_DRAWS, MAX_DRAWS = 400, 10_000
"""The limits of the number of bootstrap draws."""
MAX_LISTED_IMAGES = 50
"""The number of images that are listed at either end of a long table."""
MAX_LISTED_REASONS = 10
"""The number of images that were left out whose reasons the page shows."""

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Measure:
    """A measure of an enlarged image."""

    name: str
    """Its name."""
    short: str
    """Its name in the table of images, in which similarities are those of luma."""
    decimals: int
    """The number of printed decimals."""
    unit: str = ""
    """Its unit, with the space before it."""

    def text(self, value: float, *, signed: bool = False) -> str:
        """Return a value without its unit.

        Args:
            value: The value, which may be infinite.
            signed: True to print the sign of a positive value, too.
        """
        return f"{value:{'+' if signed else ''}.{self.decimals}f}".replace("inf", "∞")


PSNR_LUMA = Measure("PSNR, luma", "PSNR", 2, " dB")
SIMILARITIES = (
    PSNR_LUMA,
    Measure("SSIM, luma", "SSIM", 4),
    Measure("PSNR, RGB", "PSNR, RGB", 2, " dB"),
    Measure("SSIM, RGB", "SSIM, RGB", 4),
)
"""The measures of every evaluation, all of them higher for better images."""
DISTANCE = Measure("perceptual distance", "distance", 5)
"""The measure of a judge, which is lower for better images."""
TABLE_MEASURES = 2
"""The number of the first measures that the table of images shows."""


@dataclass(frozen=True)
class EvaluatedSet:
    """The measures of the images of a set."""

    indices: tuple[int, ...]
    """The index in the set of each of the n images that were evaluated."""
    names: tuple[str, ...]
    """Their names."""
    bicubic: Scores
    """(n, measures) those of the bicubic enlargements."""
    network: Scores
    """(n, measures) those of the enlargements of the network."""
    skipped: tuple[str, ...]
    """Why images were left out, a sentence for each."""

    @property
    def gains(self) -> Scores:
        """(n, measures) those of the network minus the bicubic ones; NaN if both are infinite."""
        with np.errstate(invalid="ignore"):
            return self.network - self.bicubic


def evaluate_for_report(
    folder: RunFolder, options: EvaluationOptions, device: torch.device
) -> EvaluatedRun | None:
    """Evaluate the newest checkpoint of a run with the options of `tesserae report`; write nothing.

    Notices tell of images that are left out.

    Args:
        folder: The run folder.
        options: The options. `images` is a folder of originals, or of pairs, to evaluate on, with
            `low_images` as the folder of low-resolution ones; without it, `split` is the split
            (None = that of the run, else `val` or `test`), `evaluation_store` another store, and
            `store` the location of the run's store (None = as recorded). `samples` is the largest
            number of images; `judge` and `judge_blocks` the network of the perceptual distance;
            `self_ensemble` and `precision` say how images are enlarged. The other options have no
            effect.
        device: The device that computes.

    Returns:
        The evaluation; None, after a notice, if neither the run nor the options name images and the
        store has no `val` or `test`.

    Raises:
        TesseraeError: The run is of another stage, has no checkpoint or has diverged; its store,
            the folder of images or the judge cannot be opened; no image can be evaluated; or the
            judge is the network of the run's loss.
    """
    trained = open_upscaler(folder.path, device, precision=options.precision)
    images = _images_to_evaluate(trained, options)
    if images is None:
        return None
    judge = None
    if options.judge is not None:
        judge = open_judge(options.judge, options.judge_blocks, trained.options, device)
    evaluated = evaluate_images(trained, images, judge, self_ensemble=options.self_ensemble)
    return EvaluatedRun(
        step=trained.step,
        metric_texts=tuple(_metric_texts(evaluated, images, trained, judge, options)),
        tables=(_image_table(evaluated),),
        images=tuple(_comparisons(evaluated, images, trained, options)),
        notice=_notice(evaluated, trained, judge, options),
        complete=not evaluated.skipped,
    )


def _images_to_evaluate(trained: TrainedUpscaler, options: EvaluationOptions) -> PairSource | None:
    if options.images is not None:
        return open_folder(options.images, options.low_images, trained.scale, options.samples)
    store = options.evaluation_store or trained.run.store(options.store)
    is_other = options.evaluation_store is not None
    split = options.split or evaluated_split(trained.run, store, is_other=is_other)
    if split is None:
        splits = ", ".join(records.stored_splits(open_objects(store)))
        print(
            f"notice: the run is not evaluated: pass --split, one of {splits}, or a folder with"
            " --images.",
            flush=True,
        )
        return None
    arrays = arrays_of_run(trained.run, trained.options)
    return SplitPairs(store, split, trained.options, arrays, options.samples, is_other=is_other)


def evaluate_images(
    trained: TrainedUpscaler, images: PairSource, judge: Judge | None, *, self_ensemble: bool
) -> EvaluatedSet:
    """Return the measures of all images that can be evaluated.

    Args:
        trained: The network.
        images: The images.
        judge: The network of the perceptual distance; None = no such distance.
        self_ensemble: True to average the results of all eight orientations of an image.

    Raises:
        TesseraeError: No image can be evaluated.
    """
    rows: list[tuple[int, str, list[float], list[float]]] = []
    skipped: list[str] = []
    with Progress("evaluate", rows=len(images)) as progress:
        for index, pair in images.pairs():
            if isinstance(pair, UnsuitableImageError):
                skipped.append(str(pair))
                progress.note(f"notice: left out: {pair}")
            else:
                interpolated, enlarged = _enlarge(trained, pair, self_ensemble=self_ensemble)
                of_bicubic, of_network = (
                    measure(each, pair.high, trained.scale, trained.device, judge)
                    for each in (interpolated, enlarged)
                )
                rows.append((index, pair.name, of_bicubic, of_network))
            progress.update(rows=1)
    if not rows:
        raise TesseraeError(
            f"none of {counted(len(images), 'image')} {images.description} can be evaluated:"
            f" {skipped[0]}"
        )
    indices, names, bicubic_rows, network_rows = zip(*rows, strict=True)
    return EvaluatedSet(
        indices, names, np.array(bicubic_rows), np.array(network_rows), tuple(skipped)
    )


def _enlarge(
    trained: TrainedUpscaler, pair: EvaluatedPair, *, self_ensemble: bool
) -> tuple[Tensor, Tensor]:
    """Return the bicubic enlargement and that of the network, in whole levels, on the CPU."""
    interpolated = bicubic.enlarge(pair.low, trained.scale).byte()
    return interpolated, trained.enlarge(pair.low, self_ensemble=self_ensemble)


def measure(
    image: Tensor, original: Tensor, border: int, device: torch.device, judge: Judge | None = None
) -> list[float]:
    """Return the similarities of an image to its original, and its distance if there is a judge.

    Args:
        image: (1, 3, h, w) RGB in whole levels, 0 to 255.
        original: The true image, of the same shape.
        border: Number of pixels that are cut off each edge.
        device: The device that computes.
        judge: The network of the perceptual distance (default: no such distance).

    Returns:
        The values of `SIMILARITIES`, and that of `DISTANCE`.
    """
    image, original = (without_border(each.to(device), border) for each in (image, original))
    of_image, of_original = luma(image), luma(original)
    # One channel at a time, as the maps of SSIM take many times the memory of an image.
    of_channels = [ssim(image[:, c : c + 1], original[:, c : c + 1]) for c in range(3)]
    values = [
        psnr(of_image, of_original),
        ssim(of_image, of_original),
        psnr(image, original),
        torch.stack(of_channels).mean(0),
    ]
    if judge is not None:
        values.append(judge.distance(image, original))
    return [float(value) for value in values]


# --- figures --------------------------------------------------------------------------------------


def image_interval(values: Scores) -> Interval | None:
    """Return the mean of a measure and its 95 % interval over the choice of images.

    It is the percentile bootstrap of images, with the level by which Hesterberg widens it so that
    it holds for few images: What Teachers Should Know About the Bootstrap, The American
    Statistician 69, 2015, section 4.3.2. That of differences is paired, as each has its image.

    Args:
        values: (n,) the measure of each image, finite.

    Returns:
        The interval; None for fewer than five images.
    """
    n = len(values)
    if n < MIN_INTERVAL_IMAGES:
        return None
    reach = math.sqrt(n / (n - 1)) * stats.t.ppf(0.975, n - 1)
    return bootstrap(
        [sum_per_class(values, np.arange(n), n)],
        draws=min(MAX_DRAWS, max(MIN_DRAWS, DRAWN_IMAGES // n)),
        level=float(2 * stats.norm.cdf(reach) - 1),
    )


def _metric_texts(
    evaluated: EvaluatedSet,
    images: PairSource,
    trained: TrainedUpscaler,
    judge: Judge | None,
    options: EvaluationOptions,
) -> Iterator[tuple[str, str]]:
    count, available = len(evaluated.names), images.num_available
    share = "" if count == available else f" of {available:,}"
    yield "images", f"{count:,}{share}, {images.description}"
    if options.self_ensemble:
        yield "self-ensemble", "the network's enlargements of eight orientations are averaged"
    if trained.precision != torch.float32:
        yield (
            "precision",
            f"the network computes in {str(trained.precision).removeprefix('torch.')}",
        )
    measures = SIMILARITIES if judge is None else (*SIMILARITIES, DISTANCE)
    gains = evaluated.gains
    for column, measure_ in enumerate(measures):
        is_finite = np.isfinite(gains[:, column])
        if not is_finite.any():
            yield measure_.name, "infinite for every image, by one of the two methods"
            continue
        parts = (
            f"{label} {_mean_text(scores[is_finite, column], measure_, signed=signed)}"
            for label, scores, signed in (
                ("network", evaluated.network, False),
                ("bicubic", evaluated.bicubic, False),
                ("difference", gains, True),
            )
        )
        yield measure_.name, ", ".join(parts)
    if judge is None:
        yield (
            DISTANCE.name,
            "not measured; --judge MODEL --judge-blocks BLOCK ... measures it with a vision model"
            " of transformers that is not in the run's loss",
        )
    else:
        yield "judge", f"{judge.name}, blocks {', '.join(judge.blocks)}; lower distances are better"


def _mean_text(values: Scores, measure_: Measure, *, signed: bool) -> str:
    interval = image_interval(values)
    text = f"{measure_.text(float(values.mean()), signed=signed)}{measure_.unit}"
    if interval is None:
        return text
    low, high = (measure_.text(end, signed=signed) for end in (interval.low, interval.high))
    return f"{text} (95 % {low} to {high})"


def _notice(
    evaluated: EvaluatedSet,
    trained: TrainedUpscaler,
    judge: Judge | None,
    options: EvaluationOptions,
) -> str:
    border = trained.scale
    parts = [
        f"All measures are those of whole levels after {border} pixels were cut off each edge, and"
        " are averaged over images. Luma is that of BT.601."
    ]
    if len(evaluated.names) >= MIN_INTERVAL_IMAGES:
        parts.append("Intervals are over the choice of images, not over training seeds.")
    infinite = int((~np.isfinite(evaluated.gains).all(1)).sum())
    if infinite:
        parts.append(
            f"{counted(infinite, 'image')} with an enlargement that equals the original, whose PSNR"
            " is infinite, count for no mean of it."
        )
    if judge is not None:
        parts.append(
            "The perceptual distance is that of Zhang et al. 2018 without learned weights: its"
            " values are not comparable with published ones of LPIPS."
        )
    if options.images is not None and trained.options.degradation == BLUR_JPEG:
        parts.append(
            "The run was trained on blurred and compressed images, and these are not, unless their"
            " low-resolution images are."
        )
    if evaluated.skipped:
        listed = " ".join(evaluated.skipped[:MAX_LISTED_REASONS])
        parts.append(f"{counted(len(evaluated.skipped), 'image')} left out: {listed}")
        if len(evaluated.skipped) > MAX_LISTED_REASONS:
            parts.append("...")
    return " ".join(parts)


def _by_gain(evaluated: EvaluatedSet) -> list[int]:
    """Return the positions of images by their gain of PSNR, the largest first, NaN as 0."""
    gains = np.nan_to_num(evaluated.gains[:, 0], nan=0.0)
    return [int(i) for i in np.lexsort((np.arange(len(gains)), -gains))]


def _image_table(evaluated: EvaluatedSet) -> Table:
    order = _by_gain(evaluated)
    title = "Images, by their gain of PSNR of luma"
    if len(order) > 2 * MAX_LISTED_IMAGES:
        title = f"The {MAX_LISTED_IMAGES} images of largest and of smallest gain of PSNR of luma"
        order = [*order[:MAX_LISTED_IMAGES], *order[-MAX_LISTED_IMAGES:]]
    num_measures = evaluated.network.shape[1]
    shown = [(column, SIMILARITIES[column]) for column in range(TABLE_MEASURES)]
    shown += [(c, DISTANCE) for c in range(len(SIMILARITIES), num_measures)]
    columns = ["image"]
    for _, measure_ in shown:
        columns += [f"{measure_.short} {column}" for column in ("bicubic", "network", "change")]
    gains = evaluated.gains
    rows = []
    for i in order:
        cells = [evaluated.names[i]]
        for column, measure_ in shown:
            cells += [
                measure_.text(evaluated.bicubic[i, column]),
                measure_.text(evaluated.network[i, column]),
                measure_.text(gains[i, column], signed=True).replace("+nan", "-"),
            ]
        rows.append(cells)
    return Table(title, columns, rows, text_columns=("image",))


# --- pictures -------------------------------------------------------------------------------------


def _comparisons(
    evaluated: EvaluatedSet,
    images: PairSource,
    trained: TrainedUpscaler,
    options: EvaluationOptions,
) -> Iterator[tuple[str, bytes]]:
    """Yield the captions and crops of the images of largest, median and smallest gain."""
    chosen = _instructive(_by_gain(evaluated))
    indices = {evaluated.indices[position]: position for position in chosen}
    pairs = {
        indices[index]: pair
        for index, pair in images.pairs(indices)
        if isinstance(pair, EvaluatedPair)  # a file that has changed meanwhile
    }
    for position, role in chosen.items():
        if position not in pairs:
            continue
        pair = pairs[position]
        enlarged = _enlarge(trained, pair, self_ensemble=options.self_ensemble)
        comparison = compare_crops(pair.low, *enlarged, pair.high)
        of_bicubic, of_network = (
            PSNR_LUMA.text(scores[position, 0]) + PSNR_LUMA.unit
            for scores in (evaluated.bicubic, evaluated.network)
        )
        yield (
            f"{pair.name}, {role}: bicubic ({of_bicubic}), network ({of_network}) and original."
            " Below: the errors of luma of bicubic and network, black for 0 to white for"
            f" {comparison.white} levels and more, and the low-resolution pixels. The crop is where"
            " the two differ most.",
            comparison.png,
        )


def _instructive(by_gain: Sequence[int]) -> dict[int, str]:
    """Return the positions of images to show, with what makes them instructive."""
    roles = {by_gain[len(by_gain) // 2]: "median gain"}
    roles[by_gain[-1]] = "smallest gain"
    roles[by_gain[0]] = "largest gain" if len(by_gain) > 1 else "the only image"
    order = (by_gain[0], by_gain[len(by_gain) // 2], by_gain[-1])
    return {position: roles[position] for position in dict.fromkeys(order)}
