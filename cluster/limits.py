"""The limits of this process: its CPU cores, and its open files, which are raised or explained."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress
from pathlib import Path

SCHEDULER_FILES = 65_536
"""The number of open files that a scheduler with thousands of workers needs; the same as in its
systemd unit."""


def cores() -> int:
    """Return the number of CPU cores that affinity and the container's quota allow, at least 1."""
    allowed = len(os.sched_getaffinity(0))
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, round(int(quota) / int(period))))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return allowed


def raise_file_limit() -> None:
    """Raise the limit of open files to what a scheduler needs, or as far as allowed.

    Each worker has several connections, so the usual limit of 1,024 files suffices for a few
    hundred. A scheduler at its limit accepts no further worker, and reports that only in its log.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = SCHEDULER_FILES if hard == resource.RLIM_INFINITY else min(SCHEDULER_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < target:
        with suppress(OSError, ValueError):  # not permitted: the limit stays as it is
            resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))


def too_many_files(error: BaseException, call: str = "") -> str:
    """Return a description of a call that failed because too many files are open.

    Sockets, pipes and the start of a program also need file descriptors.

    Args:
        error: The exception of the call, or one that was raised from it or while it was handled.
        call: Name of what was called, such as a program; empty if the file of the error says
            enough.

    Returns:
        A phrase without a full stop that names the call, the file, the limit and the cure, such as
        `cannot open ssh: this process has reached its limit of 1,024 open files: raise ...`; empty
        for other errors.
    """
    cause: BaseException | None = error
    while cause is not None and not _is_file_limit_error(cause):
        cause = cause.__cause__ or cause.__context__
    if not isinstance(cause, OSError):
        return ""
    file = "" if cause.filename is None else os.fsdecode(cause.filename)
    subject = ": ".join(dict.fromkeys(filter(None, (call, file)))) or "another file or connection"
    if cause.errno == errno.ENFILE:
        return (
            f"cannot open {subject}: this machine has reached its limit of open files"
            " (/proc/sys/fs/file-max): end some programs, or have an administrator raise the limit"
        )
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    more = max(SCHEDULER_FILES, 2 * soft)
    if hard != resource.RLIM_INFINITY:
        more = min(more, hard)
    cure = f"raise the limit with `ulimit -n {more}` before the command"
    if more <= soft:
        cure = (
            f"have an administrator raise the hard limit, to {max(SCHEDULER_FILES, 2 * soft)} for"
            " example (`nofile` in /etc/security/limits.conf, `LimitNOFILE=` of a service)"
        )
    return (
        f"cannot open {subject}: this process has reached its limit of {soft:,} open files: {cure}"
    )


def _is_file_limit_error(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
