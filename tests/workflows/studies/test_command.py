"""The studies that only print: their summaries, and what they say when they are interrupted."""

from __future__ import annotations

import math
from typing import Any

import pytest

from workflows.cli import main
from workflows.studies import digits
from workflows.studies.digits import TrainingCurves

RISING = [float(n) for n in range(10)]


@pytest.mark.parametrize(
    ("seeds", "of_second", "summary"),
    [
        (1, [], "1.000 (one run has no interval; pass more --seeds)"),
        (2, [1.0, 0.0, *RISING[2:]], "1.000 (95 % 1.000 to 1.000)"),
        (2, [*RISING[:2], 9.0, *RISING[3:9], 2.0], "0.417 (95 % -1.000 to 1.000)"),
        (2, [math.nan] * 10, "undefined, as a run has none"),
    ],
)
def test_the_mean_of_correlations_has_an_interval_if_there_is_one(
    seeds: int,
    of_second: list[float],
    summary: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One run has none, and no correlation is beyond 1."""

    def run_arm(*args: Any, seed: int, **kwargs: Any) -> TrainingCurves:
        return TrainingCurves(list(range(10)), RISING, of_second if seed else RISING)

    monkeypatch.setattr(digits, "run_arm", run_arm)
    monkeypatch.setattr(digits, "controls", lambda rows: {})
    words = ["--objectives", "wgan", "--settings", "paper", "--seeds", str(seeds)]
    assert main(["study", "digits", *words]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"mean rank correlation {summary}")


@pytest.mark.parametrize("study", ["gaussians", "digits", "devise"])
def test_the_help_says_that_nothing_is_recorded(
    study: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both of the study and of all studies; they have no --out that could continue."""
    for words in (["study"], ["study", study]):
        with pytest.raises(SystemExit):
            main([*words, "--help"])
    listed, own = capsys.readouterr().out.split("usage: ")[1:]
    assert "`gaussians`, `digits` and `devise` only print their results, and begin anew" in listed
    assert "It records nothing: if it is interrupted, it begins anew." in own
    assert "--out" not in own


def test_an_interrupted_study_that_records_nothing_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The word `stopped` alone would leave open what is kept."""

    def interrupted(rows: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(digits, "controls", interrupted)
    assert main(["study", "digits"]) == 130
    assert "stopped. This study records nothing: the same command begins anew." in (
        capsys.readouterr().err
    )
