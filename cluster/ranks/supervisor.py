"""What a Dask task does for a rank: it starts the rank's process beside it, and ends it.

Whatever happens to either: so the worker's heartbeats go on, a GPU's memory is free when the task
has ended, and a collective that hangs is ended by ending the process.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
from distributed import Worker, get_worker
from distributed.core import Status

from cluster.errors import RankError
from cluster.ranks.process import EVENTS, HEADER, STOP, Order

POLL_SECONDS = 0.1
PUMP_SECONDS = 2.0
"""So long the last words of a rank that has ended are waited for."""
TAIL_LINES = 40
ENDING = (Status.closing, Status.closing_gracefully, Status.closed)
"""Of a worker that is to end. One that is paused, for want of memory, goes on with what it has."""


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
                if worker.status in ENDING or _is_cancelled(worker, key):
                    child.stop(order.save_seconds)
                time.sleep(POLL_SECONDS)
        finally:
            child.close()
    finally:
        _topics[topic] -= 1
    if child.error is not None:
        raise child.error
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
        self._failed: dict[str, Any] | None = None
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        events, theirs = os.pipe()
        environment = {**os.environ, **_network(order.who["host"]), EVENTS: str(theirs)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cluster.ranks.process"],
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
    def error(self) -> RankError | None:
        """Why it failed; None if it did not."""
        if self._ended is not None:
            return None
        failed, status = self._failed, self.process.returncode
        if failed is not None and failed.get("final"):
            return RankError(failed["error"], final=True)
        first = f"ended with {status}" if failed is None else failed["error"].splitlines()[0]
        tail = "\n".join(self._tail)
        return RankError(f"rank {self._order.who['rank']}: {first}", killed=status < 0, tail=tail)

    @property
    def result(self) -> Any:
        """What its function returned."""
        return None if self._ended is None else self._ended["result"]

    def running(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def stop(self, seconds: float) -> None:
        """Tell it to save and return; end it after *seconds*. May be called all the time."""
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
            pump.join(PUMP_SECONDS)
        with suppress(OSError):
            self.process.stdin.close()  # type: ignore[union-attr]  # it is a pipe

    def _kill(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

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
                        self._failed = message
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
