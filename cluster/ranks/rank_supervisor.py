"""The Dask task of a rank: it starts the process of the rank, supervises it, and ends it.

The rank has a process of its own, so that the worker's heartbeats continue during training, the
memory of a GPU is free when the task has ended, and a hanging collective can be killed.
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

from cluster.errors import TrainingRankError
from cluster.ranks.rank_process import EVENTS, HEADER, STOP, RankTask

POLL_SECONDS = 0.1
DRAIN_SECONDS = 2.0
"""The timeout for reading the remaining output of a rank that has ended."""
MAX_TAIL_LINES = 40
MAX_ABANDONED = 100
"""The number of abandoned topics that a worker remembers, for tasks that begin late."""
ENDING_STATES = (Status.closing, Status.closing_gracefully, Status.closed)
"""The states of a worker that is about to end. A worker that is paused for lack of memory
continues its tasks."""


def supervise_rank(task: RankTask, topic: str) -> dict[str, Any]:
    """Run one rank to its end, as the function of its Dask task, which runs on a worker.

    The rank runs in a process of its own, which is killed when `abandon_ranks` is called for the
    topic. It is asked to save and return when the task is cancelled, the client is gone or the
    worker ends.

    Args:
        task: The work of the rank: `entry` (the function as `module:function`, which gets a
            `cluster.ranks.rank_process.Rank` and the arguments), `arguments` (the pickled tuple of
            its arguments), `rank_fields` (the fields of the `Rank` by name: `rank`, `world`,
            `generation`, `host`, `gpu` and `ranks_on_host`) and `save_seconds` (the seconds that it
            may take to save before it is killed).
        topic: Dask topic, one for each generation, under which the events of the rank are logged:
            dictionaries with `rank` and `generation` added.

    Returns:
        A dictionary with the only key `result`, the result of the function; the rank sends it as
        JSON.

    Raises:
        TrainingRankError: The rank failed, or was killed because another one was lost.
        ValueError: It was called outside a worker.
    """
    worker = get_worker()
    key = worker.get_current_task()
    identity = {name: task.rank_fields[name] for name in ("rank", "generation")}
    _rank_counts[topic] += 1
    try:
        rank_process = _RankProcess(
            task, lambda message: worker.log_event(topic, message | identity)
        )
        try:
            while rank_process.running():
                # Another rank of the world is lost, so this one cannot finish a step either.
                if topic in _abandoned_topics:
                    break
                # The rank may save: the task was cancelled, its client is gone, or its worker ends.
                if worker.status in ENDING_STATES or _is_cancelled(worker, key):
                    rank_process.stop(task.save_seconds)
                time.sleep(POLL_SECONDS)
        finally:
            rank_process.close()
    finally:
        _rank_counts[topic] -= 1
        if not _rank_counts[topic]:
            del _rank_counts[topic]  # a worker lives longer than any generation
    if rank_process.error is not None:
        raise rank_process.error
    return {"result": rank_process.result}


def is_supervised(topic: str) -> bool:
    """Return True if this worker's process still runs a `supervise_rank` of a generation.

    Call it on the worker.

    Args:
        topic: The Dask topic of the generation, as passed to `supervise_rank`.
    """
    return _rank_counts[topic] > 0


def abandon_ranks(topic: str) -> None:
    """Kill the ranks of a generation on this worker without saving, since another rank is lost.

    Call it on the worker. It returns before they have ended; ranks of the topic that start later
    are killed, too.

    Args:
        topic: The Dask topic of the generation, as passed to `supervise_rank`.
    """
    global _abandoned_topics
    # Replaced as a whole, because tasks read it meanwhile.
    _abandoned_topics = (*_abandoned_topics, topic)[-MAX_ABANDONED:]


# Module state of the worker's process: tasks run in its threads, broadcast calls in its event loop.
_rank_counts: Counter[str] = Counter()
_abandoned_topics: tuple[str, ...] = ()


def _is_cancelled(worker: Worker, key: object) -> bool:
    """Return True if a running task was cancelled, or its client is gone."""
    task = worker.state.tasks.get(key)  # type: ignore[call-overload]
    return task is None or task.state == "cancelled"


class _RankProcess:
    """The process of a rank."""

    def __init__(self, task: RankTask, emit: Callable[[dict[str, Any]], None]) -> None:
        self._task = task
        self._emit = emit
        self._stop_requested: float | None = None
        self._success: dict[str, Any] | None = None
        self._failure: dict[str, Any] | None = None
        self._tail: deque[str] = deque(maxlen=MAX_TAIL_LINES)
        read_end, child_end = os.pipe()
        environment = {
            **os.environ,
            **_collective_interface_environment(task.rank_fields["host"]),
            EVENTS: str(child_end),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cluster.ranks.rank_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(child_end,),
            start_new_session=True,  # its own process group, which can be killed as a whole
            env=environment,
        )
        os.close(child_end)  # otherwise the read end never sees the end of the pipe
        # Both pipes are read by threads: a full pipe would block the rank.
        self._pumps = [
            threading.Thread(target=pump, args=(file,), daemon=True)
            for pump, file in (
                (self._pump_events, os.fdopen(read_end, "rb")),
                (self._pump_output, self.process.stdout),
            )
        ]
        for pump in self._pumps:
            pump.start()
        data = pickle.dumps(task)
        self._write(HEADER.pack(len(data)) + data)

    @property
    def error(self) -> TrainingRankError | None:
        """The error of a rank that has ended; None if its function returned."""
        if self._success is not None:
            return None
        failure, status = self._failure, self.process.returncode
        if failure is not None and failure.get("final"):
            return TrainingRankError(failure["error"], permanent=True)
        summary = f"ended with {status}" if failure is None else failure["error"].splitlines()[0]
        tail = "\n".join(self._tail)
        return TrainingRankError(
            f"rank {self._task.rank_fields['rank']}: {summary}", killed=status < 0, tail=tail
        )

    @property
    def result(self) -> Any:
        """The result of the function; None if the rank failed."""
        return None if self._success is None else self._success["result"]

    def running(self) -> bool:
        """Return True if the process is running."""
        return self.process.poll() is None

    def stop(self, seconds: float) -> None:
        """Request a stop; kill the process *seconds* after the first request. Callers repeat it."""
        now = time.monotonic()
        if self._stop_requested is None:
            self._stop_requested = now
            self._write(STOP)
        if now - self._stop_requested > seconds:
            self._kill()

    def close(self) -> None:
        """Kill the process and all processes that it started, and close its pipes."""
        self._kill()
        self.process.wait()
        # A process that survived in a session of its own may hold the pipes open: wait briefly.
        for pump in self._pumps:
            pump.join(DRAIN_SECONDS)
        with suppress(OSError):
            self.process.stdin.close()  # type: ignore[union-attr]  # it is a pipe

    def _kill(self) -> None:
        # The group: it ends the children of the rank even if its guard is gone.
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
                with suppress(ValueError):  # a line that was cut off when the rank was killed
                    message = json.loads(line)
                    if message.get("what") == "ended":
                        self._success = message
                    elif message.get("what") == "failed":
                        self._failure = message
                    else:
                        self._emit(message)

    def _pump_output(self, file: Any) -> None:
        with file:
            for line in file:
                self._tail.append(line.decode(errors="replace").rstrip())


def _collective_interface_environment(host: str) -> dict[str, str]:
    """Return the environment that restricts collectives to the interface with address *host*."""
    # Otherwise gloo and NCCL choose, and may listen on an interface that other networks reach.
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address.split("%")[0] == host for address in addresses):
            return {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"}
    return {}
