"""The runs of a study: each arm with each seed, of which only missing ones are run."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from workflows.studies.results import ResultsFolder
from workflows.terminal.formatting import counted
from workflows.terminal.progress import Progress

RUNS_FILE = "runs.jsonl"
"""The name of the file of finished runs in the folder of a study."""


@dataclass(frozen=True, kw_only=True)
class StudyRun:
    """A finished run of an arm."""

    arm: str
    """The name of the arm."""
    seed: int
    """The seed of what is random in the run."""
    metrics: dict[str, float]
    """The metrics by name, finite; those that are undefined are left out."""
    seconds: float
    """How long the run took."""


RunArm = Callable[[str, int], Mapping[str, float]]
"""A function of the name of an arm and a seed that runs the arm and returns its metrics, of which
those that are NaN or infinite are undefined."""


def run_arms(
    results: ResultsFolder,
    arms: Sequence[str],
    seeds: Sequence[int],
    run: RunArm,
    *,
    title: str,
    line: Callable[[StudyRun], str],
    shuffle: bool = False,
    arm_by_arm: bool = False,
) -> list[StudyRun]:
    """Run each arm with each seed, unless the folder has that run, and return all of them.

    Each run is recorded when it ends, and printed as a line; a line before them names finished
    seeds of these arms that are not among *seeds*. All arms of a seed are run before the
    next seed, so that a study that is broken off has pairs to compare, unless *arm_by_arm*.

    Args:
        results: The folder, which is locked.
        arms: The names of the arms, in the order of the tables.
        seeds: The seeds.
        run: A function that runs an arm with a seed and returns its metrics.
        title: A description of the runs, for the progress display.
        line: A function that returns the line of a finished run.
        shuffle: True to run the arms of a seed in a random order, which the seed draws: for
            timings, on which the time of day must not fall alike (default False).
        arm_by_arm: True to run all seeds of an arm before the next arm, where the seeds share
            costly work, such as the features of a network; not together with *shuffle* (default
            False).

    Returns:
        The runs by seed, then by arm, in the order of *seeds* and *arms*, or the other way round;
        runs of other arms and seeds in the folder are left out.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
        TesseraeError: A line of the folder is damaged.
        OSError: The folder cannot be read or written.
    """
    pairs = [(arm, seed) for seed in seeds for arm in arms]
    if arm_by_arm:
        pairs = [(arm, seed) for arm in arms for seed in seeds]
    recorded = {(r.arm, r.seed): r for r in results.records(StudyRun, RUNS_FILE)}
    runs = {pair: recorded[pair] for pair in pairs if pair in recorded}
    left_out = sorted({seed for arm, seed in recorded if arm in arms} - {*seeds})
    if left_out:
        print(left_out_line(title, left_out), flush=True)
    for finished in runs.values():
        print(line(finished), flush=True)
    try:
        if len(runs) < len(pairs):
            with Progress(title, rows=len(pairs), unit="runs") as progress:
                progress.set_initial_rows(len(runs))
                for arm, seed in _shuffled(arms, seeds) if shuffle else pairs:
                    if (arm, seed) in runs:
                        continue
                    progress.detail(f"{arm}, seed {seed}")
                    started = time.monotonic()
                    metrics = {
                        name: float(value)
                        for name, value in run(arm, seed).items()
                        if math.isfinite(value)
                    }
                    seconds = time.monotonic() - started
                    finished = StudyRun(arm=arm, seed=seed, metrics=metrics, seconds=seconds)
                    results.append(finished, RUNS_FILE)
                    recorded[arm, seed] = runs[arm, seed] = finished
                    progress.note(line(finished))
                    progress.update(rows=1)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(resume_advice(results, len(recorded))) from None
    return [runs[pair] for pair in pairs]


def left_out_line(title: str, seeds: Sequence[int]) -> str:
    """Return the line on finished runs that a report leaves out, as their seeds are not named.

    Args:
        title: A description of the runs.
        seeds: Their seeds, ascending.
    """
    listed = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
    return (
        f"{title}: the folder has finished runs of {listed} that the report leaves out; pass"
        f" --seeds {seeds[-1] + 1} to include them"
    )


def _shuffled(arms: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int]]:
    """Return the pairs seed by seed, with the arms of each in an order that the seed draws."""
    return [(arm, seed) for seed in seeds for arm in random.Random(seed).sample(arms, len(arms))]


def resume_advice(results: ResultsFolder, num_runs: int) -> str:
    """Return the sentence that says how an interrupted study is continued.

    Args:
        results: The folder of the study.
        num_runs: The number of its finished runs.
    """
    return (
        f"Run the same command again to continue: {results.path} has {counted(num_runs, 'run')}"
        f" that {'is' if num_runs == 1 else 'are'} finished."
    )
