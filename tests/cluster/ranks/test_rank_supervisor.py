"""The process of a rank, as the task that supervises it ends it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from distributed.core import Status

from cluster.ranks import rank_supervisor
from cluster.ranks.rank_process import RankTask
from tests.commands import ROOT, wait_until

RANK_FIELDS = {"rank": 0, "world": 1, "generation": 1, "host": "127.0.0.1", "gpu": False}


def test_children_of_a_rank_are_killed_without_its_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard may have been killed for lack of memory, so the task kills the whole group."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    order = RankTask("tests.cluster.walking:start_others", pickle.dumps((tmp_path,)), RANK_FIELDS)
    child = rank_supervisor._RankProcess(order, lambda message: None)
    try:
        pids = tmp_path / "child-0"
        assert wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        grandchild = psutil.Process(int(pids.read_text().split()[1]))
        guards = [
            process
            for process in psutil.Process(child.process.pid).children()
            if process.pid != grandchild.pid and os.getsid(process.pid) == process.pid
        ]
        assert len(guards) == 1
        guards[0].kill()
        assert wait_until(lambda: guards[0].status() == psutil.STATUS_ZOMBIE)
    finally:
        child.close()
    assert wait_until(lambda: not grandchild.is_running(), 10)


class Child:
    """A stand-in for the process of a rank, which ends at once unless its topic is abandoned."""

    error = None
    result = 7

    def __init__(self, order: RankTask, say: Any) -> None:
        self.polls = 0

    def running(self) -> bool:
        assert rank_supervisor.is_supervised("begun")
        self.polls += 1
        assert self.polls == 1
        return "begun" in rank_supervisor._abandoned_topics

    def close(self) -> None:
        """Do nothing."""


def test_a_worker_forgets_the_ranks_that_it_has_supervised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker may run for months, so it keeps no state of ranks that have ended."""
    worker = SimpleNamespace(get_current_task=lambda: "key", status=Status.running)
    monkeypatch.setattr(rank_supervisor, "get_worker", lambda: worker)
    monkeypatch.setattr(rank_supervisor, "_is_cancelled", lambda worker, key: False)
    monkeypatch.setattr(rank_supervisor, "_RankProcess", Child)
    monkeypatch.setattr(rank_supervisor, "_abandoned_topics", ())
    order = RankTask("x:y", b"", RANK_FIELDS)
    assert rank_supervisor.supervise_rank(order, "begun") == {"result": 7}
    assert not rank_supervisor.is_supervised("begun")
    assert "begun" not in rank_supervisor._rank_counts
    rank_supervisor.abandon_ranks("begun")
    rank_supervisor.supervise_rank(order, "begun")  # ends, although its process would run
    for number in range(2 * rank_supervisor.MAX_ABANDONED):
        rank_supervisor.abandon_ranks(f"lost-{number}")
    assert len(rank_supervisor._abandoned_topics) == rank_supervisor.MAX_ABANDONED
    assert f"lost-{number}" in rank_supervisor._abandoned_topics
