"""A rank: the process in which a stage trains, and its bonds to the task that supervises it.

`python -m cluster.ranks.process` reads from standard input what it is to do, and afterwards whether
it is to stop; it says what happens on a pipe of its own, as lines of JSON. When standard input
ends, the task has gone, and the rank goes at once with all that it started; when the rank goes in
any way, a guard sees to what it started.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import signal
import struct
import sys
import threading
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from cluster.errors import FinalError

EVENTS = "TESSERAE_RANK_EVENTS"
"""The environment variable with the number of the pipe that events go to."""

HEADER = struct.Struct("<Q")
STOP = b"stop\n"
GUARD_SECONDS = 0.2
"""Between two looks of the guard."""
SAVE_SECONDS = 50.0
"""How long a rank that is to stop may take to save."""


@dataclass(frozen=True)
class Rank:
    """What a rank knows of itself."""

    rank: int
    world: int
    generation: int
    """How often the world was made, this time included."""
    host: str
    """The address of its machine, by which other ranks reach it."""
    gpu: bool
    """Whether it has a GPU, which is `cuda:0` here."""
    beside: int = 1
    """How many ranks are on its machine, this one included."""
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set when it is to save what it has and return."""

    def emit(self, **message: Any) -> None:
        """Say something to whoever started the world: values that JSON knows."""
        line = json.dumps(message).encode() + b"\n"
        # Nobody listens after the task has gone, and the rank has yet to save.
        with _lock, suppress(BrokenPipeError):
            os.write(int(os.environ[EVENTS]), line)


_lock = threading.Lock()


@dataclass(frozen=True)
class Order:
    """What a rank is to do."""

    entry: str
    """`module:function`, which is called with the `Rank` and the arguments."""
    arguments: bytes
    """A pickled tuple: unpickled once the module is there."""
    who: dict[str, Any]
    """The fields of its `Rank`."""
    save_seconds: float = SAVE_SECONDS
    """How long it may take to save when it is to stop, or when its task has gone."""


def main() -> int:
    """Do it; 0 if the function returned."""
    _guard()
    life = sys.stdin.buffer
    order = _read(life)
    rank = Rank(**order.who)
    listening = (life, rank.stopping, order.save_seconds)
    threading.Thread(target=_listen, args=listening, daemon=True).start()
    try:
        module, _, name = order.entry.partition(":")
        function = getattr(importlib.import_module(module), name)
        result = function(rank, *pickle.loads(order.arguments))
    except FinalError as e:
        rank.emit(what="failed", error=str(e), final=True)
        return 1
    except BaseException as e:  # noqa: BLE001 - whatever it is, it is told
        traceback.print_exc()
        rank.emit(what="failed", error=f"{type(e).__name__}: {e}"[:2000])
        return 1
    rank.emit(what="ended", result=result)
    return 0


def _read(life: BinaryIO) -> Order:
    (length,) = HEADER.unpack(life.read(HEADER.size))
    order: Order = pickle.loads(life.read(length))
    return order


def _listen(life: BinaryIO, stopping: threading.Event, save_seconds: float) -> None:
    while line := life.readline():
        if line == STOP:
            stopping.set()
    # The task has gone, with its worker or with the whole command. Steps that were taken since the
    # last checkpoint would be lost; whoever begins again claims a new generation, for which what
    # is saved from then on counts for nothing.
    _write_to_nobody()
    stopping.set()
    time.sleep(save_seconds)
    os.killpg(0, signal.SIGKILL)


def _write_to_nobody() -> None:
    """Point standard output and error away from pipes that nobody reads."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in (1, 2):
        os.dup2(null, number)
    os.close(null)


def _guard() -> None:
    """Leave a small process behind that ends what this one has started, when this one has ended."""
    rank = os.getpid()
    if os.fork():
        return
    os.setsid()  # not to end with them
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    os.closerange(3, 256)
    while os.getppid() == rank:
        time.sleep(GUARD_SECONDS)
    try:
        os.killpg(rank, signal.SIGKILL)
    finally:
        os._exit(0)


if __name__ == "__main__":
    from cluster.ranks import process as this  # not a second module of the same

    status = this.main()
    sys.stdout.flush()
    os._exit(status)  # threads of a collective that hangs would hold up any other end
