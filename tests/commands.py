"""The `tesserae` command as a user runs it: in its own process group, observed from outside."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.fork_server import Forked, can_fork, fork_server

ROOT = Path(__file__).parents[1]
MARK = "TESSERAE_TEST_RUN"
"""An environment variable that exactly the processes of a command have."""

TRAINING = frozenset(
    {
        "train",
        "features",
        "search",
        "classify",
        "study",
        "export",
        "report",
        "sample-images",
        "loader",
        "upscale",
    }
)
"""Subcommands that import torch."""

PATIENCE = 60.0
"""The time in seconds that a step may take on a busy machine."""


@dataclass
class Command:
    """A running command, and a context manager that kills all its processes at the end."""

    process: subprocess.Popen[bytes] | Forked
    mark: str
    out_file: Path
    err_file: Path
    started: float = field(default_factory=time.monotonic)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.signal_all(signal.SIGKILL)
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(PATIENCE)

    @property
    def out(self) -> str:
        """The standard output so far."""
        return self.out_file.read_text()

    @property
    def err(self) -> str:
        """The standard error so far."""
        return self.err_file.read_text()

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for the end of the command, and return its exit status."""
        return self.process.wait(seconds)

    def running(self) -> bool:
        """Return True if the command itself, not one of its workers, still runs."""
        return self.process.poll() is None

    def signal_all(self, number: int) -> None:
        """Send a signal to the whole process group, as a terminal does."""
        if not self.running():  # then its number may be somebody else's
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def processes(self) -> list[psutil.Process]:
        """Return all live processes that the command has started, and its own."""
        return [process for process in psutil.process_iter() if self._is_ours(process)]

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes, which are the children of the fork server."""
        workers = []
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "multiprocessing.forkserver" in " ".join(child.cmdline()):
                        workers += child.children()
        return [worker for worker in workers if worker.is_running()]

    def gone(self, seconds: float = PATIENCE) -> bool:
        """Wait until no process of the command is left; return False after *seconds*."""
        return wait_until(lambda: not self.processes(), seconds)

    def _is_ours(self, process: psutil.Process) -> bool:
        if process.pid == self.process.pid:
            return self.running()
        try:
            return (
                process.status() != psutil.STATUS_ZOMBIE
                and process.environ().get(MARK) == self.mark
            )
        except psutil.Error:
            return False


def start(
    *words: object,
    scratch: Path,
    extra_path: Path | None = None,
    within: Sequence[str] = (),
    **env: str,
) -> Command:
    """Start `tesserae <words>` in a process group of its own.

    Args:
        words: The command line.
        scratch: The working folder, which also holds the output.
        extra_path: A folder that all processes of the command have first on their module path.
        within: A command line that runs another one elsewhere, such as in a network namespace.
        env: Additional environment variables.
    """
    mark = uuid.uuid4().hex
    paths = [*([str(extra_path)] if extra_path else []), str(ROOT)]
    scratch.mkdir(parents=True, exist_ok=True)
    out_file, err_file = scratch / f"{mark}.out", scratch / f"{mark}.err"
    with out_file.open("wb") as out, err_file.open("wb") as err:
        line = [str(word) for word in words]
        environment = {**os.environ, **env, "PYTHONPATH": os.pathsep.join(paths), MARK: mark}
        process: subprocess.Popen[bytes] | Forked
        if not within and not extra_path and can_fork(env):
            process = fork_server().fork(
                "workflows",
                line,
                out=out,
                err=err,
                folder=scratch,
                environment=environment,
                heavy=bool(line) and line[0] in TRAINING,
            )
        else:
            process = subprocess.Popen(
                [*within, sys.executable, "-m", "workflows", *line],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=scratch,
                env=environment,
                start_new_session=True,
            )
    return Command(process, mark, out_file, err_file)


@dataclass(frozen=True)
class CommandResult:
    """The exit status and the output of a command that has ended by itself."""

    status: int
    out: str
    err: str


def run(
    *words: object,
    scratch: Path,
    seconds: float = PATIENCE,
    extra_path: Path | None = None,
    within: Sequence[str] = (),
    **env: str,
) -> CommandResult:
    """Run `tesserae <words>` to its end."""
    with start(*words, scratch=scratch, extra_path=extra_path, within=within, **env) as command:
        status = command.wait(seconds)
        return CommandResult(status, command.out, command.err)


def wait_until(condition: Callable[[], object], seconds: float = PATIENCE) -> bool:
    """Call *condition* until it returns a true value; return False after *seconds*."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def free_port() -> int:
    """Return a port on which no process listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def committed(store: Path, split: str = "train") -> int:
    """Return the number of committed shards of a split."""
    folder = store / "commits" / split
    return len(list(folder.glob("*.json"))) if folder.is_dir() else 0


@contextlib.contextmanager
def saboteur(folder: Path, code: str) -> Iterator[Path]:
    """Yield a folder that makes every process with it on its module path run *code*.

    The code may call `after_import(module_name, function_of_the_module)`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(HOOK + code)
    yield folder


HOOK = """
import importlib.abc, importlib.util, sys


class _After(importlib.abc.MetaPathFinder):
    def __init__(self, name, change):
        self.name, self.change, self.busy = name, change, False

    def find_spec(self, name, path, target=None):
        if name != self.name or self.busy:
            return None
        self.busy = True
        spec = importlib.util.find_spec(name)
        self.busy = False
        run, change = spec.loader.exec_module, self.change

        def exec_module(module):
            run(module)
            change(module)

        spec.loader.exec_module = exec_module
        return spec


def after_import(name, change):
    sys.meta_path.insert(0, _After(name, change))


"""
