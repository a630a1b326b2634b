"""The sums behind a display of progress: counts in, rates and the time left out."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_SECONDS = 10.0
"""How far back "now" reaches, at least."""
WINDOW_MARKS = 4
"""How many counts "now" takes in, at least: shards of a slow run are minutes apart."""
MARK_SECONDS = 0.25
"""Counts closer together than this are remembered as one."""


@dataclass(frozen=True)
class Mark:
    """What had been counted at a time."""

    seconds: float
    rows: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Meter:
    """Counts, rates and the time left. Times are passed in, in seconds."""

    def __init__(self, rows: int | None, start: float) -> None:
        self.total = rows
        self.start = start
        self.quarantined = 0
        self.before = 0
        """Rows that were done when the run began: they count for no rate."""
        self.last = Mark(start)
        self._from = self.last
        self._marks = deque([self.last])

    def add(self, now: float, rows: int, bytes_in: int, bytes_out: int, quarantined: int) -> None:
        """Count what was done since the call before."""
        last = self.last
        self.last = Mark(
            now, last.rows + rows, last.bytes_in + bytes_in, last.bytes_out + bytes_out
        )
        self.quarantined += quarantined
        if now - self._marks[-1].seconds >= MARK_SECONDS:
            self._marks.append(self.last)

    def restart_rates(self, now: float) -> None:
        """Count rates from *now* on: what was done before took longer than the rest will."""
        last = self.last
        self._from = Mark(now, last.rows, last.bytes_in, last.bytes_out)
        self._marks = deque([self._from])

    def window(self, now: float) -> tuple[float, float, float]:
        """Rows, bytes in and bytes out per second, of late."""
        marks = self._marks
        while len(marks) > WINDOW_MARKS and marks[1].seconds <= now - WINDOW_SECONDS:
            marks.popleft()
        return _rates(marks[0], self.last, now)

    def overall(self, now: float) -> tuple[float, float, float]:
        """Rows, bytes in and bytes out per second, since the start or `restart_rates`."""
        return _rates(self._from, self.last, now)

    def from_start(self, now: float) -> tuple[float, float, float]:
        """Rows, bytes in and bytes out per second, of all of the time."""
        return _rates(Mark(self.start), self.last, now)

    def seconds_left(self, now: float) -> float | None:
        """Until all rows are done at the rate of the whole run; None = nobody knows."""
        rate = self.overall(now)[0]
        if self.total is None or rate <= 0:
            return None
        return max(0.0, (self.total - self.done) / rate)

    @property
    def done(self) -> int:
        """Rows that are done, those of before the run included."""
        return self.before + self.last.rows

    def share(self) -> float | None:
        """Of the rows that are done, 0 to 1; None = their number is not known."""
        if self.total is None:
            return None
        return min(1.0, self.done / self.total) if self.total else 1.0


def _rates(since: Mark, last: Mark, now: float) -> tuple[float, float, float]:
    seconds = now - since.seconds
    if seconds <= 0:
        return 0.0, 0.0, 0.0
    return (
        (last.rows - since.rows) / seconds,
        (last.bytes_in - since.bytes_in) / seconds,
        (last.bytes_out - since.bytes_out) / seconds,
    )
