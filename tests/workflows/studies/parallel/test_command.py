"""`tesserae study parallel` as a command, and its answers."""

from __future__ import annotations

import html
import json
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import TesseraeError
from tests.commands import run, start, wait_until
from tests.images import make_folder
from workflows.studies.intervals import MeanInterval
from workflows.studies.parallel import command
from workflows.studies.parallel.arms import arms_of
from workflows.studies.parallel.environments import (
    SIMD,
    STOCK,
    EnvironmentUnavailableError,
    Interpreter,
)
from workflows.studies.parallel.options import ParallelOptions
from workflows.studies.parallel.summary import ratio_text, report_of
from workflows.studies.report import StudyReport
from workflows.studies.runs import StudyRun

OWN = Interpreter("python", SIMD, "12.1.1.post0")
OTHER = Interpreter("other", STOCK, "12.1.1")
FREE = Interpreter("free", STOCK, "12.1.1", has_lock=False, decoders=("pillow",))


def report_with(*interpreters: Interpreter, **metrics: float) -> StudyReport:
    """Return a report of three rounds that differ by a factor of ten, on a machine of two cores."""
    arms = list(arms_of(list(interpreters), cores=2))
    runs = []
    for seed, machine in enumerate((1.0, 10.0, 3.0)):
        for arm in arms:
            resize = 0.2 if arm.interpreter is OWN else 1.2
            gain = 1.8 if arm.interpreter.has_lock else 2.0
            rate = machine * 400 * (gain if arm.method == "threads" else 1.0)
            values = {
                "images_per_second": rate, "cpu_ms": 2.0, "memory_bytes": 1e8, "checksum": 1.0,
                "decode_ms": 2.0 / machine, "resize_ms": resize / machine, **metrics,
            }  # fmt: skip
            if arm.interpreter is FREE:
                values["decode_ms"] *= 7
            if arm.method == "serial" and arm.interpreter.has_lock:
                values["lock_share"] = 0.05
            runs.append(StudyRun(arm=arm.name, seed=seed, metrics=values, seconds=1.0))
    return report_of(runs, arms, {})


def test_answers_follow_from_paired_rounds() -> None:
    """Rounds differ by a factor of ten, and ratios of the same round do not."""
    report = report_with(OWN, OTHER)
    answers = "\n".join(report.answers)
    assert "Resizing with Pillow-SIMD, beside Pillow: 6.00 (6.00 to 6.00) times as fast." in answers
    assert "resizing together would be 1.60 (1.60 to 1.60) times as fast with Pillow" in answers
    assert (
        "2 threads, from memory, beside 2 processes that keep pixels: 1.80 (1.80 to 1.80) times"
        in answers
    )
    assert "4 threads, from the disk, beside 2 of them: no difference seen" in answers
    assert "the lock alone would allow 20 threads to work at once" in answers
    assert set(report.figures) == {"methods-warm", "methods-cold"}
    assert report.tables[-1].rows[-1] == ["16 threads", "3.22", "621", "7.86"]


@pytest.mark.parametrize("own", [OWN, OTHER])
def test_an_interpreter_without_a_lock_changes_no_other_answer(own: Interpreter) -> None:
    """Its Python differs, too, so that it is compared with itself alone."""
    interpreters = [own, *({OWN, OTHER} - {own})]
    plain, report = report_with(*interpreters), report_with(*interpreters, FREE)
    added = [answer for answer in report.answers if answer not in plain.answers]
    assert added == [
        "2 threads, no lock, from memory, beside serial, no lock: 2.00 (2.00 to 2.00) times as"
        " fast.",
        "4 threads, no lock, from memory, beside serial, no lock: 2.00 (2.00 to 2.00) times as"
        " fast.",
    ]
    assert set(plain.answers) <= set(report.answers)
    titles = [table.title for table in report.tables]
    assert "Pillow without a lock, files in memory" in titles
    assert [row[0] for row in report.tables[0].rows][-1] == "Pillow, no lock"


def test_nothing_is_said_about_files_that_stay_in_memory() -> None:
    """Some file systems do not remove pages on demand: arms that are named cold are warm there."""
    report = report_with(OWN, cached_share=1.0)
    assert set(report.figures) == {"methods-warm"}
    assert not any("from the disk" in answer for answer in report.answers)
    assert any("could not be removed from the page cache" in note for note in report.notes)
    assert set(report_with(OWN, cached_share=0.0).figures) == {"methods-warm", "methods-cold"}


def test_methods_with_other_pixels_are_refused() -> None:
    """They did not do the same work; those of another library may differ."""
    arms = {arm.name: arm for arm in arms_of([OWN, OTHER], cores=2)}
    names = [name for name, arm in arms.items() if arm.library == "simplejpeg + Pillow-SIMD"]
    other = "Pillow, serial, warm"
    runs = [
        StudyRun(arm=name, seed=0, metrics={"checksum": 7.0 if name == other else 5.0}, seconds=1.0)
        for name in (*names, other)
    ]
    command._check_pixels(runs, arms)
    changed = StudyRun(arm=names[-1], seed=1, metrics={"checksum": 6.0}, seconds=1.0)
    with pytest.raises(TesseraeError, match=re.escape(f"{names[-1]} of round 1 made other")):
        command._check_pixels([*runs, changed], arms)


@pytest.fixture
def choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return options of a study whose methods take no time, on a machine without py-spy."""
    metrics = {"images_per_second": 1.0, "cpu_ms": 1.0, "decode_ms": 1.0, "resize_ms": 1.0}
    metrics |= {"memory_bytes": 1.0, "checksum": 1.0}
    monkeypatch.setattr(command, "_measured", lambda *_: metrics)
    monkeypatch.setattr(command, "find_sampler", lambda: None)
    monkeypatch.setattr(command, "own_interpreter", lambda: OWN)
    monkeypatch.setattr(command, "free_threaded", lambda _: None)
    return {"source": str(make_folder(tmp_path / "source", 8)), "out": tmp_path / "out"}


def unavailable(*_: object) -> Interpreter:
    """Fail as an environment without a package index."""
    raise EnvironmentUnavailableError("no index")


def test_what_is_left_out_stands_in_the_report_and_stays_left_out(
    choices: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A study that began without a package index continues without the other Pillow."""
    options = ParallelOptions(**choices, quick=True)
    monkeypatch.setattr(command, "open_environment", unavailable)
    assert command.parallel(options) == 0
    line = "Pillow is left out: no index."
    advice = "as py-spy is not installed: run `make setup EXTRAS=studies`."
    page = (choices["out"] / "report.html").read_text()
    for text in (capsys.readouterr().out, html.unescape(page)):
        assert line in text
        assert advice in text
        assert "scaled by a second" not in text
    monkeypatch.setattr(command, "open_environment", lambda *_: OTHER)
    runs = (choices["out"] / "runs.jsonl").read_bytes()
    assert command.parallel(options) == 0
    assert (choices["out"] / "runs.jsonl").read_bytes() == runs
    again = f"Pillow is left out, as it was when the study in {choices['out']} began."
    assert again in capsys.readouterr().out


def test_an_environment_of_finished_runs_is_not_lost(
    choices: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The study stops, and continues when the environment can be created again."""
    options = ParallelOptions(**choices, quick=True)
    monkeypatch.setattr(command, "open_environment", lambda *_: OTHER)
    assert command.parallel(options) == 0
    runs = choices["out"] / "runs.jsonl"
    before = runs.read_bytes()
    assert b"Pillow, serial, warm" in before
    runs.write_bytes(before[: before.rindex(b"\n", 0, -1) + 1])
    shorter = runs.read_bytes()
    monkeypatch.setattr(command, "open_environment", unavailable)
    with pytest.raises(TesseraeError, match=r"has Pillow, which cannot be measured now: no index"):
        command.parallel(options)
    assert runs.read_bytes() == shorter
    monkeypatch.setattr(command, "open_environment", lambda *_: OTHER)
    assert command.parallel(options) == 0
    assert runs.read_bytes().count(b"\n") == before.count(b"\n")


@pytest.mark.parametrize("wrong", ["nowhere", "empty", "text.txt", "nopython"])
def test_wrong_input_is_refused_before_anything_is_written(
    choices: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str
) -> None:
    """An environment takes a while and 120 MB."""
    monkeypatch.undo()
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("hello\n")
    name = "free_threaded" if wrong == "nopython" else "source"
    value = wrong if wrong == "nopython" else str(tmp_path / wrong)
    monkeypatch.setattr(command, "open_environment", lambda *_: pytest.fail("it is created"))
    with pytest.raises(TesseraeError, match=wrong):
        command.parallel(ParallelOptions(**{**choices, name: value}))
    assert not choices["out"].exists()


def test_names_of_all_lengths_are_aligned() -> None:
    """The longest has the widest column."""
    arms = list(arms_of([OWN, OTHER], cores=2))
    width = max(len(arm.name) for arm in arms)
    metrics = {"images_per_second": 100.0, "cpu_ms": 1.0}
    lines = [
        command._line(StudyRun(arm=arm.name, seed=0, metrics=metrics, seconds=1.0), width)
        for arm in arms
    ]
    assert len(set(map(len, lines))) == 1
    assert any("2 processes, pixels sent, warm" in line for line in lines)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_study_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    """Finished rounds are kept, other images are refused, and the report is written."""
    source = make_folder(tmp_path / "source", 48)
    words = ("study", "parallel", "--source", source, "--quick", "--no-other-pillow")
    out = tmp_path / "out"
    lines = out / "runs.jsonl"

    def recorded() -> list[str]:
        return lines.read_text().splitlines() if lines.exists() else []

    with start(*words, "--out", out, scratch=tmp_path / "scratch") as running:
        assert wait_until(lambda: len(recorded()) > 3, 300)
        running.signal_all(signal.SIGKILL)
        running.wait()
    before = recorded()
    done = run(*words, "--out", out, scratch=tmp_path / "scratch", seconds=500)
    assert done.status == 0, done.err
    assert recorded()[: len(before)] == before
    names = [(json.loads(line)["arm"], json.loads(line)["seed"]) for line in recorded()]
    assert len(names) == len(set(names))
    first, second = ([arm for arm, seed in names if seed == number] for number in (0, 1))
    assert sorted(first) == sorted(second)
    assert first != second  # so that the time of day does not fall on the same methods
    assert (out / "report.html").exists()
    assert "Libraries" in done.out
    assert "its figures support no conclusion" in done.out
    (source / "n00000000").joinpath("more.JPEG").write_bytes(b"\xff\xd8\xff\xe0 no image")
    for file in (source / "n00000000").glob("*_0*"):
        file.unlink()
    other = run(*words, "--out", out, scratch=tmp_path / "scratch", seconds=500)
    assert other.status == 1
    assert "has results of other settings: image" in other.err


def test_a_ratio_shows_the_digits_of_its_verdict() -> None:
    """`1.00 (1.00 to 1.01)` beside "faster" would contradict itself."""
    assert ratio_text(MeanInterval(5, 1.003, 1.0012, 1.0051)) == "1.003 (1.001 to 1.005)"
    assert ratio_text(MeanInterval(5, 1.92, 1.85, 1.99)) == "1.92 (1.85 to 1.99)"
    assert ratio_text(MeanInterval(1, 1.5, 1.5, 1.5)) == "1.50"
