"""Try what papers claim, on data that every machine has: a table of what came out.

gaussians   25 Gaussians on a grid: how many of them does a generator find?
digits      does the critic's estimate track how good samples are, and a discriminator's loss?
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

from scipy import stats

STUDIES = ("gaussians", "digits")
OBJECTIVES = ("wgan-gp", "dcgan")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of `tesserae study`."""
    parser.add_argument("study", metavar="STUDY", choices=STUDIES, help=", ".join(STUDIES))
    parser.add_argument("--seeds", type=int, default=5, help="runs of each kind (5)")
    parser.add_argument("--steps", type=int, help="of each run (as the study was set up)")
    parser.add_argument(
        "--objectives", nargs="+", default=list(OBJECTIVES), help=f"({' '.join(OBJECTIVES)})"
    )
    parser.add_argument("--threads", type=int, default=1, help="of a run: small nets want one (1)")


def run(args: argparse.Namespace) -> int:
    """Run a study, and print its table."""
    from workflows.adversarial.objectives import OBJECTIVES as known

    for name in ("seeds", "threads", "steps"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name} is {getattr(args, name)}: expected at least 1.")
    for name in args.objectives:
        if name not in known:
            raise ValueError(f"--objectives: {name!r} is none of {', '.join(known)}.")
    import torch

    torch.set_num_threads(args.threads)
    (_gaussians if args.study == "gaussians" else _digits)(args)
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

    print(f"{'objective':<10} {'seed':>4} {'modes':>6} {'good':>7}", flush=True)
    for objective in args.objectives:
        for seed in range(args.seeds):
            found = gaussians.run(objective, seed=seed, steps=args.steps or gaussians.STEPS)
            print(f"{objective:<10} {seed:>4} {found.modes:>6} {found.good:>7.1%}", flush=True)


def _digits(args: argparse.Namespace) -> None:
    from workflows.studies import digits

    print(f"{'objective':<10} {'seed':>4} {'correlation':>12} {'distance':>9} {'Gaussian':>9}")
    for objective in args.objectives:
        correlations = []
        for seed in range(args.seeds):
            data = digits.load(seed)
            course = digits.run(objective, data, seed=seed, steps=args.steps or digits.STEPS)
            correlations.append(course.correlation)
            print(
                f"{objective:<10} {seed:>4} {course.correlation:>12.3f} {course.distance[-1]:>9.4f}"
                f" {digits.gaussian(data):>9.4f}",
                flush=True,
            )
        low, high = interval(correlations)
        mean = statistics.mean(correlations)
        print(f"{objective:<10} mean {mean:>12.3f}   95 % of {low:.3f} to {high:.3f}", flush=True)
