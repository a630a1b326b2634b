"""The report of a task: counts, bytes, and the seconds of each step."""

from __future__ import annotations

import functools
import platform
import socket
import time
from dataclasses import dataclass, field

from pipeline.installation import installed_version
from pipeline.store.commit import Commit


@dataclass(frozen=True, kw_only=True)
class ShardReport:
    """A summary of a task, of a few hundred bytes."""

    shard: int
    """The number of the shard, from 0."""
    num_rows: int
    """The number of its rows, those in quarantine included."""
    counts: dict[str, int]
    """The number of rows by status, in words."""
    bytes_in: int = 0
    """The number of bytes that the task read from the source."""
    bytes_out: int = 0
    """The number of bytes that the task wrote, without the commit."""
    seconds: dict[str, float] = field(default_factory=dict)
    """The seconds spent in each step: read, decode, resize, write, sync."""
    host: str = ""
    """The name of the machine."""
    isolated: bool = False
    """True if the images were decoded one by one in a child process."""
    written_objects: tuple[str, ...] = ()
    """The names of the objects that were written; empty if the shard was complete before."""


def report_on(
    commit: Commit,
    *,
    isolated: bool = False,
    written_objects: tuple[str, ...] = (),
    seconds: dict[str, float] | None = None,
    bytes_in: int = 0,
) -> ShardReport:
    """Return the report of a task on the shard of *commit*; nothing is written.

    Args:
        commit: The commit of the shard, for its number, rows, counts and lengths of objects.
        isolated: True if images were decoded one by one in a child (default: False).
        written_objects: The names of the objects that the task wrote, whose lengths in the commit
            add up to `bytes_out` (default: none).
        seconds: The seconds spent in each step of the task, by its name: read, decode, resize,
            write, sync (default: none).
        bytes_in: The number of bytes of the shard's images in the source (default: 0).

    Returns:
        The report: of the commit `shard`, `num_rows` and `counts`, the number of rows by the name
        of their status, such as `readable`; `host`, the name of this machine; `bytes_out`; and the
        values of the other arguments under their names.
    """
    return ShardReport(
        shard=commit.shard,
        num_rows=commit.stop - commit.start,
        counts=commit.counts,
        bytes_in=bytes_in,
        bytes_out=sum(
            written.num_bytes for written in commit.objects if written.name in written_objects
        ),
        seconds=seconds or {},
        host=socket.gethostname(),
        isolated=isolated,
        written_objects=written_objects,
    )


class Stopwatch:
    """A stopwatch that adds up seconds by step; each lap starts at the end of the previous one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, step: str) -> None:
        """Add the seconds since the last lap, or since the creation, to a step in `seconds`.

        Args:
            step: The name of the step that has just ended, such as `decode`: its key in the dict
                `seconds`, where a new one begins at 0. The seconds are wall time.
        """
        now = time.perf_counter()
        self.seconds[step] = self.seconds.get(step, 0.0) + now - self._last
        self._last = now


@functools.cache
def software() -> dict[str, str]:
    """Return the versions of the software that makes shards, by name, for provenance.

    Returns:
        Versions such as "2.1.0" by the names `python`, `dask`, `numpy`, `pyarrow`, `simplejpeg` and
        `tesserae`, without those that are not installed. Every call returns the same dict, which
        must not be changed.
    """
    versions = {"python": platform.python_version()}
    for name in ("dask", "numpy", "pyarrow", "simplejpeg", "tesserae"):
        if installed := installed_version(name):
            versions[name] = installed
    return versions
