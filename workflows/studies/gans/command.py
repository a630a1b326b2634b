"""The implementation of `tesserae study two-changes` and `tesserae study hacks`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from workflows.studies.gans import hacks as hacks_study
from workflows.studies.gans import two_changes as two_changes_study
from workflows.studies.gans.experiment import (
    SAMPLES_FOLDER,
    GanExperiment,
    open_experiment,
    parse_device,
    small_version,
)
from workflows.studies.gans.options import HacksOptions, StoredImagesOptions, TwoChangesOptions
from workflows.studies.report import StudyReport, publish
from workflows.studies.results import ResultsFolder

AnyOptions = TypeVar("AnyOptions", bound=StoredImagesOptions)


def two_changes(options: TwoChangesOptions) -> int:
    """Run the study of two changes, or continue it, and print and write its report.

    Torch's number of threads and its global seed are set in this process.

    Args:
        options: The images, the size of the runs, the folder and the number of seeds.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: The store, the source or the folder cannot be used.
        ValueError: An option has an invalid value.
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
    """
    return _run(options, two_changes_study.two_changes)


def hacks(options: HacksOptions) -> int:
    """Run the study of tips for training GANs, or continue it, and print and write its report.

    Torch's number of threads and its global seed are set in this process.

    Args:
        options: The images, the size of the runs, the folder, the number of seeds, and the tips.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: The store, the source or the folder cannot be used.
        ValueError: An option has an invalid value.
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
    """
    return _run(options, hacks_study.hacks)


def _run(options: AnyOptions, study: Callable[[AnyOptions, GanExperiment], StudyReport]) -> int:
    device = parse_device(options.device)
    torch.set_num_threads(options.threads)
    options = small_version(options)
    results = ResultsFolder(options.folder, options.STUDY)
    with results.locked():
        experiment = open_experiment(options, results, device)
        print(f"results: {options.folder}")
        print(experiment.images.description, flush=True)
        publish(study(options, experiment), options.folder)
        print(f"samples: {options.folder / SAMPLES_FOLDER}", flush=True)
    return 0
