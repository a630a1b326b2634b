"""Programs of this machine that run without a terminal, known by the files they leave in a folder.

NAME.json holds a mark that the program, and all that it starts, has in its environment: so they are
found whatever their numbers are, whatever the clock says, and however the one that started them
ended. NAME.log is what it says.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from cluster.errors import ClusterError

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
        ClusterError: It was started where this process cannot look.
    """
    check_here(folder, name)
    if process(folder, name) is not None:
        raise FileExistsError(f"{name} runs already: {folder / name}.json says which.")
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    mark = uuid.uuid4().hex
    record = {"mark": mark, "where": _where()}
    _file(folder, name).unlink(missing_ok=True)  # a link, say, whose end keeps its bytes
    _file(folder, name).write_text(json.dumps(record))  # first: what runs is found
    with open(log(folder, name), "ab", opener=_open_no_link) as out:
        started = subprocess.Popen(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            # Or a library that writes into the line of `ps` would write over the mark.
            env={**os.environ, MARK: mark, "SPT_NOENV": "1"},
        )
    started.returncode = 0  # not to be waited for: it is to outlive this process


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


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
    """Stop a program and all that it started; whether it ran.

    Raises:
        ClusterError: It was started where this process cannot look.
    """
    check_here(folder, name)
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


def check_here(folder: Path, name: str) -> None:
    """Refuse to speak of a program of another machine, or container, that shares the folder.

    Raises:
        ClusterError: With where it was started.
    """
    here = _where()
    kept = _record(folder, name).get("where")
    where = here if kept is None else {"id": "", **kept}  # records of before have no id
    if where["boot"] and where["boot"] == here["boot"]:  # this very kernel, whatever its name is
        elsewhere = where["space"] != here["space"]
    else:  # after a restart, which has ended all that ran, a machine may have another name
        elsewhere = where["machine"] != here["machine"] and not _is_same(where, here)
    if elsewhere:
        raise ClusterError(
            f"{_file(folder, name)} is of {where['machine']}, in another container or on another"
            " machine: ask there, or name another folder with --state. If that machine is no more,"
            " delete that file."
        )


def log(folder: Path, name: str) -> Path:
    """What a program has said."""
    return folder / f"{name}.log"


def _family(folder: Path, name: str) -> list[psutil.Process]:
    """The program and all that it started, which runs."""
    mark = _record(folder, name).get("mark")
    if mark is None:
        return []
    return [one for one in psutil.process_iter() if _has(one, mark)]


def _record(folder: Path, name: str) -> dict[str, Any]:
    try:
        found = json.loads(_file(folder, name).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if _is_record(found) else {}


def _is_record(found: Any) -> bool:
    """Return True if a file says what `start` writes, of this version or of an earlier one."""
    if not isinstance(found, dict) or not isinstance(found.get("mark"), str | None):
        return False
    where = found.get("where")
    if not isinstance(where, dict):
        return where is None
    texts = all(isinstance(value, str) for value in where.values())
    return texts and {"machine", "boot", "space"} <= where.keys()


def _where() -> dict[str, str]:
    """This machine, since when it runs, and which of its processes can be seen from here."""
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    return {
        "machine": socket.gethostname(),
        "id": _machine_id(),
        "boot": boot.read_text().strip() if boot.exists() else "",
        "space": str(space.readlink()) if space.exists() else "",
    }


def _machine_id() -> str:
    """What stays when a machine is renamed; empty where that cannot be told.

    Not the system's id alone: machines that were made from one image may share it.
    """
    node = uuid.getnode()
    if node >> 40 & 1:  # no interface has an address: it was drawn at random
        return ""
    with suppress(OSError):
        return f"{Path('/etc/machine-id').read_text().strip()}-{node:012x}"
    return ""


def _is_same(where: dict[str, str], here: dict[str, str]) -> bool:
    return here["id"] != "" and where["id"] == here["id"]


def _has(process: psutil.Process, mark: str) -> bool:
    try:
        running = process.status() != psutil.STATUS_ZOMBIE
        return running and process.environ().get(MARK) == mark
    except (psutil.Error, OSError):
        return False


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
