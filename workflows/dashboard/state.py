"""What a scheduler knows of runs: summed up as it comes, in memory that does not grow with them."""

from __future__ import annotations

import re
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from workflows.terminal.meter import Meter

RUNS = 8
QUARANTINED = 50
PICTURES = 24
HISTORY = 1_800
HISTORY_SECONDS = 1.0
"""Between two points of a curve, at least; when there are too many, half of them go."""
WORKERS = 2_000
PENDING = 10_000
CURVES = 32
POINTS = 2_000
GRIDS = 8
PICTURE_BYTES = 512 * 1024
WORKER_SECONDS = 60.0
"""How far back the rate of a worker reaches."""

_KEY = re.compile(r"(?:prepare|features)-.+-(\d{6})(?:-isolated)?-\d+-(.+)")
"""The key of a task: its split, shard, losses and run."""


@dataclass
class Worker:
    """What one worker has done of a run."""

    rows: int = 0
    shards: int = 0
    ends: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=64))
    """When its last shards ended, and how many rows they had."""

    def rate(self, now: float, since: float) -> float:
        """Rows a second, of late."""
        late = [(at, rows) for at, rows in self.ends if at > now - WORKER_SECONDS]
        seconds = min(WORKER_SECONDS, now - since)
        return sum(rows for _, rows in late) / seconds if seconds > 0 else 0.0


@dataclass
class Run:
    """One run of one split."""

    name: str
    split: str
    store: str
    rows: int
    sizes: dict[int, list[int]]
    """Side in pixels -> rows that are stored, rows there are to be."""
    before: Counter[str]
    """Rows that earlier runs committed, by status."""
    meter: Meter
    started: float
    client: str = ""
    """Of the command: when it has gone, so has the run."""
    features: str = ""
    """Name of the features that it makes of stored images; empty: it stores images."""
    counts: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    shards: int = 0
    state: str = "running"
    why: str = ""
    elapsed: float | None = None
    """Seconds, as the command itself measured them; None while it runs."""
    ended: float | None = None
    workers: OrderedDict[str, Worker] = field(default_factory=OrderedDict)
    quarantine: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=QUARANTINED))
    history: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=HISTORY))

    def snapshot(self, now: float) -> dict[str, Any]:
        """All of it, as plain values."""
        last = self.meter.last
        clock = now if self.ended is None else self.ended
        elapsed = clock - self.started if self.elapsed is None else self.elapsed
        rates = [getattr(last, name) / elapsed if elapsed > 0 else 0.0 for name in _SUMS]
        running = self.state == "running"
        of_late = self.meter.window(now) if running else (0.0, 0.0, 0.0)
        return {
            "run": self.name,
            "split": self.split,
            "store": self.store,
            "features": self.features,
            "state": self.state,
            "why": self.why,
            "rows": self.rows,
            "rows_done": last.rows,
            "shards_done": self.shards,
            "bytes_in": last.bytes_in,
            "bytes_out": last.bytes_out,
            "seconds": elapsed,
            "seconds_left": self.meter.seconds_left(now) if running else None,
            "images_per_second": {"now": of_late[0], "run": rates[0]},
            "bytes_in_per_second": {"now": of_late[1], "run": rates[1]},
            "bytes_out_per_second": {"now": of_late[2], "run": rates[2]},
            "sizes": {str(s): {"done": d, "rows": n} for s, (d, n) in self.sizes.items()},
            "counts": dict(self.counts + self.before),
            "counts_of_run": dict(self.counts),
            "stage_seconds": dict(self.seconds),
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
class Training:
    """One run that trains."""

    name: str
    folder: str
    steps: int
    started: float
    client: str = ""
    step: int = 0
    ranks: int = 0
    seconds_left: float | None = None
    """As the command has it, who knows what updates of later steps cost; None = nobody knows."""
    speed: dict[str, float] = field(default_factory=dict)
    state: str = "running"
    why: str = ""
    ended: float | None = None

    def snapshot(self, now: float) -> dict[str, Any]:
        """All of it, as plain values."""
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


class Board:
    """Everything that is shown. Times are passed in, in seconds of one clock."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.runs: OrderedDict[str, Run] = OrderedDict()
        self.pictures: deque[dict[str, Any]] = deque(maxlen=PICTURES)
        """run, row, caption, jpeg: the last images stored, the newest last."""
        self.trainings: OrderedDict[str, Training] = OrderedDict()
        self.curves: OrderedDict[tuple[str, str], deque[tuple[float, float]]] = OrderedDict()
        """(run, name) -> (step, value), of training."""
        self.grids: OrderedDict[tuple[str, str], dict[str, Any]] = OrderedDict()
        """(run, name) -> step, jpeg: the last grid of samples."""
        self.version = 0
        """Grows with each change."""
        self._by: OrderedDict[tuple[str, int], str] = OrderedDict()
        """(run, shard) -> the worker that made it, until the command says how many rows it had."""

    def finished(self, key: object, worker: str) -> None:
        """Note which worker ended a task; called for every task there is."""
        match = _KEY.fullmatch(key) if isinstance(key, str) else None
        if match is not None:
            self._by[match[2], int(match[1])] = worker
            if len(self._by) > PENDING:
                self._by.popitem(last=False)

    def take(self, message: Mapping[str, Any], now: float) -> None:
        """Add what a command has sent. What is not known is for a later version, and left alone."""
        taken = _TAKEN.get(message["what"])
        if taken is not None:
            taken(self, message, now)
            self.version += 1

    def lose(self, client: str, now: float) -> None:
        """Note that a command has gone without a word."""
        every: list[Run | Training] = [*self.runs.values(), *self.trainings.values()]
        for run in every:
            if run.client == client and run.state == "running":
                run.state, run.ended = "lost", now
                run.why = "The command was killed, or its connection was. Give it again to go on."
                self.version += 1

    def snapshot(self, now: float) -> dict[str, Any]:
        """All but pictures, as plain values."""
        return {
            "runs": [run.snapshot(now) for run in self.runs.values()],
            "trainings": [one.snapshot(now) for one in self.trainings.values()],
            "curves": [
                {"run": run, "name": name, "points": list(points)}
                for (run, name), points in self.curves.items()
            ],
        }

    def _run(self, message: Mapping[str, Any], now: float) -> None:
        name = str(message["run"])
        self.runs[name] = Run(
            name=name,
            split=str(message["split"]),
            store=str(message["store"]),
            rows=int(message["rows"]),
            sizes={int(size): [int(done), int(rows)] for size, done, rows in message["sizes"]},
            before=Counter(message["before"]),
            meter=Meter(int(message["rows"]), now),
            started=now,
            client=str(message.get("client", "")),
            features=str(message.get("features", "")),
        )
        while len(self.runs) > RUNS:
            self.runs.popitem(last=False)

    def _shard(self, message: Mapping[str, Any], now: float) -> None:
        run = self.runs.get(message["run"])
        if run is None:
            return
        rows, counts = int(message["rows"]), Counter(message["counts"])
        bad = rows - counts.get("readable", 0)
        run.meter.add(now, rows, int(message["bytes_in"]), int(message["bytes_out"]), bad)
        run.counts.update(counts)
        for stage, spent in message["seconds"].items():
            run.seconds[stage] += spent
        run.shards += 1
        for size in message["sizes"]:
            if size in run.sizes:
                run.sizes[size][0] += rows
        if not run.history or now - run.history[-1][0] >= HISTORY_SECONDS:
            _add_thinned(run.history, (now, run.meter.window(now)[0]))
        worker = self._by.pop((run.name, int(message["shard"])), None)
        if worker is not None:
            one = run.workers.setdefault(worker, Worker())
            one.rows += rows
            one.shards += 1
            one.ends.append((now, rows))
            while len(run.workers) > WORKERS:
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
        self.trainings[name] = Training(
            name, str(message["folder"]), int(message["steps"]), now, str(message["client"])
        )
        for key in [key for key in self.curves if key[0] == name]:
            del self.curves[key]  # of another run of the same name, or told again
        for key in [key for key in self.grids if key[0] == name]:
            del self.grids[key]
        while len(self.trainings) > RUNS:
            self.trainings.popitem(last=False)

    def _begun(self, message: Mapping[str, Any], now: float) -> None:
        training = self.trainings.get(message["run"])
        if training is not None:
            training.ranks, training.started = int(message["ranks"]), now
            training.step, training.seconds_left = int(message["step"]), None
            for (of, _), points in self.curves.items():
                while of == training.name and points and points[-1][0] > training.step:
                    points.pop()  # they are taken again

    def _speed(self, message: Mapping[str, Any], now: float) -> None:
        training = self.trainings.get(message["run"])
        if training is not None:
            training.step = int(message["step"])
            names = ("images_per_second", "steps_per_second", "wait_share")
            training.speed = {name: float(message[name]) for name in names}

    def _left(self, message: Mapping[str, Any], now: float) -> None:
        training = self.trainings.get(message["run"])
        if training is not None:
            training.step, seconds = int(message["step"]), message["seconds"]
            training.seconds_left = None if seconds is None else float(seconds)

    def _pictures(self, message: Mapping[str, Any], now: float) -> None:
        kept = [one for one in message["pictures"] if len(one["jpeg"]) <= PICTURE_BYTES]
        self.pictures.extend({"run": message["run"], **one} for one in kept)

    def _curve(self, message: Mapping[str, Any], now: float) -> None:
        key = (str(message["run"]), str(message["name"]))
        points = self.curves.setdefault(key, deque(maxlen=POINTS))
        _add_thinned(points, (float(message["step"]), float(message["value"])))
        while len(self.curves) > CURVES:
            self.curves.popitem(last=False)

    def _grid(self, message: Mapping[str, Any], now: float) -> None:
        if len(message["jpeg"]) <= PICTURE_BYTES:
            key = (str(message["run"]), str(message["name"]))
            self.grids[key] = {"step": message["step"], "jpeg": message["jpeg"]}
            while len(self.grids) > GRIDS:
                self.grids.popitem(last=False)


_TAKEN = {
    "run": Board._run,
    "shard": Board._shard,
    "quarantined": Board._quarantined,
    "end": Board._end,
    "pictures": Board._pictures,
    "training": Board._training,
    "begun": Board._begun,
    "speed": Board._speed,
    "left": Board._left,
    "curve": Board._curve,
    "grid": Board._grid,
}


def short_names(names: Iterable[str]) -> dict[str, str]:
    """Return for each name the shortest end of it, of whole parts of a path, that no other has."""
    parts = {name: [part for part in name.split("/") if part] for name in names}
    found = {}
    for name, own in parts.items():
        others = [theirs for theirs in parts.values() if theirs != own]
        length = next(
            (n for n in range(1, len(own)) if all(own[-n:] != one[-n:] for one in others)), None
        )
        found[name] = name if length is None else "/".join(own[-length:])
    return found


def _add_thinned(points: deque[tuple[float, float]], point: tuple[float, float]) -> None:
    """Add a point; where there are too many, every second goes, so that the whole stays."""
    if len(points) == points.maxlen:
        kept = list(points)[::2]
        points.clear()
        points.extend(kept)
    points.append(point)
