"""The process of a rank without a cluster: how it is stopped."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cluster.ranks.rank_process import EVENTS, HEADER, STOP, RankTask
from tests.commands import ROOT, wait_until


@contextmanager
def rank(entry: str, *arguments: object, save_seconds: float = 30.0) -> Iterator[Any]:
    """Run a rank with a function of `tests.cluster.walking`; yield its process and its events."""
    rank_fields = {"rank": 0, "world": 1, "generation": 1, "host": "127.0.0.1", "gpu": False}
    order = RankTask(
        f"tests.cluster.walking:{entry}", pickle.dumps(arguments), rank_fields, save_seconds
    )
    events, theirs = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-m", "cluster.ranks.rank_process"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(theirs,),
        start_new_session=True,
        env={**os.environ, EVENTS: str(theirs)},
        cwd=ROOT,
    )
    os.close(theirs)
    data = pickle.dumps(order)
    assert process.stdin is not None
    process.stdin.write(HEADER.pack(len(data)) + data)
    process.stdin.flush()
    try:
        with os.fdopen(events) as lines, process:
            try:
                yield process, lines
            finally:
                process.kill()
    finally:
        process.wait()


def test_a_rank_whose_task_is_killed_saves_and_returns(tmp_path: Path) -> None:
    """All pipes of the rank are broken by then, and a failing write must not end the rank early."""
    with rank("walk", tmp_path, 100_000, 0.01) as (process, lines):
        assert wait_until((tmp_path / "0").exists)
        lines.close()
        process.stdout.close()
        process.stdin.close()
        assert process.wait(30) == 0
    assert int((tmp_path / "0").read_text()) > 0


def test_a_rank_that_does_not_return_is_killed(tmp_path: Path) -> None:
    """A rank is killed when its time limit for saving is over."""
    with rank("start_others", tmp_path, save_seconds=0.5) as (process, _):
        assert wait_until((tmp_path / "child-0").exists)
        started = time.monotonic()
        process.stdin.close()
        assert process.wait(30) == -9
        assert time.monotonic() - started >= 0.5


@pytest.mark.parametrize(("entry", "final"), [("refuse", True), ("fail", None)])
def test_a_failing_rank_reports_its_error(entry: str, final: bool | None) -> None:
    """A final error is reported as its message alone, any other error with its type."""
    with rank(entry) as (process, lines):
        assert process.wait(30) == 1
        events = [json.loads(line) for line in lines]
    assert [line["what"] for line in events] == ["failed"]
    assert events[0].get("final") is final
    expected = {
        "refuse": "no rate is as high as 1e30.",
        "fail": "ZeroDivisionError: no more of this",
    }
    assert events[0]["error"] == expected[entry]


def test_a_rank_returns_on_a_request_to_stop() -> None:
    """The result of the rank is reported."""
    with rank("wait_to_stop") as (process, lines):
        process.stdin.write(STOP)
        process.stdin.flush()
        assert process.wait(30) == 0
        assert json.loads(lines.read())["result"] == "stopped"
