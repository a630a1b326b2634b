"""The folder of this process's local sockets.

A path of a local socket (AF_UNIX) may have 107 bytes, and not every file system holds sockets. The
TMPDIR of a batch system is often longer, or lies on one that does not.
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
"""Longest path of a local socket; macOS allows three bytes less."""

NAME = "listener-12345678"
"""As long as the names that multiprocessing gives to its sockets."""

SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
"""Where sockets go when they cannot be in the usual folder. Each run has a folder of its own user
there, which nobody else can look into."""


def use_socket_folder() -> Path:
    """Have multiprocessing keep its sockets where they can be, and return that folder.

    To be called before its first socket is made. It is the usual folder, of TMPDIR, if sockets can
    be there.

    Raises:
        ClusterError: They can be nowhere.
    """
    before = tempfile.tempdir
    usual = tempfile.gettempdir()
    try:
        tempfile.tempdir = str(find_socket_folder(usual))
        return Path(util.get_temp_dir())  # made now, and remembered for this process
    finally:
        tempfile.tempdir = before


def find_socket_folder(usual: str) -> Path:
    """Return the first folder in which a local socket can be made: *usual*, or a short one.

    Raises:
        ClusterError: There is none.
    """
    for folder in (usual, *SHORT_FOLDERS):
        if _holds_sockets(folder):
            return Path(folder)
    longest = MAX_PATH_BYTES - len(f"/pymp-12345678/{NAME}")
    raise ClusterError(
        f"no local socket can be made: TMPDIR is {usual}, of {len(os.fsencode(usual))} bytes:"
        f" expected at most {longest}, on a file system that holds sockets; and none can be made"
        f" in {', '.join(SHORT_FOLDERS)}. Set TMPDIR to a short folder on a disk of this machine."
    )


def _holds_sockets(folder: str) -> bool:
    made = None
    try:
        made = tempfile.mkdtemp(prefix="pymp-", dir=folder)
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(f"{made}/{NAME}")
    except OSError:  # also of a path that is too long
        return False
    finally:
        if made is not None:
            with suppress(OSError):
                shutil.rmtree(made)
    return True
