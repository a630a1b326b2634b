"""What a command tells the dashboard of the runs that it watches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

from workflows.dashboard.page import _foot, _head
from workflows.dashboard.state import Board
from workflows.session import Cluster
from workflows.terminal.progress import Progress
from workflows.training.launch import _Watcher
from workflows.training.options import Training
from workflows.training.run_folder import RunFolder


def watch(board: Board, folder: Path, value: float) -> _Watcher:
    """A watcher of a run in *folder*, that has heard of one step."""
    client = Mock(id=str(folder))
    client.run_on_scheduler.return_value = True
    client.log_event.side_effect = lambda topic, said: [board.take(one, 0.0) for one in said]
    cluster = cast(Cluster, Mock(client=client))
    progress = Mock()
    progress.seconds_left.return_value = 9.0
    watcher = _Watcher(cluster, RunFolder(folder), Training(steps=10), cast(Progress, progress))
    line: dict[str, Any] = {"step": 1, "loss": value}
    watcher.heard.append({"what": "told", "step": 1, "rank": 0, "lines": [line]})
    watcher.tick()
    return watcher


def test_two_runs_of_one_name_are_two(tmp_path: Path) -> None:
    """Each with its own curves and end; the page names both by as much as tells them apart."""
    board = Board()
    first = watch(board, tmp_path / "a" / "wgan", 0.25)
    watch(board, tmp_path / "b" / "wgan", 0.75)
    assert len(board.trainings) == 2
    assert [points[-1] for points in board.curves.values()] == [(1.0, 0.25), (1.0, 0.75)]
    first.__exit__(None, None, None)
    assert [one.state for one in board.trainings.values()] == ["finished", "running"]
    shown = "".join(_head(board, 0.0))
    assert "Training of <code>a/wgan</code>: finished" in shown
    assert "Training of <code>b/wgan</code>: running" in shown
    assert "".join(_foot(board, 0.0)) == ""


def test_one_run_by_two_paths_is_one(tmp_path: Path) -> None:
    """It goes on where it was, whatever link led to it."""
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    board = Board()
    for name in ("run", "link"):
        watch(board, tmp_path / name, 0.5)
    assert len(board.trainings) == 1
