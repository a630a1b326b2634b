"""Training processes of one world, each supervised by a Dask task on the worker beside it.

Dask decides where, and sees who dies; the ranks talk to each other by themselves. A task does not
train: it starts a child process (`cluster.rank`), and ends it, whatever happens to either. So the
worker's heartbeats go on, a GPU's memory is free when the task has ended, and a collective that
hangs is ended by ending the process.

When a rank, a worker or a machine dies, all ranks of that generation are ended, and another
generation begins, with as many as there are: what it goes on from is the stage's to know. When the
client has gone, ranks are told to stop, as by Ctrl-C: they save and return.
"""

from __future__ import annotations

import json
import os
import pickle
import secrets
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import cloudpickle
import psutil
from distributed import Client, Future, Scheduler, Worker, get_worker
from distributed.core import Status

from cluster.asking import ask
from cluster.errors import ClusterError
from cluster.rank import EVENTS, HEADER, STOP, Order

POLL_SECONDS = 0.1
SAVE_SECONDS = 50.0
"""So long a rank that is told to stop may take to save."""
END_SECONDS = 90.0
"""So long the ranks of a generation may take to end."""
LOOK_SECONDS = 0.5
"""Between two looks at whether all workers are there."""
ANSWER_SECONDS = 5.0
"""So long a worker may take to say whether it still supervises a rank."""
AGAIN_SECONDS = 30.0
"""So long a new generation waits for as many workers as there were."""
FAILURES = 3
"""Generations, one after the other, that may fail without a step forward."""
TAIL_LINES = 40


class RankError(ClusterError):
    """A rank has failed by itself: its error, and the last lines that it said."""


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
    seconds: float = 600.0
    """How long the first may take to come."""


# --- on the worker --------------------------------------------------------------------------------


def supervise(order: Order, topic: str) -> dict[str, Any]:
    """Run one rank to its end. What the task of a rank does.

    Args:
        order: What the rank is to do.
        topic: Under which its events are logged.

    Returns:
        What its function returned, under `result`.

    Raises:
        RankError: It failed.
    """
    worker = get_worker()
    key = worker.get_current_task()
    who = {name: order.who[name] for name in ("rank", "generation")}
    _topics[topic] += 1
    try:
        child = _Child(order, lambda message: worker.log_event(topic, message | who))
        try:
            while child.running():
                if topic in _given_up:
                    break
                if worker.status != Status.running or _is_cancelled(worker, key):
                    child.stop(SAVE_SECONDS)
                time.sleep(POLL_SECONDS)
        finally:
            child.close()
    finally:
        _topics[topic] -= 1
    if child.error is not None:
        raise RankError(child.error)
    return {"result": child.result}


def supervised(topic: str) -> bool:
    """Whether this worker still supervises a rank of *topic*."""
    return _topics[topic] > 0


def give_up(topic: str) -> None:
    """End the ranks of *topic* here without letting them save: one of the others is lost."""
    _given_up.add(topic)


_topics: Counter[str] = Counter()
_given_up: set[str] = set()


def _is_cancelled(worker: Worker, key: object) -> bool:
    """Whether nobody wants a running task any more: it was cancelled, or its client has gone."""
    task = worker.state.tasks.get(key)  # type: ignore[call-overload]
    return task is None or task.state == "cancelled"


class _Child:
    """The process of a rank."""

    def __init__(self, order: Order, say: Callable[[dict[str, Any]], None]) -> None:
        self._order = order
        self._say = say
        self._told: float | None = None
        self._ended: dict[str, Any] | None = None
        self._failed: str | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        events, theirs = os.pipe()
        environment = {**os.environ, **_network(order.who["host"]), EVENTS: str(theirs)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cluster.rank"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(theirs,),
            start_new_session=True,
            env=environment,
        )
        os.close(theirs)
        self._pumps = [
            threading.Thread(target=pump, args=(file,), daemon=True)
            for pump, file in (
                (self._pump_events, os.fdopen(events, "rb")),
                (self._pump_output, self.process.stdout),
            )
        ]
        for pump in self._pumps:
            pump.start()
        data = pickle.dumps(order)
        self._write(HEADER.pack(len(data)) + data)

    @property
    def error(self) -> str | None:
        """Why it failed; None if it did not."""
        if self._ended is not None:
            return None
        status = self.process.returncode
        why = self._failed or f"ended with {status}"
        lines = "\n    ".join(self._tail)
        return f"rank {self._order.who['rank']}: {why}\n    {lines}".rstrip()

    @property
    def result(self) -> Any:
        """What its function returned."""
        return None if self._ended is None else self._ended["result"]

    def running(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def stop(self, seconds: float) -> None:
        """Tell it to save and return; end it after *seconds* if it has not. Called again."""
        now = time.monotonic()
        if self._told is None:
            self._told = now
            self._write(STOP)
        if now - self._told > seconds:
            self._kill()

    def close(self) -> None:
        """End it, and all that it started."""
        self._kill()
        self.process.wait()
        for pump in self._pumps:
            pump.join(POLL_SECONDS * 20)
        with suppress(OSError):
            self.process.stdin.close()  # type: ignore[union-attr]  # it is a pipe

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, 9)

    def _write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        with suppress(OSError):
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def _pump_events(self, file: Any) -> None:
        with file:
            for line in file:
                with suppress(ValueError):
                    message = json.loads(line)
                    if message.get("what") == "ended":
                        self._ended = message
                    elif message.get("what") == "failed":
                        self._failed = message["error"]
                    else:
                        self._say(message)

    def _pump_output(self, file: Any) -> None:
        with file:
            for line in file:
                self._tail.append(line.decode(errors="replace").rstrip())


def _network(host: str) -> dict[str, str]:
    """Have collectives use the interface with the address *host*, and no other."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.split("%")[0] == host for address in addresses):
            return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"}
    return {}


# --- where the client is --------------------------------------------------------------------------


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
        entry: `module:function`, called in each rank with its `cluster.rank.Rank` and the
            arguments.
        begin: Called for each generation.
        on_event: Given what ranks emit, with `rank` and `generation`, as it comes. What names a
            `step` counts as a step forward when it is further than any before.
        say: Told, in a line, what was lost.
        tick: Called all the time.

    Returns:
        What each rank returned.

    Raises:
        RankError: A rank fails again and again without a step forward.
        ClusterError: No worker comes.
    """
    world = _World(client, wanted, entry, begin, on_event, say, tick)
    while True:
        results = world.generation()
        if results is not None:
            return results


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
            ask(self._client, give_up, topic, seconds=ANSWER_SECONDS)
        finally:
            self._end(futures, topic)
            self._client.unsubscribe_topic(topic)
        self._failures = 0 if self._furthest > before else self._failures + 1
        if self._failures >= FAILURES:
            raise failed
        self._say(f"{str(failed).splitlines()[0]}; all ranks begin again where they last saved")
        return None

    def _places(self) -> list[Place]:
        """Workers for all ranks; for fewer, if no more come."""
        wanted = self._wanted
        until = time.monotonic() + (wanted.seconds if self._first else AGAIN_SECONDS)
        last = time.monotonic() + wanted.seconds
        while True:
            found = _places(self._client, gpu=wanted.gpu)
            enough = len(found) >= wanted.ranks
            if enough or (found and time.monotonic() > until):
                return found[: wanted.ranks]
            if time.monotonic() > last:
                kind = "worker with a GPU" if wanted.gpu else "worker"
                raise ClusterError(
                    f"no {kind} came within {wanted.seconds:.0f} s. See `tesserae cluster status`,"
                    " and the logs of `tesserae cluster worker`."
                )
            self._tick()
            time.sleep(LOOK_SECONDS)

    def _submit(
        self, places: Sequence[Place], number: int, arguments: tuple[Any, ...], topic: str
    ) -> list[Future[Any]]:
        data = cloudpickle.dumps(arguments)
        on_host: Counter[str] = Counter()
        futures = []
        for rank, place in enumerate(places):
            who = {
                "rank": rank,
                "world": len(places),
                "generation": number,
                "host": place.host,
                "gpu": place.gpu,
                "place": on_host[place.host],
            }
            on_host[place.host] += 1
            futures.append(
                self._client.submit(
                    supervise,
                    Order(self._entry, data, who),
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
            there = set(self._client.scheduler_info(n_workers=-1)["workers"])
            gone = [place.worker for place in places if place.worker not in there]
            if gone:
                return ClusterError(f"worker {gone[0]} is gone")
            time.sleep(LOOK_SECONDS)

    def _why(self, place: Place, futures: Sequence[Future[Any]]) -> ClusterError:
        # One that fails by itself is told before those that then miss it.
        time.sleep(LOOK_SECONDS)
        errors = [f.exception(timeout=5) for f in futures if f.status == "error"]
        told = [e for e in errors if isinstance(e, RankError)]
        if told:
            return min(told, key=lambda e: ("ended with" not in str(e), "onnection" in str(e)))
        return ClusterError(f"the rank on {place.worker} was lost ({errors or 'no reason given'})")

    def _end(self, futures: Sequence[Future[Any]], topic: str) -> None:
        """Stop what still runs, and wait for it where it can be waited for."""
        self._client.cancel(list(futures))
        # A task that was cancelled ends its rank by itself; what is on a worker that is cut off
        # ends when that notices. Nobody waits for those: their generation counts for nothing.
        until = time.monotonic() + END_SECONDS
        while time.monotonic() < until:
            answers = ask(self._client, supervised, topic, seconds=ANSWER_SECONDS)
            if not any(answer is True for answer in answers.values()):
                return
            self._tick()
            time.sleep(LOOK_SECONDS)

    def _heard(self, event: tuple[float, Any]) -> None:
        message = event[1]
        if "step" in message:
            self._furthest = max(self._furthest, float(message["step"]))
        self._on_event(message)


def _places(client: Client, *, gpu: bool) -> list[Place]:
    found: list[tuple[str, str, float]] = client.run_on_scheduler(_workers)
    return [Place(address, host, gpu) for host, address, gpus in sorted(found) if gpus or not gpu]


def _workers(dask_scheduler: Scheduler) -> list[tuple[str, str, float]]:
    return [
        (str(urlsplit(worker.address).hostname), worker.address, worker.resources.get("GPU", 0))
        for worker in dask_scheduler.workers.values()
        if worker.status == Status.running
    ]
