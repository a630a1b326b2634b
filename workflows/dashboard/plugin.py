"""The scheduler plugin of the Tesserae page, with its JSON route and its Prometheus metrics.

`--preload workflows.dashboard.plugin` installs it when a scheduler starts. On a scheduler that was
started without it, a command installs it.
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
from workflows.dashboard.state import DashboardState

NAME = "tesserae"
TOPIC = "tesserae"
IMAGES_TOPIC = "tesserae-pictures"
"""The topic of thumbnails. Dask bounds a topic's log by number of events, not by their size, so
these events are deleted as soon as they are read."""

log = logging.getLogger(__name__)


class DashboardPlugin(SchedulerPlugin):
    """A scheduler plugin that records the events of commands and the end of their tasks."""

    name = NAME

    def __init__(self, scheduler: Scheduler) -> None:
        """Create a plugin with an empty state; it does nothing before it is added to the scheduler.

        Args:
            scheduler: The scheduler that it will be added to.
        """
        self.state = DashboardState()
        self._scheduler = scheduler

    def transition(
        self, key: object, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any
    ) -> None:
        """Record which worker finished a task. Dask calls this for every transition of a task.

        Args:
            key: The key of the task.
            start: The state that the task leaves; only transitions from `processing` to `memory`
                count.
            finish: The state that the task enters.
            args: Further arguments of Dask, which are ignored.
            stimulus_id: Dask's id of the cause, which is ignored.
            kwargs: Details of the transition, with the address of the worker as `worker`.
        """
        if finish == "memory" and start == "processing":
            self.state.record_finished_task(key, str(kwargs.get("worker", "")))

    def log_event(self, topic: str, msg: Any) -> None:
        """Apply the messages that a command has sent to the state.

        Args:
            topic: The topic of the event; topics other than `tesserae` and `tesserae-pictures` are
                ignored.
            msg: A list of messages (dictionaries) for `DashboardState.apply`. Those of
                `tesserae-pictures` are then removed from the scheduler's log.
        """
        if topic in (TOPIC, IMAGES_TOPIC):
            for message in msg:
                self.state.apply(message, time.monotonic())
        if topic == IMAGES_TOPIC:
            with suppress(AttributeError):  # an internal of Dask, which another version may lack
                self._scheduler._broker.truncate(topic)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Mark the runs of a client that has disconnected as lost, unless they had ended.

        Args:
            scheduler: The scheduler, which is not used.
            client: The id of the client.
        """
        self.state.mark_lost(client, time.monotonic())


def install_page(dask_scheduler: Scheduler) -> bool:
    """Install the page on a scheduler, unless it has it already.

    Args:
        dask_scheduler: The scheduler; `Client.run_on_scheduler(install_page)` passes it.

    Returns:
        True if the scheduler has the plugin now, which records what commands send; False if it
        could not be added. An error, such as one of another version of Dask, is logged and not
        raised: with True, too, the page itself may then be missing.
    """
    if NAME in dask_scheduler.plugins:
        return True
    try:
        plugin = DashboardPlugin(dask_scheduler)
        dask_scheduler.add_plugin(plugin)
        state = plugin.state
        lazy.add_json(dask_scheduler, "/tesserae.json", lambda: state.snapshot(time.monotonic()))
        lazy.add_metrics(dask_scheduler, NAME, lambda: metrics(state))
        lazy.add_page(dask_scheduler, NAME, "workflows.dashboard.page", state)
    except Exception:  # another version of Dask, say: a run must not fail for want of a page
        log.warning("the Tesserae page could not be added to the dashboard", exc_info=True)
        return NAME in dask_scheduler.plugins
    return True


def dask_setup(scheduler: Scheduler) -> None:
    """Install the page when Dask loads this module with `--preload`.

    Args:
        scheduler: The scheduler, which Dask passes at its start.
    """
    install_page(scheduler)


def metrics(state: DashboardState) -> Iterator[lazy.Metric]:
    """Yield the Prometheus metrics of all runs of a dashboard.

    Args:
        state: The state of the dashboard, which is read while the metrics are requested.

    Yields:
        A metric with `name`, `description`, `kind` (`counter` or `gauge`) and `values`, which are
        (labels by name, number). Most have a sample for each run that prepares images or features,
        `tesserae_rows_by_status` one for each status of it, `tesserae_training` one for each
        training curve, and `tesserae_training_step` one for each training run.
    """
    runs = state.snapshot(time.monotonic())["runs"]

    def named(run: dict[str, Any], **more: str) -> dict[str, str]:
        return {"store": run["store"], "split": run["split"], "run": run["run"], **more}

    for name, description, field in (
        ("tesserae_rows_done", "rows that the run has committed", "rows_done"),
        ("tesserae_shards_done", "shards that the run has committed", "shards_done"),
        ("tesserae_read_bytes", "bytes of encoded images that the run has read", "bytes_in"),
        ("tesserae_written_bytes", "bytes that the run has written", "bytes_out"),
    ):
        values = [(named(run), float(run[field])) for run in runs]
        yield lazy.Metric(name, description, "counter", values)
    yield lazy.Metric(
        "tesserae_rows",
        "rows that the run will commit in total",
        "gauge",
        [(named(run), float(run["rows"])) for run in runs],
    )
    yield lazy.Metric(
        "tesserae_images_per_second",
        "images per second over the last seconds",
        "gauge",
        [(named(run), float(run["images_per_second"]["now"])) for run in runs],
    )
    yield lazy.Metric(
        "tesserae_rows_by_status",
        "committed rows of the split, by status",
        "gauge",
        [
            (named(run, status=status), float(count))
            for run in runs
            for status, count in run["counts"].items()
        ],
    )
    last = {key: points[-1] for key, points in list(state.curves.items()) if points}
    yield lazy.Metric(
        "tesserae_training",
        "latest value of a training curve",
        "gauge",
        [({"run": run, "curve": name}, value) for (run, name), (_, value) in last.items()],
    )
    yield lazy.Metric(
        "tesserae_training_step",
        "latest step of a training run",
        "gauge",
        [
            ({"run": run}, max(step for (of, _), (step, _) in last.items() if of == run))
            for run in {run for run, _ in last}
        ],
    )
    yield lazy.Metric(
        "tesserae_running",
        "1 while the run is in progress, else 0",
        "gauge",
        [(named(run), float(run["state"] == "running")) for run in runs],
    )
