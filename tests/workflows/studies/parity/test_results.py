"""The folder of a study: what is finished, and for which settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import TesseraeError
from workflows.studies.parity.arm_runs import ArmRun
from workflows.studies.parity.bits import Comparison
from workflows.studies.parity.results import ResultsFolder

RUN = ArmRun(seed=0, arm="random", accuracy=0.5, loss=1.5, initial_weights="ab", seconds=2.0)
COMPARISON = Comparison("raw, 1 rank", 3, 24, 74, 1_000, "")


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    """Return the folder of a study with one finished run."""
    folder = ResultsFolder(tmp_path)
    folder.check_settings({"epochs": 2, "crop": "random"})
    folder.add_run(RUN)
    folder.add_comparison(COMPARISON)
    return folder


def test_finished_runs_are_read_again(results: ResultsFolder) -> None:
    """Runs and comparisons come back as they were written."""
    second = replace(RUN, arm="dataloader", accuracy=0.25)
    results.add_run(second)
    again = ResultsFolder(results.path)
    assert again.runs() == {(0, "random"): RUN, (0, "dataloader"): second}
    assert again.comparisons() == {"raw, 1 rank": COMPARISON}


def test_other_settings_are_refused_by_name(results: ResultsFolder) -> None:
    """The message has both values; the same settings are accepted."""
    results.check_settings({"epochs": 2, "crop": "random"})
    with pytest.raises(TesseraeError, match=r"epochs is 2 in the folder and 3 here. Pass the same"):
        results.check_settings({"epochs": 3, "crop": "random"})
    with pytest.raises(TesseraeError, match="crop is 'random' in the folder and None here"):
        results.check_settings({"epochs": 2})


def test_a_folder_of_other_files_is_refused(tmp_path: Path) -> None:
    """Nothing is written beside files that are not of a study."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(TesseraeError, match=r"no folder of this study: it contains 'thesis.tex'"):
        ResultsFolder(tmp_path).check_settings({"epochs": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_incomplete_line_is_dropped(results: ResultsFolder) -> None:
    """A command that was killed while it wrote a line has not finished that run."""
    file = results.path / "runs.jsonl"
    with file.open("a") as out:
        out.write('{"seed": 0, "arm": "windo')
    assert list(results.runs()) == [(0, "random")]
    results.add_run(replace(RUN, seed=1))
    assert list(results.runs()) == [(0, "random"), (1, "random")]
    assert [json.loads(line)["seed"] for line in file.read_text().splitlines()] == [0, 1]


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"seed": "x"}', '{"seed": 0}'])
def test_a_damaged_line_is_an_error(results: ResultsFolder, line: str) -> None:
    """It is not taken for a run that is missing."""
    with (results.path / "runs.jsonl").open("a") as out:
        out.write(f"{line}\n")
    with pytest.raises(TesseraeError, match=r"runs.jsonl is damaged: .* Remove the line"):
        results.runs()


def test_runs_of_a_seed_with_other_initial_weights_are_refused(results: ResultsFolder) -> None:
    """They are no pair: another version of the software has drawn them."""
    results.add_run(replace(RUN, seed=1, initial_weights="cd"))
    with pytest.raises(TesseraeError, match="do not start from the same weights: windowed has cd"):
        results.add_run(replace(RUN, arm="windowed", initial_weights="cd"))
    assert (0, "windowed") not in results.runs()


def test_two_commands_cannot_use_a_folder_at_once(tmp_path: Path) -> None:
    """The second one is told so, and ends."""
    second = ResultsFolder(tmp_path / "out").locked()
    with (
        ResultsFolder(tmp_path / "out").locked(),
        pytest.raises(TesseraeError, match=r"out is in use by process \d+"),
        second,
    ):
        pass
