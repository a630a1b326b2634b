"""A server that has imported what commands and ranks need, and forks itself to start each.

Most of the processor time of a short command is the start of Python and its imports. A forked
process behaves like any other: it has a session of its own and the arguments, environment, folder
and files that are passed to it, and Python ends it like any script. Only what Python and its
libraries read from the environment when they are loaded cannot be changed. The server of
`multiprocessing` does not suffice: it passes neither environment, folder nor session, and skips the
shutdown of the interpreter.
"""

from __future__ import annotations

import array
import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

ROOT = Path(__file__).parents[1]

LIGHT = (
    "distributed",
    "workflows.preparation.prepare",
    "workflows.preparation.verify",
    "workflows.preparation.repair",
)
"""Modules that nearly every command imports."""

HEAVY = (
    "torch",
    "torch._dynamo",
    "transformers.modeling_utils",
    "sklearn.metrics",
    "workflows.runs.train",
    "workflows.preparation.features",
)
"""Modules that a process imports which trains or uses a trained model.

The first optimiser of a process imports `torch._dynamo`, which takes as long as torch itself.
"""

MAX_MESSAGE_BYTES = 1 << 20


class Forked:
    """One forked process: the part of `subprocess.Popen` that tests use.

    Args:
        line: Connection that sends the process id and, at its end, the exit status.
        words: The arguments, for messages.
    """

    def __init__(self, line: socket.socket, words: Sequence[str]) -> None:
        self.args = words
        self.returncode: int | None = None
        self._line = line
        self.pid = int(line.recv(32))

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        return self._receive(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the process, and return its exit status.

        Raises:
            TimeoutExpired: The process still runs after *timeout* seconds.
        """
        status = self._receive(timeout)
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal to the process, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the process, if it still runs."""
        self.send_signal(signal.SIGKILL)

    def _receive(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            self._line.settimeout(timeout)
            try:
                self.returncode = int(self._line.recv(32))
            except (TimeoutError, BlockingIOError):
                return None
            self._line.close()
        return self.returncode


class ForkServer:
    """The process that forks others; it ends with the process that started it.

    Args:
        address: Name of the abstract socket of a server that runs already; None starts a new
            server.
    """

    def __init__(self, address: str | None = None) -> None:
        self.address = address or f"tesserae-tests-{uuid.uuid4().hex}"
        if address is None:
            self._start()

    def _start(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._lifeline, theirs = socket.socketpair()
        with listener, theirs:
            listener.bind(f"\0{self.address}")
            listener.listen(64)
            passed = (listener.fileno(), theirs.fileno())
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", *map(str, passed)],
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                pass_fds=passed,
                start_new_session=True,
            )
        atexit.register(self._end)

    def _end(self) -> None:
        self._lifeline.close()
        self._process.wait()

    def fork(
        self,
        module: str,
        words: Sequence[str],
        *,
        out: BinaryIO,
        err: BinaryIO,
        folder: Path,
        environment: Mapping[str, str],
        heavy: bool,
    ) -> Forked:
        """Start `python -m <module> <words>` in *folder*, with this environment and these outputs.

        With *heavy*, torch and the modules that use it are imported already.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        request = {
            "module": module,
            "words": words,
            "folder": str(folder),
            "environment": dict(environment),
            "heavy": heavy,
        }
        with theirs:
            files = array.array("i", [theirs.fileno(), out.fileno(), err.fileno()])
            passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)]
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
                line.connect(f"\0{self.address}")
                line.sendmsg([json.dumps(request).encode()], passed)
        return Forked(ours, words)


ADDRESS = "TESSERAE_TEST_FORK_SERVER"
"""Environment variable with the socket of a fork server that several test processes share."""


@functools.cache
def fork_server() -> ForkServer:
    """Return the fork server of this process, or the one that it shares."""
    return ForkServer(os.environ.get(ADDRESS))


def share() -> None:
    """Start a fork server for this process and all its descendants."""
    os.environ[ADDRESS] = fork_server().address


def can_fork(changed: Iterable[str]) -> bool:
    """Return True if a forked process can be given other values of these environment variables.

    Libraries read most variables when they are imported, which was before the fork.
    """
    read_later = ("TESSERAE_", "AWS_", "PATH")
    return all(name.startswith(read_later) for name in changed)


def serve(listener: socket.socket, lifeline: socket.socket) -> None:
    """Fork a process for each message that is sent, until the other end of *lifeline* is closed."""
    _import(LIGHT)
    while True:
        ready, _, _ = select.select([listener, lifeline], [], [])
        if lifeline in ready:
            return
        line, _ = listener.accept()
        files = array.array("i")
        room = socket.CMSG_SPACE(3 * files.itemsize)
        with line:
            message, passed, *_ = line.recvmsg(MAX_MESSAGE_BYTES, room)
        if not message:  # who connected has gone
            continue
        files.frombytes(passed[0][2])
        request = json.loads(message)
        if request["heavy"]:
            _import(HEAVY)
        # The process between waits for the one that runs, so that this one need not.
        if os.fork() == 0:
            listener.close()
            lifeline.close()
            _run(request, *files)
        for number in files:
            os.close(number)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _import(modules: tuple[str, ...]) -> None:
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # else a collection in a forked process would copy every page


def _run(request: dict[str, Any], line: int, out: int, err: int) -> NoReturn:
    """Fork the process that was requested; send its process id and, at its end, its exit status."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        with contextlib.suppress(OSError):  # whoever started it has gone
            os.write(line, str(status).encode())
        os._exit(0)
    os.setsid()
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0] = request["folder"]
    sys.argv = [request["module"], *request["words"]]
    os.write(line, str(os.getpid()).encode())
    for number in (line, out, err):
        os.close(number)
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    raise SystemExit  # from all frames, as the end of a script


if __name__ == "__main__":
    serve(*(socket.socket(fileno=int(word)) for word in sys.argv[1:3]))
