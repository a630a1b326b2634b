"""The arithmetic of a progress display: turns counts into rates and the time left."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

WINDOW_SECONDS = 10.0
"""The minimum duration over which the current rate is averaged."""
WINDOW_MARKS = 4
"""The minimum number of counts that the current rate covers: slow shards are minutes apart."""
MARK_SECONDS = 0.25
"""The interval within which counts are merged into one."""


@dataclass(frozen=True)
class Mark:
    """The totals since the start, at a point in time."""

    seconds: float
    """The time, in seconds of the clock of the meter."""
    rows: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


class Meter:
    """A counter that derives rates and the time left.

    Callers pass all times, in seconds of one monotonic clock.
    """

    def __init__(self, rows: int | None, start: float) -> None:
        """Initialise with no rows counted.

        Args:
            rows: Total number of rows, those of earlier runs included; None if unknown.
            start: The time of the start in seconds.
        """
        self.total = rows
        self.start = start
        self.quarantined = 0
        self.initial_rows = 0
        """The number of rows that earlier runs have done; they do not count for rates."""
        self.last = Mark(start)
        self._rates_start = self.last
        self._marks = deque([self.last])

    def add(self, now: float, rows: int, bytes_in: int, bytes_out: int, quarantined: int) -> None:
        """Add the increments since the previous call.

        Args:
            now: The present time in seconds, of the monotonic clock that all calls use.
            rows: Number of rows done.
            bytes_in: Number of bytes read.
            bytes_out: Number of bytes written.
            quarantined: Number of rows that were quarantined, which *rows* includes.
        """
        last = self.last
        self.last = Mark(
            now, last.rows + rows, last.bytes_in + bytes_in, last.bytes_out + bytes_out
        )
        self.quarantined += quarantined
        if now - self._marks[-1].seconds >= MARK_SECONDS:
            self._marks.append(self.last)

    def restart_rates(self, now: float) -> None:
        """Measure rates from now on, because the work so far was slower than what follows.

        `window`, `overall` and `seconds_left` then ignore what was counted before; `from_start`
        does not.

        Args:
            now: The present time in seconds, of the monotonic clock that all calls use.
        """
        last = self.last
        self._rates_start = Mark(now, last.rows, last.bytes_in, last.bytes_out)
        self._marks = deque([self._rates_start])

    def window(self, now: float) -> tuple[float, float, float]:
        """Return the current rates: over the last 10 seconds, or longer if counts are rare.

        Args:
            now: The present time in seconds, of the monotonic clock that all calls use. Calls must
                not go back in time, because older counts are dropped.

        Returns:
            The rows, bytes read and bytes written per second; 0.0 each if no time has passed.
        """
        marks = self._marks
        while len(marks) > WINDOW_MARKS and marks[1].seconds <= now - WINDOW_SECONDS:
            marks.popleft()
        return _rates(marks[0], self.last, now)

    def overall(self, now: float) -> tuple[float, float, float]:
        """Return the rates since the start, or since `restart_rates`.

        Args:
            now: The present time in seconds, of the monotonic clock that all calls use.

        Returns:
            The rows, bytes read and bytes written per second; 0.0 each if no time has passed.
        """
        return _rates(self._rates_start, self.last, now)

    def from_start(self, now: float) -> tuple[float, float, float]:
        """Return the rates since the start, whether or not `restart_rates` was called.

        Args:
            now: The present time in seconds, of the monotonic clock that all calls use.

        Returns:
            The rows, bytes read and bytes written per second; 0.0 each if no time has passed.
        """
        return _rates(Mark(self.start), self.last, now)

    def seconds_left(self, now: float) -> float | None:
        """Return the seconds until all rows are done at the overall rate.

        Args:
            now: The present time in seconds, of the monotonic clock that all calls use.

        Returns:
            The seconds, at least 0; None if the total is unknown, or no row was counted since the
            start or the last `restart_rates`.
        """
        rate = self.overall(now)[0]
        if self.total is None or rate <= 0:
            return None
        return max(0.0, (self.total - self.done) / rate)

    @property
    def done(self) -> int:
        """The number of rows that are done, those of earlier runs included."""
        return self.initial_rows + self.last.rows

    def share(self) -> float | None:
        """Return the fraction of rows that are done, 0 to 1; None if the total is unknown."""
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
