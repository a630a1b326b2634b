"""A command's side of a training run: ranks on a cluster, and what they say shown to a person."""

from __future__ import annotations

import base64
import platform
from collections import deque
from importlib.metadata import version
from typing import Any

from cluster.ranks import Wanted, run_world
from workflows.board.plugin import TOPIC, put_on
from workflows.clusters import Cluster
from workflows.progress import Progress
from workflows.training.folder import RunFolder
from workflows.training.loop import Data, Job
from workflows.training.options import FREE, Training

ENTRY = "workflows.training.loop:train"
PACKAGES = ("torch", "numpy", "zarr", "tesserae")


def train_on(
    cluster: Cluster,
    wanted: Wanted,
    stage: str,
    options: Training,
    data: Data,
    folder: RunFolder,
) -> str:
    """Train until it is done, on ranks of *cluster*; begin again where one is lost.

    Args:
        cluster: Where.
        wanted: How many ranks, and of which kind.
        stage: `module:class` (`workflows.training.loop.Stage`).
        options: Of it.
        data: What it learns from.
        folder: Of the run, which all machines see: it goes on from what is there.

    Returns:
        `done`, or where it stopped.

    Raises:
        RankError: It fails.
        ClusterError: No worker comes.
        TesseraeError: The folder is of another run.
    """
    facts = {"versions": versions(), "data": _described(data)}
    folder.begin({"stage": stage, **options.as_dict()}, facts, free=FREE)

    def begin(world: int) -> tuple[int, tuple[Any, ...]]:
        number, resumed = folder.claim()
        name = None if resumed is None else resumed.name
        return number, (Job(stage, str(folder.path.absolute()), options, data, name),)

    name = folder.path.name
    rows = options.steps if options.minutes is None else None
    with Progress(f"{name}: train", rows=rows, unit="steps") as progress:
        watcher = _Watcher(cluster, name, progress)
        results = run_world(
            cluster.client,
            wanted,
            ENTRY,
            begin,
            on_event=watcher.heard.append,
            say=progress.note,
            tick=watcher.tick,
        )
        watcher.tick()
    return str(results[0])


def _described(data: Data) -> dict[str, Any]:
    return {
        "store": data.train.store,
        "split": data.train.split,
        "size": data.train.sizes[0],
        "held_out": None if data.held_out is None else data.held_out.split,
        "classes": list(data.classes),
    }


def versions() -> dict[str, str]:
    """What the run is made with."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        found[package] = version(package)
    return found


class _Watcher:
    """Shows what ranks say: here, and on the page."""

    def __init__(self, cluster: Cluster, name: str, progress: Progress) -> None:
        self._cluster = cluster
        self._name = name
        self._progress = progress
        self._step = 0
        self.heard: deque[dict[str, Any]] = deque()
        """Filled by another thread."""
        self._page = bool(cluster.client.run_on_scheduler(put_on))

    def tick(self) -> None:
        """Show what was heard, and see to the cluster."""
        messages: list[dict[str, Any]] = []
        while self.heard:
            event = self.heard.popleft()
            if event["what"] == "begun":
                self._begun(event)
            elif event["what"] == "told":
                messages += self._told(event)
            elif event["what"] == "grid" and event["png"]:
                png = base64.b64decode(event["png"])
                messages.append({"what": "grid", "name": event["name"], "step": event["step"],
                                 "png": png})  # fmt: skip
        if messages and self._page:
            self._cluster.client.log_event(TOPIC, [{"run": self._name, **m} for m in messages])
        self._cluster.keep()

    def _begun(self, event: dict[str, Any]) -> None:
        if event["rank"] == 0:
            self._to(event["step"])
            ranks = f"{event['world']} rank{'s' * (event['world'] != 1)}"
            where = "from the beginning" if not event["step"] else f"from step {event['step']:,}"
            self._progress.note(f"{self._name}: {ranks}, {where}")

    def _told(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        self._to(event["step"])
        return [
            {"what": "curve", "name": name, "step": line["step"], "value": value}
            for line in event["lines"]
            for name, value in line.items()
            if name != "step"
        ]

    def _to(self, step: int) -> None:
        if step > self._step:  # after a loss some are taken again
            self._progress.update(rows=step - self._step)
            self._step = step
