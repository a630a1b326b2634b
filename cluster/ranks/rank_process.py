"""The process of a rank, in which a stage trains, and its links to the task that supervises it.

`python -m cluster.ranks.rank_process` reads its task from standard input, and later a request to
stop; it writes events to a separate pipe as lines of JSON. When standard input ends, the task is
gone: the rank then saves and ends, with all processes that it started. When the rank ends in any
way, a guard process kills the processes that it started.
"""

from __future__ import annotations

import json
import os
import pickle
import pkgutil
import signal
import struct
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from cluster.errors import PermanentError

EVENTS = "TESSERAE_RANK_EVENTS"
"""The environment variable with the file descriptor of the pipe for events."""

HEADER = struct.Struct("<Q")
"""The length of the pickled task that follows on standard input."""
STOP = b"stop\n"
"""The line on standard input that requests a stop."""
GUARD_POLL_SECONDS = 0.2
"""The interval at which the guard checks that the rank is alive."""
SAVE_SECONDS = 50.0
"""The default time that a rank may take to save after a request to stop."""


@dataclass(frozen=True)
class Rank:
    """The identity of a rank, and its connection to the supervising task."""

    rank: int
    """The rank, from 0 to world - 1."""
    world: int
    """The number of ranks."""
    generation: int
    """The number of times that the world was started, this time included."""
    host: str
    """The address of the machine, by which other ranks reach it."""
    gpu: bool
    """True if the rank has a GPU, which is `cuda:0` in its process."""
    ranks_on_host: int = 1
    """The number of ranks on this machine, this one included."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """An event that is set when the rank must save and return."""

    def emit(self, **message: Any) -> None:
        """Send an event with JSON values to the process that started the world.

        Call it in the process of the rank.

        Args:
            message: The event by its keywords, such as `step=10, loss=0.5`. The keyword `what` must
                not be `ended` or `failed`, which report the end of the rank.

        Raises:
            TypeError: A value cannot be written as JSON.
            KeyError: This is not the process of a rank.
        """
        line = json.dumps(message).encode() + b"\n"
        # After the task is gone nobody reads the pipe, but the rank must still save. The lock keeps
        # lines of several threads apart.
        with _events_lock, suppress(BrokenPipeError):
            os.write(int(os.environ[EVENTS]), line)


_events_lock = threading.Lock()


@dataclass(frozen=True)
class RankTask:
    """The function that a rank must run, with its arguments."""

    entry: str
    """The function as `module:function`; it is called with the `Rank` and the arguments."""
    arguments: bytes
    """The pickled tuple of arguments, which is unpickled after the module is imported."""
    rank_fields: dict[str, Any]
    """The fields of its `Rank`."""
    save_seconds: float = SAVE_SECONDS
    """The time in seconds that the rank may take to save after a request to stop, or after its task
    is gone."""


def main() -> int:
    """Run the task from standard input; return 0 if its function returned, otherwise 1."""
    # Before any thread starts, since it forks.
    _start_rank_guard()
    stdin = sys.stdin.buffer
    task = _read_task(stdin)
    rank = Rank(**task.rank_fields)
    listener_args = (stdin, rank.stopping, task.save_seconds)
    threading.Thread(target=_listen_for_stop, args=listener_args, daemon=True).start()
    try:
        function = pkgutil.resolve_name(task.entry)
        result = function(rank, *pickle.loads(task.arguments))
    except PermanentError as e:
        rank.emit(what="failed", error=str(e), final=True)
        return 1
    except BaseException as e:  # noqa: BLE001 - every error is reported to the supervisor
        traceback.print_exc()
        rank.emit(what="failed", error=f"{type(e).__name__}: {e}"[:2000])
        return 1
    rank.emit(what="ended", result=result)
    return 0


def _read_task(stdin: BinaryIO) -> RankTask:
    (length,) = HEADER.unpack(stdin.read(HEADER.size))
    task: RankTask = pickle.loads(stdin.read(length))
    return task


def _listen_for_stop(stdin: BinaryIO, stopping: threading.Event, save_seconds: float) -> None:
    while line := stdin.readline():
        if line == STOP:
            stopping.set()
    # The task is gone, with its worker or with the whole command. The rank still saves, so that the
    # steps since the last checkpoint are not lost. If another generation has started meanwhile, it
    # ignores what this one writes.
    _discard_output()
    stopping.set()
    time.sleep(save_seconds)
    os.killpg(0, signal.SIGKILL)


def _discard_output() -> None:
    """Redirect standard output and error to the null device."""
    # Writing to a pipe without a reader would raise an error, and prevent the rank from saving.
    null = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        os.dup2(null, number)
    os.close(null)


def _start_rank_guard() -> None:
    """Fork a small process that kills this one's process group when this one has ended."""
    rank = os.getpid()
    if os.fork():
        return
    os.setsid()  # outside the process group that it will kill
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.closerange(3, 256)  # an open end would keep the pipes of the rank alive
    while os.getppid() == rank:  # an orphan has another parent
        time.sleep(GUARD_POLL_SECONDS)
    try:
        os.killpg(rank, signal.SIGKILL)
    finally:
        os._exit(0)


if __name__ == "__main__":
    from cluster.ranks import rank_process as this  # classes must be those of the importable module

    status = this.main()
    sys.stdout.flush()
    os._exit(status)  # a hanging collective's threads would block a normal exit
