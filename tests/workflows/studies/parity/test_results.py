"""What the folder of the study records, and which runs it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import TesseraeError
from workflows.studies.parity.arm_runs import ArmRun
from workflows.studies.parity.bits import Comparison
from workflows.studies.parity.results import BITS_FILE, add_run, comparisons_of, runs_of
from workflows.studies.results import ResultsFolder

RUN = ArmRun(seed=0, arm="random", accuracy=0.5, loss=1.5, initial_weights="ab", seconds=2.0)
COMPARISON = Comparison("raw, 1 rank", 3, 24, 74, 1_000, "")


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    """Return the folder of a study with one finished run."""
    folder = ResultsFolder(tmp_path)
    add_run(folder, RUN)
    folder.append(COMPARISON, BITS_FILE)
    return folder


def test_finished_runs_are_read_again(results: ResultsFolder) -> None:
    """Runs and comparisons come back as they were written."""
    second = replace(RUN, arm="dataloader", accuracy=0.25)
    add_run(results, second)
    assert runs_of(results) == {(0, "random"): RUN, (0, "dataloader"): second}
    assert comparisons_of(results) == {"raw, 1 rank": COMPARISON}


def test_runs_of_a_seed_with_other_initial_weights_are_refused(results: ResultsFolder) -> None:
    """They are no pair: another version of the software has drawn them."""
    add_run(results, replace(RUN, seed=1, initial_weights="cd"))
    with pytest.raises(TesseraeError, match="do not start from the same weights: windowed has cd"):
        add_run(results, replace(RUN, arm="windowed", initial_weights="cd"))
    assert (0, "windowed") not in runs_of(results)
