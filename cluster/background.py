"""Programs of this machine that run without a terminal, known by the files they leave in a folder.

NAME.json holds a mark that the program, and all that it starts, has in its environment: so they are
found whatever their numbers are, whatever the clock says, and however the one that started them
ended. NAME.log is what it says.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

STOP_SECONDS = 30.0
MARK = "TESSERAE_BACKGROUND"
"""The environment variable."""


def default_folder() -> Path:
    """Where a person's background programs are known."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "tesserae" / "cluster"


def start(folder: Path, name: str, words: Sequence[str]) -> None:
    """Start a program, in a session of its own.

    Raises:
        FileExistsError: It runs already.
    """
    if process(folder, name) is not None:
        raise FileExistsError(f"{name} runs already: {folder / name}.json says which.")
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    mark = uuid.uuid4().hex
    _file(folder, name).write_text(json.dumps({"mark": mark}))  # first: what runs is found
    with log(folder, name).open("ab") as out:
        started = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env={**os.environ, MARK: mark},
        )
    _started.append(started)


def process(folder: Path, name: str) -> psutil.Process | None:
    """The process of a program; None if it does not run."""
    family = _family(folder, name)
    numbers = {one.pid for one in family}
    for one in family:
        with suppress(psutil.Error):
            if one.ppid() not in numbers:
                return one
    return None


def stop(folder: Path, name: str) -> bool:
    """Stop a program and all that it started; whether it ran."""
    first = process(folder, name)
    if first is not None:
        with suppress(psutil.NoSuchProcess):
            first.send_signal(signal.SIGTERM)
        psutil.wait_procs([first], timeout=STOP_SECONDS)
        left = _family(folder, name)
        for one in left:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(left, timeout=STOP_SECONDS)
    _file(folder, name).unlink(missing_ok=True)
    return first is not None


def log(folder: Path, name: str) -> Path:
    """What a program has said."""
    return folder / f"{name}.log"


_started: list[subprocess.Popen[bytes]] = []
"""Kept: Python warns of one that is let go while it runs."""


def _family(folder: Path, name: str) -> list[psutil.Process]:
    """The program and all that it started, which runs."""
    try:
        mark = json.loads(_file(folder, name).read_text())["mark"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [one for one in psutil.process_iter() if _has(one, mark)]


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        running = process.status() != psutil.STATUS_ZOMBIE
        return running and process.environ().get(MARK) == mark
    except (psutil.Error, OSError):
        return False


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
