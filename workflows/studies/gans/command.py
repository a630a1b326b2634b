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
    STORE_FOLDER,
    open_experiment,
    prepare_source,
    study_settings,
)
from workflows.studies.gans.images import StudyImages, open_images
from workflows.studies.gans.options import (
    AdversarialOptions,
    HacksOptions,
    StoredImagesOptions,
    TwoChangesOptions,
)
from workflows.studies.report import StudyReport, publish
from workflows.studies.results import ResultsFolder
from workflows.training.devices import parse_device

AnyOptions = TypeVar("AnyOptions", bound=StoredImagesOptions)
AnyExperiment = TypeVar("AnyExperiment")


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
    return _run(options, open_experiment, two_changes_study.two_changes)


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
    return _run(options, open_experiment, hacks_study.hacks)


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
    return _run(options, ColourExperiment, adversarial_study.adversarial)


def _run(
    options: AnyOptions,
    experiment: Callable[[AnyOptions, StudyImages, ResultsFolder, torch.device], AnyExperiment],
    study: Callable[[AnyOptions, AnyExperiment], StudyReport],
) -> int:
    device = parse_device(options.device)
    torch.set_num_threads(options.threads)
    # Some algorithms of cuDNN give other figures in each run, even with equal seeds.
    torch.backends.cudnn.deterministic = True
    results = ResultsFolder(options.folder, options.STUDY)
    # A store is opened before the folder is created, which a wrong one would leave behind.
    images = None if options.store is None else _open(options, options.store)
    with results.locked():
        print(f"results: {options.folder}", flush=True)
        if images is None:
            # Before hours of work, and before a store is written into the folder of another study.
            results.check_known_settings(study_settings(options), own_entries=(STORE_FOLDER,))
            images = _open(options, prepare_source(options))
        print(images.description, flush=True)
        publish(study(options, experiment(options, images, results, device)), options.folder)
        print(f"samples: {options.folder / SAMPLES_FOLDER}", flush=True)
    return 0


def _open(options: StoredImagesOptions, store: str) -> StudyImages:
    return open_images(
        store,
        options.split,
        options.held_out,
        image_size=options.image_size,
        max_images=options.max_images,
    )
