"""The tables, answers and figures of the study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from workflows.reports.figures import Figure, Point, point_figure
from workflows.reports.table import Table
from workflows.studies.arm_tables import StudyMetric, arm_table, conclusions, interval_of
from workflows.studies.contrasts import chance_note
from workflows.studies.perceptual import ADVERSARIAL, BICUBIC, PERCEPTUAL, PIXEL
from workflows.studies.perceptual.experiment import (
    DIVERGED,
    MINUTES,
    PSNR,
    SSIM,
    STEP_SECONDS,
    STEPS,
    LossExperiment,
    distance_name,
    metric_of_folder,
)
from workflows.studies.perceptual.judges import VisionNetwork
from workflows.studies.perceptual.samples import (
    LOW,
    ORIGINAL,
    SAMPLES_FOLDER,
    comparisons,
    file_name,
)
from workflows.studies.report import StudyReport
from workflows.studies.runs import StudyRun
from workflows.terminal.formatting import counted
from workflows.training.writing import write

LOSSES = (PIXEL, PERCEPTUAL, ADVERSARIAL)
"""The losses, in the order of the tables."""
PSNR_METRIC = StudyMetric(name=PSNR, heading="PSNR, dB", decimals=2, higher_is_better=True)
SSIM_METRIC = StudyMetric(name=SSIM, heading="SSIM", decimals=4, higher_is_better=True)
TRAINING_METRICS = (
    StudyMetric(name=STEPS, heading="steps", decimals=0),
    StudyMetric(name=STEP_SECONDS, heading="s a step"),
    StudyMetric(name=MINUTES, heading="minutes", decimals=1),
    StudyMetric(name="pixel_loss", heading="pixel loss", decimals=5),
    StudyMetric(name="perceptual_loss", heading="perceptual loss", decimals=5),
    StudyMetric(name="generator_loss", heading="adversarial loss", decimals=5),
    StudyMetric(name="critic_loss", heading="critic's loss", decimals=3),
    StudyMetric(name="estimate", heading="score of originals minus enlarged"),
    StudyMetric(name=DIVERGED, heading="diverged", decimals=2, limits=(0, 1)),
)
"""The metrics of training. Losses are means over the last tenth of the steps, times their
weights."""
QUESTION = (
    "Does a perceptual loss, alone or with an adversarial one, enlarge images better than a loss of"
    " pixels, for the same network and training time?"
)


def distance_metric(network: VisionNetwork) -> StudyMetric:
    """Return the metric of the distance by a network.

    Args:
        network: The network.
    """
    return StudyMetric(
        name=distance_name(network),
        heading=f"distance by {network.name}",
        decimals=4,
        higher_is_better=False,
    )


def run_line(run: StudyRun) -> str:
    """Return the line of a finished run.

    Args:
        run: The run.
    """
    start = f"seed {run.seed}  {run.arm}:"
    if run.metrics.get(DIVERGED):
        return f"{start} diverged, {run.seconds:.0f} s"
    distances = (
        f"{name} {value:.4f}"
        for name, value in run.metrics.items()
        if name.startswith("distance, ")
    )
    steps = f"{run.metrics[STEPS]:,.0f} steps, " if STEPS in run.metrics else ""
    return (
        f"{start} {steps}PSNR {run.metrics[PSNR]:.2f} dB, {'; '.join(distances)},"
        f" {run.seconds:.0f} s"
    )


def runs_with(network: VisionNetwork, runs: Sequence[StudyRun]) -> list[StudyRun]:
    """Return the runs whose loss has a network or none, named by their losses alone.

    Args:
        network: The network in the loss.
        runs: All runs.
    """
    names = {BICUBIC: BICUBIC, PIXEL: PIXEL}
    names |= {f"{loss}, {network.name}": loss for loss in (PERCEPTUAL, ADVERSARIAL)}
    return [replace(run, arm=names[run.arm]) for run in runs if run.arm in names]


def report_of(experiment: LossExperiment, runs: Sequence[StudyRun]) -> StudyReport:
    """Return the report of the study, and write the crops side by side into its folder.

    Args:
        experiment: The study.
        runs: Its runs, of all arms and seeds.
    """
    first, second = experiment.networks
    trained = [arm.name for arm in experiment.trained_arms]
    tables: list[Table] = []
    answers: list[str] = []
    figures: dict[str, Figure] = {}
    for number, (in_loss, judge) in enumerate(((first, second), (second, first)), start=1):
        own = runs_with(in_loss, runs)
        metrics = (PSNR_METRIC, distance_metric(judge))
        title = f"{in_loss.name} in the loss, {judge.name} judges"
        tables.append(arm_table(title, own, [BICUBIC, *LOSSES], metrics, base=PIXEL))
        answers += [f"{title}: {line}" for line in answers_of(own, judge)]
        figures |= _figures(own, in_loss, judge, f"loss-{number}")
    all_metrics = [PSNR_METRIC, SSIM_METRIC, *map(distance_metric, experiment.networks)]
    title = "All metrics, also by the network in the loss"
    tables.append(arm_table(title, runs, list(experiment.arms), all_metrics))
    folder = experiment.options.images
    if folder is not None:
        of_folder = [replace(m, name=metric_of_folder(m.name)) for m in all_metrics]
        title = f"The {counted(len(experiment.pairs.folder), 'image')} of {folder.name}"
        tables.append(arm_table(title, runs, list(experiment.arms), of_folder))
    tables.append(arm_table("Training", runs, trained, TRAINING_METRICS))
    return StudyReport(
        title="Losses for super-resolution",
        question=QUESTION,
        answers=experiment.options.answers(answers),
        tables=tables,
        figures=figures,
        images=list(_images(experiment)),
        notes=list(_notes(experiment)),
        settings=experiment.settings(),
    )


def answers_of(runs: Sequence[StudyRun], judge: VisionNetwork) -> Iterator[str]:
    """Yield the differences of the losses by a network that is in none of them, and by PSNR.

    Args:
        runs: The runs of one network in the loss, as `runs_with` returns them.
        judge: The other network.
    """
    for metric in (distance_metric(judge), PSNR_METRIC):
        yield from conclusions(runs, LOSSES, metric, base=PIXEL)
        yield from conclusions(runs, [ADVERSARIAL], metric, base=PERCEPTUAL)


def _figures(
    runs: Sequence[StudyRun], in_loss: VisionNetwork, judge: VisionNetwork, name: str
) -> dict[str, Figure]:
    """Return the figure of PSNR against the distance, one point for each loss."""
    series: dict[str, list[Point]] = {}
    for arm in (BICUBIC, *LOSSES):
        quality = interval_of(runs, arm, PSNR_METRIC)
        distance = interval_of(runs, arm, distance_metric(judge))
        if quality is None or distance is None:
            continue
        low, high = (
            (distance.low, distance.high) if distance.has_interval and arm != BICUBIC
            else (None, None)
        )  # fmt: skip
        series[arm] = [Point(x=quality.mean, y=distance.mean, low=low, high=high)]
    if not series:
        return {}
    figure = point_figure(
        f"{in_loss.name} in the loss",
        series,
        across="PSNR, dB; larger is better",
        upwards=f"distance by {judge.name}; smaller is better",
    )
    return {name: figure}


def _images(experiment: LossExperiment) -> Iterator[tuple[str, bytes]]:
    """Yield the caption and the file of each comparison, which is also written into the folder."""
    for network in experiment.networks:
        arms = [LOW, BICUBIC, PIXEL]
        arms += [f"{loss}, {network.name}" for loss in (PERCEPTUAL, ADVERSARIAL)]
        caption = f"{', '.join((LOW, BICUBIC, *LOSSES, ORIGINAL))}; {network.name} in the loss"
        files = comparisons(experiment.results, [*arms, ORIGINAL])
        for number, file in enumerate(files, start=1):
            name = f"comparison_{file_name(network.name)}_{number}.png"
            write(experiment.results.path / SAMPLES_FOLDER / name, file)
            yield caption, file


def _notes(experiment: LossExperiment) -> Iterator[str]:
    options, pairs = experiment.options, experiment.pairs
    yield (
        f"Images: {pairs.description}. Nothing is selected by the held-out images: the last network"
        " of each run is measured."
    )
    if options.steps is None:
        yield (
            f"Every run trains for {options.minutes:g} minutes of CPU time (with a GPU: of the"
            " clock), so a loss whose step costs more has fewer steps: a step of each was timed at"
            f" first, and {', '.join(f'{arm} has {n:,}' for arm, n in experiment.steps.items())}."
        )
    else:
        yield (
            f"Every run has {options.steps:,} steps, so that a loss whose step costs more was"
            " trained for a longer time. Without --steps all get the same time."
        )
    weights = ", ".join(f"{w:.3g} for {name}" for name, w in experiment.perceptual_weights.items())
    yield (
        "The pixel loss is the mean absolute difference. The perceptual loss is the mean absolute"
        " difference of features, and a pixel loss of weight"
        f" {options.pixel_weight:g}; its weight, {weights}, is {options.perceptual_weight:g} times"
        " that with which its gradient at bicubic enlargements has the norm of the pixel loss's."
        " The adversarial one adds a relativistic average critic with weight"
        f" {options.adversarial_weight:g} in the second half of the steps."
    )
    for network in experiment.networks:
        yield f"Blocks of {network.name}, in the loss and as a judge: {', '.join(network.blocks)}."
    yield (
        "Distance: the squared difference of unit vectors of features, averaged over positions and"
        " summed over blocks, as LPIPS without its learned weights (Zhang et al., CVPR 2018). PSNR"
        f" and SSIM are those of luma. {pairs.arrays.scale} pixels at each edge count for nothing."
        " Each metric is the mean over images."
    )
    yield (
        "Equal seeds have the same initial weights and the same batches in the same order, so"
        " differences are paired by seed. Intervals are 95 %, by Student's t over seeds: they say"
        " how far another training would differ, not other images."
    )
    yield "Crops are the squares of the first held-out images with the most detail, at 1:1, seed 0."
    yield chance_note(3 * len(experiment.networks))
