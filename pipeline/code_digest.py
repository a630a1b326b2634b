"""Digests of the source files of each of Tesserae's trees, which identify this process's code.

Tasks and ranks are sent by name and run the code of the process that receives them. The digests are
computed when this module is imported, at the start of a process, because a worker that was started
before its files changed still runs the old code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from pipeline.errors import StoreMismatchError

TREES = ("pipeline", "workflows", "cluster")


def folder_digest(folder: Path) -> str:
    """Return one digest of the names and contents of all `*.py` files in a folder, at any depth.

    Args:
        folder: The folder, such as that of an installed package. Its own path does not enter the
            digest, only the files' paths relative to it.

    Returns:
        32 hexadecimal digits; the empty string if there is no such file, or no such folder.

    Raises:
        OSError: A file cannot be read.
    """
    hasher = hashlib.blake2b(digest_size=16)
    files = sorted(folder.rglob("*.py"))
    for path in files:
        hasher.update(f"{path.relative_to(folder)}\0".encode())
        data = path.read_bytes()
        hasher.update(len(data).to_bytes(8, "little") + data)
    return hasher.hexdigest() if files else ""


def _digest_of_tree(name: str) -> str:
    spec = importlib.util.find_spec(name)  # finds the tree without importing it
    return "" if spec is None or spec.origin is None else folder_digest(Path(spec.origin).parent)


_DIGESTS = MappingProxyType({name: _digest_of_tree(name) for name in TREES})


def trees() -> Mapping[str, str]:
    """Return the digests of the packages `pipeline`, `workflows` and `cluster`, by these names.

    They are of the `*.py` files that were there when this module was imported: 32 hexadecimal
    digits each, or the empty string for a package that is missing.
    """
    return dict(_DIGESTS)


def running_code_digest() -> str:
    """Return one digest of the packages `pipeline`, `workflows` and `cluster`: 32 hex digits.

    It is of all their `*.py` files as they were when this module was imported.
    """
    return hashlib.blake2b("".join(_DIGESTS.values()).encode(), digest_size=16).hexdigest()


def check_same_code(code: str) -> None:
    """Refuse to continue in this process a run that was started with other code.

    The code is that of all `*.py` files in the packages `pipeline`, `workflows` and `cluster`, as
    they were when this module was imported.

    Args:
        code: The 32 hexadecimal digits that `running_code_digest()` of this module returned in the
            process that started the run; the empty string to accept any code.

    Raises:
        StoreMismatchError: The digest of this process is another one.
    """
    if code not in ("", running_code_digest()):
        raise StoreMismatchError(
            f"{socket.gethostname()} runs another version of Tesserae than the command. Install"
            " the same version on both, and restart the worker."
        )
