"""Processes that are started again when they end.

A Dask worker that has lost its scheduler ends, and no scheduler can bring it back: it does not know
where it was. So somebody on the worker's own machine must. systemd does (`Restart=always`); where
there is none, this does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from types import FrameType

STEADY_SECONDS = 60.0
"""A process that lived so long did well: the next is started at once."""
PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
STOP_SECONDS = 20.0
"""Between being asked to stop and being killed."""
LOOK_SECONDS = 0.2

PARENT = "TESSERAE_KEEPER"
"""The environment variable with the number of the keeper, which what it starts does not outlive."""

STOPS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Program:
    """What is to run all the time."""

    name: str
    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


class _Kept:
    """One program, and the process that it is now."""

    def __init__(self, program: Program, say: Callable[[str], None]) -> None:
        self.program = program
        self._say = say
        self.starts = 0
        self._pause = PAUSE_SECONDS
        self._begun = 0.0
        self._again = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def look(self, now: float) -> None:
        """Start it if it is to run and does not."""
        if self.process is not None:
            status = self.process.poll()
            if status is None:
                return
            self.process = None
            lived = now - self._begun
            self._pause = (
                PAUSE_SECONDS
                if lived >= STEADY_SECONDS
                else min(2 * self._pause, LONGEST_PAUSE_SECONDS)
            )
            self._again = now + self._pause
            self._say(f"{self.program.name} ended with {status}; again in {self._pause:.0f} s")
        if now >= self._again:
            self._begun = now
            self.starts += 1
            environment = {**os.environ, **self.program.environment, PARENT: str(os.getpid())}
            self.process = subprocess.Popen(self.program.words, env=environment)

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


def keep(
    programs: Sequence[Program],
    *,
    say: Callable[[str], None],
    done: Callable[[], bool] = lambda: False,
) -> dict[str, int]:
    """Run *programs* until SIGINT or SIGTERM, and start each again that ends.

    Args:
        programs: What to run.
        say: Told, in a line, when one has ended.
        done: Asked all the time whether that is enough.

    Returns:
        How often each was started.
    """
    kept = [_Kept(program, say) for program in programs]
    stopped: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        stopped.append(number)

    before = {number: signal.signal(number, stop) for number in STOPS}
    try:
        while not stopped and not done():
            now = time.monotonic()
            for one in kept:
                one.look(now)
            time.sleep(LOOK_SECONDS)
    finally:
        _stop(kept)
        for number, handler in before.items():
            signal.signal(number, handler)
    return {one.program.name: one.starts for one in kept}


def run_once(program: Program) -> int:
    """Run *program* in place of this process, for a supervisor that starts it again itself."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(program.words[0], list(program.words), {**os.environ, **program.environment})


def _stop(kept: Sequence[_Kept]) -> None:
    for one in kept:
        one.signal(signal.SIGTERM)
    until = time.monotonic() + STOP_SECONDS
    for one in kept:
        if one.process is not None:
            try:
                one.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.signal(signal.SIGKILL)
                one.process.wait()
