"""The process of a rank, as the task that supervises it ends it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import psutil
import pytest

from cluster.ranks import supervisor
from cluster.ranks.process import Order
from tests.commands import ROOT, wait_until

RANK_FIELDS = {"rank": 0, "world": 1, "generation": 1, "host": "127.0.0.1", "gpu": False}


def test_children_of_a_rank_are_killed_without_its_guard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guard may have been killed for lack of memory, so the task kills the whole group."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    order = Order("tests.cluster.walking:start_others", pickle.dumps((tmp_path,)), RANK_FIELDS)
    child = supervisor._RankProcess(order, lambda message: None)
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
