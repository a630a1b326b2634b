"""The state behind the dashboard: events of runs, aggregated on the scheduler in bounded memory."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workflows.terminal.meter import Meter

MAX_RUNS = 8
MAX_QUARANTINED_ROWS = 50
MAX_IMAGES = 24
MAX_HISTORY_POINTS = 1_800
HISTORY_SECONDS = 1.0
"""The minimum interval between two points of the rate; a full curve drops every second point."""
MAX_WORKERS = 2_000
MAX_PENDING_TASKS = 10_000
MAX_CURVES = 32
MAX_CURVE_POINTS = 2_000
MAX_GRIDS = 8
MAX_IMAGE_BYTES = 512 * 1024
WORKER_SECONDS = 60.0
"""The duration over which the rate of a worker is averaged."""

_KEY = re.compile(r"(?:prepare|features|upscaled)-.+-(\d{6})(?:-isolated)?-\d+-(.+)")
"""The pattern of a task's key: split, shard number, number of lost attempts and name of the run."""


@dataclass
class Worker:
    """The contribution of one worker to a run."""

    rows: int = 0
    """The number of rows of the shards that it finished."""
    shards: int = 0
    """The number of shards that it finished."""
    ends: deque[tuple[float, int]] = field(default_factory=deque)
    """The (time, rows) of the shards that it finished in the last minute."""

    def add_shard(self, now: float, rows: int) -> None:
        """Count a shard that the worker has just finished.

        Args:
            now: The present time in seconds, of a monotonic clock.
            rows: The number of rows of the shard.
        """
        self.rows += rows
        self.shards += 1
        self.ends.append((now, rows))
        while self.ends[0][0] <= now - WORKER_SECONDS:
            self.ends.popleft()

    def rate(self, now: float, since: float) -> float:
        """Return the worker's rows per second over the last minute, or since the start if shorter.

        Args:
            now: The present time in seconds, of a monotonic clock.
            since: The time of the start of the run, in seconds of the same clock.

        Returns:
            The rate over the last 60 seconds, or since the start; 0.0 if no time has passed.
        """
        recent = [(at, rows) for at, rows in self.ends if at > now - WORKER_SECONDS]
        seconds = min(WORKER_SECONDS, now - since)
        return sum(rows for _, rows in recent) / seconds if seconds > 0 else 0.0


@dataclass
class RunState:
    """The progress of one run that prepares a split or computes rows of its images."""

    name: str
    """The name of the run, which the keys of its tasks end with."""
    split: str
    store: str
    """The path or URL of the store."""
    rows: int
    """The number of rows that the run will commit."""
    arrays: dict[str, list[int]]
    """The rows already stored and the rows of the split, by name of the image array."""
    earlier_counts: Counter[str]
    """The number of rows that earlier runs committed, by status."""
    meter: Meter
    started: float
    """The time of the start in seconds, of the clock of `DashboardState`."""
    client: str = ""
    """The id of the command's Dask client; when it disconnects, the run is lost."""
    rows_of: str = ""
    """What a network computes of each image, such as `features` and their name; empty if the run
    stores images."""
    counts: Counter[str] = field(default_factory=Counter)
    """The number of rows that the run has committed, by status in words."""
    seconds: Counter[str] = field(default_factory=Counter)
    """The seconds of each step (read, decode, ...), summed over all workers."""
    shards: int = 0
    """The number of shards that the run has committed."""
    state: str = "running"
    """The state: `running`, `finished`, `failed`, `stopped` or `lost`."""
    why: str = ""
    """The reason why the run failed, was stopped or was lost; empty otherwise."""
    elapsed: float | None = None
    """The duration in seconds that the command measured; None while it runs."""
    ended: float | None = None
    """The time of the end in seconds; None while the run is in progress."""
    workers: OrderedDict[str, Worker] = field(default_factory=OrderedDict)
    """The contribution of each worker, by its address."""
    quarantine: deque[dict[str, Any]] = field(
        default_factory=lambda: deque(maxlen=MAX_QUARANTINED_ROWS)
    )
    """The row, key, status and reason of the last quarantined rows, the newest last."""
    history: deque[tuple[float, float]] = field(
        default_factory=lambda: deque(maxlen=MAX_HISTORY_POINTS)
    )
    """The (time in seconds, rows per second) of the run, in the order of time."""

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the progress as plain JSON values: an entry of `runs` in `/tesserae.json`.

        Args:
            now: The present time in seconds, of the monotonic clock whose times
                `DashboardState.apply` got; the dashboard uses `time.monotonic`.

        Returns:
            The texts `run`, `split`, `store`, `rows_of` (empty if the run stores images), `state`
            (`running`, `finished`, `failed`, `stopped` or `lost`) and `why`; the numbers `rows`,
            `rows_done`, `shards_done`, `bytes_in`, `bytes_out` and `seconds` of this run;
            `seconds_left` (None if unknown or ended); `images_per_second`, `bytes_in_per_second`
            and `bytes_out_per_second` (each with `now`, the rate of the last seconds, and `run`,
            the mean); `arrays` (`done` and `rows` by name of the image array), `counts` (committed
            rows of the split by status in words), `counts_of_run`, `step_seconds` (summed over all
            workers, by step), `quarantine` (dictionaries with `row`, `key`, `status` and `reason`
            of the last rows, the newest last) and `workers` (`rows`, `shards` and
            `images_per_second` by address).
        """
        last = self.meter.last
        clock = now if self.ended is None else self.ended
        elapsed = clock - self.started if self.elapsed is None else self.elapsed
        rates = [getattr(last, name) / elapsed if elapsed > 0 else 0.0 for name in _SUMS]
        running = self.state == "running"
        current = self.meter.window(now) if running else (0.0, 0.0, 0.0)
        return {
            "run": self.name,
            "split": self.split,
            "store": self.store,
            "rows_of": self.rows_of,
            "state": self.state,
            "why": self.why,
            "rows": self.rows,
            "rows_done": last.rows,
            "shards_done": self.shards,
            "bytes_in": last.bytes_in,
            "bytes_out": last.bytes_out,
            "seconds": elapsed,
            "seconds_left": self.meter.seconds_left(now) if running else None,
            "images_per_second": {"now": current[0], "run": rates[0]},
            "bytes_in_per_second": {"now": current[1], "run": rates[1]},
            "bytes_out_per_second": {"now": current[2], "run": rates[2]},
            "arrays": {name: {"done": d, "rows": n} for name, (d, n) in self.arrays.items()},
            "counts": dict(self.counts + self.earlier_counts),
            "counts_of_run": dict(self.counts),
            "step_seconds": dict(self.seconds),
            "quarantine": list(self.quarantine),
            "workers": {
                name: {
                    "rows": worker.rows,
                    "shards": worker.shards,
                    "images_per_second": worker.rate(now, self.started) if running else 0.0,
                }
                for name, worker in self.workers.items()
            },
        }


@dataclass
class TrainingState:
    """The progress of one training run."""

    name: str
    """The name of the run."""
    folder: str
    """The path of the run's folder."""
    steps: int
    """The number of steps after which the run ends."""
    started: float
    """The time at which the command, and later its ranks, started, in seconds."""
    client: str = ""
    """The id of the command's Dask client; when it disconnects, the run is lost."""
    step: int = 0
    """The number of completed steps."""
    ranks: int = 0
    """The number of ranks; 0 before they have started."""
    seconds_left: float | None = None
    """The command's own estimate, which knows the cost of later steps; None if unknown."""
    speed: dict[str, float] = field(default_factory=dict)
    """The `images_per_second`, `steps_per_second` and `wait_share` last reported; empty before."""
    state: str = "running"
    """The state: `running`, `finished`, `failed`, `stopped` or `lost`."""
    why: str = ""
    """The reason why the run failed, was stopped or was lost; empty otherwise."""
    ended: float | None = None
    """The time of the end in seconds; None while the run is in progress."""

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return the progress as plain JSON values: an entry of `trainings` in `/tesserae.json`.

        Args:
            now: The present time in seconds, of the monotonic clock whose times
                `DashboardState.apply` got; the dashboard uses `time.monotonic`.

        Returns:
            The texts `run`, `folder`, `state` (`running`, `finished`, `failed`, `stopped` or
            `lost`) and `why`; the numbers `step`, `steps`, `ranks` (0 before they have started) and
            `seconds` (since the start of the ranks, or of the command before); `seconds_left` (None
            if unknown or ended); and, once reported, `images_per_second`, `steps_per_second` and
            `wait_share` (the share of the time, 0 to 1, that ranks wait for data).
        """
        seconds = (now if self.ended is None else self.ended) - self.started
        return {
            "run": self.name,
            "folder": self.folder,
            "state": self.state,
            "why": self.why,
            "step": self.step,
            "steps": self.steps,
            "ranks": self.ranks,
            "seconds": seconds,
            "seconds_left": self.seconds_left if self.ended is None else None,
            **self.speed,
        }


_SUMS = ("rows", "bytes_in", "bytes_out")


class DashboardState:
    """The state that the dashboard shows. Callers pass times in seconds of one monotonic clock."""

    def __init__(self) -> None:
        """Initialise an empty state."""
        self.runs: OrderedDict[str, RunState] = OrderedDict()
        self.images: deque[dict[str, Any]] = deque(maxlen=MAX_IMAGES)
        """The run, row, caption and jpeg of the last stored images, the newest last."""
        self.trainings: OrderedDict[str, TrainingState] = OrderedDict()
        self.curves: OrderedDict[tuple[str, str], deque[tuple[float, float]]] = OrderedDict()
        """The (step, value) points of training curves, by (run, name)."""
        self.grids: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        """The step and jpeg of the last grid of samples, by (run, name)."""
        self.version = 0
        """A number that increases with each change."""
        self._finishers: OrderedDict[tuple[str, int], str] = OrderedDict()
        """The worker that finished a task, by (run, shard), until the command reports the shard."""

    def record_finished_task(self, key: object, worker: str) -> None:
        """Record which worker finished a task, of any command.

        Args:
            key: The key of the task, such as `prepare-train-000012-0-RUN` with the number of the
                shard and the name of the run; keys of another form, of tasks that store no shard,
                are ignored.
            worker: The address of the worker, to which the shard counts once the command has
                reported it.
        """
        match = _KEY.fullmatch(key) if isinstance(key, str) else None
        if match is not None:
            self._finishers[match[2], int(match[1])] = worker
            if len(self._finishers) > MAX_PENDING_TASKS:
                self._finishers.popitem(last=False)

    def apply(self, message: Mapping[str, Any], now: float) -> None:
        """Update the state from a message of a command.

        A message `run` or `training` adds its run, in place of one of the same name; only the last
        8 of each are kept. An unknown kind, of a later version, is ignored; so are other messages
        of an unknown run, except for `pictures`, `curve` and `grid`.

        The kinds and their values are: `run` (those of `Publisher.begin`, with `before` for
        `earlier_counts`, and `client`), `shard` (`shard`, `rows`, `bytes_in`, `bytes_out`,
        `counts`, `seconds`, `arrays`), `quarantined` (`rows`, dictionaries from
        `ShardPreview.quarantined`), `pictures` (`pictures`, dictionaries from
        `ShardPreview.thumbnails`), `training` (`folder`, `steps`, `client`), `begun` (`ranks`,
        `step`), `speed` (`step`, `images_per_second`, `steps_per_second`, `wait_share`), `left`
        (`step`, `seconds`), `curve` (`name`, `step`, `value`), `grid` (`name`, `step`, `jpeg`) and
        `end` (`state`, `why`, `seconds`).

        Args:
            message: The message: its kind as `what`, the name of its `run`, and the values of the
                kind.
            now: The present time in seconds, of the monotonic clock that all calls use.

        Raises:
            KeyError: The message lacks `what` or a value of its kind.
        """
        handler = _HANDLERS.get(message["what"])
        if handler is not None:
            handler(self, message, now)
            self.version += 1

    def mark_lost(self, client: str, now: float) -> None:
        """Mark the running runs of a client that has disconnected as lost.

        Args:
            client: The id of the Dask client.
            now: The present time in seconds, of the monotonic clock that all calls use.
        """
        runs: list[RunState | TrainingState] = [*self.runs.values(), *self.trainings.values()]
        for run in runs:
            if run.client == client and run.state == "running":
                run.state, run.ended = "lost", now
                run.why = (
                    "The command was killed or lost its connection."
                    " Run the command again to continue."
                )
                self.version += 1

    def snapshot(self, now: float) -> dict[str, Any]:
        """Return everything except images as plain JSON values: the document `/tesserae.json`.

        Args:
            now: The present time in seconds, of the monotonic clock whose times `apply` got.

        Returns:
            `runs` and `trainings` (lists of the dictionaries that `RunState.snapshot` and
            `TrainingState.snapshot` return, the oldest first), and `curves` (a list of dictionaries
            with `run`, `name` and `points`, which are (step, value)).
        """
        return {
            "runs": [run.snapshot(now) for run in self.runs.values()],
            "trainings": [training.snapshot(now) for training in self.trainings.values()],
            "curves": [
                {"run": run, "name": name, "points": list(points)}
                for (run, name), points in self.curves.items()
            ],
        }

    def _run(self, message: Mapping[str, Any], now: float) -> None:
        name = str(message["run"])
        self.runs[name] = RunState(
            name=name,
            split=str(message["split"]),
            store=str(message["store"]),
            rows=int(message["rows"]),
            arrays={str(name): [int(done), int(rows)] for name, done, rows in message["arrays"]},
            earlier_counts=Counter(message["before"]),
            meter=Meter(int(message["rows"]), now),
            started=now,
            client=str(message.get("client", "")),
            rows_of=str(message.get("rows_of", "")),
        )
        while len(self.runs) > MAX_RUNS:
            self.runs.popitem(last=False)

    def _shard(self, message: Mapping[str, Any], now: float) -> None:
        run = self.runs.get(message["run"])
        if run is None:
            return
        rows, counts = int(message["rows"]), Counter(message["counts"])
        bad = rows - counts.get("readable", 0)
        run.meter.add(now, rows, int(message["bytes_in"]), int(message["bytes_out"]), bad)
        run.counts.update(counts)
        for step, spent in message["seconds"].items():
            run.seconds[step] += spent
        run.shards += 1
        for name in message["arrays"]:
            if name in run.arrays:
                run.arrays[name][0] += rows
        if not run.history or now - run.history[-1][0] >= HISTORY_SECONDS:
            _add_thinned(run.history, (now, run.meter.window(now)[0]))
        address = self._finishers.pop((run.name, int(message["shard"])), None)
        if address is not None:
            worker = run.workers.setdefault(address, Worker())
            worker.add_shard(now, rows)
            while len(run.workers) > MAX_WORKERS:
                run.workers.popitem(last=False)

    def _quarantined(self, message: Mapping[str, Any], now: float) -> None:
        run = self.runs.get(message["run"])
        if run is not None:
            run.quarantine.extend(message["rows"])

    def _end(self, message: Mapping[str, Any], now: float) -> None:
        name, state, why = message["run"], str(message["state"]), str(message["why"])
        run = self.runs.get(name)
        if run is not None:
            run.state, run.why = state, why
            run.elapsed, run.ended = float(message["seconds"]), now
        training = self.trainings.get(name)
        if training is not None:
            training.state, training.why, training.ended = state, why, now

    def _training(self, message: Mapping[str, Any], now: float) -> None:
        name = str(message["run"])
        self.trainings[name] = TrainingState(
            name, str(message["folder"]), int(message["steps"]), now, str(message["client"])
        )
        for key in [key for key in self.curves if key[0] == name]:
            del self.curves[key]  # from an earlier run of the same name, or sent a second time
        for key in [key for key in self.grids if key[0] == name]:
            del self.grids[key]
        while len(self.trainings) > MAX_RUNS:
            self.trainings.popitem(last=False)

    def _ranks_started(self, message: Mapping[str, Any], now: float) -> None:
        training = self.trainings.get(message["run"])
        if training is not None:
            training.ranks, training.started = int(message["ranks"]), now
            training.step, training.seconds_left = int(message["step"]), None
            for (run, _), points in self.curves.items():
                while run == training.name and points and points[-1][0] > training.step:
                    points.pop()  # training resumed from a checkpoint before these steps

    def _speed(self, message: Mapping[str, Any], now: float) -> None:
        training = self.trainings.get(message["run"])
        if training is not None:
            training.step = int(message["step"])
            names = ("images_per_second", "steps_per_second", "wait_share")
            training.speed = {name: float(message[name]) for name in names}

    def _time_left(self, message: Mapping[str, Any], now: float) -> None:
        training = self.trainings.get(message["run"])
        if training is not None:
            training.step, seconds = int(message["step"]), message["seconds"]
            training.seconds_left = None if seconds is None else float(seconds)

    def _images(self, message: Mapping[str, Any], now: float) -> None:
        images = [image for image in message["pictures"] if len(image["jpeg"]) <= MAX_IMAGE_BYTES]
        self.images.extend({"run": message["run"], **image} for image in images)

    def _curve(self, message: Mapping[str, Any], now: float) -> None:
        key = (str(message["run"]), str(message["name"]))
        points = self.curves.setdefault(key, deque(maxlen=MAX_CURVE_POINTS))
        _add_thinned(points, (float(message["step"]), float(message["value"])))
        while len(self.curves) > MAX_CURVES:
            self.curves.popitem(last=False)

    def _grid(self, message: Mapping[str, Any], now: float) -> None:
        if len(message["jpeg"]) <= MAX_IMAGE_BYTES:
            key = (str(message["run"]), str(message["name"]))
            self.grids[key] = {"step": message["step"], "jpeg": message["jpeg"]}
            while len(self.grids) > MAX_GRIDS:
                self.grids.popitem(last=False)


_HANDLERS = {
    "run": DashboardState._run,
    "shard": DashboardState._shard,
    "quarantined": DashboardState._quarantined,
    "end": DashboardState._end,
    "pictures": DashboardState._images,
    "training": DashboardState._training,
    "begun": DashboardState._ranks_started,
    "speed": DashboardState._speed,
    "left": DashboardState._time_left,
    "curve": DashboardState._curve,
    "grid": DashboardState._grid,
}


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return the shortest suffix of each path, in whole components, that no other path ends with.

    Args:
        names: The paths, such as folders of runs.

    Returns:
        The suffix of each path, without a leading slash, by path; a path that has no unique suffix
        of fewer components is returned whole.
    """
    parts = {name: [part for part in name.split("/") if part] for name in names}
    suffixes = {}
    for name, own in parts.items():
        rivals = [components for other, components in parts.items() if other != name]
        length = next(
            (n for n in range(1, len(own)) if all(own[-n:] != rival[-n:] for rival in rivals)), None
        )
        suffixes[name] = name if length is None else "/".join(own[-length:])
    return suffixes


def _add_thinned(points: deque[tuple[float, float]], point: tuple[float, float]) -> None:
    """Add a point; a full curve first drops every second point, so that it still spans the run."""
    if len(points) == points.maxlen:
        thinned = list(points)[::2]
        points.clear()
        points.extend(thinned)
    points.append(point)
