"""The images, the settings and the runs of the studies, and what their reports share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from pipeline import sources
from pipeline.errors import StoreMismatchError, TesseraeError
from workflows.preparation.options import PrepareOptions
from workflows.preparation.prepare import prepare
from workflows.studies.arm_tables import StudyMetric
from workflows.studies.gans.images import StudyImages
from workflows.studies.gans.metrics import (
    CONTROLS,
    DISTANCE,
    DIVERSITY,
    FEATURES,
    NOVELTY,
    HeldOutComparison,
    compare_with,
    control_samples,
)
from workflows.studies.gans.options import GanOptions, StoredImagesOptions
from workflows.studies.gans.recipes import GanRecipe
from workflows.studies.gans.training import (
    CORRELATION,
    DIVERGED,
    FEATURE_CORRELATION,
    FINAL_EVALUATIONS,
    RunSize,
    run_recipe,
)
from workflows.studies.results import ResultsFolder
from workflows.studies.runs import StudyRun, run_arms
from workflows.training.image_grid import grid_png, jpeg_preview, to_uint8
from workflows.training.writing import write

STORE_FOLDER = "store"
"""The folder, below that of the study, of the store that is prepared from `--source`."""
SAMPLES_FOLDER = "samples"
"""The folder of the images that the arms have generated with the first seed."""
CURVES_FILE = "curves.jsonl"
"""The file of the curves of finished runs."""
MAX_PREVIEW_BYTES = 100 * 2**10
"""The maximum size of the images of an arm on the page of a study."""
GRID_IMAGES = 64
"""The number of images in a grid of samples."""
EVALUATIONS, QUICK_EVALUATIONS = 25, 6
"""The number of evaluations in a run."""
EVALUATION_ROWS, QUICK_EVALUATION_ROWS = 1_000, 100
"""The maximum number of samples, and of held-out images, in an evaluation."""

FEATURE_DISTANCE = StudyMetric(name=FEATURES, heading="feature distance", higher_is_better=False)
"""The metric by which the studies rank samples."""
DIVERSITY_METRIC = StudyMetric(name=DIVERSITY, heading="diversity", decimals=2)
"""The metric of how varied samples are."""
SAMPLE_METRICS = (
    FEATURE_DISTANCE,
    StudyMetric(name=DISTANCE, heading="pixel distance", higher_is_better=False),
    DIVERSITY_METRIC,
    StudyMetric(name=NOVELTY, heading="novelty", decimals=2),
)
"""The metrics of samples, which controls have too."""
CRITIC_METRICS = (
    StudyMetric(
        name=FEATURE_CORRELATION,
        heading="correlation with feature distance",
        decimals=2,
        limits=(-1, 1),
    ),
    StudyMetric(
        name=CORRELATION, heading="correlation with pixel distance", decimals=2, limits=(-1, 1)
    ),
    StudyMetric(
        name=DIVERGED, heading="diverged", decimals=2, limits=(0, 1), higher_is_better=False
    ),
)
"""The metrics of training."""


@dataclass(frozen=True, kw_only=True)
class RunCurves:
    """The metrics of a run at its evaluations, as the folder of a study has them."""

    arm: str
    """The name of the arm."""
    seed: int
    """The seed of the run."""
    steps: tuple[int, ...]
    """The steps of the evaluations."""
    estimate: tuple[float, ...]
    """The critic's estimate, as `workflows.studies.gans.training.Curves` has it."""
    distance: tuple[float, ...]
    """The pixel distance."""
    feature_distance: tuple[float, ...]
    """The feature distance."""


@dataclass(frozen=True, kw_only=True)
class GanExperiment:
    """The images of a study and the size of its runs."""

    images: StudyImages
    """The images, whose training rows runs are trained on."""
    comparison: HeldOutComparison
    """The comparison of samples with held-out images."""
    size: RunSize
    """The size of networks and training."""
    results: ResultsFolder
    """The folder of the study, which gets curves and grids of samples."""

    def run(self, recipe: GanRecipe, arm: str, seed: int) -> dict[str, float]:
        """Train a recipe, and return its metrics; the first seed writes a grid of samples.

        Args:
            recipe: The recipe.
            arm: The name of the arm, which names the grid's file.
            seed: The seed of the run.
        """
        result = run_recipe(recipe, self.images, self.comparison, self.size, seed=seed)
        if seed == 0 and result.samples is not None:
            write_grid(self.results, arm, result.samples[:GRID_IMAGES])
        curves = result.curves
        # JSON has no infinity: the curves of a critic without a bound may be left out.
        if curves.critic and all(map(math.isfinite, curves.critic)):
            record = RunCurves(
                arm=arm,
                seed=seed,
                steps=tuple(curves.steps),
                estimate=tuple(curves.critic),
                distance=tuple(curves.distances[DISTANCE]),
                feature_distance=tuple(curves.distances[FEATURES]),
            )
            self.results.append(record, CURVES_FILE)
        return result.metrics

    def curves(self) -> dict[tuple[str, int], RunCurves]:
        """Return the curves in the folder by arm and seed; those of a repeated run are its last."""
        records = self.results.records(RunCurves, CURVES_FILE)
        return {(record.arm, record.seed): record for record in records}

    def control(self, name: str, seed: int) -> dict[str, float]:
        """Return the metrics of a control.

        Args:
            name: The name of the control, one of `CONTROLS`.
            seed: The seed that draws its samples.
        """
        count = len(self.comparison.held_out)
        samples = control_samples(self.images, count, seed)[name].to(
            self.comparison.held_out.device
        )
        if seed == 0:
            write_grid(self.results, name, samples[:GRID_IMAGES])
        return self.comparison.measure(samples)


def prepare_source(options: StoredImagesOptions) -> str:
    """Prepare the images of `--source` into a store below the folder of the study.

    Only the splits that the study reads are prepared.

    Args:
        options: The options.

    Returns:
        The folder of the store. A finished one is not prepared again.

    Raises:
        TesseraeError: The source cannot be used, or the folder has results of another one.
        ValueError: `held_out` is set, and the source has no named splits.
    """
    assert options.source is not None
    if options.held_out is not None and not sources.source_splits(options.source):
        # Both splits would get all images of the source.
        raise ValueError(
            f"--held-out is {options.held_out}: {options.source} has no named splits. Omit"
            " --held-out, so that a part of its images is held out."
        )
    store = str(options.folder / STORE_FOLDER)
    splits = [split for split in (options.split, options.held_out) if split is not None]
    try:
        prepare(
            PrepareOptions(
                source=options.source,
                store=store,
                split=tuple(splits),
                sizes=(options.image_size,),
                max_bad=1.0,  # unreadable images are reported, and no arm is trained on them
                dashboard=False,
            )
        )
    except StoreMismatchError as e:  # it speaks of a store, which nobody has passed
        reason = str(e).split(". ")[0]
        raise TesseraeError(
            f"--out {options.folder} has images of another --source than {options.source}, or"
            f" prepared in another way: {reason[:200]}. Pass the same --source, or another --out."
        ) from e
    return store


def open_experiment(
    options: GanOptions, images: StudyImages, results: ResultsFolder, device: torch.device
) -> GanExperiment:
    """Return the experiment of a study of GANs.

    Args:
        options: The options.
        images: The images.
        results: The folder of the study, which is locked.
        device: The device that trains.
    """
    rows = QUICK_EVALUATION_ROWS if options.quick else EVALUATION_ROWS
    evaluations = QUICK_EVALUATIONS if options.quick else EVALUATIONS
    return GanExperiment(
        images=images,
        comparison=compare_with(images, device, max_rows=rows),
        size=RunSize(
            image_size=options.image_size,
            width=options.width,
            latent_dim=options.latent_dim,
            batch_size=options.batch_size,
            steps=options.steps,
            evaluations=min(evaluations, options.steps),
        ),
        results=results,
    )


def write_grid(
    results: ResultsFolder, arm: str, images: torch.Tensor, *, columns: int | None = None
) -> None:
    """Write the images of an arm as one PNG file into the folder of samples.

    Args:
        results: The folder of the study.
        arm: The name of the arm, which names the file.
        images: (n, 3, size, size) float32 in [-1, 1], n > 0.
        columns: The number of images in a row of the grid (default: the root of n, rounded up).
    """
    file = _grid_file(results, arm)
    file.parent.mkdir(exist_ok=True)
    write(file, grid_png(to_uint8(images), columns=columns))


def grids(results: ResultsFolder, arms: Iterable[str]) -> list[tuple[str, bytes]]:
    """Return the images of arms, for the page of a study.

    Args:
        results: The folder of the study.
        arms: The names of the arms. Those without a file of images are left out.

    Returns:
        The name of each arm and its images, as a JPEG file.
    """
    files = {arm: _grid_file(results, arm) for arm in arms}
    return [
        (arm, jpeg_preview(file.read_bytes(), MAX_PREVIEW_BYTES))
        for arm, file in files.items()
        if file.exists()
    ]


def _grid_file(results: ResultsFolder, arm: str) -> Path:
    name = arm.replace(", ", "_").replace(" ", "-")
    return results.path / SAMPLES_FOLDER / f"{name}.png"


def study_settings(options: StoredImagesOptions) -> dict[str, Any]:
    """Return those settings of a study that are known before its images are.

    Args:
        options: The options.
    """
    return {"quick": options.quick, "torch": version("torch")}


def settings_of(options: GanOptions, experiment: GanExperiment) -> dict[str, Any]:
    """Return the settings that decide the results of a study, for its folder.

    Args:
        options: The options.
        experiment: The images and the size of the runs.
    """
    size = experiment.size
    return {
        **study_settings(options),
        "images": experiment.images.description,
        "image identity": experiment.images.identity,
        "compared rows": len(experiment.comparison.held_out),
        "width": size.width,
        "latent dim": size.latent_dim,
        "batch size": size.batch_size,
        "steps": size.steps,
        "critic steps": options.critic_steps,
        "evaluations": size.evaluations,
        "threads": options.threads,
        "device": str(experiment.comparison.held_out.device),
    }


def run_experiment(
    experiment: GanExperiment,
    recipes: Mapping[str, GanRecipe],
    seeds: int,
    *,
    title: str,
) -> list[StudyRun]:
    """Run the controls and each recipe with each seed, unless the folder has the run.

    Args:
        experiment: The images and the size of the runs.
        recipes: The recipes by the name of the arm.
        seeds: The number of seeds, 0, 1, ...
        title: A description of the runs.

    Returns:
        The runs by seed, then by arm, with the controls first.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
        TesseraeError: A line of the folder is damaged.
        OSError: The folder cannot be read or written.
    """

    def run(arm: str, seed: int) -> dict[str, float]:
        if arm in CONTROLS:
            return experiment.control(arm, seed)
        return experiment.run(recipes[arm], arm, seed)

    arms = [*CONTROLS, *recipes]
    line = line_of(arms, SAMPLE_METRICS)
    return run_arms(experiment.results, arms, range(seeds), run, title=title, line=line)


def line_of(arms: Iterable[str], metrics: Sequence[StudyMetric]) -> Callable[[StudyRun], str]:
    """Return a function that returns the line of a run: its arm, its seed and its metrics.

    Args:
        arms: The names of all arms and controls, which are padded to one width.
        metrics: The metrics that are shown, where they are defined.
    """
    width = max(map(len, arms))

    def line(run: StudyRun) -> str:
        """Return the line of a finished run."""
        start = f"{run.arm:<{width}}  seed {run.seed}"
        if run.metrics.get(DIVERGED):
            return f"{start}  diverged  {run.seconds:.0f} s"
        texts = [
            f"{metric.heading} {run.metrics[metric.name]:.3f}"
            for metric in metrics
            if metric.name in run.metrics
        ]
        return f"{start}  {', '.join(texts)}  {run.seconds:.0f} s"

    return line


def measurement_notes(experiment: GanExperiment) -> list[str]:
    """Return how the samples of a study were measured, as sentences.

    Args:
        experiment: The images and the size of the runs.
    """
    size = experiment.size
    return [
        f"Images: {experiment.images.description}. Neither study nor arm selects anything by the"
        " held-out images: the last generator is measured, with the hyperparameters of the papers.",
        f"Each metric of a run is the mean over the last {FINAL_EVALUATIONS} of {size.evaluations}"
        f" evaluations, with {len(experiment.comparison.held_out):,} samples and as many held-out"
        " images; that of a control is of one such set of samples.",
        "Feature distance: sliced Wasserstein distance of the responses of a random convolutional"
        " network, in standard deviations of the held-out images' responses. Pixel distance: that"
        " of pixels in [-1, 1]; a fitted Gaussian is nearly as close in it as training images.",
        "Diversity: the median distance of a sample to the nearest other sample, divided by that"
        " of held-out images. Novelty: that to the nearest training image, divided likewise; 0 is a"
        " copy. Noise has more than 1 of both, blurred images less.",
        "Equal seeds have the same batches and noise, and equal networks the same initial weights,"
        " so differences are paired by seed. Intervals are 95 %, by Student's t over seeds, and end"
        " at the limits of shares and correlations.",
    ]
