"""The implementation of `tesserae study`: it runs a study and prints its table."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scipy import stats

if TYPE_CHECKING:  # it loads torch
    from workflows.studies.devise import StudyData


def run(args: argparse.Namespace) -> int:
    """Run the study that *args* name, print its table, and return the exit status."""
    import torch

    torch.set_num_threads(args.threads)
    {"gaussians": _gaussians, "digits": _digits, "devise": _devise}[args.study](args)
    return 0


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean, by Student's t distribution."""
    if len(values) < 2:
        return values[0], values[0]
    half_width = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.mean(values)
    return mean - half_width, mean + half_width


def _gaussians(args: argparse.Namespace) -> None:
    from workflows.studies import gaussians

    print(f"{'':<16} {'seed':>4} {'modes':>6} {'good':>7} {'distance':>9}", flush=True)

    def show(name: str, seed: int, grid: gaussians.Grid) -> None:
        print(
            f"{name:<16} {seed:>4} {grid.modes:>6} {grid.good:>7.1%} {grid.distance:>9.4f}",
            flush=True,
        )

    for name, grid in gaussians.controls().items():
        show(name, 0, grid)
    for settings in args.settings:
        for objective in args.objectives:
            arm = gaussians.arm_of(objective, settings)
            print(f"{arm.name}: {arm.describe()}", flush=True)
            for seed in range(args.seeds):
                grid = gaussians.run(arm, seed=seed, steps=args.steps or gaussians.STEPS)
                show(arm.name, seed, grid)


def _digits(args: argparse.Namespace) -> None:
    from workflows.studies import digits

    for seed in range(args.seeds):
        controls = digits.controls(digits.load(seed))
        distances = ", ".join(f"{name} {value:.4f}" for name, value in controls.items())
        print(f"seed {seed}, distance to held-out rows: {distances}", flush=True)
    for settings in args.settings:
        for objective in args.objectives:
            arm = digits.arm_of(objective, settings)
            print(f"{arm.name}: {arm.describe()}", flush=True)
            correlations = []
            for seed in range(args.seeds):
                course = digits.run(
                    arm, digits.load(seed), seed=seed, steps=args.steps or digits.STEPS
                )
                correlations.append(course.correlation)
                print(
                    f"{arm.name:<16} {seed:>4} correlation {course.correlation:>7.3f}"
                    f" distance {course.distance[-1]:>7.4f}",
                    flush=True,
                )
            low, high = interval(correlations)
            mean = statistics.mean(correlations)
            print(f"{arm.name:<16} mean correlation {mean:.3f} (95 % {low:.3f} to {high:.3f})")


def _devise(args: argparse.Namespace) -> None:
    from workflows.devise.evaluation import lines
    from workflows.studies import devise

    data = _devise_data(args)
    evaluations: dict[str, list[Any]] = {}
    for seed in range(args.seeds):
        outcomes = list(devise.run_split(data, seed, steps=args.steps or devise.STEPS))
        for outcome in [*outcomes, devise.chosen_devise(outcomes)]:
            evaluations.setdefault(outcome.method, []).append(outcome.evaluation)
            setting = ", ".join(f"{name} {value}" for name, value in outcome.setting.items())
            largest_k = max(k for k in outcome.evaluation.unseen if k <= devise.CHOSEN_BY)
            hits = outcome.evaluation.unseen[largest_k].micro
            print(
                f"split {seed}  {outcome.method:<16} chosen by {outcome.chosen_by:.3f}"
                f"  hit@{largest_k} {hits:.3f}  {setting}",
                flush=True,
            )
    print()
    for name, *cells in lines(evaluations):
        print(f"{name:<16}" + "".join(f"{cell:>12}" for cell in cells))
    print()
    for line in devise.differences(evaluations):
        print(line, flush=True)


def _devise_data(args: argparse.Namespace) -> StudyData:
    from pipeline.features.reader import finished
    from pipeline.store import records
    from pipeline.store.open import open_objects
    from pipeline.wordvectors.files import read_words
    from pipeline.wordvectors.hierarchy import read_hierarchy
    from pipeline.wordvectors.vectors import class_vectors
    from workflows.devise.class_names import names_of_classes
    from workflows.studies import devise

    for name in ("store", "words"):
        if getattr(args, name) is None:
            raise ValueError(f"--{name} is missing: study devise needs it.")
    if args.unseen == "0":
        raise ValueError("--unseen is 0: expected at least 1 class, or a file that names some.")
    objects = open_objects(args.store)
    names = [args.features] if args.features else list(finished(objects, "train"))
    if len(names) != 1:
        finished_names = ", ".join(names) or "none: make some with `tesserae features`"
        raise ValueError(f"--features is missing: {args.store} has {finished_names}.")
    classes = names_of_classes(records.load_recipe(objects).classes, args.names)
    return devise.open_study_data(
        args.store,
        names[0],
        class_vectors(read_words(args.words), classes, synonyms=args.synonyms),
        None if args.hierarchy is None else read_hierarchy(args.hierarchy),
        unseen=args.unseen,
        validation=args.validation,
        clip=args.clip,
        batch_size=args.batch_size,
    )
