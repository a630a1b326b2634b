"""The page put on a scheduler: a plugin that listens, a page, a JSON route, Prometheus series.

`--preload workflows.dashboard.plugin` does it when a scheduler starts; a command does it on one
that was started otherwise.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from distributed import Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin

from cluster.dashboard import lazy
from workflows.dashboard.state import Board

NAME = "tesserae"
TOPIC = "tesserae"
PICTURES_TOPIC = "tesserae-pictures"
"""Dask remembers the events of a topic by number, not by size: these are forgotten at once."""

log = logging.getLogger(__name__)


class BoardPlugin(SchedulerPlugin):
    """Listens to events and to tasks that end."""

    name = NAME

    def __init__(self, scheduler: Scheduler) -> None:
        self.board = Board()
        self._scheduler = scheduler

    def transition(
        self, key: object, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Note who ended a task. Called for every step of every task."""
        if finish == "memory" and start == "processing":
            self.board.finished(key, str(kwargs.get("worker", "")))

    def log_event(self, topic: str, msg: Any) -> None:
        """Take what a command has sent."""
        if topic in (TOPIC, PICTURES_TOPIC):
            for message in msg:
                self.board.take(message, time.monotonic())
        if topic == PICTURES_TOPIC:
            with suppress(AttributeError):  # an internal of Dask's
                self._scheduler._broker.truncate(topic)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Note that a command has gone: what it had to say, it has said before."""
        self.board.lose(client, time.monotonic())


def put_on(dask_scheduler: Scheduler) -> bool:
    """Put the page on a scheduler that does not have it; whether it has it then."""
    if NAME in dask_scheduler.plugins:
        return True
    try:
        plugin = BoardPlugin(dask_scheduler)
        dask_scheduler.add_plugin(plugin)
        board = plugin.board
        lazy.add_json(dask_scheduler, "/tesserae.json", lambda: board.snapshot(time.monotonic()))
        lazy.add_metrics(dask_scheduler, NAME, lambda: metrics(board))
        lazy.add_page(dask_scheduler, NAME, "workflows.dashboard.page", board)
    except Exception:  # of another version of Dask, say
        log.warning("the Tesserae page could not be put on the dashboard", exc_info=True)
        return NAME in dask_scheduler.plugins
    return True


def dask_setup(scheduler: Scheduler) -> None:
    """As Dask calls it, for `--preload`."""
    put_on(scheduler)


def metrics(board: Board) -> Iterator[lazy.Metric]:
    """What Prometheus is told."""
    runs = board.snapshot(time.monotonic())["runs"]

    def named(run: dict[str, Any], **more: str) -> dict[str, str]:
        return {"store": run["store"], "split": run["split"], "run": run["run"], **more}

    for name, what, field in (
        ("tesserae_rows_done", "rows that the run has made", "rows_done"),
        ("tesserae_shards_done", "shards that the run has made", "shards_done"),
        ("tesserae_read_bytes", "bytes of images that the run has read", "bytes_in"),
        ("tesserae_written_bytes", "bytes that the run has stored", "bytes_out"),
    ):
        values = [(named(run), float(run[field])) for run in runs]
        yield lazy.Metric(name, what, "counter", values)
    yield lazy.Metric(
        "tesserae_rows",
        "rows that the run is to make",
        "gauge",
        [(named(run), float(run["rows"])) for run in runs],
    )
    yield lazy.Metric(
        "tesserae_images_per_second",
        "of late",
        "gauge",
        [(named(run), float(run["images_per_second"]["now"])) for run in runs],
    )
    yield lazy.Metric(
        "tesserae_rows_by_status",
        "rows of the split that are committed",
        "gauge",
        [
            (named(run, status=status), float(count))
            for run in runs
            for status, count in run["counts"].items()
        ],
    )
    last = {key: points[-1] for key, points in list(board.curves.items()) if points}
    yield lazy.Metric(
        "tesserae_training",
        "the newest value of a curve of training",
        "gauge",
        [({"run": run, "curve": name}, value) for (run, name), (_, value) in last.items()],
    )
    yield lazy.Metric(
        "tesserae_training_step",
        "how far training is",
        "gauge",
        [
            ({"run": run}, max(step for (of, _), (step, _) in last.items() if of == run))
            for run in {run for run, _ in last}
        ],
    )
    yield lazy.Metric(
        "tesserae_running",
        "whether the run goes on",
        "gauge",
        [(named(run), float(run["state"] == "running")) for run in runs],
    )
