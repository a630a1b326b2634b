"""Which Tesserae this process is: a digest of the source files of each of its trees.

Tasks and ranks are sent by name, and do what the code says where they run. The digests are made
when this module is imported, which is when a process begins: a worker that was started before its
files were changed runs the code of before.
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


def digest_of(folder: Path) -> str:
    """Return a digest of every source file in *folder*: 32 hex digits, empty if there is none."""
    found = hashlib.blake2b(digest_size=16)
    files = sorted(folder.rglob("*.py"))
    for path in files:
        found.update(f"{path.relative_to(folder)}\0".encode())
        data = path.read_bytes()
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest() if files else ""


def _digest_of_tree(name: str) -> str:
    spec = importlib.util.find_spec(name)  # what would be imported; it is not
    return "" if spec is None or spec.origin is None else digest_of(Path(spec.origin).parent)


_DIGESTS = MappingProxyType({name: _digest_of_tree(name) for name in TREES})


def trees() -> Mapping[str, str]:
    """Return the digest of each tree of this process, by name."""
    return dict(_DIGESTS)


def digest() -> str:
    """Return one digest of all trees of this process: 32 hex digits."""
    return hashlib.blake2b("".join(_DIGESTS.values()).encode(), digest_size=16).hexdigest()


def check(code: str) -> None:
    """Refuse to do in this process what was begun with other code.

    Args:
        code: What `digest` said where it was begun; empty = any will do.

    Raises:
        StoreMismatchError: This process has other code.
    """
    if code not in ("", digest()):
        raise StoreMismatchError(
            f"on {socket.gethostname()} there is another Tesserae than where the run was begun."
            " Install the same on both, and start the worker again."
        )
