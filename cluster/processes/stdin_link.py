"""Workers that end with the process that started them: `tesserae cluster worker --stdin`.

They read their certificate from standard input, and then heartbeats. When standard input ends or
stays silent, they end.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from cluster import certificates

ERROR_PREFIX = "tesserae: "
"""The prefix of lines in which the worker command reports an error."""


class WorkerLink:
    """A process that runs workers, locally or over `ssh`, and the pipe that keeps it alive."""

    def __init__(self, command: Sequence[str], files: Mapping[str, bytes]) -> None:
        """Start the process, and send it the certificate of a worker.

        Args:
            command: The command line.
            files: Certificates by file name, as `create_certificates` returns them.
        """
        self.begun = time.monotonic()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would block
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._output,
            start_new_session=True,  # Ctrl-C must reach the command only
        )
        texts = {
            name: data.decode() for name, data in certificates.files_for_workers(files).items()
        }
        self._write(json.dumps(texts) + "\n")

    def send_heartbeat(self) -> None:
        """Send a heartbeat."""
        self._write("\n")

    def disconnect(self) -> None:
        """Close the standard input of the process, which ends its workers."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def wait(self, timeout_seconds: float) -> None:
        """Wait for the process to end, which `disconnect` makes it do, and kill it after a timeout.

        Without `disconnect` a healthy worker only runs into the timeout. The output is discarded:
        `exit_message` cannot be called afterwards.

        Args:
            timeout_seconds: The timeout in seconds; 0 kills a process that still runs at once.
        """
        try:
            self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def exit_message(self) -> str | None:
        """Return the last line of the output if the process has ended, otherwise None.

        A line with an error of the worker command is preferred.
        """
        if self._process.poll() is None:
            return None
        self._output.seek(0)
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        errors = [line for line in lines if line.startswith(ERROR_PREFIX)]
        return (errors or lines or [""])[-1]

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):  # the process has ended: `exit_message` tells why
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()


def stdin_worker_command(python: str, address: str, options: Mapping[str, str]) -> list[str]:
    """Return the command line of workers that read their certificate from standard input.

    Args:
        python: Path of a Python interpreter with Tesserae installed.
        address: Address of the scheduler.
        options: Options of `tesserae cluster worker`, by name without dashes, such as `{"workers":
            "4"}`.

    Returns:
        The program and its arguments.
    """
    command = [python, "-P", "-m", "workflows", "cluster", "worker", address, "--stdin"]
    for name, value in options.items():
        command += [f"--{name}", value]
    return command
