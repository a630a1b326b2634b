"""Trials in real processes: their rates, their errors, and their end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.errors import TesseraeError
from pipeline.ingest.trial import TrialCount
from tests.images import make_folder
from tests.pipeline.ingest.test_trial import samples_of, work_of
from workflows.preparation.tuning.settings import Setting
from workflows.preparation.tuning.trial_process import Trial, TrialResult
from workflows.preparation.tuning.trials import Rate, TrialKilledError, Trials


def test_processes_and_threads_work_and_end(tmp_path: Path) -> None:
    """Two processes of two threads have a rate; a process that dies is an error."""
    source = make_folder(tmp_path / "source", 60)
    samples = samples_of(source)
    with Trials(2, work_of(source), samples, store=None, run="") as trials:
        rate = trials.measure(Setting(2, 2, 1), 0.1)
        assert rate.images_per_second > 0
        assert 0 <= rate.wait_share < 1
        assert trials.measure(Setting(1, 1, 2), 0.1).images_per_second > 0
        processes = [psutil.Process(process.pid) for process in trials._processes]
        processes[1].kill()
        next_sample = trials._next_sample
        with pytest.raises(TrialKilledError, match="killed during a trial of 2 workers x 1 thread"):
            trials.measure(Setting(2, 1, 1), 0.1)
        assert not any(process.is_running() for process in processes)
        assert trials._next_sample > next_sample + 10  # those that may have killed it are passed by
        assert trials.measure(Setting(2, 1, 1), 0.1).images_per_second > 0
        processes = [psutil.Process(process.pid) for process in trials._processes]
    assert not any(process.is_running() for process in processes)


def test_the_rate_is_that_of_all_threads() -> None:
    """Rates of threads add up, and the next trial begins behind the samples that were read."""

    class Answer:
        """The end of a connection to a process that has counted two threads."""

        def __init__(self, *counts: TrialCount) -> None:
            self.counts = counts
            self.trials: list[Trial] = []

        def send(self, trial: Trial) -> None:
            self.trials.append(trial)

        def poll(self, seconds: float) -> bool:
            return True

        def recv(self) -> TrialResult:
            return TrialResult(self.counts)

    work: Any = None
    answers = (
        Answer(TrialCount(100, 2.0, 1.0, 120, 3), TrialCount(60, 2.0, 0.0, 70, 4)),
        Answer(TrialCount(30, 1.0, 0.5, 50), TrialCount(40, 1.0, 0.0, 45)),
    )
    trials = Trials(2, work, [work] * 400, store=None, run="")
    trials._processes, trials._connections = [work, work], list(answers)  # type: ignore[arg-type]
    assert trials.measure(Setting(2, 2, 1), 0.5) == Rate(150.0, 0.25, 285, 7)
    trials.measure(Setting(2, 2, 1), 0.5)
    starts = [[trial.start for trial in answer.trials] for answer in answers]
    assert starts == [[0, 121], [200, 321]]


def test_the_error_of_a_process_is_that_of_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence names the store that cannot be written to."""
    source = make_folder(tmp_path / "source", 40)
    store = str(tmp_path / "store")  # no run has begun there
    with (
        Trials(1, work_of(source), samples_of(source), store=store, run="tune-1") as trials,
        pytest.raises(TesseraeError, match="run 'tune-1' was ended"),
    ):
        trials.measure(Setting(1, 1, 1), 0.1)
