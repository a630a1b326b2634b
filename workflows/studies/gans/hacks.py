"""The study of tips: each tip of the list "How to train a GAN?" against one base.

The list (Chintala, Denton, Arjovsky and Mathieu 2016, github.com/soumith/ganhacks) collects
experience, and gives no figures. Here each tip that applies is one arm. A tip that the base, a
DCGAN, has not yet is added; one that it has is taken away. So in each arm one thing differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from workflows.reports.figures import Figure, interval_figure
from workflows.reports.table import Table
from workflows.studies.arm_tables import arm_table, omitted_seeds, verdict
from workflows.studies.contrasts import Contrast, chance_note, difference, estimates
from workflows.studies.gans.experiment import (
    DIVERSITY_METRIC,
    FEATURE_DISTANCE,
    SAMPLE_METRICS,
    STORE_FOLDER,
    GanExperiment,
    grids,
    measurement_notes,
    run_experiment,
    settings_of,
)
from workflows.studies.gans.images import StudyImages
from workflows.studies.gans.metrics import CONTROLS
from workflows.studies.gans.options import HacksOptions
from workflows.studies.gans.recipes import GanRecipe, OptimiserRecipe
from workflows.studies.intervals import holm, p_value
from workflows.studies.report import StudyReport
from workflows.studies.runs import StudyRun
from workflows.terminal.formatting import counted

BASE = "base"
"""The name of the arm that all others are compared with."""
ADDED, REMOVED, IGNORED = "added", "taken away", "advice ignored"
"""The uses of a tip: the arm has it and the base has not; the base has it and the arm has not; or
the arm does what the tip advises against."""
SIGNIFICANCE = 0.05
"""The level below which an adjusted p-value counts as an effect."""
QUESTION = (
    'What does each tip of the list "How to train a GAN?" do to a small DCGAN on these images?'
)


@dataclass(frozen=True, kw_only=True)
class Tip:
    """A tip of the list, and the arm that tests it."""

    arm: str
    """The name of the arm: what differs from the base."""
    number: int
    """The number of the tip in the list."""
    text: str
    """The tip, in other words."""
    use: str
    """The use of the tip: `ADDED`, `REMOVED` or `IGNORED`."""
    change: Mapping[str, Any] = field(default_factory=dict)
    """The fields of the recipe that differ from those of the base."""
    critic_updates: int = 1
    """The number of critic updates for each one of the base."""

    def recipe(self, base: GanRecipe) -> GanRecipe:
        """Return the recipe of the arm.

        Args:
            base: The recipe of the base.
        """
        return replace(base, critic_steps=self.critic_updates * base.critic_steps, **self.change)


_HALF_LOSS = math.log(2)
"""Half of the critic's cross entropy when it cannot tell real from fake."""

TIPS = (
    Tip(
        arm="sigmoid-output", number=1, use=REMOVED, change={"sigmoid": True},
        text="normalise images to [-1, 1], with a tanh as the generator's last layer",
    ),
    Tip(
        arm="saturating-loss", number=2, use=REMOVED, change={"saturating": True},
        text="the generator maximises log D, rather than minimising log(1 - D), whose gradients"
        " vanish early",
    ),
    Tip(
        arm="uniform-noise", number=3, use=REMOVED, change={"uniform_noise": True},
        text="draw the generator's input from a Gaussian, not from a uniform distribution",
    ),
    Tip(
        arm="joint-batches", number=4, use=REMOVED, change={"joint_batches": True},
        text="give real and fake images batches of their own, which batch norm normalises apart",
    ),
    Tip(
        arm="no-batch-norm", number=4, use=REMOVED, change={"norm": False},
        text="use batch norm",
    ),
    Tip(
        arm="max-pooling", number=5, use=REMOVED, change={"critic": "pooling"},
        text="avoid sparse gradients: leaky ReLU and strides, not ReLU and max pooling (here in"
        " the critic; a DCGAN's generator has ReLU)",
    ),
    Tip(
        arm="soft-labels", number=6, use=ADDED, change={"soft_labels": True},
        text="draw the critic's labels from 0.7 to 1.2 for real and from 0 to 0.3 for fake images",
    ),
    Tip(
        arm="flipped-labels", number=6, use=ADDED, change={"flipped_labels": 0.05},
        text="make labels noisy for the critic: swap some of them (here 5 %)",
    ),
    Tip(
        arm="perceptron", number=7, use=REMOVED, change={"generator": "perceptron"},
        text="use DCGAN where you can",
    ),
    Tip(
        arm="replay-buffer", number=8, use=ADDED, change={"replay": 0.25},
        text="keep past generations, and show some to the critic (here a quarter of the fake"
        " images)",
    ),
    Tip(
        arm="rmsprop", number=9, use=REMOVED,
        change={
            "critic_optimiser": OptimiserRecipe("rmsprop", 2e-4),
            "generator_optimiser": OptimiserRecipe("rmsprop", 2e-4),
        },
        text="use Adam",
    ),
    Tip(
        arm="sgd-critic", number=9, use=ADDED,
        change={"critic_optimiser": OptimiserRecipe("sgd", 1e-2)},
        text="use SGD for the critic, and Adam for the generator",
    ),
    Tip(
        arm="balanced", number=11, use=IGNORED, change={"balance_below": _HALF_LOSS},
        text="do not balance the networks by statistics of the loss (here the critic is not updated"
        " while its loss is below log 2, half of that of chance)",
    ),
    Tip(
        arm="labels", number=12, use=ADDED, change={"conditional": True},
        text="use labels if you have them (here both networks get them)",
    ),
    Tip(
        arm="input-noise", number=13, use=ADDED, change={"input_noise": 0.1},
        text="add noise to the critic's images that decays over time (here from a deviation of"
        " 0.1)",
    ),
    Tip(
        arm="layer-noise", number=13, use=ADDED, change={"layer_noise": 0.1},
        text="add Gaussian noise to every layer of the generator (here with a deviation of 0.1)",
    ),
    Tip(
        arm="more-critic-updates", number=14, use=ADDED, critic_updates=3,
        text="train the critic more, above all with noise (here 3 updates for each one of the"
        " base)",
    ),
    Tip(
        arm="dropout", number=17, use=ADDED, change={"dropout": 0.5},
        text="dropout of 50 % in the generator, in training and in evaluation",
    ),
)  # fmt: skip
"""The tips that arms test, in the order of the list."""

LEFT_OUT = MappingProxyType(
    {
        "3: interpolate along a great circle": "it concerns how samples are shown, not training",
        "7: hybrid models, such as a VAE with a GAN": "they are other models, not a change of one",
        "10: watch for failures early": "it is advice to the person who watches; every run here has"
        " its steps, and divergence is counted",
        "15: compare the images of a batch in the critic": "the list itself calls its results"
        " mixed, and gives no layer",
        "16: discrete inputs through an embedding": "the arm with labels tests whether labels help;"
        " this is another form of their input",
    }
)
"""The tips that no arm tests, each with the reason."""


def selected_tips(names: tuple[str, ...], images: StudyImages) -> list[Tip]:
    """Return the tips to test.

    Args:
        names: The names of their arms; empty for all that the images allow.
        images: The images, which may lack labels.

    Raises:
        ValueError: The images lack the labels that an arm needs.
    """
    chosen = [tip for tip in TIPS if not names or tip.arm in names]
    if images.is_labelled:
        return chosen
    if any(tip.arm in names for tip in chosen if tip.change.get("conditional")):
        raise ValueError(
            "--tips has 'labels', but the training images have no labels of two classes or more."
            " Leave it out, or pass a store with classes."
        )
    return [tip for tip in chosen if not tip.change.get("conditional")]


def hacks(options: HacksOptions, experiment: GanExperiment) -> StudyReport:
    """Run the study, or continue it, and return its report.

    Args:
        options: The options.
        experiment: The images, the size of the runs, and the folder, which is locked.

    Raises:
        ValueError: The images lack the labels that a tip needs.
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
        TesseraeError: The folder has results of other settings, or is damaged.
        OSError: The folder cannot be read or written.
    """
    tips = selected_tips(options.tips, experiment.images)
    settings = settings_of(options, experiment)
    experiment.results.check_settings(settings, own_entries=(STORE_FOLDER,))
    base = GanRecipe(critic_steps=options.critic_steps)
    recipes = {BASE: base} | {tip.arm: tip.recipe(base) for tip in tips}
    runs = run_experiment(experiment, recipes, options.seeds, title="tips")
    effects = [difference(tip.arm, BASE) for tip in tips]
    return StudyReport(
        title="Tips for training GANs",
        question=QUESTION,
        answers=options.answers(_answers(tips, effects, runs)),
        tables=[
            _tips_table(tips),
            arm_table("Samples of each arm", runs, [*CONTROLS, *recipes], SAMPLE_METRICS),
            _effects_table(tips, effects, runs),
        ],
        figures=_figures(effects, runs),
        images=grids(experiment.results, [*CONTROLS, *recipes]),
        notes=[
            *measurement_notes(experiment),
            "Base: DCGAN with the generator's loss that does not saturate, Adam 2e-4 with the decay"
            " rates 0.5 and 0.999, batch norm in both networks, separate batches of real and fake"
            " images, tanh, normal noise, and"
            f" {counted(options.critic_steps, 'critic update')} in a step.",
            "Strengths of tips that the list leaves open, such as the share of flipped labels, are"
            " those of the table; no others were tried on these images.",
            f"{chance_note(len(effects))} The p-values are those of the feature distance, adjusted"
            " for their number (Holm 1979); with few seeds only large effects reach 0.05.",
            *(f"Not tested: tip {tip}: {reason}." for tip, reason in LEFT_OUT.items()),
            *(
                []
                if experiment.images.is_labelled
                else ["Not tested: tip 12: the images have no labels of two classes or more."]
            ),
        ],
        settings=settings,
    )


def _adjusted(effects: list[Contrast], runs: list[StudyRun]) -> list[float]:
    """Return the p-value of each effect on the feature distance, adjusted for their number."""
    values = [effect.values(runs, FEATURE_DISTANCE.name) for effect in effects]
    return holm([p_value(v) if v else math.nan for v in values])


def _answers(tips: list[Tip], effects: list[Contrast], runs: list[StudyRun]) -> list[str]:
    """Return the sentences on what helps, what harms, and what was not seen to do either."""
    groups: dict[str, list[str]] = {"better": [], "worse": [], "no difference seen": []}
    undefined = []
    for tip, effect in zip(tips, effects, strict=True):
        interval = effect.interval(runs, FEATURE_DISTANCE.name)
        if interval is None or not interval.has_interval:
            undefined.append(tip.arm)
            continue
        omitted = omitted_seeds(runs, effect.weights, interval)
        text = f"{tip.arm} {FEATURE_DISTANCE.difference_text(interval)}{omitted}"
        groups[verdict(interval, FEATURE_DISTANCE)].append(text)
    adjusted = _adjusted(effects, runs)
    certain = [tip.arm for tip, p in zip(tips, adjusted, strict=True) if p < SIGNIFICANCE]
    phrases = {
        "better": "Arms with samples nearer to held-out images than those of the base",
        "worse": "Arms with samples further from them",
        "no difference seen": "No difference seen",
    }
    lines = [f"{phrase}: {'; '.join(groups[name]) or 'none'}." for name, phrase in phrases.items()]
    if undefined:
        lines.append(f"Without an interval: {'; '.join(undefined)}.")
    lines.append(
        f"Effects that remain after adjustment for their number: {'; '.join(certain) or 'none'}."
    )
    return lines


def _tips_table(tips: list[Tip]) -> Table:
    columns = ["tip", "arm", "in words", "in the arm"]
    rows = [[f"{tip.number}", tip.arm, tip.text, tip.use] for tip in tips]
    return Table("Tips and arms", columns, rows, text_columns=columns[1:])


def _effects_table(tips: list[Tip], effects: list[Contrast], runs: list[StudyRun]) -> Table:
    rows = [
        [
            tip.arm,
            tip.use,
            effect.cell(runs, FEATURE_DISTANCE),
            "-" if math.isnan(adjusted) else f"{adjusted:.3f}",
            effect.cell(runs, DIVERSITY_METRIC),
        ]
        for tip, effect, adjusted in zip(tips, effects, _adjusted(effects, runs), strict=True)
    ]
    columns = ["arm", "tip", FEATURE_DISTANCE.column, "its adjusted p", DIVERSITY_METRIC.column]
    text_columns = [name for name in columns if name != "its adjusted p"]
    return Table("Differences to the base, paired by seed", columns, rows, text_columns)


def _figures(effects: list[Contrast], runs: list[StudyRun]) -> dict[str, Figure]:
    rows = [
        replace(row, label=row.label.removesuffix(f" minus {BASE}"))
        for row in estimates(runs, effects, FEATURE_DISTANCE)
    ]
    if not rows:
        return {}
    figure = interval_figure(
        "Effect of each arm on the feature distance", rows,
        across="difference in feature distance to the base; negative is better", reference=0.0,
    )  # fmt: skip
    return {"effects": figure}
