"""Supervision of processes: each is restarted when it ends.

A Dask worker that has lost its scheduler ends, and no scheduler can restart it, since none knows
its machine. So a supervisor on that machine must: systemd (`Restart=always`), or this module where
systemd is not used.
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
from typing import NoReturn

STABLE_SECONDS = 60.0
"""The lifetime after which a process is stable, which resets the pause before its restart."""
MIN_PAUSE_SECONDS = 1.0
"""The pause before a restart; it doubles while the program ends early."""
MAX_PAUSE_SECONDS = 30.0
STOP_SECONDS = 20.0
"""The time between SIGTERM and SIGKILL."""
POLL_SECONDS = 0.2

SUPERVISOR_VARIABLE = "TESSERAE_KEEPER"
"""The environment variable with the process id of the supervisor, with which its programs end."""

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True)
class Program:
    """A program that must run permanently."""

    name: str
    """The name of the program in messages."""
    command: Sequence[str]
    """The command line."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The variables that are added to the environment."""


class _SupervisedProgram:
    """A program and its current process."""

    def __init__(self, program: Program, report: Callable[[str], None]) -> None:
        self.program = program
        self._report = report
        self.starts = 0
        self._pause = MIN_PAUSE_SECONDS
        self._started_at = 0.0
        self._next_start = 0.0
        self.process: subprocess.Popen[bytes] | None = None

    def update(self, now: float) -> None:
        """Start the program if it does not run and its pause is over.

        Args:
            now: Seconds of the monotonic clock.
        """
        if self.process is not None:
            status = self.process.poll()
            if status is None:
                return
            self.process = None
            lifetime = now - self._started_at
            # Programs that end early are restarted less and less often.
            self._pause = (
                MIN_PAUSE_SECONDS
                if lifetime >= STABLE_SECONDS
                else min(2 * self._pause, MAX_PAUSE_SECONDS)
            )
            self._next_start = now + self._pause
            self._report(
                f"{self.program.name} ended with {status}; restarting in {self._pause:.0f} s"
            )
        if now >= self._next_start:
            self._started_at = now
            self.starts += 1
            environment = {
                **os.environ,
                **self.program.environment,
                SUPERVISOR_VARIABLE: str(os.getpid()),
            }
            self.process = subprocess.Popen(self.program.command, env=environment)

    def signal(self, number: int) -> None:
        """Send a signal to the process if it runs."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)


def supervise(
    programs: Sequence[Program],
    *,
    report: Callable[[str], None],
    done: Callable[[], bool] = lambda: False,
) -> dict[str, int]:
    """Run programs, and restart each that ends, until SIGINT, SIGTERM or a function ends it.

    Call it in the main thread. At the end, also after an error, all programs get SIGTERM, and after
    20 seconds SIGKILL; the former signal handlers are restored. Neither signal raises an exception.

    Args:
        programs: The programs to run, each with a `name` of its own, its `command` and the
            variables that its `environment` adds to those of this process.
        report: Called with one line when a program has ended, with its exit status (-N after the
            signal N) and the pause before its restart (1 to 30 seconds).
        done: Function that is polled five times a second, before the first start too, and returns
            True to stop (default: never).

    Returns:
        The number of starts of each program, by name.

    Raises:
        OSError: A program cannot be started.
    """
    supervised = [_SupervisedProgram(program, report) for program in programs]
    received: list[int] = []

    def record_signal(signum: int, _: FrameType | None) -> None:
        received.append(signum)

    previous_handlers = {signum: signal.signal(signum, record_signal) for signum in STOP_SIGNALS}
    try:
        while not received and not done():
            now = time.monotonic()
            for program in supervised:
                program.update(now)
            time.sleep(POLL_SECONDS)
    finally:
        _stop_programs(supervised)
        for signum, handler in previous_handlers.items():
            signal.signal(signum, handler)
    return {program.program.name: program.starts for program in supervised}


def run_once(program: Program) -> NoReturn:
    """Replace this process by a program, for another supervisor, such as systemd, to restart.

    Args:
        program: The program. The first word of its `command` is looked up in PATH, and its
            `environment` is added to that of this process.

    Raises:
        OSError: The program cannot be started.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe(program.command[0], list(program.command), {**os.environ, **program.environment})


def _stop_programs(supervised: Sequence[_SupervisedProgram]) -> None:
    # All get SIGTERM first, so that they stop at the same time.
    for program in supervised:
        program.signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    for program in supervised:
        if program.process is not None:
            try:
                program.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                program.signal(signal.SIGKILL)
                program.process.wait()
