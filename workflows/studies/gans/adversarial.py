"""The study of an adversarial loss for colourisation: what does a critic add to a mean error?

A network that minimises the mean absolute error of colours answers with their median where several
are plausible, so its images are too grey. A critic is to make them as colourful as real ones, at
the price of a larger error. The stage `tesserae train colourise` is trained without a critic, and
with each objective at each weight of its loss.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.errors import StoreError
from pipeline.loader import Loader
from workflows.colourise.options import ColouriseOptions
from workflows.colourise.stage import Colourise, saturation, to_grey
from workflows.evaluation.random_features import FeatureReference
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.reports.figures import Figure, Point, point_figure
from workflows.studies.arm_tables import StudyMetric, arm_table, conclusions, interval_of
from workflows.studies.contrasts import chance_note
from workflows.studies.gans.experiment import (
    GRID_IMAGES,
    STORE_FOLDER,
    grids,
    line_of,
    study_settings,
    write_grid,
)
from workflows.studies.gans.images import StudyImages, as_floats
from workflows.studies.gans.options import AdversarialOptions
from workflows.studies.gans.training import DIVERGED
from workflows.studies.report import StudyReport
from workflows.studies.results import ResultsFolder
from workflows.studies.runs import StudyRun, run_arms
from workflows.training.batches import RankBatch
from workflows.training.image_rows import choose_rows
from workflows.training.stage import Data
from workflows.training.world import World

NO_CRITIC = "no critic"
"""The name of the arm without an adversarial loss."""
GREY, SHUFFLED, REAL = "grey input", "colours of another image", "training images"
"""The names of the controls: the input as it is; its luma with the chroma of another held-out
image; and real images, the training rows, which have distances only."""
CONTROLS = (GREY, SHUFFLED, REAL)
"""All controls, in the order of the tables."""
EVALUATED_IMAGES, QUICK_EVALUATED_IMAGES = 1_000, 100
"""The maximum number of held-out images that are coloured."""
MIN_SATURATION = 1e-3
"""The mean saturation, of at most 2, below which images count as grey."""
BLOCK_ROWS = 64
"""The number of images coloured at once."""
IMAGES_PER_EXAMPLE, EXAMPLES_IN_ROW = 3, 4
"""The number of images of an example in a grid, grey, coloured and original, and that of examples
in a row."""

ERROR = StudyMetric(name="error", heading="mean absolute error", decimals=4, higher_is_better=False)
"""The error of pixels in [-1, 1]."""
SATURATION = StudyMetric(name="saturation", heading="saturation, share of true", decimals=2)
"""The mean saturation, divided by that of the original images."""
COLOURS = StudyMetric(name="colour distance", heading="colour distance", higher_is_better=False)
"""The sliced Wasserstein distance of the colour statistics of images to those of real ones."""
FEATURES = StudyMetric(name="feature distance", heading="feature distance", higher_is_better=False)
"""The distance of the features of a random network."""
METRICS = (ERROR, SATURATION, COLOURS, FEATURES)
"""The metrics, in the order of the tables."""
QUESTION = "What does an adversarial loss add to the mean absolute error of a colourisation?"


@dataclass(frozen=True, kw_only=True)
class ColourArm:
    """An arm of the study."""

    objective: str
    """The adversarial objective; it has no effect without a weight."""
    weight: float
    """The weight of the adversarial loss; 0 = no critic."""


def arms_of(options: AdversarialOptions) -> dict[str, ColourArm]:
    """Return the arms by name: without a critic, and each objective with each weight.

    Args:
        options: The options.
    """
    arms = {NO_CRITIC: ColourArm(objective="lsgan", weight=0.0)}
    for objective in options.objectives:
        for weight in options.weights:
            # All digits: a folder would take another weight of the same name for finished.
            name = f"{objective}, weight {str(weight).removesuffix('.0')}"
            arms[name] = ColourArm(objective=objective, weight=weight)
    return arms


class _KeyedBatches:
    """Batches of random training rows, which depend on the seed and their number alone."""

    def __init__(self, images: StudyImages, batch_size: int, seed: int, world: World) -> None:
        self._pixels = images.train.to(world.device)
        self._labels = images.labels.to(world.device)
        self._batch_size, self._seed, self._world = batch_size, seed, world
        self._count = 0

    def take(self) -> RankBatch:
        """Return the next batch."""
        key = (self._seed, self._count, "rows")
        rows = self._world.integers(self._batch_size, len(self._pixels), key=key)
        self._count += 1
        return RankBatch(as_floats(self._pixels[rows]), self._labels[rows], rows)


class ColourExperiment:
    """The images of the study and the runs of its arms."""

    def __init__(
        self,
        options: AdversarialOptions,
        images: StudyImages,
        results: ResultsFolder,
        device: torch.device,
    ) -> None:
        """Prepare the comparison with the held-out images.

        Args:
            options: The options.
            images: The images.
            results: The folder of the study, which gets grids of coloured images.
            device: The device that trains.

        Raises:
            StoreError: The held-out images are grey.
        """
        self.options, self.images, self.results = options, images, results
        self._world = World(device=device)
        count = QUICK_EVALUATED_IMAGES if options.quick else EVALUATED_IMAGES
        self.real = as_floats(images.held_out[:count].to(device))
        self._saturation = saturation(self.real)
        if float(self._saturation) < MIN_SATURATION:
            raise StoreError(
                f"the held-out images of {images.store} are grey: there are no colours to compare"
                " with. Pass a store or a source of colour images."
            )
        self._features = FeatureReference.of(self.real)
        self._statistics = colour_statistics(self.real)
        self._scale = self._statistics.std(0).clamp_min(1e-6)

    def run(self, arm: ColourArm, name: str, seed: int) -> dict[str, float]:
        """Train an arm, and return the metrics of the held-out images that it colours.

        It seeds torch's global generator.

        Args:
            arm: The arm.
            name: Its name, which names the grid of the first seed.
            seed: The seed of weights and batches.
        """
        options, images = self.options, self.images
        stage_options = ColouriseOptions(
            image_size=options.image_size,
            width=options.width,
            batch_size=options.batch_size,
            steps=options.steps,
            seed=seed,
            objective=arm.objective,
            adversarial_weight=arm.weight,
        )
        rows = choose_rows(images.store, options.split, stage_options)
        loader = Loader(
            images.store, options.split, size=rows.size, encoded=rows.encoded,
            batch_size=options.batch_size, rank=0, world=1,
        )  # fmt: skip
        torch.manual_seed(seed)
        stage = Colourise(stage_options, Data(loader, None, ()), self._world)
        stage.batches.close()
        # The rows in memory: without a split for it, a part of the loader's rows is held out.
        stage.batches = _KeyedBatches(images, options.batch_size, seed, self._world)  # type: ignore[assignment]
        for _ in range(options.steps):
            stage.advance()
        network = stage.trainer.generator.eval()
        with torch.no_grad():
            blocks = torch.split(to_grey(self.real), BLOCK_ROWS)
            coloured = torch.cat([network(block) for block in blocks])
        if not bool(coloured.isfinite().all()):
            return {DIVERGED: 1.0}
        if seed == 0:
            self._write_grid(name, coloured)
        return {DIVERGED: 0.0, **self.measure(coloured)}

    def control(self, name: str, seed: int) -> dict[str, float]:
        """Return the metrics of a control.

        Args:
            name: The name of the control, one of `CONTROLS`.
            seed: The seed that draws training images.
        """
        grey = to_grey(self.real)
        if name == GREY:
            return self.measure(grey.expand_as(self.real))
        if name == SHUFFLED:
            return self.measure((grey + (self.real - grey).roll(1, 0)).clamp(-1, 1))
        rows = World().integers(len(self.real), len(self.images.train), key=(seed, "control"))
        metrics = self.measure(as_floats(self.images.train[rows]).to(self.real.device))
        # They are other pictures, so that no pixel has a true value.
        return {**metrics, ERROR.name: math.nan}

    def measure(self, coloured: Tensor) -> dict[str, float]:
        """Return the metrics of coloured held-out images.

        Args:
            coloured: (n, 3, size, size) float32 in [-1, 1], one for each held-out image.

        Raises:
            NonFiniteError: A value is NaN or infinite.
        """
        return {
            ERROR.name: float((coloured - self.real).abs().mean()),
            SATURATION.name: float(saturation(coloured) / self._saturation),
            COLOURS.name: sliced_wasserstein(
                colour_statistics(coloured) / self._scale, self._statistics / self._scale
            ),
            FEATURES.name: self._features.distance(coloured),
        }

    def _write_grid(self, arm: str, coloured: Tensor) -> None:
        count = GRID_IMAGES // IMAGES_PER_EXAMPLE
        grey = to_grey(self.real[:count]).expand(-1, 3, -1, -1)
        examples = torch.stack([grey, coloured[:count], self.real[:count]], 1).flatten(0, 1)
        write_grid(self.results, arm, examples, columns=IMAGES_PER_EXAMPLE * EXAMPLES_IN_ROW)


def colour_statistics(images: Tensor) -> Tensor:
    """Return statistics of the colours of images, which do not depend on their brightness.

    Args:
        images: (n, 3, h, w) RGB float32 in [-1, 1], on any device.

    Returns:
        (n, 4) on that device: the means over pixels of red minus luma and of blue minus luma, and
        their standard deviations.
    """
    chroma = (images - to_grey(images))[:, ::2].flatten(2)
    deviation, mean = torch.std_mean(chroma, 2)
    return torch.cat([mean, deviation], 1)


def adversarial(options: AdversarialOptions, experiment: ColourExperiment) -> StudyReport:
    """Run the study, or continue it, and return its report.

    Args:
        options: The options.
        experiment: The images and the folder, which is locked.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
        TesseraeError: The folder has results of other settings, or is damaged.
        OSError: The folder cannot be read or written.
    """
    arms = arms_of(options)
    settings = {
        **study_settings(options),
        "images": experiment.images.description,
        "image identity": experiment.images.identity,
        "coloured images": len(experiment.real),
        "width": options.width,
        "batch size": options.batch_size,
        "steps": options.steps,
        "threads": options.threads,
        "device": str(experiment.real.device),
    }
    experiment.results.check_settings(settings, own_entries=(STORE_FOLDER,))

    def run(name: str, seed: int) -> Mapping[str, float]:
        if name in CONTROLS:
            return experiment.control(name, seed)
        return experiment.run(arms[name], name, seed)

    rows = [*CONTROLS, *arms]
    line = line_of(rows, METRICS)
    runs = run_arms(
        experiment.results, rows, range(options.seeds), run, title="colourisations", line=line
    )
    trained = list(arms)
    return StudyReport(
        title="Colourisation with and without a critic",
        question=QUESTION,
        answers=options.answers(
            line
            for metric in (ERROR, SATURATION, COLOURS)
            for line in conclusions(runs, trained, metric, base=NO_CRITIC)
        ),
        tables=[
            arm_table("Coloured held-out images", runs, rows, METRICS),
            arm_table("Differences, paired by seed", runs, trained, METRICS[:3], base=NO_CRITIC),
        ],
        figures=_figures(runs, options, arms),
        images=grids(experiment.results, rows),
        notes=[
            f"Images: {experiment.images.description}; {len(experiment.real):,} of the held-out"
            " ones are coloured. Nothing is selected by them: the last network is measured, and"
            " every weight is a row of the table.",
            "Mean absolute error: of pixels in [-1, 1]. Saturation: the mean of the largest minus"
            " the smallest channel, divided by that of the original images. Colour distance: the"
            " sliced Wasserstein distance of the means and deviations of each image's chroma, in"
            " standard deviations of the original images'. Feature distance: that of the responses"
            " of a random convolutional network.",
            "The control `colours of another image` has the right colours on the wrong images: a"
            " small distance without a small error is no colourisation.",
            "A critic is updated once for each update of the network, with every objective; WGAN's"
            " papers update it five times.",
            "Equal seeds have the same initial weights and batches, so differences are paired by"
            " seed. Intervals are 95 %, by Student's t over seeds.",
            chance_note(len(trained) - 1),
        ],
        settings=settings,
    )


def _figures(
    runs: list[StudyRun], options: AdversarialOptions, arms: Mapping[str, ColourArm]
) -> dict[str, Figure]:
    """Return the figure of error against colour distance, one point for each arm."""
    series: dict[str, list[Point]] = {}
    for name, arm in arms.items():
        error, colours = (interval_of(runs, name, metric) for metric in (ERROR, COLOURS))
        if error is None or colours is None:
            continue
        point = Point(
            x=error.mean, y=colours.mean, low=colours.low, high=colours.high,
            label=f"{arm.weight:g}" if arm.weight else "",
        )  # fmt: skip
        series.setdefault(arm.objective if arm.weight else NO_CRITIC, []).append(point)
    if not series:
        return {}
    figure = point_figure(
        "Error and colours, by objective and weight of the adversarial loss", series,
        across="mean absolute error", upwards="colour distance; smaller is better in both",
    )  # fmt: skip
    return {"error-and-colours": figure}
