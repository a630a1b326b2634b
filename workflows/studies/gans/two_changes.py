"""The study of two changes: which of the differences between DCGAN and WGAN does what?

WGAN differs from DCGAN by its loss, the mean score without sigmoid and logarithm, and by the clip
of the critic's parameters; its paper also changes the optimiser. The study trains every combination
of loss, clip and optimiser with the same networks, updates, batches and noise, so that the effect
of each is seen apart from the others.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping
from dataclasses import replace

from workflows.reports.figures import Estimate, Figure, Point, interval_figure, point_figure
from workflows.studies.arm_tables import arm_table, interval_of
from workflows.studies.contrasts import (
    Contrast,
    arm_name,
    chance_note,
    contrast_table,
    difference,
    estimates,
    interaction,
    main_effect,
)
from workflows.studies.gans import CONSTRAINTS, LOSSES, OPTIMISERS
from workflows.studies.gans.experiment import (
    CRITIC_METRICS,
    FEATURE_DISTANCE,
    SAMPLE_METRICS,
    STORE_FOLDER,
    GanExperiment,
    RunCurves,
    grids,
    measurement_notes,
    run_experiment,
    settings_of,
)
from workflows.studies.gans.metrics import CONTROLS, GAUSSIAN, NOVELTY
from workflows.studies.gans.options import TwoChangesOptions
from workflows.studies.gans.recipes import DCGAN_OPTIMISER, WGAN_OPTIMISER, GanRecipe
from workflows.studies.gans.training import SETTLING
from workflows.studies.report import StudyReport
from workflows.studies.runs import StudyRun
from workflows.terminal.formatting import counted

CLIP = 0.01
"""The largest absolute value of a clipped parameter (Arjovsky et al. 2017)."""
FACTORS = {"loss": LOSSES, "constraint": CONSTRAINTS, "optimiser": OPTIMISERS}
"""The factors of the study and their levels."""
DCGAN_ARM = arm_name((LOSSES[0], CONSTRAINTS[0], OPTIMISERS[0]))
"""The arm with the loss, the constraint and the optimiser of DCGAN."""
WGAN_ARM = arm_name((LOSSES[2], CONSTRAINTS[1], OPTIMISERS[1]))
"""The arm with those of WGAN."""
PAPER_ARMS = (DCGAN_ARM, arm_name((LOSSES[1], CONSTRAINTS[0], OPTIMISERS[0])), WGAN_ARM)
"""The arms whose estimates are drawn: those of DCGAN and WGAN, and LSGAN's loss between them."""
QUESTION = (
    "WGAN is said to differ from DCGAN by two changes, the loss and the clip. What does each of"
    " them do, and what does the optimiser?"
)


def recipes(critic_steps: int) -> dict[str, GanRecipe]:
    """Return the recipe of each arm, by its name.

    Args:
        critic_steps: The number of critic updates in a step.
    """
    optimisers = dict(zip(OPTIMISERS, (DCGAN_OPTIMISER, WGAN_OPTIMISER), strict=True))
    return {
        arm_name((loss, constraint, name)): GanRecipe(
            loss=loss,
            clip=CLIP if constraint == "clip" else None,
            critic_optimiser=optimisers[name],
            generator_optimiser=optimisers[name],
            critic_steps=critic_steps,
        )
        for loss, constraint, name in itertools.product(*FACTORS.values())
    }


def contrasts() -> list[Contrast]:
    """Return the contrasts that answer the question: whole papers, single factors, interactions."""
    (entropy, squares, score), (no_clip, clip), (adam, rmsprop) = LOSSES, CONSTRAINTS, OPTIMISERS
    clipping, by_squares = ("constraint", clip, no_clip), ("loss", squares, entropy)
    named = {
        "WGAN minus DCGAN": difference(WGAN_ARM, DCGAN_ARM),
        "both changes, with adam": difference(
            arm_name((score, clip, adam)), arm_name((entropy, no_clip, adam))
        ),
        "both changes, with rmsprop": difference(
            arm_name((score, clip, rmsprop)), arm_name((entropy, no_clip, rmsprop))
        ),
        "loss mean-square-error": main_effect(FACTORS, "loss", squares, entropy),
        "loss mean-score": main_effect(FACTORS, "loss", score, entropy),
        "clip": main_effect(FACTORS, *clipping),
        "optimiser rmsprop": main_effect(FACTORS, "optimiser", rmsprop, adam),
        "clip by loss mean-square-error": interaction(FACTORS, clipping, by_squares),
        "clip by loss mean-score": interaction(FACTORS, clipping, ("loss", score, entropy)),
        "losses with the clip": _loss_effect_with_clip(score, entropy),
    }
    return [replace(contrast, name=name) for name, contrast in named.items()]


def _loss_effect_with_clip(loss: str, base: str) -> Contrast:
    """Return the effect of a loss among clipped arms, where losses are expected to be alike."""
    clipped = {**FACTORS, "constraint": CONSTRAINTS[1:]}
    effect = main_effect(clipped, "loss", loss, base)
    return replace(effect, label=f"{loss} minus {base}, with clip, over optimiser")


def two_changes(options: TwoChangesOptions, experiment: GanExperiment) -> StudyReport:
    """Run the study, or continue it, and return its report.

    Args:
        options: The options.
        experiment: The images, the size of the runs, and the folder, which is locked.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
        TesseraeError: The folder has results of other settings, or is damaged.
        OSError: The folder cannot be read or written.
    """
    settings = settings_of(options, experiment)
    experiment.results.check_settings(settings, own_entries=(STORE_FOLDER,))
    arms = recipes(options.critic_steps)
    runs = run_experiment(experiment, arms, options.seeds, title="two changes")
    rows = [*CONTROLS, *arms]
    samples = arm_table("Samples of each arm", runs, rows, SAMPLE_METRICS)
    critics = arm_table("Training of each arm", runs, list(arms), CRITIC_METRICS)
    effects = contrast_table(
        "Effects, paired by seed",
        runs,
        contrasts(),
        [metric for metric in SAMPLE_METRICS if metric.name != NOVELTY],
    )
    return StudyReport(
        title="From GAN to WGAN in two changes",
        question=QUESTION,
        answers=options.answers(
            [
                *(contrast.conclusion(runs, FEATURE_DISTANCE) for contrast in contrasts()),
                contrasts()[0].conclusion(runs, CRITIC_METRICS[0]),
                *_against_gaussian(runs, list(arms)),
            ]
        ),
        tables=[samples, critics, effects],
        figures=_figures(runs, rows, experiment.curves()),
        images=grids(experiment.results, rows),
        notes=[
            *measurement_notes(experiment),
            "Correlation: Spearman's, of the critic's estimate on held-out images with a distance,"
            " over the evaluations after the first fifth of a run. The estimate is the mean score"
            " of real minus that of generated images for the loss mean-score, and the negative loss"
            " of the critic for others.",
            "Optimisers: adam has the learning rate 2e-4 and the decay rates 0.5 and 0.999 of the"
            " DCGAN paper, rmsprop the learning rate 5e-5 of the WGAN paper, so that the factor is"
            " the optimiser with its learning rate. The clip is 0.01. Every arm has"
            f" {counted(options.critic_steps, 'critic update')} in a step.",
            chance_note(len(contrasts())),
        ],
        settings=settings,
    )


def _against_gaussian(runs: list[StudyRun], arms: list[str]) -> list[str]:
    """Return the sentences that say which arms are better than the fitted Gaussian."""
    nearer, no_difference, undefined = [], [], []
    for arm in arms:
        interval = difference(arm, GAUSSIAN).interval(runs, FEATURE_DISTANCE.name)
        if interval is None or not interval.has_interval:
            undefined.append(arm)
        elif not interval.excludes_zero:
            no_difference.append(arm)
        elif interval.mean < 0:
            nearer.append(arm)
    if len(undefined) == len(arms):
        return ["No arm has an interval of its difference to a fitted Gaussian: pass more --seeds."]
    sentences = [
        f"{len(nearer)} of {len(arms)} arms are nearer to held-out images than a fitted Gaussian in"
        f" feature distance{': ' + '; '.join(nearer) if nearer else ''}."
    ]
    if no_difference:
        sentences.append(f"No difference to it was seen for {'; '.join(no_difference)}.")
    if undefined:
        sentences.append(f"The difference has no interval for {'; '.join(undefined)}.")
    return [" ".join(sentences)]


def _figures(
    runs: list[StudyRun], arms: list[str], curves: Mapping[tuple[str, int], RunCurves]
) -> dict[str, Figure]:
    figures = {}
    rows = []
    for arm in arms:
        interval = interval_of(runs, arm, FEATURE_DISTANCE)
        if interval is not None:
            series = arm.split(", ")[0] if arm not in CONTROLS else "control"
            rows.append(
                Estimate(
                    label=arm, value=interval.mean, low=interval.low, high=interval.high,
                    series=series,
                )
            )  # fmt: skip
    rows = [row for row in rows if row.label != CONTROLS[0]]  # noise would compress the others
    figures["feature-distance"] = interval_figure(
        "Feature distance of samples to held-out images", rows,
        across="feature distance; smaller is better",
    )  # fmt: skip
    effects = estimates(runs, contrasts(), FEATURE_DISTANCE)
    if effects:
        figures["effects"] = interval_figure(
            "Effects on the feature distance", effects,
            across="difference in feature distance; negative is better", reference=0.0,
        )  # fmt: skip
    lines = {arm: _standardised(curves[arm, 0]) for arm in PAPER_ARMS if (arm, 0) in curves}
    if lines:
        figures["estimates"] = point_figure(
            "Does the critic's estimate follow the distance? (seed 0)", lines,
            across="feature distance", upwards="critic's estimate, standardised for each run",
        )  # fmt: skip
    return figures


def _standardised(curves: RunCurves) -> list[Point]:
    """Return the (distance, estimate) of evaluations, with estimates of mean 0 and deviation 1."""
    first = round(SETTLING * len(curves.steps))
    estimates, distances = curves.estimate[first:], curves.feature_distance[first:]
    mean, deviation = statistics.mean(estimates), statistics.pstdev(estimates) or 1.0
    return [
        Point(x=distance, y=(estimate - mean) / deviation)
        for estimate, distance in zip(estimates, distances, strict=True)
    ]
