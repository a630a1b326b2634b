"""The faults of chaos: each kind begins at random times, whatever else is broken."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil

from tests.cluster.network import Network, serving_processes, worker_processes
from tests.commands import Command

Undo = Callable[[], object]

BALLAST = "ballast"
SPARE_BYTES = 256 * 1024
"""The free space of a full disk: too little for a shard, enough for an entry of a folder."""


@dataclass
class Scene:
    """The processes, links and files that faults can affect."""

    network: Network
    scheduler: Command
    workers: dict[str, Command]
    disk: Path
    control: Path
    command: Command
    """The current command of the client."""
    broken: set[str] = field(default_factory=set)
    """The names of what is broken now, and is not broken a second time."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault."""

    name: str
    every: float
    """The mean time from one fault of the kind to the next, in seconds."""
    lasts: tuple[float, float]
    """The minimum and the maximum duration, in seconds."""
    begin: Callable[[Scene, random.Random], tuple[str, Undo] | None]
    """A function that causes the fault; it returns what is broken and how to undo it, or None."""

    def at_pace(self, pace: float) -> Fault:
        """Return a fault that begins *pace* times as often."""
        return replace(self, every=self.every / pace)


class Monkey:
    """Causes faults at random times, and undoes those that last."""

    def __init__(self, scene: Scene, faults: Sequence[Fault], rng: random.Random) -> None:
        self._scene = scene
        self._rng = rng
        self._next = {fault: self._in(fault.every) for fault in faults}
        self._mend: list[tuple[float, str, Undo]] = []
        self.counts: Counter[str] = Counter({fault.name: 0 for fault in faults})
        self.seconds: dict[str, float] = defaultdict(float)
        """The total duration of each kind, in seconds."""

    def _in(self, every: float) -> float:
        return time.monotonic() + self._rng.expovariate(1 / every)

    def look(self) -> None:
        """Begin and undo the faults that are due."""
        now = time.monotonic()
        for item in [item for item in self._mend if item[0] <= now]:
            self._undo(item)
        for fault, at in self._next.items():
            if at <= now:
                self._next[fault] = self._in(fault.every)
                self._begin(fault)

    def stop(self) -> None:
        """Begin no further fault, and undo all."""
        self._next.clear()
        for item in list(self._mend):
            self._undo(item)

    def _begin(self, fault: Fault) -> None:
        with suppress(psutil.NoSuchProcess):
            begun = fault.begin(self._scene, self._rng)
            if begun is None:
                return
            what, undo = begun
            self.counts[fault.name] += 1
            lasts = self._rng.uniform(*fault.lasts)
            if lasts:
                self.seconds[fault.name] += lasts
                self._scene.broken.add(what)
                self._mend.append((time.monotonic() + lasts, what, undo))

    def _undo(self, item: tuple[float, str, Undo]) -> None:
        self._mend.remove(item)
        with suppress(psutil.NoSuchProcess):
            item[2]()
        self._scene.broken.discard(item[1])


# --- kinds ----------------------------------------------------------------------------------------


def _kill_worker(scene: Scene, rng: random.Random) -> tuple[str, Undo] | None:
    return _kill(rng, [p for c in scene.workers.values() for p in worker_processes(c)])


def _kill_nanny(scene: Scene, rng: random.Random) -> tuple[str, Undo] | None:
    return _kill(rng, [p for c in scene.workers.values() for p in serving_processes(c)])


def _end_workers(scene: Scene, rng: random.Random) -> tuple[str, Undo] | None:
    return _kill(
        rng, [p for c in scene.workers.values() for p in serving_processes(c)], signal.SIGTERM
    )


def _kill_scheduler(scene: Scene, rng: random.Random) -> tuple[str, Undo] | None:
    return _kill(rng, serving_processes(scene.scheduler))


def _kill_command(scene: Scene, rng: random.Random) -> tuple[str, Undo] | None:
    return _kill(rng, scene.command.processes())


def _interrupt_command(scene: Scene, rng: random.Random) -> tuple[str, Undo] | None:
    if not scene.command.running() or "command" in scene.broken:
        return None
    scene.command.signal_all(signal.SIGINT)
    return "command", _nothing


def _stop_worker(scene: Scene, rng: random.Random) -> tuple[str, Undo] | None:
    return _stop(scene, rng, [p for c in scene.workers.values() for p in worker_processes(c)])


def _stop_scheduler(scene: Scene, rng: random.Random) -> tuple[str, Undo] | None:
    return _stop(scene, rng, serving_processes(scene.scheduler))


def _stop_command(scene: Scene, rng: random.Random) -> tuple[str, Undo] | None:
    return _stop(scene, rng, scene.command.processes())


def _cut_link(scene: Scene, rng: random.Random) -> tuple[str, Undo] | None:
    there = [host for host in [*scene.workers, "c"] if f"link of {host}" not in scene.broken]
    if not there:
        return None
    host = rng.choice(there)
    scene.network.hosts.cut(host)
    return f"link of {host}", lambda: scene.network.hosts.restore(host)


def _spell(what: str, words: str) -> Callable[[Scene, random.Random], tuple[str, Undo] | None]:
    def begin(scene: Scene, rng: random.Random) -> tuple[str, Undo] | None:
        if what in scene.broken:
            return None
        file = scene.control / what
        file.with_suffix(".new").write_text(words)
        file.with_suffix(".new").replace(file)
        return what, lambda: file.unlink()

    return begin


def _fill_disk(scene: Scene, rng: random.Random) -> tuple[str, Undo] | None:
    ballast = scene.disk / BALLAST
    if ballast.exists():
        return None
    with ballast.open("wb") as file, suppress(OSError):
        while (free := shutil.disk_usage(scene.disk).free) > SPARE_BYTES:
            os.posix_fallocate(file.fileno(), file.tell(), free - SPARE_BYTES // 2)
            file.seek(0, os.SEEK_END)
    return "room on the disk", ballast.unlink


def _kill(
    rng: random.Random, those: Sequence[psutil.Process], number: int = signal.SIGKILL
) -> tuple[str, Undo] | None:
    if not those:
        return None
    rng.choice(those).send_signal(number)
    return "", _nothing


def _stop(
    scene: Scene, rng: random.Random, those: Sequence[psutil.Process]
) -> tuple[str, Undo] | None:
    there = [process for process in those if f"process {process.pid}" not in scene.broken]
    if not there:
        return None
    one = rng.choice(there)
    one.suspend()
    return f"process {one.pid}", one.resume


def _nothing() -> None:
    pass


FAULTS = (
    Fault("worker killed", 12, (0, 0), _kill_worker),
    Fault("worker's nanny killed", 60, (0, 0), _kill_nanny),
    Fault("worker ended by SIGTERM", 60, (0, 0), _end_workers),
    Fault("scheduler killed", 120, (0, 0), _kill_scheduler),
    Fault("command killed", 90, (0, 0), _kill_command),
    Fault("command interrupted", 120, (0.1, 0.1), _interrupt_command),
    Fault("worker stopped", 20, (0.5, 25), _stop_worker),
    Fault("scheduler stopped", 90, (0.5, 8), _stop_scheduler),
    Fault("command stopped", 60, (0.5, 15), _stop_command),
    Fault("link cut", 30, (1, 25), _cut_link),
    Fault("source fails", 30, (0.5, 4), _spell("source", "fail 0.3")),
    Fault("source is gone", 60, (10, 40), _spell("source", "fail 1")),
    Fault("source stalls", 40, (1, 8), _spell("source", "stall 0.5 2")),
    Fault("disk fails", 40, (0.5, 3), _spell("disk", "fail 0.5")),
    Fault("disk stalls", 40, (1, 8), _spell("disk", "stall 0.5 2")),
    Fault("disk full", 75, (1, 8), _fill_disk),
)
"""Cuts and suspensions last both shorter and longer than the timeouts of connections."""

CALLS = {
    "source.fail": "reads of the source that failed",
    "source.stall": "reads of the source that stalled",
    "disk.fail": "calls to the disk that failed",
    "disk.stall": "calls to the disk that stalled",
}


def struck(control: Path) -> dict[str, int]:
    """Return the number of affected calls to source and disk, by kind."""
    return {
        says: (control / name).stat().st_size if (control / name).exists() else 0
        for name, says in CALLS.items()
    }
