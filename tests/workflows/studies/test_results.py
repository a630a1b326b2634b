"""The folder of a study: what is finished, and for which settings."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import TesseraeError
from workflows.studies.results import ResultsFolder
from workflows.studies.runs import RUNS_FILE, StudyRun

RUN = StudyRun(arm="random", seed=0, metrics={"accuracy": 0.5}, seconds=2.0)


def arms_and_seeds(results: ResultsFolder) -> list[tuple[str, int]]:
    """Return the arm and the seed of each finished run."""
    return [(run.arm, run.seed) for run in results.records(StudyRun, RUNS_FILE)]


@pytest.fixture
def results(tmp_path: Path) -> ResultsFolder:
    """Return the folder of a study with one finished run."""
    folder = ResultsFolder(tmp_path, "test")
    folder.check_settings({"epochs": 2, "crop": "random"})
    folder.append(RUN, RUNS_FILE)
    return folder


def test_finished_runs_are_read_again(results: ResultsFolder) -> None:
    """Runs come back as they were written, in their order."""
    second = replace(RUN, arm="dataloader", metrics={"accuracy": 0.25})
    results.append(second, RUNS_FILE)
    again = ResultsFolder(results.path, "test")
    assert again.records(StudyRun, RUNS_FILE) == [RUN, second]
    assert again.records(StudyRun, "other.jsonl") == []


def test_other_settings_are_refused_by_name(results: ResultsFolder) -> None:
    """The message has both values; the same settings are accepted."""
    results.check_settings({"epochs": 2, "crop": "random"})
    with pytest.raises(TesseraeError, match=r"epochs is 2 in the folder and 3 here. Pass the same"):
        results.check_settings({"epochs": 3, "crop": "random"})
    with pytest.raises(TesseraeError, match="crop is 'random' in the folder and None here"):
        results.check_settings({"epochs": 2})


def test_early_settings_are_compared_and_not_written(
    results: ResultsFolder, tmp_path: Path
) -> None:
    """Those that are not known yet do not count."""
    results.check_early_settings({"epochs": 2})
    with pytest.raises(TesseraeError, match=r"epochs is 2 in the folder and 3 here\. Pass"):
        results.check_early_settings({"epochs": 3})
    new = tmp_path / "new"
    new.mkdir()
    ResultsFolder(new, "test").check_early_settings({"epochs": 2})
    assert list(new.iterdir()) == []


@pytest.mark.parametrize("check", ["check_settings", "check_early_settings"])
def test_a_folder_of_other_files_is_refused(tmp_path: Path, check: str) -> None:
    """Nothing is written beside files that are not of a study."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(TesseraeError, match=r"no folder of this study: it contains 'thesis.tex'"):
        getattr(ResultsFolder(tmp_path, "test"), check)({"epochs": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_incomplete_line_is_dropped(results: ResultsFolder) -> None:
    """A command that was killed while it wrote a line has not finished that run."""
    file = results.path / RUNS_FILE
    with file.open("a") as out:
        out.write('{"seed": 0, "arm": "windo')
    assert arms_and_seeds(results) == [("random", 0)]
    results.append(replace(RUN, seed=1), RUNS_FILE)
    assert arms_and_seeds(results) == [("random", 0), ("random", 1)]
    assert [json.loads(line)["seed"] for line in file.read_text().splitlines()] == [0, 1]


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"seed": "x"}', '{"seed": 0}'])
def test_a_damaged_line_is_an_error(results: ResultsFolder, line: str) -> None:
    """It is not taken for a run that is missing."""
    with (results.path / RUNS_FILE).open("a") as out:
        out.write(f"{line}\n")
    with pytest.raises(TesseraeError, match=r"runs.jsonl is damaged: .* Remove the line"):
        results.records(StudyRun, RUNS_FILE)


def test_two_commands_cannot_use_a_folder_at_once(tmp_path: Path) -> None:
    """The second one is told so, and ends."""
    second = ResultsFolder(tmp_path / "out", "test").locked()
    with (
        ResultsFolder(tmp_path / "out", "test").locked(),
        pytest.raises(TesseraeError, match=r"out is in use by process \d+"),
        second,
    ):
        pass
