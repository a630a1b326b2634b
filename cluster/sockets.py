"""The folder for the local sockets of this process.

The path of a local socket (AF_UNIX) may have at most 107 bytes, and not every file system supports
sockets. The TMPDIR of a batch system is often too long, or on a file system without them.
"""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from contextlib import suppress
from multiprocessing import util
from pathlib import Path

from cluster.errors import ClusterError

MAX_PATH_BYTES = 107
"""The maximum length of the path of a local socket; macOS allows three bytes less."""

SAMPLE_NAME = "listener-12345678"
"""A name as long as those that multiprocessing gives to its sockets."""

SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
"""The folders that are tried if the usual one does not support sockets. Each run creates a private
subfolder there."""


def use_socket_folder() -> Path:
    """Make multiprocessing use a folder that supports sockets, and return it.

    Call this before multiprocessing creates its first socket. The folder is the usual one, below
    TMPDIR, if that supports sockets.

    Raises:
        ClusterError: No folder supports sockets.
    """
    previous = tempfile.tempdir
    usual = tempfile.gettempdir()
    try:
        tempfile.tempdir = str(find_socket_folder(usual))
        return Path(util.get_temp_dir())  # created now, and cached for this process
    finally:
        tempfile.tempdir = previous


def find_socket_folder(usual: str) -> Path:
    """Return the first folder in which a local socket can be created; each is tried.

    Args:
        usual: The folder that is tried first; then follow `/tmp`, `/var/tmp` and `/dev/shm`.

    Returns:
        The folder itself. What was created in it for the trial is removed.

    Raises:
        ClusterError: No folder supports sockets.
    """
    for folder in (usual, *SHORT_FOLDERS):
        if _holds_sockets(folder):
            return Path(folder)
    longest = MAX_PATH_BYTES - len(f"/pymp-12345678/{SAMPLE_NAME}")
    raise ClusterError(
        f"cannot create a local socket: TMPDIR is {usual}, of {len(os.fsencode(usual))} bytes:"
        f" expected at most {longest}, on a file system that supports sockets; nor can one be"
        f" created in {', '.join(SHORT_FOLDERS)}. Set TMPDIR to a folder with a short path on a"
        " disk of this machine."
    )


def _holds_sockets(folder: str) -> bool:
    probe_folder = None
    try:
        probe_folder = tempfile.mkdtemp(prefix="pymp-", dir=folder)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(f"{probe_folder}/{SAMPLE_NAME}")
    except OSError:  # includes a path that is too long
        return False
    finally:
        if probe_folder is not None:
            with suppress(OSError):
                shutil.rmtree(probe_folder)
    return True
