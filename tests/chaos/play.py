"""A command that is run again and again under faults, and the checks of what it leaves."""

from __future__ import annotations

import random
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.ground import ROW_BYTES, SHAPE, disk, hashes, make_source, make_undisturbed
from tests.chaos.monkey import FAULTS, Monkey, Scene, struck
from tests.cluster.hosts import hosts
from tests.cluster.network import Network
from tests.commands import Command, committed, run, saboteur

STUCK_SECONDS = 240.0
"""The time without a new shard after which the command counts as hanging."""
LOOK_SECONDS = 0.05
SAY_SECONDS = 15.0
LONGER = 4
"""The factor by which a run is extended at most, until all kinds of calls were affected."""
PAUSE_SECONDS = 0.5
"""The pause before a command is run again."""
INTERRUPTED = 130
KILLED = -9

FAULTY = """
from pathlib import Path
from tests.chaos.faulty import make_faulty
make_faulty(after_import, Path({control!r}))
"""


class Broken(Exception):
    """A defect was found."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The parameters of a run."""

    folder: Path
    seconds: float
    seed: int
    images: int
    """The number of images of each store."""
    workers: int
    """The number of hosts with a worker."""
    pace: float = 1.0
    """The factor by which faults are more frequent than usual."""
    struck: frozenset[str] = frozenset()
    """The kinds of calls that faults must affect; until they do, the run is extended."""


@dataclass
class Account:
    """The results of a run."""

    faults: Counter[str] = field(default_factory=Counter)
    lasted: dict[str, float] = field(default_factory=dict)
    """The total duration of each kind of fault, in seconds."""
    struck: dict[str, int] = field(default_factory=dict)
    stores: int = 0
    """The number of finished stores, all with the expected bytes."""
    ends: Counter[str] = field(default_factory=Counter)
    """The number of commands by how they ended."""
    sentences: Counter[str] = field(default_factory=Counter)
    """The error messages of commands, without paths and numbers."""
    longest: float = 0.0
    """The longest time without a new shard, in seconds."""
    seconds: float = 0.0


def play(plan: Plan) -> Account:
    """Prepare stores under faults until the time is over and the last store is finished.

    Raises:
        Broken: A store has other bytes, or a command ended without an error message, left processes
            or hung.
    """
    source = make_source(plan.folder, plan.images)
    expected = make_undisturbed(plan.folder, source)
    note(f"the store that nothing happened to has {len(expected)} files")
    with _scene(plan, source) as (scene, begin):
        faults = [fault.at_pace(plan.pace) for fault in FAULTS]
        monkey = Monkey(scene, faults, random.Random(plan.seed))
        one = _Play(plan, scene, monkey, expected, begin)
        try:
            while not one.look():
                time.sleep(LOOK_SECONDS)
        finally:
            monkey.stop()
    return one.close()


@contextmanager
def _scene(plan: Plan, source: Path) -> Iterator[tuple[Scene, Callable[[], Command]]]:
    control = plan.folder / "control"
    control.mkdir()
    names = [f"w{number}" for number in range(1, plan.workers + 1)]
    with (
        disk(plan.folder, 2 * plan.images * ROW_BYTES + 64 * 2**20) as place,
        hosts("s", "c", *names) as made,
        saboteur(plan.folder / "faulty", FAULTY.format(control=str(control))) as faulty,
        ExitStack() as stack,
    ):
        network = Network(made, plan.folder, stack)
        scheduler = network.scheduler()
        workers = {name: network.worker(name, extra_path=faulty) for name in names}
        network.wait(plan.workers)

        def begin() -> Command:
            return network.client("prepare", source, place / "store", *SHAPE, extra_path=faulty)

        yield Scene(network, scheduler, workers, place, control, begin()), begin


class _Play:
    """One run, which is polled all the time."""

    def __init__(
        self,
        plan: Plan,
        scene: Scene,
        monkey: Monkey,
        expected: dict[str, str],
        begin: Callable[[], Command],
    ) -> None:
        self._plan = plan
        self._scene = scene
        self._monkey = monkey
        self._expected = expected
        self._begin = begin
        self._store = scene.disk / "store"
        self._account = Account()
        self._started = self._moved = time.monotonic()
        self._said = float("-inf")
        self._shards = 0
        self._over = False
        self._calm = False
        """True if the current command was started after the last fault."""

    def look(self) -> bool:
        """Cause and undo faults, and check the command; return True once all is done."""
        now = time.monotonic()
        if not self._over and now - self._started > self._plan.seconds and self._enough(now):
            self._over = True
            self._monkey.stop()
            note("from here on nothing breaks")
        self._monkey.look()
        self._watch(now)
        if self._scene.command.running():
            return False
        if self._ended(self._scene.command):
            self._moved = now
            self._compare()
            if self._over:
                return True
            self._forget()
        elif self._calm:
            raise Broken(f"a command failed in the calm: {self._scene.command.err_file}")
        time.sleep(PAUSE_SECONDS)
        self._calm = self._over
        self._scene.command = self._begin()
        return False

    def _enough(self, now: float) -> bool:
        counts = struck(self._scene.control)
        missing = [kind for kind in self._plan.struck if not counts[kind]]
        return not missing or now - self._started > LONGER * self._plan.seconds

    def _forget(self) -> None:
        # Renamed first: one that was stopped, or cut off, may still write to it.
        gone = self._store.with_name(f"gone-{self._account.stores}")
        self._store.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)

    def close(self) -> Account:
        """Return the results."""
        account = self._account
        account.faults, account.lasted = self._monkey.counts, dict(self._monkey.seconds)
        account.struck = struck(self._scene.control)
        account.seconds = time.monotonic() - self._started
        return account

    def _watch(self, now: float) -> None:
        if (there := committed(self._store)) != self._shards:
            self._account.longest = max(self._account.longest, now - self._moved)
            self._moved, self._shards = now, there
        if now - self._said > SAY_SECONDS:
            self._said = now
            broken = ", ".join(sorted(self._scene.broken)) or "nothing"
            note(f"{now - self._started:4.0f} s, {there:4} shards; broken: {broken}")
        if now - self._moved > STUCK_SECONDS:
            what = self._scene.command.err_file
            raise Broken(f"nothing has moved for {STUCK_SECONDS:.0f} s: {what}")

    def _ended(self, command: Command) -> bool:
        """Record how a command ended; return True if its store is finished."""
        status, said = command.wait(), command.err.strip()
        mine = {KILLED: "command killed", INTERRUPTED: "command interrupted"}.get(status)
        if mine is not None and self._account.ends[_ENDS[status]] >= self._monkey.counts[mine]:
            raise Broken(f"a command ended with {status} by itself: {command.err_file}")
        if not command.gone(15):
            raise Broken(f"a command left processes: {command.processes()}")
        if "Traceback" in said:
            raise Broken(f"a command ended with a traceback: {command.err_file}")
        if status not in _ENDS:
            raise Broken(f"a command ended with {status}: {command.err_file}")
        self._account.ends[_ENDS[status]] += 1
        if status in (1, INTERRUPTED):
            lines = [line for line in said.splitlines() if line.startswith("tesserae: ")]
            if not lines or re.match(r"tesserae: \w*(Error|Exception)\b", lines[-1]):
                raise Broken(f"a command ended without a sentence: {command.err_file}")
            if status == 1:
                sentence = re.sub(r"\S*/\S*", "...", lines[-1].removeprefix("tesserae: "))
                self._account.sentences[re.sub(r"\d+", "N", sentence)] += 1
        return status == 0

    def _compare(self) -> None:
        # Commits and plan too, whose bytes say who made what and when.
        done = run("verify", self._store, scratch=self._plan.folder, seconds=STUCK_SECONDS)
        if done.status:
            raise Broken(f"a finished store is not whole: {done.out}{done.err}")
        found = hashes(self._store)
        if found != self._expected:
            names = sorted(found.keys() | self._expected.keys())
            other = [name for name in names if found.get(name) != self._expected.get(name)]
            raise Broken(f"{len(other)} files are not as they should be, such as {other[:3]}")
        self._account.stores += 1
        note(f"store {self._account.stores} has the bytes it should have")


_ENDS = {0: "finished", 1: "with a sentence", INTERRUPTED: "interrupted", KILLED: "killed"}


def note(line: str) -> None:
    """Print one line of progress to standard error."""
    sys.stderr.write(f"chaos: {line}\n")
