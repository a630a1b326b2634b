"""The work of `tesserae study`: runs of each study, and the tables they print."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scipy import stats

if TYPE_CHECKING:  # it loads torch
    from workflows.studies.devise import Ground


def run(args: argparse.Namespace) -> int:
    """Run a study, and print its table."""
    import torch

    torch.set_num_threads(args.threads)
    {"gaussians": _gaussians, "digits": _digits, "devise": _devise}[args.study](args)
    return 0


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean's 95 % interval, by Student's t."""
    if len(values) < 2:
        return values[0], values[0]
    wide = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    mean = statistics.mean(values)
    return mean - wide, mean + wide


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
        apart = digits.controls(digits.load(seed))
        shown = ", ".join(f"{name} {value:.4f}" for name, value in apart.items())
        print(f"seed {seed}, distance to held-out rows of {shown}", flush=True)
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

    ground = _devise_ground(args)
    found: dict[str, list[Any]] = {}
    for seed in range(args.seeds):
        outcomes = list(devise.run_split(ground, seed, steps=args.steps or devise.STEPS))
        for one in [*outcomes, devise.chosen_devise(outcomes)]:
            found.setdefault(one.method, []).append(one.judged)
            said = ", ".join(f"{name} {value}" for name, value in one.setting.items())
            most = max(k for k in one.judged.unseen if k <= devise.CHOSEN_BY)
            hits = one.judged.unseen[most].micro
            print(
                f"split {seed}  {one.method:<16} chosen by {one.chosen_by:.3f}"
                f"  hit@{most} {hits:.3f}  {said}",
                flush=True,
            )
    print()
    for name, *cells in lines(found):
        print(f"{name:<16}" + "".join(f"{cell:>12}" for cell in cells))
    print()
    for said in devise.differences(found):
        print(said, flush=True)


def _devise_ground(args: argparse.Namespace) -> Ground:
    from pipeline.features.reader import finished
    from pipeline.store import records
    from pipeline.store.objects import open_objects
    from pipeline.wordvectors.files import read_words
    from pipeline.wordvectors.hierarchy import read_hierarchy
    from pipeline.wordvectors.vectors import class_vectors
    from workflows.devise.class_names import named
    from workflows.studies import devise

    for name in ("store", "words"):
        if getattr(args, name) is None:
            raise ValueError(f"--{name} is missing: study devise needs it.")
    if args.unseen == "0":
        raise ValueError("--unseen is 0: expected at least 1 class, or a file that names some.")
    objects = open_objects(args.store)
    names = [args.features] if args.features else list(finished(objects, "train"))
    if len(names) != 1:
        known = ", ".join(names) or "none: make some with `tesserae features`"
        raise ValueError(f"--features is missing: {args.store} has {known}.")
    classes = named(records.load_recipe(objects).classes, args.names)
    return devise.open_ground(
        args.store,
        names[0],
        class_vectors(read_words(args.words), classes, synonyms=args.synonyms),
        None if args.hierarchy is None else read_hierarchy(args.hierarchy),
        unseen=args.unseen,
        validation=args.validation,
        clip=args.clip,
        batch_size=args.batch_size,
    )
