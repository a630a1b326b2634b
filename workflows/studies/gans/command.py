"""The implementation of `tesserae study two-changes`, `hacks` and `adversarial`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from workflows.studies.gans import adversarial as adversarial_study
from workflows.studies.gans import hacks as hacks_study
from workflows.studies.gans import two_changes as two_changes_study
from workflows.studies.gans.adversarial import ColourExperiment
from workflows.studies.gans.experiment import (
    SAMPLES_FOLDER,
    open_experiment,
    open_study_images,
    parse_device,
    small_version,
)
from workflows.studies.gans.options import (
    AdversarialOptions,
    HacksOptions,
    StoredImagesOptions,
    TwoChangesOptions,
)
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

    def report(
        options: TwoChangesOptions, results: ResultsFolder, device: torch.device
    ) -> StudyReport:
        experiment = open_experiment(options, results, device)
        return two_changes_study.two_changes(options, experiment)

    return _run(options, report)


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

    def report(options: HacksOptions, results: ResultsFolder, device: torch.device) -> StudyReport:
        return hacks_study.hacks(options, open_experiment(options, results, device))

    return _run(options, report)


def adversarial(options: AdversarialOptions) -> int:
    """Run the study of colourisation with and without a critic, or continue it, and report it.

    Torch's number of threads and its global seed are set in this process.

    Args:
        options: The images, the size of the runs, the folder, the number of seeds, and the
            objectives and weights of the adversarial loss.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: The store, the source or the folder cannot be used.
        ValueError: An option has an invalid value.
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
    """

    def report(
        options: AdversarialOptions, results: ResultsFolder, device: torch.device
    ) -> StudyReport:
        store, images = open_study_images(options, results)
        experiment = ColourExperiment(options, store, images, results, device)
        return adversarial_study.adversarial(options, experiment)

    return _run(options, report)


def _run(
    options: AnyOptions,
    report: Callable[[AnyOptions, ResultsFolder, torch.device], StudyReport],
) -> int:
    device = parse_device(options.device)
    torch.set_num_threads(options.threads)
    options = small_version(options)
    results = ResultsFolder(options.folder, options.STUDY)
    with results.locked():
        print(f"results: {options.folder}", flush=True)
        publish(report(options, results, device), options.folder)
        print(f"samples: {options.folder / SAMPLES_FOLDER}", flush=True)
    return 0
