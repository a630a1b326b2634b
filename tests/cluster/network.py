"""A cluster over simulated hosts, with encrypted links and only the files that each role needs."""

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
"""The timeout of a silent link in tests, which is Dask's minimum; in production it is 30 s."""

OPTIONS = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": SILENCE,
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": SILENCE,
}


class Network:
    """A cluster with scheduler host `s`, client host `c`, and workers on any other host."""

    def __init__(self, hosts: Hosts, folder: Path, stack: ExitStack) -> None:
        self.hosts = hosts
        self._folder = folder
        self._stack = stack
        self.address = f"tls://{hosts.addresses['s']}:8786"
        certificates.write_certificates(folder / "certs", certificates.create_certificates())
        for role in certificates.ROLES:
            (folder / role).mkdir(mode=0o700)
            for name in (certificates.AUTHORITY, f"{role}.pem", f"{role}.key"):
                shutil.copy(folder / "certs" / name, folder / role)

    def start(
        self, host: str, role: str, *words: object, extra_path: Path | None = None
    ) -> Command:
        """Run `tesserae WORDS` on a host with the certificates of *role*."""
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
        """Start the scheduler."""
        host = self.hosts.addresses["s"]
        return self.start("s", "scheduler", "cluster", "scheduler", "--host", host)

    def worker(self, host: str, *more: object, extra_path: Path | None = None) -> Command:
        """Start a worker with one process on *host*."""
        scratch = self._folder / host / "scratch"
        words = ("cluster", "worker", self.address, "--workers", 1, "--scratch", scratch, *more)
        return self.start(host, "worker", *words, extra_path=extra_path)

    def client(self, *words: object, extra_path: Path | None = None) -> Command:
        """Start a command that uses the cluster."""
        return self.start("c", "client", *words, "--cluster", self.address, extra_path=extra_path)

    def wait(self, workers: int, seconds: float = 60) -> float:
        """Wait for *workers* workers, and return the seconds until they had joined."""
        words = ("cluster", "wait", self.address, "--workers", workers, "--timeout", seconds)
        started = time.monotonic()
        waiting = self.start("c", "client", *words)
        assert waiting.wait(seconds + 30) == 0, waiting.err
        return time.monotonic() - started


def worker_processes(command: Command) -> list[psutil.Process]:
    """Return the worker processes of a `tesserae cluster worker` command."""
    return [p for p in command.processes() if "forkserver" in _parent_line(p)]


def serving_processes(command: Command) -> list[psutil.Process]:
    """Return the schedulers or nannies that the supervisor of *command* runs."""
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
