"""Trials in real processes: their rates, their errors, and their end."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from pipeline.errors import TesseraeError
from tests.images import make_folder
from tests.pipeline.ingest.test_trial import samples_of, work_of
from workflows.preparation.tuning.settings import Setting
from workflows.preparation.tuning.trials import TrialKilledError, Trials


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
        with pytest.raises(TrialKilledError, match="killed during a trial of 2 workers x 1 thread"):
            trials.measure(Setting(2, 1, 1), 0.1)
        assert not any(process.is_running() for process in processes)
        assert trials.measure(Setting(2, 1, 1), 0.1).images_per_second > 0
        processes = [psutil.Process(process.pid) for process in trials._processes]
    assert not any(process.is_running() for process in processes)


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
