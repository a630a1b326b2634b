"""Training processes of one world: placed by Dask, and begun again when one of them is lost.

Dask decides where, and sees who dies; the ranks talk to each other by themselves. Each is a child
of a Dask task (`cluster.ranks.supervisor`), which does not train.

When a rank, a worker or a machine dies, all ranks of that generation are ended, and another
generation begins, with as many as there are: what it goes on from is the stage's to know. When the
client has gone, ranks are told to stop, as by Ctrl-C: they save and return.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import cloudpickle
from distributed import Client, Future, Scheduler
from distributed.core import Status

from cluster.broadcast import ask
from cluster.errors import ClusterError, RankError
from cluster.ranks.process import SAVE_SECONDS, Order
from cluster.ranks.supervisor import give_up, supervise, supervised

END_SECONDS = 90.0
"""So long the ranks of a generation may take to end."""
LOOK_SECONDS = 0.5
"""Between two looks at whether all workers are there."""
ANSWER_SECONDS = 5.0
"""So long a worker may take to say whether it still supervises a rank."""
AGAIN_SECONDS = 30.0
"""So long a new generation waits for as many workers as there were."""
FIRST_SAY_SECONDS = 1.0
"""After which it is said what is waited for: a local cluster has its workers before."""
SAY_SECONDS = 5.0
"""Between two times that it is said, and how long a new generation waits for it."""
FAILURES = 3
"""Generations, one after the other, that may fail without a step forward."""


@dataclass(frozen=True)
class Place:
    """Where a rank is to run."""

    worker: str
    """The worker's address."""
    host: str
    gpu: bool


@dataclass(frozen=True)
class Wanted:
    """What ranks a world has."""

    ranks: int
    """At most; as many as there are workers for it, at least one."""
    gpu: bool = False
    batch: int = 0
    """Rows that they are to share evenly: fewer ranks, where they could not; 0 = any number."""
    seconds: float = 600.0
    """How long the first may take to come."""
    save_seconds: float = SAVE_SECONDS
    """How long ranks that are to stop may take to save."""
    option: str = ""
    """The option of a command that sets *seconds*, for who waits."""

    def of(self, there: int) -> int:
        """How many ranks there are where *there* workers are."""
        most = min(self.ranks, there)
        return next(n for n in range(most, 0, -1) if self.batch % n == 0)

    def left_out(self, there: int) -> str | None:
        """Say that ranks are left out since the batch is not dealt out evenly; None if none are."""
        most = min(self.ranks, there)
        used = self.of(there)
        if used == most:
            return None
        lower = self.batch - self.batch % most
        both = f"{lower} or {lower + most}" if lower else f"{most}"
        return (
            f"a batch of {self.batch} rows cannot be dealt out evenly to {most} ranks:"
            f" {used} train{'s' * (used == 1)}. A batch of {both} rows would use all {most}."
        )


Begin = Callable[[int], tuple[int, tuple[Any, ...]]]
"""Given how many ranks there are: claims a generation; returns its number and the arguments."""


def run_world(
    client: Client,
    wanted: Wanted,
    entry: str,
    begin: Begin,
    *,
    on_event: Callable[[dict[str, Any]], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    tick: Callable[[], None] = lambda: None,
) -> list[Any]:
    """Run ranks until all of them have returned; begin again when one was lost.

    Args:
        client: Of the cluster.
        wanted: How many ranks, and of which kind.
        entry: `module:function`, called in each rank with its `cluster.ranks.process.Rank` and the
            arguments.
        begin: Called for each generation.
        on_event: Given what ranks emit, with `rank` and `generation`, as it comes. What names a
            `step` counts as a step forward when it is further than any before.
        say: Told, in a line, what was lost.
        tick: Called all the time.

    Returns:
        What each rank returned.

    Raises:
        RankError: A rank fails again and again without a step forward, or with a `FinalError`.
        ClusterError: No worker comes.
    """
    world = _World(client, wanted, entry, begin, on_event, say, tick)
    while True:
        results = world.generation()
        if results is not None:
            return results


def gpus_there(client: Client) -> int:
    """How many workers have a GPU."""
    return len(_places(client, gpu=True))


def workers_for_ranks(client: Client, *, gpu: bool) -> list[str]:
    """Return the addresses of the workers that ranks may run on now."""
    return [place.worker for place in _places(client, gpu=gpu)]


class _World:
    def __init__(
        self,
        client: Client,
        wanted: Wanted,
        entry: str,
        begin: Begin,
        on_event: Callable[[dict[str, Any]], None],
        say: Callable[[str], None],
        tick: Callable[[], None],
    ) -> None:
        self._client = client
        self._wanted = wanted
        self._entry = entry
        self._begin = begin
        self._on_event = on_event
        self._say = say
        self._tick = tick
        self._furthest = -1.0
        self._failures = 0
        self._first = True

    def generation(self) -> list[Any] | None:
        """Run one; what its ranks returned, or None if one was lost."""
        places = self._places()
        self._first = False
        number, arguments = self._begin(len(places))
        before = self._furthest
        topic = f"ranks-{secrets.token_hex(8)}"
        self._client.subscribe_topic(topic, self._heard)
        futures: list[Future[Any]] = []
        try:
            futures = self._submit(places, number, arguments, topic)
            failed = self._watch(places, futures)
            if failed is None:
                return [future.result()["result"] for future in futures]
            self._ask(places, give_up, topic)
        finally:
            self._end(places, futures, topic)
            self._client.unsubscribe_topic(topic)
        self._failures = 0 if self._furthest > before else self._failures + 1
        if self._failures >= FAILURES or _is_final(failed):
            raise failed
        self._say(f"{failed}; all ranks begin again where they last saved")
        return None

    def _places(self) -> list[Place]:
        """Workers for all ranks; for fewer, if no more come."""
        wanted = self._wanted
        until = time.monotonic() + (wanted.seconds if self._first else AGAIN_SECONDS)
        last = time.monotonic() + wanted.seconds
        say = time.monotonic() + (FIRST_SAY_SECONDS if self._first else SAY_SECONDS)
        said = -1
        while True:
            found = _places(self._client, gpu=wanted.gpu)
            enough = len(found) >= wanted.ranks
            if enough or (found and time.monotonic() > until):
                fewer = wanted.left_out(len(found))
                if fewer is not None:
                    self._say(f"notice: {fewer}")
                return sorted(found[: wanted.of(len(found))], key=lambda place: place.host)
            if time.monotonic() > say and len(found) != said:
                said, say = len(found), time.monotonic() + SAY_SECONDS
                self._say(self._waiting(said, until if found else last))
            if time.monotonic() > last:
                kind = "worker with a GPU" if wanted.gpu else "worker"
                raise ClusterError(
                    f"no {kind} came within {wanted.seconds:.0f} s. See `tesserae cluster status`,"
                    " and the logs of `tesserae cluster worker`."
                )
            self._tick()
            time.sleep(LOOK_SECONDS)

    def _waiting(self, there: int, until: float) -> str:
        """What is there, what is waited for and for how long, and what happens then."""
        wanted = self._wanted
        kind = "workers with a GPU" if wanted.gpu else "workers"
        left = max(0.0, until - time.monotonic())
        ranks = wanted.of(there) if there else 0
        begin = f"{ranks} rank{'s' * (ranks != 1)} begin{'s' * (ranks == 1)}"
        option = f" ({wanted.option} sets that)" if wanted.option and self._first else ""
        return (
            f"{there} of {wanted.ranks} {kind} are there: waiting up to {left:.0f} s for the"
            f" others{option}; then {begin if there else 'the run ends'}"
        )

    def _submit(
        self, places: Sequence[Place], number: int, arguments: tuple[Any, ...], topic: str
    ) -> list[Future[Any]]:
        data = cloudpickle.dumps(arguments)
        futures = []
        for rank, place in enumerate(places):
            who = {
                "rank": rank,
                "world": len(places),
                "generation": number,
                "host": place.host,
                "gpu": place.gpu,
                "beside": sum(other.host == place.host for other in places),
            }
            futures.append(
                self._client.submit(
                    supervise,
                    Order(self._entry, data, who, self._wanted.save_seconds),
                    topic,
                    key=f"rank-{rank}-{topic}",
                    workers=[place.worker],
                    allow_other_workers=False,
                    resources={"GPU": 1} if place.gpu else None,
                    retries=0,
                    priority=100,
                    pure=False,
                )
            )
        return futures

    def _watch(
        self, places: Sequence[Place], futures: Sequence[Future[Any]]
    ) -> ClusterError | None:
        """Wait until all have returned, or one is lost; why it was."""
        while True:
            self._tick()
            states = [future.status for future in futures]
            if all(state == "finished" for state in states):
                return None
            for place, state in zip(places, states, strict=True):
                if state in ("error", "cancelled", "lost"):
                    return self._why(place, futures)
            workers = [place.worker for place in places]
            if gone := self._client.run_on_scheduler(_gone, workers):
                return ClusterError(f"worker {gone[0]} is gone")
            time.sleep(LOOK_SECONDS)

    def _why(self, place: Place, futures: Sequence[Future[Any]]) -> ClusterError:
        # One that was killed, or fails by itself, is told before those that then miss it.
        time.sleep(LOOK_SECONDS)
        errors = [f.exception(timeout=5) for f in futures if f.status == "error"]
        told = [e for e in errors if isinstance(e, RankError)]
        if told:
            return min(told, key=lambda e: (not e.final, not e.killed, "onnection" in str(e)))
        return ClusterError(f"the rank on {place.worker} was lost ({errors or 'no reason given'})")

    def _ask(self, places: Sequence[Place], call: Callable[[str], Any], topic: str) -> list[Any]:
        workers = [place.worker for place in places]
        answers = ask(self._client, call, topic, workers=workers, seconds=ANSWER_SECONDS)
        return list(answers.values())

    def _end(self, places: Sequence[Place], futures: Sequence[Future[Any]], topic: str) -> None:
        """Stop what still runs, and wait for it where it can be waited for."""
        self._client.cancel(list(futures))
        # A task that was cancelled ends its rank by itself; what is on a worker that is cut off
        # ends when that notices. Nobody waits for those: their generation counts for nothing.
        until = time.monotonic() + END_SECONDS
        while time.monotonic() < until:
            if not any(answer is True for answer in self._ask(places, supervised, topic)):
                return
            self._tick()
            time.sleep(LOOK_SECONDS)

    def _heard(self, event: tuple[float, Any]) -> None:
        message = event[1]
        if "step" in message:
            self._furthest = max(self._furthest, float(message["step"]))
        self._on_event(message)


def _is_final(error: ClusterError) -> bool:
    return isinstance(error, RankError) and error.final


def _gone(workers: Sequence[str], dask_scheduler: Scheduler) -> list[str]:
    return [worker for worker in workers if worker not in dask_scheduler.workers]


def _places(client: Client, *, gpu: bool) -> list[Place]:
    """Those that there are, the better ones first."""
    found: list[tuple[str, str, float]] = client.run_on_scheduler(_workers)
    places = [Place(address, host, gpu) for host, address, gpus in sorted(found) if gpus or not gpu]
    if gpu:
        return places  # those of a machine together: they are nearer to each other
    before: Counter[str] = Counter()
    turns = []
    for place in places:
        turns.append((before[place.host], place))
        before[place.host] += 1
    return [place for _, place in sorted(turns, key=lambda turn: turn[0])]  # machine by machine


def _workers(dask_scheduler: Scheduler) -> list[tuple[str, str, float]]:
    return [
        (str(urlsplit(worker.address).hostname), worker.address, worker.resources.get("GPU", 0))
        for worker in dask_scheduler.workers.values()
        if worker.status == Status.running
    ]
