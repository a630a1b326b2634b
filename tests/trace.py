"""The file system calls of a process, traced by strace, as operations of `tests.disk`."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.disk import Op

CALLS = (
    *("open", "openat", "creat", "mkdir", "mkdirat", "write", "pwrite64", "writev"),
    *("fsync", "fdatasync", "rename", "renameat", "renameat2", "link", "linkat"),
    *("unlink", "unlinkat"),
)
TEXT = r'"((?:[^"\\]|\\.)*)"'
LINE = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)(?:<(.*)>)?")
HALF = re.compile(r"^(\d+) +(\w+\(.*) <unfinished \.\.\.>$")
REST = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")


@functools.cache
def refused() -> str:
    """Return the reason why strace cannot be used here, or an empty text."""
    if shutil.which("strace") is None:
        return "there is no strace"
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True)
    return f"strace may not trace: {tried.stderr.strip()}" if tried.returncode else ""


def trace(command: list[str], folder: Path, **env: str) -> list[str]:
    """Run *command* to its end; return its calls that change a disk in order, one per line."""
    out = folder / "strace"
    calls = ",".join(f"?{name}" for name in CALLS)
    strace = ["strace", "-f", "-y", "-s", "0", "-e", f"trace={calls}", "-e", "signal=none"]
    ran = subprocess.run(
        [*strace, "-o", str(out), *command],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        cwd=folder,
    )
    assert ran.returncode == 0, ran.stderr
    return _joined(out.read_text().splitlines())


def _joined(lines: list[str]) -> list[str]:
    # A call that another thread interrupted is on two lines; it counts from when it had ended.
    waiting: dict[str, str] = {}
    whole = []
    for line in lines:
        if half := HALF.match(line):
            waiting[half[1]] = half[2]
        elif rest := REST.match(line):
            whole.append(f"{rest[1]} {waiting.pop(rest[1])}{rest[2]}")
        else:
            whole.append(line)
    return whole


def operations(lines: list[str], root: Path) -> list[Op]:
    """Return the traced operations under *root*, in which written bytes are zeros."""
    inodes: dict[str, int] = {}
    ops: list[Op] = []
    for line in lines:
        if (call := LINE.match(line)) and int(call[3]) >= 0:
            name, arguments = call[1], call[2]
            paths = [_under(text, root) for text in re.findall(TEXT, arguments)]
            opened = re.match(r"\d+<(.*?)>", arguments)
            file = _under(opened[1], root) if opened else None
            _note(ops, inodes, name, arguments, paths, file, int(call[3]))
    return ops


def _note(
    ops: list[Op],
    inodes: dict[str, int],
    name: str,
    arguments: str,
    paths: list[str | None],
    file: str | None,
    result: int,
) -> None:
    if name in ("open", "openat", "creat") and paths[0] is not None and "O_CREAT" in arguments:
        inodes[paths[0]] = len(inodes) + 1
        ops.append(("create", paths[0], inodes[paths[0]]))
    elif (
        name in ("open", "openat") and paths[0] is not None and re.search("O_WR|O_RDWR", arguments)
    ):
        ops.append(("open to write", paths[0]))
    elif name in ("write", "pwrite64", "writev") and file in inodes:
        ops.append(("write", inodes[file], bytes(result)))
    elif name in ("fsync", "fdatasync") and file is not None:
        ops.append(("sync", inodes[file]) if file in inodes else ("sync_folder", file))
    elif name.startswith(("rename", "link")) and None not in paths:
        ops.append((name.rstrip("at2"), *paths))
    elif name.startswith("mkdir") and paths[0] is not None:
        ops.append(("mkdir", paths[0]))
    elif name.startswith("unlink") and paths[0] is not None:
        ops.append(("unlink", paths[0]))


def _under(text: str, root: Path) -> str | None:
    path = Path(text)
    return str(path.relative_to(root)) if path.is_relative_to(root) else None
