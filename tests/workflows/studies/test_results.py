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
    folder = ResultsFolder(tmp_path)
    folder.check_settings({"epochs": 2, "crop": "random"})
    folder.append(RUN, RUNS_FILE)
    return folder


def test_finished_runs_are_read_again(results: ResultsFolder) -> None:
    """Runs come back as they were written, in their order."""
    second = replace(RUN, arm="dataloader", metrics={"accuracy": 0.25})
    results.append(second, RUNS_FILE)
    again = ResultsFolder(results.path)
    assert again.records(StudyRun, RUNS_FILE) == [RUN, second]
    assert again.records(StudyRun, "other.jsonl") == []


def test_other_settings_are_refused_by_name(results: ResultsFolder) -> None:
    """The message has both values; the same settings are accepted."""
    results.check_settings({"epochs": 2, "crop": "random"})
    with pytest.raises(TesseraeError, match=r"epochs is 2 in the folder and 3 here. Pass the same"):
        results.check_settings({"epochs": 3, "crop": "random"})
    with pytest.raises(TesseraeError, match="crop is 'random' in the folder and None here"):
        results.check_settings({"epochs": 2})


def test_many_settings_are_named_shortly(results: ResultsFolder) -> None:
    """Three of them at most, and no digest: the reader would look for the sentence behind it."""
    with pytest.raises(TesseraeError) as raised:
        results.check_settings({"word_digest": "ab" * 16, "epochs": 3, "source": {"a": "b"}})
    assert str(raised.value) == (
        f"--out {results.path} has results of other settings: epochs is 2 in the folder and 3 here;"
        " crop is 'random' in the folder and None here; word digest: not the same; and 1 more. Pass"
        " the same ones, or another --out."
    )


@pytest.mark.parametrize("check", ["check_settings", "check_known_settings"])
def test_a_folder_of_another_study_is_refused_by_its_name(tmp_path: Path, check: str) -> None:
    """However their settings differ; a folder without a name, of an earlier version, continues."""
    ResultsFolder(tmp_path, "cosine").check_settings({"rows": 2})
    recorded = json.loads((tmp_path / "settings.json").read_text())
    assert recorded == {"study": "cosine", "rows": 2}
    getattr(ResultsFolder(tmp_path, "cosine"), check)({"rows": 2})
    with pytest.raises(
        TesseraeError, match=r"of the study cosine, and this is the study cut\. Pass"
    ):
        getattr(ResultsFolder(tmp_path, "cut"), check)({"images": 3})
    (tmp_path / "settings.json").write_text('{"rows": 2}')
    getattr(ResultsFolder(tmp_path, "cosine"), check)({"rows": 2})
    with pytest.raises(TesseraeError, match="rows is 2 in the folder and 3 here"):
        getattr(ResultsFolder(tmp_path, "cosine"), check)({"rows": 3})


@pytest.mark.parametrize("check", ["check_settings", "check_known_settings"])
def test_a_folder_of_other_files_is_refused(tmp_path: Path, check: str) -> None:
    """Nothing is written beside files that are not of a study."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(TesseraeError, match=r"no folder of this study: it contains 'thesis.tex'"):
        getattr(ResultsFolder(tmp_path), check)({"epochs": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


def test_settings_that_a_killed_command_was_writing_do_not_block_its_folder(tmp_path: Path) -> None:
    """The temporary file is no file of somebody else."""
    (tmp_path / "settings.new").write_text('{"epo')
    ResultsFolder(tmp_path).check_settings({"epochs": 2})
    assert json.loads((tmp_path / "settings.json").read_text()) == {"epochs": 2}


def test_damaged_settings_are_an_error(results: ResultsFolder) -> None:
    """No line of them can be removed: the results would be of unknown settings."""
    (results.path / "settings.json").write_text("{")
    with pytest.raises(TesseraeError, match=r"settings.json is damaged: .* so pass another --out"):
        results.check_settings({"epochs": 2, "crop": "random"})


def test_a_folder_is_checked_before_all_settings_are_known(
    results: ResultsFolder, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Only the known ones are compared, nothing is written, and other files are refused."""
    results.check_known_settings({"epochs": 2})
    with pytest.raises(TesseraeError, match="epochs is 2 in the folder and 3 here"):
        results.check_known_settings({"epochs": 3})
    new = ResultsFolder(tmp_path_factory.mktemp("new"))
    (new.path / "store").mkdir()
    new.check_known_settings({"epochs": 3}, own_entries=("store",))
    assert [entry.name for entry in new.path.iterdir()] == ["store"]
    with pytest.raises(TesseraeError, match="it contains 'store'"):
        new.check_known_settings({"epochs": 3})


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
    with pytest.raises(TesseraeError, match=r"runs.jsonl is damaged: line 2: .* Remove the line"):
        results.records(StudyRun, RUNS_FILE)


def test_two_commands_cannot_use_a_folder_at_once(tmp_path: Path) -> None:
    """The second one is told so, and ends."""
    second = ResultsFolder(tmp_path / "out").locked()
    with (
        ResultsFolder(tmp_path / "out").locked(),
        pytest.raises(TesseraeError, match=r"out is in use by process \d+"),
        second,
    ):
        pass
