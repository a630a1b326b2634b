"""A cluster over hosts of one machine, its links encrypted, each with only what its role needs."""

from __future__ import annotations

import shutil
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil

from cluster import certificates
from tests.cluster.hosts import Hosts
from tests.commands import Command, start

SILENCE = "11s"
"""So long a link may be silent here; 30 s where people work. Dask allows no less."""

OPTIONS = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": SILENCE,
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": SILENCE,
}


class Network:
    """Scheduler `s`, client `c`, and workers on any other host."""

    def __init__(self, made: Hosts, folder: Path, stack: ExitStack) -> None:
        self.hosts = made
        self._folder = folder
        self._stack = stack
        self.address = f"tls://{made.addresses['s']}:8786"
        certificates.write(folder / "certs", certificates.make())
        for role in certificates.ROLES:
            (folder / role).mkdir(mode=0o700)
            for name in (certificates.AUTHORITY, f"{role}.pem", f"{role}.key"):
                shutil.copy(folder / "certs" / name, folder / role)

    def start(
        self, host: str, role: str, *words: object, extra_path: Path | None = None
    ) -> Command:
        """Run `tesserae WORDS` on a host, as one of the roles."""
        return self._stack.enter_context(
            start(
                *words,
                scratch=self._folder / host,
                within=self.hosts.words(host),
                extra_path=extra_path,
                TESSERAE_CERTS=str(self._folder / role),
                **OPTIONS,
            )
        )

    def scheduler(self) -> Command:
        """The scheduler."""
        host = self.hosts.addresses["s"]
        return self.start("s", "scheduler", "cluster", "scheduler", "--host", host)

    def worker(self, host: str, *more: object, extra_path: Path | None = None) -> Command:
        """A host's worker, of one process."""
        scratch = self._folder / host / "scratch"
        words = ("cluster", "worker", self.address, "--workers", 1, "--scratch", scratch, *more)
        return self.start(host, "worker", *words, extra_path=extra_path)

    def client(self, *words: object, extra_path: Path | None = None) -> Command:
        """A command that uses the cluster."""
        return self.start("c", "client", *words, "--cluster", self.address, extra_path=extra_path)

    def wait(self, workers: int, seconds: float = 60) -> float:
        """Wait for so many workers; returns after how many seconds they were there."""
        words = ("cluster", "wait", self.address, "--workers", workers, "--seconds", seconds)
        started = time.monotonic()
        waiting = self.start("c", "client", *words)
        assert waiting.wait(seconds + 30) == 0, waiting.err
        return time.monotonic() - started


def worker_processes(command: Command) -> list[psutil.Process]:
    """The processes that work, of `tesserae cluster worker`."""
    return [p for p in command.processes() if "forkserver" in _parent_line(p)]


def serving_processes(command: Command) -> list[psutil.Process]:
    """The schedulers, or the nannies of workers, that the keeper of *command* keeps."""
    return [p for p in command.processes() if "cluster.processes.serve" in _line(p)]


def _parent_line(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        parent = process.parent()
        return "" if parent is None else _line(parent)
    return ""


def _line(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join(process.cmdline())
    return ""
