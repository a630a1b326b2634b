"""Programs of this machine that run without a terminal, known by the files they leave in a folder.

NAME.json says which process it is, and when it began, so that another which has its number by now
is let alone; NAME.log is what it says.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

STOP_SECONDS = 30.0


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
    with log(folder, name).open("ab") as out:
        started = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
        )
    record = {"pid": started.pid, "began": psutil.Process(started.pid).create_time()}
    _file(folder, name).write_text(json.dumps(record))


def process(folder: Path, name: str) -> psutil.Process | None:
    """The process of a program; None if it does not run."""
    try:
        record = json.loads(_file(folder, name).read_text())
        found = psutil.Process(record["pid"])
        if found.create_time() == record["began"] and found.status() != psutil.STATUS_ZOMBIE:
            return found
    except (OSError, ValueError, KeyError, TypeError, psutil.Error):
        pass
    return None


def stop(folder: Path, name: str) -> bool:
    """Stop a program and all that it started; whether it ran."""
    found = process(folder, name)
    _file(folder, name).unlink(missing_ok=True)
    if found is None:
        return False
    family = [found, *found.children(recursive=True)]
    with suppress(psutil.NoSuchProcess):
        found.send_signal(signal.SIGTERM)
    _, left = psutil.wait_procs(family, timeout=STOP_SECONDS)
    for one in left:
        with suppress(psutil.NoSuchProcess):
            one.kill()
    psutil.wait_procs(left, timeout=STOP_SECONDS)
    return True


def log(folder: Path, name: str) -> Path:
    """What a program has said."""
    return folder / f"{name}.log"


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
