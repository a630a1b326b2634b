"""What may go wrong, and when: each kind of fault at times of its own, whatever else is broken."""

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
"""What a full disk has left: too little for a shard, enough for a folder's entry."""


@dataclass
class Scene:
    """What there is to break."""

    network: Network
    scheduler: Command
    workers: dict[str, Command]
    disk: Path
    control: Path
    command: Command
    """The client's, at the moment."""
    broken: set[str] = field(default_factory=set)
    """What cannot be broken now, being broken."""


@dataclass(frozen=True)
class Fault:
    """A kind of fault."""

    name: str
    every: float
    """Seconds from one to the next, on average."""
    lasts: tuple[float, float]
    """Seconds, at least and at most."""
    begin: Callable[[Scene, random.Random], tuple[str, Undo] | None]
    """Breaks something; returns what, and how it is mended. None: it could not."""

    def at_pace(self, pace: float) -> Fault:
        """The same, so many times as often."""
        return replace(self, every=self.every / pace)


class Monkey:
    """Breaks things at random, and mends what is to be mended."""

    def __init__(self, scene: Scene, faults: Sequence[Fault], rng: random.Random) -> None:
        self._scene = scene
        self._rng = rng
        self._next = {fault: self._in(fault.every) for fault in faults}
        self._mend: list[tuple[float, str, Undo]] = []
        self.counts: Counter[str] = Counter({fault.name: 0 for fault in faults})
        self.seconds: dict[str, float] = defaultdict(float)
        """How long each kind lasted, in all."""

    def _in(self, every: float) -> float:
        return time.monotonic() + self._rng.expovariate(1 / every)

    def look(self) -> None:
        """Break and mend what it is time for."""
        now = time.monotonic()
        for item in [item for item in self._mend if item[0] <= now]:
            self._undo(item)
        for fault, at in self._next.items():
            if at <= now:
                self._next[fault] = self._in(fault.every)
                self._begin(fault)

    def stop(self) -> None:
        """Break nothing more, and mend everything."""
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
"""Links are cut, and processes stopped, for less and for more than it takes to be given up."""

CALLS = {
    "source.fail": "reads of the source that failed",
    "source.stall": "reads of the source that stalled",
    "disk.fail": "calls to the disk that failed",
    "disk.stall": "calls to the disk that stalled",
}


def struck(control: Path) -> dict[str, int]:
    """How many calls the spells of source and disk have struck."""
    return {
        says: (control / name).stat().st_size if (control / name).exists() else 0
        for name, says in CALLS.items()
    }
