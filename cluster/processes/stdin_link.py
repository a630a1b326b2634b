"""Workers that end with the process that has started them: `tesserae cluster worker --stdin`.

They are told their certificate on standard input, then a sign of life again and again; when that
ends or falls silent, so do they.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from cluster import certificates

SAYS = "tesserae: "
"""How a line begins in which our command says what is wrong."""


class WorkerLink:
    """A process that runs workers, here or through `ssh`, and the pipe that keeps it alive."""

    def __init__(self, words: Sequence[str], files: Mapping[str, bytes]) -> None:
        """Start it.

        Args:
            words: The command line.
            files: Certificates, as `certificates.make` makes them; it is told those of a worker.
        """
        self.begun = time.monotonic()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe would fill up
        self._process = subprocess.Popen(
            list(words),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            start_new_session=True,  # a terminal's Ctrl-C is the command's to answer
        )
        theirs = (certificates.AUTHORITY, "worker.pem", "worker.key")
        self._write(json.dumps({name: files[name].decode() for name in theirs}) + "\n")

    def beat(self) -> None:
        """Give a sign of life."""
        self._write("\n")

    def hang_up(self) -> None:
        """End its standard input, which ends what runs there."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def wait(self, seconds: float) -> None:
        """Wait for its end; kill it after *seconds*."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._said.close()

    def ended(self) -> str | None:
        """The last line that it said, if it has ended."""
        if self._process.poll() is None:
            return None
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        sentences = [line for line in lines if line.startswith(SAYS)]
        return (sentences or lines or [""])[-1]

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.write(text.encode())
            self._process.stdin.flush()


def worker_words(python: str, address: str, options: Mapping[str, str]) -> list[str]:
    """Return the command line of workers that are told everything on standard input.

    Args:
        python: The interpreter, where Tesserae is installed.
        address: Of the scheduler.
        options: Of `tesserae cluster worker`, by name without dashes.
    """
    words = [python, "-m", "workflows", "cluster", "worker", address, "--stdin"]
    for name, value in options.items():
        words += [f"--{name}", value]
    return words
