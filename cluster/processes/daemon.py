"""Background programs of this machine, identified by files in a folder.

NAME.json contains a mark that the program and all its descendants have in their environment. So
they are found even if process ids were reused, the clock was changed, or the process that started
them was killed. NAME.log contains the output of the program.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from cluster.defaults import xdg_folder
from cluster.errors import ClusterError

STOP_SECONDS = 30.0
EXEC_SECONDS = 0.1
"""Time that a process without an environment gets to start its program."""
MARK_VARIABLE = "TESSERAE_BACKGROUND"
"""The environment variable with the mark."""


def default_folder() -> Path:
    """Return the default folder for the files of this user's background programs."""
    return xdg_folder("XDG_STATE_HOME", ".local/state") / "tesserae" / "cluster"


def start(folder: Path, name: str, command: Sequence[str]) -> None:
    """Start a program in the background, in a session of its own.

    It goes on when this process ends, and has / as its working folder. It inherits the environment
    of this process, with a mark added by which `process` and `stop` find it and its descendants.

    Args:
        folder: Folder for its files, which is created if it does not exist: `<name>.json`, its
            record, and `<name>.log`, to which its output is appended.
        name: Name of the program, a part of file names, so without a slash.
        command: The command line: the program, looked up in PATH, and its arguments.

    Raises:
        FileExistsError: The program runs already.
        ClusterError: It was started on another machine or in another container.
        OSError: The program does not exist or cannot be started, or the log or the record cannot
            be written.
    """
    check_same_host(folder, name)
    if process(folder, name) is not None:
        raise FileExistsError(f"the {name} is already running: its record is {folder / name}.json.")
    folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    mark = uuid.uuid4().hex
    record = {"mark": mark, "where": _current_host()}
    # Unlinked first: if it is a link, its target must not be written. Written before the start, so
    # that a running program is always found.
    _record_path(folder, name).unlink(missing_ok=True)
    _record_path(folder, name).write_text(json.dumps(record))
    with open(log_path(folder, name), "ab", opener=_open_no_link) as log_file:
        child = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            # SPT_NOENV keeps setproctitle from overwriting the environment, and with it the mark.
            env={**os.environ, MARK_VARIABLE: mark, "SPT_NOENV": "1"},
        )
    child.returncode = 0  # no warning that it still runs: it outlives this process


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def process(folder: Path, name: str) -> psutil.Process | None:
    """Return the main process of a background program; None if it does not run on this machine.

    If the main process has ended and descendants of it still run, one of these is returned.

    Args:
        folder: The folder of the program's files.
        name: The name with which it was started.
    """
    family = _process_family(folder, name)
    pids = {candidate.pid for candidate in family}
    for candidate in family:
        with suppress(psutil.Error):
            if candidate.ppid() not in pids:
                return candidate
    return None


def stop(folder: Path, name: str) -> bool:
    """Stop a background program and all its descendants, and wait for their end.

    The main process gets SIGTERM, and what still runs when it has ended, or after 30 seconds, gets
    SIGKILL. The record of the program is deleted, its log is kept.

    Args:
        folder: The folder of the program's files.
        name: The name with which it was started.

    Returns:
        True if it ran; False if there was nothing to stop.

    Raises:
        ClusterError: It was started on another machine or in another container.
    """
    check_same_host(folder, name)
    main = process(folder, name)
    if main is not None:
        with suppress(psutil.NoSuchProcess):
            main.send_signal(signal.SIGTERM)
        psutil.wait_procs([main], timeout=STOP_SECONDS)
        # The main process stops its children; those that are left are killed.
        remaining = _process_family(folder, name)
        for survivor in remaining:
            with suppress(psutil.NoSuchProcess):
                survivor.kill()
        psutil.wait_procs(remaining, timeout=STOP_SECONDS)
    _record_path(folder, name).unlink(missing_ok=True)
    return main is not None


def check_same_host(folder: Path, name: str) -> None:
    """Check that a program was not started on another machine or in another container.

    A program that was never started passes.

    Args:
        folder: The folder of the program's files.
        name: The name with which it was started.

    Raises:
        ClusterError: It was started elsewhere; the message names the machine.
    """
    current = _current_host()
    recorded = _read_record(folder, name).get("where")
    started_on = current if recorded is None else {"id": "", **recorded}  # older records have no id
    if started_on["boot"] and started_on["boot"] == current["boot"]:
        # The same boot, so the same machine, whatever its host name is now.
        elsewhere = started_on["space"] != current["space"]
    else:
        # A reboot has ended the program, and the machine may have been renamed since.
        renamed = started_on["machine"] != current["machine"]
        elsewhere = renamed and not _is_same_machine(started_on, current)
    if elsewhere:
        raise ClusterError(
            f"{_record_path(folder, name)} was written on {started_on['machine']}, another machine"
            " or container: run the command there, or pass another folder with --state. If that"
            " machine no longer exists, delete the file."
        )


def log_path(folder: Path, name: str) -> Path:
    """Return the path of the log of a background program, which need not exist.

    Args:
        folder: The folder of the program's files.
        name: The name with which it was started.

    Returns:
        `<folder>/<name>.log`.
    """
    return folder / f"{name}.log"


def _process_family(folder: Path, name: str) -> list[psutil.Process]:
    """Return the running processes of a program and its descendants."""
    mark = _read_record(folder, name).get("mark")
    if mark is None:
        return []
    return [process for process in psutil.process_iter() if _has_mark(process, mark)]


def _read_record(folder: Path, name: str) -> dict[str, Any]:
    try:
        record = json.loads(_record_path(folder, name).read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if _is_valid_record(record) else {}


def _is_valid_record(record: Any) -> bool:
    """Return True if *record* has the form that this or an earlier version of `start` writes."""
    if not isinstance(record, dict) or not isinstance(record.get("mark"), str | None):
        return False
    started_on = record.get("where")
    if not isinstance(started_on, dict):
        return started_on is None
    are_texts = all(isinstance(value, str) for value in started_on.values())
    return are_texts and {"machine", "boot", "space"} <= started_on.keys()


def _current_host() -> dict[str, str]:
    """Return the identity of this machine, its boot, and the PID namespace of this process."""
    boot, pid_namespace = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    return {
        "machine": socket.gethostname(),
        "id": _machine_id(),
        "boot": boot.read_text().strip() if boot.exists() else "",
        "space": str(pid_namespace.readlink()) if pid_namespace.exists() else "",
    }


def _machine_id() -> str:
    """Return an id that survives renaming the machine; empty if there is none.

    It includes a network address, since machines cloned from one image may share /etc/machine-id.
    """
    node = uuid.getnode()
    if node >> 40 & 1:  # no interface has an address: the number is random
        return ""
    with suppress(OSError):
        return f"{Path('/etc/machine-id').read_text().strip()}-{node:012x}"
    return ""


def _is_same_machine(started_on: dict[str, str], current: dict[str, str]) -> bool:
    return current["id"] != "" and started_on["id"] == current["id"]


def _has_mark(process: psutil.Process, mark: str) -> bool:
    try:
        running = process.status() != psutil.STATUS_ZOMBIE
        return running and _environment(process).get(MARK_VARIABLE) == mark
    except (psutil.Error, OSError):
        return False


def _environment(process: psutil.Process) -> dict[str, str]:
    """Return the environment of a process, waiting for it if the process is just starting."""
    # While the kernel replaces the program of a process, its environment is empty, and `Popen` may
    # have returned already. Threads of the kernel have neither an environment nor a file.
    deadline = time.monotonic() + EXEC_SECONDS
    while not (environment := process.environ()) and process.exe():
        if time.monotonic() > deadline:
            break
        time.sleep(0.001)
    return environment


def _record_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"
