"""The share of time in which the interpreter's lock is held."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.workflows.studies.parallel.test_measured import PROGRAM, file_list
from workflows.studies.parallel.lock import find_sampler, held_share, sampled
from workflows.studies.parallel.measured import Task

CALIBRATION = "main (a/measured.py:9);calibrate (a/measured.py:3) 200"


def test_samples_are_scaled_by_the_calibration() -> None:
    """Stacks of imports do not count, those of threads do."""
    stacks = [
        CALIBRATION,
        "main (a/measured.py:9);measure (a/measured.py:30) 20",
        "run (threading.py:9);_worker (concurrent/futures/thread.py:8);render (a/measured.py:7) 40",
        "main (a/measured.py:9);<module> (numpy/__init__.py:1) 500",
    ]
    assert held_share(stacks, 2.0) == pytest.approx(60 / 2 / 200)
    assert held_share(stacks, 0.1) == 1.0
    assert held_share([CALIBRATION], 2.0) == pytest.approx(1 / 2 / 200)


def test_too_few_samples_tell_nothing() -> None:
    """The sampler was not permitted to look, or came too late."""
    assert held_share([], 2.0) is None
    assert held_share(["calibrate (measured.py:3) 9", "measure (measured.py:4) 9"], 2.0) is None


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_decoding_thread_holds_the_lock_sometimes(tmp_path: Path) -> None:
    """Libraries release it while they decode."""
    sampler = find_sampler()
    if sampler is None:
        pytest.skip("py-spy is not installed")
    task = Task(files=str(file_list(tmp_path)), size=64, calibrate=True, repeats=300)
    try:
        output, stacks = sampled([sys.executable, str(PROGRAM), json.dumps(asdict(task))], sampler)
    except subprocess.CalledProcessError as e:
        pytest.skip(f"py-spy may not look at other processes: {e.stderr}")
    result = json.loads(next(line for line in output.splitlines() if line.startswith("{")))
    share = held_share(stacks, result["seconds"])
    assert share is not None
    assert 0.01 < share < 0.95
