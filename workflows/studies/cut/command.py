"""The implementation of `tesserae study cut`: it runs the study and writes its report."""

from __future__ import annotations

import torch

from workflows.studies.cut.experiment import CutStudy
from workflows.studies.cut.options import CutOptions
from workflows.studies.cut.summary import report_of, run_line
from workflows.studies.report import publish
from workflows.studies.results import ResultsFolder
from workflows.studies.runs import run_arms
from workflows.terminal.formatting import counted


def cut(options: CutOptions) -> int:
    """Run the study, or continue it, and print and write its report.

    What is finished is recorded in the folder `--out`, a line for each run, and is not done again.
    Torch's number of threads is set in this process.

    Args:
        options: The options of the study.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: A network, a store, the word vectors or the folder cannot be used, or there
            are too few classes or images.
        ValueError: An option has an invalid value.
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
    """
    torch.set_num_threads(options.threads)
    study = CutStudy(options)
    results = ResultsFolder(options.folder, options.STUDY)
    with results.locked():
        results.check_settings(study.settings())
        print(f"results: {options.folder}")
        for network in study.networks:
            cuts = counted(len(network.cuts), "cut")
            print(f"{network.name}: {cuts}, images of {network.backbone.size} px", flush=True)
        runs = run_arms(
            results, list(study.arms), range(options.seeds), study.run,
            title="cuts", line=run_line, arm_by_arm=True,
        )  # fmt: skip
        study.clear_cache()
        publish(report_of(study, runs), options.folder)
    return 0
