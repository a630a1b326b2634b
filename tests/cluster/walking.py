"""The functions of ranks in tests, such as a walk that saves every step."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from cluster.errors import PermanentError
from cluster.ranks.rank_process import Rank


def walk(rank: Rank, folder: Path, steps: int, seconds: float = 0.05) -> str:
    """Take *steps* steps, continuing after those that were saved."""
    saved = folder / str(rank.rank)
    done = int(saved.read_text()) if saved.exists() else 0
    (folder / f"pid-{rank.generation}-{rank.rank}").write_text(str(os.getpid()))
    for step in range(done + 1, steps + 1):
        if rank.stopping.is_set():
            return "stopped"
        time.sleep(seconds)
        new = saved.with_suffix(".new")
        new.write_text(str(step))
        new.replace(saved)
        rank.emit(step=step, world=rank.world)
    return "done"


def start_others(rank: Rank, folder: Path) -> None:
    """Start a process in the session of this rank, and wait."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (folder / f"child-{rank.rank}").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)


def fail(rank: Rank) -> None:
    """Write a line and raise an error in rank 0; the other ranks wait."""
    if rank.rank == 0:
        sys.stderr.write("it was the third picture\n")
        raise ZeroDivisionError("no more of this")
    time.sleep(600)


def refuse(rank: Rank) -> None:
    """Raise a final error in the last rank, and a connection error in the others."""
    if rank.rank == rank.world - 1:
        raise PermanentError("no rate is as high as 1e30.")
    time.sleep(0.2)
    raise ConnectionError("Connection closed by peer")


def end_by_itself(rank: Rank) -> None:
    """End the process like one that was killed."""
    os.kill(os.getpid(), 9)


def wait_to_stop(rank: Rank) -> str:
    """Wait for a request to stop."""
    rank.stopping.wait(60)
    return "stopped"
