"""Limits of the system on open files: raised where that is allowed, else said with the cure."""

from __future__ import annotations

import errno
import os
import resource
from contextlib import suppress

SCHEDULER_FILES = 65_536
"""As many files as a scheduler of thousands of workers has open; its systemd unit asks for them."""


def raise_file_limit() -> None:
    """Let this process open as many files as a scheduler needs, or as it may.

    Each worker has several connections, and 1,024 files, the usual limit, are those of a few
    hundred: a scheduler that has reached it takes no further worker, and says so only in its log.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = SCHEDULER_FILES if hard == resource.RLIM_INFINITY else min(SCHEDULER_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(OSError, ValueError):  # where it may not be raised, it stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def too_many_files(error: BaseException, call: str = "") -> str:
    """Return the sentence about a call that failed for want of files that may be open.

    Sockets, pipes and the start of a program need some too.

    Args:
        error: What the call raised, or what was raised because of that.
        call: What was called, such as a program; empty = the file that the error names.

    Returns:
        The call, the file, the limit and the cure, without a full stop; empty for other errors.
    """
    cause: BaseException | None = error
    while cause is not None and not _is_limit(cause):
        cause = cause.__cause__ or cause.__context__
    if not isinstance(cause, OSError):
        return ""
    file = "" if cause.filename is None else os.fsdecode(cause.filename)
    what = ": ".join(dict.fromkeys(filter(None, (call, file)))) or "another file or connection"
    if cause.errno == errno.ENFILE:
        return (
            f"cannot open {what}, for the programs of this machine have as many files open as they"
            " may (/proc/sys/fs/file-max): end some of them, or have it raised"
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
        f"cannot open {what}, for this process has {soft:,} files open, as many as it may: {cure}"
    )


def _is_limit(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
