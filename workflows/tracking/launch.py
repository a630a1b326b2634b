"""Starts the processes of trackers beside a training, and ends them with it."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipeline.errors import TesseraeError
from pipeline.installation import EXTRAS, install_advice
from workflows.tracking.tracker import TRACKERS
from workflows.training.records import TRACKING

END_SECONDS = 60.0
"""How long the end of the training waits for a tracker that still writes or sends."""


def check_trackers(names: Sequence[str]) -> None:
    """Raise an error if the library of a tracker is not installed, before anything is trained.

    Args:
        names: The names of trackers, of `TRACKERS`.

    Raises:
        TesseraeError: A library is missing. The message says how to install it.
    """
    for name in names:
        library = TRACKERS[name].library
        if importlib.util.find_spec(library) is None:
            raise TesseraeError(f"--log {name} needs {library}: {install_advice(EXTRAS[library])}.")


@contextmanager
def tracked(names: Sequence[str], folder: Path) -> Iterator[None]:
    """Copy the metrics of a run to trackers while the block runs.

    Nothing that a tracker does ends the block or raises an error: one that has failed, or that does
    not end within a minute after the block, is named in a notice.

    Args:
        names: The names of the trackers, of `TRACKERS`; none for no process at all.
        folder: The run folder, in whose folder `tracking` each tracker has its position and its
            output.
    """
    with ExitStack() as running:
        processes = [running.enter_context(_TrackerProcess(name, folder)) for name in names]
        yield
        for process in processes:
            process.succeeded = True


class _TrackerProcess:
    def __init__(self, name: str, folder: Path) -> None:
        self._name = name
        self._folder = folder
        self._output = folder / TRACKING / f"{name}.log"
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self.succeeded = False
        """True once the training has ended well."""
        module = "workflows.tracking.process"
        command = [sys.executable, "-P", "-m", module, name, str(folder.resolve())]
        with self._output.open("wb") as output:
            # A session of its own: Ctrl-C ends the training, and the tracker after it.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> _TrackerProcess:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        word = b"finished\n" if self.succeeded else b"failed\n"
        problem = ""
        try:
            with suppress(BrokenPipeError):
                self._process.communicate(word, timeout=END_SECONDS)
            status = self._process.wait(END_SECONDS)
            if status != 0:
                problem = f"failed: {self._last_line() or f'exit status {status}'}"
        except subprocess.TimeoutExpired:
            problem = f"did not end within {END_SECONDS:.0f} s, and was stopped"
        finally:
            if self._process.poll() is None:  # after Ctrl-C, too
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        if problem:
            print(
                f"notice: --log {self._name} {problem}. Its output is in {self._output}; the same"
                " command with --log hands over what is missing.",
                flush=True,
            )
        elif self.succeeded and (look := TRACKERS[self._name].look):
            print(f"{self._name}: {look.format(folder=self._folder)}", flush=True)

    def _last_line(self) -> str:
        lines = self._output.read_text(errors="replace").strip().splitlines()
        return lines[-1].rstrip(".") if lines else ""
