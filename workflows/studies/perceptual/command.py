"""The implementation of `tesserae study perceptual`: it runs the study and writes its report."""

from __future__ import annotations

import torch

from workflows.studies.perceptual.experiment import LossExperiment
from workflows.studies.perceptual.images import open_pairs
from workflows.studies.perceptual.options import PerceptualOptions
from workflows.studies.perceptual.samples import SAMPLES_FOLDER
from workflows.studies.perceptual.summary import report_of, run_line
from workflows.studies.report import publish
from workflows.studies.results import ResultsFolder
from workflows.studies.runs import run_arms
from workflows.training.devices import parse_device


def perceptual(options: PerceptualOptions) -> int:
    """Run the study of losses for super-resolution, or continue it, and print and write its report.

    What is finished is recorded in the folder `--out`, a line for each run, and is not done again.
    Torch's number of threads and its global seed are set in this process.

    Args:
        options: The images, the vision networks, how networks are trained, and the folder.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: The store, a vision network or the folder cannot be used.
        ValueError: An option has an invalid value.
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
    """
    device = parse_device(options.device)
    torch.set_num_threads(options.threads)
    # Some algorithms of cuDNN give other figures in each run, even with equal seeds.
    torch.backends.cudnn.deterministic = True
    results = ResultsFolder(options.folder, options.STUDY)
    # First, as a wrong store or network would leave the folder behind.
    experiment = LossExperiment(options, open_pairs(options), results, device)
    with results.locked():
        results.check_settings(experiment.settings())
        print(f"results: {options.folder}")
        print(experiment.pairs.description, flush=True)
        experiment.set_steps()
        runs = run_arms(
            results, list(experiment.arms), range(options.seeds), experiment.run,
            title="losses", line=run_line,
        )  # fmt: skip
        publish(report_of(experiment, runs), options.folder)
        print(f"crops: {options.folder / SAMPLES_FOLDER}", flush=True)
    return 0
