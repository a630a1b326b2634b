"""Tests of the events that a command sends to the dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

from workflows.cluster_kinds import CommandCluster
from workflows.dashboard.page import TEMPLATES, values
from workflows.dashboard.state import DashboardState
from workflows.reports.html import render
from workflows.terminal.progress import Progress
from workflows.training.options import TrainingOptions
from workflows.training.run_folder import RunFolder
from workflows.training.watcher import RunWatcher


def watch(board: DashboardState, folder: Path, value: float) -> RunWatcher:
    """Return a watcher of a run in *folder* that has received one step."""
    client = Mock(id=str(folder))
    client.run_on_scheduler.return_value = True
    client.log_event.side_effect = lambda topic, events: [
        board.apply(event, 0.0) for event in events
    ]
    cluster = cast(CommandCluster, Mock(client=client))
    progress = Mock()
    progress.seconds_left.return_value = 9.0
    watcher = RunWatcher(
        cluster, RunFolder(folder), TrainingOptions(steps=10), cast(Progress, progress)
    )
    line: dict[str, Any] = {"step": 1, "loss": value}
    watcher.events.append({"what": "metrics", "step": 1, "rank": 0, "lines": [line]})
    watcher.tick()
    return watcher


def test_runs_of_the_same_name_are_distinguished(tmp_path: Path) -> None:
    """Such runs have their own curves and states, and distinct short paths."""
    board = DashboardState()
    first = watch(board, tmp_path / "a" / "wgan", 0.25)
    watch(board, tmp_path / "b" / "wgan", 0.75)
    assert len(board.trainings) == 2
    assert [points[-1] for points in board.curves.values()] == [(1.0, 0.25), (1.0, 0.75)]
    first.__exit__(None, None, None)
    assert [training.state for training in board.trainings.values()] == ["finished", "running"]
    page = render(TEMPLATES / "progress.html", **values(board, 0.0))
    assert "Training run <code>a/wgan</code>: finished" in page
    assert "Training run <code>b/wgan</code>: running" in page


def test_a_run_reached_by_two_paths_is_one_run(tmp_path: Path) -> None:
    """A run that is reached through a link is the same run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    board = DashboardState()
    for name in ("run", "link"):
        watch(board, tmp_path / name, 0.5)
    assert len(board.trainings) == 1
