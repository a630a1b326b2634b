"""Runs of arms and seeds: each is run once, and a study that is broken off goes on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from workflows.studies.results import ResultsFolder
from workflows.studies.runs import StudyRun, run_arms


def run_all(
    results: ResultsFolder, run: object, arms: tuple[str, ...] = ("a", "b")
) -> list[StudyRun]:
    """Run two arms with two seeds."""
    return run_arms(
        results, arms, (0, 1), run, title="runs", line=lambda r: f"{r.arm} {r.seed} {r.metrics}"
    )  # type: ignore[arg-type]


def test_a_study_that_is_broken_off_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No finished run is repeated, and all runs are returned in their order."""
    results, calls = ResultsFolder(tmp_path), []

    def run(arm: str, seed: int) -> dict[str, float]:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append((arm, seed))
        return {"value": 10 * seed + ord(arm)}

    with pytest.raises(KeyboardInterrupt, match=r"to continue: .* has 3 runs that are finished"):
        run_all(results, run)
    assert calls == [("a", 0), ("b", 0), ("a", 1)]
    capsys.readouterr()
    rest = []

    def run_rest(arm: str, seed: int) -> dict[str, float]:
        rest.append((arm, seed))
        return {"value": 0.0}

    runs = run_all(ResultsFolder(tmp_path), run_rest)
    assert rest == [("b", 1)]
    assert [(r.arm, r.seed, r.metrics["value"]) for r in runs] == [
        ("a", 0, 97.0), ("b", 0, 98.0), ("a", 1, 107.0), ("b", 1, 0.0),
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.index("a 0") < printed.index("b 0") < printed.index("a 1") < printed.index("b 1")


def test_arms_can_be_run_one_after_the_other(tmp_path: Path) -> None:
    """All seeds of an arm come before the next arm, where they share costly work."""
    calls = []

    def run(arm: str, seed: int) -> dict[str, float]:
        calls.append((arm, seed))
        return {"value": 1.0}

    runs = run_arms(
        ResultsFolder(tmp_path), ("a", "b"), (0, 1), run,
        title="runs", line=lambda r: r.arm, arm_by_arm=True,
    )  # fmt: skip
    assert calls == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert [(r.arm, r.seed) for r in runs] == calls


def test_a_metric_without_a_finite_value_is_left_out(tmp_path: Path) -> None:
    """A run that diverged is finished, and is read again."""
    results = ResultsFolder(tmp_path)
    first = run_all(results, lambda arm, seed: {"x": math.nan, "y": 1.0, "z": math.inf})
    again = run_all(results, lambda arm, seed: {})
    assert first == again
    assert {tuple(run.metrics) for run in again} == {("y",)}


def test_finished_seeds_that_are_left_out_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A report with fewer seeds replaces one with more; those of other arms are no part of it."""
    run_all(ResultsFolder(tmp_path), lambda arm, seed: {"x": 1.0})
    assert "leaves out" not in capsys.readouterr().out
    line = (
        "runs: the folder has finished runs of seed 1 that the report leaves out; pass --seeds 2 to"
        " include them\n"
    )
    for arm, is_named in (("a", True), ("c", False)):
        run_arms(
            ResultsFolder(tmp_path), (arm,), (0,), lambda arm, seed: {"x": 1.0},
            title="runs", line=lambda run: run.arm,
        )  # fmt: skip
        assert (line in capsys.readouterr().out) == is_named


def test_a_failed_run_is_not_recorded(tmp_path: Path) -> None:
    """Its error is that of the study."""
    results = ResultsFolder(tmp_path)
    with pytest.raises(ZeroDivisionError):
        run_all(results, lambda arm, seed: {"x": 1 / (ord(arm) - 98)})
    assert len(results.records(StudyRun, "runs.jsonl")) == 1
