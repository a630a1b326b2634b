"""The implementation of `tesserae study parity`: it runs the study and prints its results."""

from __future__ import annotations

import numpy as np
import torch

from workflows.studies.options import ParityOptions, ParityRecipe
from workflows.studies.parity import ACCURACY, BITS, DATALOADER, bits, summary
from workflows.studies.parity.arm_runs import ArmRun, train_arm
from workflows.studies.parity.data import ParityData, open_parity_data
from workflows.studies.parity.results import (
    BITS_FILE,
    add_run,
    comparisons_of,
    runs_of,
    settings_of,
)
from workflows.studies.results import ResultsFolder
from workflows.studies.runs import left_out_line
from workflows.terminal.formatting import counted
from workflows.terminal.progress import Progress


def parity(options: ParityOptions, recipe: ParityRecipe) -> int:
    """Run the study, or continue it, and print its results.

    What is finished is recorded in the folder `--out`, a line for each compared setting and each
    run, and is not done again. Torch's number of threads and its global seed are set in this
    process.

    Args:
        options: The source, the store, the folder, and which parts, arms and seeds there are.
        recipe: The options of the classifier that is trained.

    Returns:
        The exit status: 0, or 1 if weights differ that should be equal to the bit.

    Raises:
        TesseraeError: The source, the store or the folder cannot be used, they do not belong
            together, or training diverges.
        ValueError: An option has an invalid value.
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
    """
    torch.set_num_threads(options.threads)
    data = open_parity_data(options, recipe, report=lambda line: print(line, flush=True))
    if BITS in options.parts:
        bits.settings_of(data)  # it refuses batches that ranks cannot share, before any work
    results = ResultsFolder(options.out, "parity")
    with results.locked():
        results.check_settings(settings_of(data, threads=options.threads))
        print(f"results: {options.out}")
        print(
            f"split {data.split}: {counted(len(data.samples), 'image')} of"
            f" {len(data.classes):,} classes, decoded from {options.source} for the DataLoader"
        )
        print(summary.recipe_line(data.recipe), flush=True)
        try:
            is_equal = _compare_bits(options, data, results) if BITS in options.parts else True
            if ACCURACY in options.parts:
                _train_arms(options, data, results)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_resume_advice(options, results)) from None
    return 0 if is_equal else 1


def _resume_advice(options: ParityOptions, results: ResultsFolder) -> str:
    runs = counted(len(runs_of(results)), "run")
    settings = counted(len(comparisons_of(results)), "compared setting")
    return (
        f"Run the same command again to continue: {options.out} has {settings} and {runs} that are"
        " finished."
    )


def _compare_bits(options: ParityOptions, data: ParityData, results: ResultsFolder) -> bool:
    """Compare what is not compared yet, and return True if all weights are equal."""
    steps = len(data.samples) // data.recipe.batch_size
    print(
        f"\nsame order and pixels, {counted(steps, 'step')} with each feed from the same weights:",
        flush=True,
    )
    comparisons = comparisons_of(results)
    equal = []
    for name, (form, num_ranks) in bits.settings_of(data).items():
        if name not in comparisons:
            comparison = bits.compare(data, form, num_ranks, threads=options.threads)
            results.append(comparison, BITS_FILE)
            comparisons[name] = comparison
        print(summary.comparison_line(comparisons[name]), flush=True)
        equal.append(comparisons[name].is_equal)
    return all(equal)


def _train_arms(options: ParityOptions, data: ParityData, results: ResultsFolder) -> None:
    arms = tuple(dict.fromkeys(options.arms))
    pairs = [(seed, arm) for seed in range(options.seeds) for arm in arms]
    steps = data.recipe.steps
    num_images = steps * data.recipe.batch_size
    runs = runs_of(results)
    print(f"\nown orders, {data.trained_form} images, {steps:,} steps a run:")
    print(summary.window_line(data), flush=True)
    left_out = sorted({seed for seed, arm in runs if arm in arms} - {*range(options.seeds)})
    if left_out:
        print(left_out_line("own orders", left_out), flush=True)
    finished = [pair for pair in pairs if pair in runs]
    for pair in finished:
        print(summary.run_line(runs[pair], num_images), flush=True)
    if len(finished) < len(pairs):
        with Progress("own orders", rows=steps * len(pairs), unit="steps") as progress:
            progress.set_initial_rows(steps * len(finished))
            for seed, arm in pairs:
                if (seed, arm) in runs:
                    continue
                progress.detail(f"seed {seed}, {arm}")
                run = train_arm(data, arm, seed, on_step=lambda: progress.update(rows=1))
                add_run(results, run)
                runs[seed, arm] = run
                progress.note(summary.run_line(run, num_images))
    _print_table(options, data, [runs[pair] for pair in pairs])


def _print_table(options: ParityOptions, data: ParityData, runs: list[ArmRun]) -> None:
    loader = data.held_out_loader(data.trained_form)
    labels = loader.labels[loader.epoch_order(0).rows(0, loader.num_rows)]
    chance = summary.largest_class_share(np.asarray(labels))
    print()
    for line in summary.table_lines(runs, chance=chance, margin=options.margin):
        print(line)
    if DATALOADER not in options.arms:
        print(f"no differences: --arms has no {DATALOADER}")
    print(summary.recipe_line(data.recipe), flush=True)
