"""The folder of local sockets, for any length of TMPDIR."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from cluster import sockets
from cluster.errors import ClusterError
from cluster.sockets import find_socket_folder
from tests.commands import ROOT


def long_folder(tmp_path: Path) -> Path:
    """Return a folder with a long name, as batch systems create it."""
    folder = tmp_path / ("pbs.1234567.batch-01.cm.cluster.example.org" * 3)
    folder.mkdir()
    return folder


def test_a_folder_that_supports_sockets_is_used(tmp_path: Path) -> None:
    """The trial leaves no file in the folder."""
    assert find_socket_folder("/tmp") == Path("/tmp")
    assert not [
        path for path in Path("/tmp").glob("pymp-*") if (path / sockets.SAMPLE_NAME).exists()
    ]


def test_a_folder_with_a_long_path_is_skipped(tmp_path: Path) -> None:
    """Another folder is used, and only its user can read it."""
    code = (
        "from cluster.sockets import use_socket_folder; import tempfile, os;"
        "from multiprocessing import connection;"
        "folder = use_socket_folder(); address = connection.arbitrary_address('AF_UNIX');"
        "assert address.startswith(str(folder)), address;"
        "connection.Listener(address, 'AF_UNIX').close();"
        "print(folder, oct(os.stat(folder).st_mode), tempfile.gettempdir())"
    )
    environment = {**os.environ, "TMPDIR": str(long_folder(tmp_path)), "PYTHONPATH": str(ROOT)}
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout.split()
    folder, mode, temporary = output
    assert Path(folder).parent in map(Path, sockets.SHORT_FOLDERS)
    assert stat.S_IMODE(int(mode, 8)) == 0o700
    assert temporary == environment["TMPDIR"]  # large files stay where they were sent
    assert not Path(folder).exists()


def test_a_file_system_without_sockets_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some FUSE file systems do not support sockets."""
    bind = socket.socket.bind

    class Refusing(socket.socket):
        def bind(self, address: object) -> None:  # type: ignore[override]
            if str(address).startswith(str(tmp_path)):
                raise PermissionError(1, "Operation not permitted")
            bind(self, address)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "socket", Refusing)
    assert find_socket_folder(str(tmp_path)) == Path("/tmp")
    assert list(tmp_path.iterdir()) == []


def test_an_error_explains_that_no_folder_supports_sockets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error contains the length of the path, and the maximum."""
    folder = long_folder(tmp_path)
    monkeypatch.setattr(sockets, "SHORT_FOLDERS", ("/nowhere",))
    with pytest.raises(ClusterError, match=rf"of {len(str(folder))} bytes: expected at most 75"):
        find_socket_folder(str(folder))
