"""Progress displays: live on a terminal, plain lines everywhere else.

`meter.Meter` computes rates and `Progress` shows them. On a terminal, a thread redraws the display
twice a second. Elsewhere (a pipe, a log file) a first and a last line are written, and between
them at most one line every ten seconds, when something was counted. Names that come from data are
shown with their control characters escaped, and never interpreted as markup.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, Self, TextIO

from workflows.terminal.formatting import (
    encodable,
    printable,
    seconds_text,
    share_text,
    three_digits,
)
from workflows.terminal.meter import Meter

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

INTERVAL_SECONDS = 10.0
"""The minimum interval between two plain lines."""
REDRAW_SECONDS = 0.5
"""The interval at which a live display is redrawn."""


class _Display(Protocol):
    def open(self) -> None: ...
    def counted(self, now: float) -> None: ...
    def note(self, line: str) -> None: ...
    def close(self, *, completed: bool) -> None: ...


def _can_draw(stream: TextIO) -> bool:
    # Only the main thread draws: a second live display would overwrite the first.
    return is_terminal(stream) and threading.current_thread() is threading.main_thread()


def print_waiting(holder: str) -> None:
    """Print to standard output that the command waits for another run.

    Args:
        holder: The description of the process that holds the lease, such as "process 4711 on
            node1".
    """
    print(f"waiting for {holder}", flush=True)


class Progress:
    """A progress display, shown inside a `with` block.

    `with Progress("train: prepare", rows=1_281_167) as progress: progress.update(rows=1024)`.
    It may be updated from any thread. An exception, including Ctrl-C, closes the display and
    propagates.
    """

    def __init__(
        self,
        title: str,
        *,
        rows: int | None = None,
        unit: str = "images",
        rows_per_unit: int = 1,
        interval_seconds: float = INTERVAL_SECONDS,
        stream: TextIO | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Configure a display without opening it.

        Args:
            title: A description of the work, shown before the counts.
            rows: Total number of rows, those of earlier runs included; None if unknown, then they
                are counted without a total.
            unit: The noun for rows, in the plural (default `images`).
            rows_per_unit: Number of rows that the noun stands for (default 1): 1,000,000 if pixels
                are counted and megapixels are shown.
            interval_seconds: Minimum interval between two plain lines, in seconds (default 10).
            stream: The stream to write to (default: standard output).
            live: True redraws in place, False writes plain lines; None redraws if *stream* is a
                terminal and this is the main thread (default None).
            clock: A function that returns the time in seconds (default `time.monotonic`).
        """
        self.title = printable(title)
        self.unit = unit
        self._rows_per_unit = rows_per_unit
        self._rows = rows
        self._clock = clock
        self._detail = ""
        # Never held while rich is called: a redraw takes rich's lock first and then this one, so
        # the opposite order would deadlock.
        self._lock = threading.RLock()
        self._meter = Meter(rows, clock())
        stream = sys.stdout if stream is None else stream
        live = _can_draw(stream) if live is None else live
        self._display: _Display = (
            _LiveDisplay(self, stream) if live else _PlainDisplay(self, stream, interval_seconds)
        )

    def __enter__(self) -> Self:
        self._meter = Meter(self._rows, self._clock())
        self._display.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._display.close(completed=kind is None)

    def update(
        self, *, rows: int = 0, bytes_in: int = 0, bytes_out: int = 0, quarantined: int = 0
    ) -> None:
        """Add the increments since the previous call.

        Call it inside the `with` block, whose start sets all counts to 0.

        Args:
            rows: Number of rows done.
            bytes_in: Number of bytes read.
            bytes_out: Number of bytes written.
            quarantined: Number of rows that were quarantined, which *rows* includes.
        """
        with self._lock:
            now = self._clock()
            self._meter.add(now, rows, bytes_in, bytes_out, quarantined)
            self._display.counted(now)

    def set_initial_rows(self, rows: int) -> None:
        """Set the number of rows that earlier runs have done; they do not count for rates.

        Call it inside the `with` block, whose start sets the number to 0.

        Args:
            rows: Number of rows, which replaces one that was set before. They count as done in the
                total.
        """
        with self._lock:
            self._meter.initial_rows = rows

    def restart_rates(self, *, rows: int = 0) -> None:
        """Count rows, and measure rates from now on, because the work so far was slower.

        Args:
            rows: Number of rows done since the previous call, as in `update` (default 0).
        """
        with self._lock:
            now = self._clock()
            self._meter.add(now, rows, 0, 0, 0)
            self._meter.restart_rates(now)
            self._display.counted(now)

    def seconds_left(self) -> float | None:
        """Return the seconds until all rows are done; None if unknown."""
        with self._lock:
            return self._meter.seconds_left(self._clock())

    def detail(self, text: str) -> None:
        """Show a text beside the rates until the next call.

        Args:
            text: The text, whose control characters are escaped; an empty text shows nothing.
        """
        self._detail = printable(text)

    def note(self, line: str) -> None:
        """Print a line that stays visible above the display.

        Call it inside the `with` block: a live display prints no line outside.

        Args:
            line: The line without a newline; its control characters are escaped.
        """
        self._display.note(printable(line))

    def count_line(self) -> str:
        """Return the count as text, such as `1,024 of 5,000 images, 20.5 %`."""
        with self._lock:
            meter = self._meter
            if meter.total is None:
                return f"{self._count(meter.done)} {self._noun()}"
            share = share_text(meter.done, meter.total)
            total = self._count(meter.total)
            return f"{self._count(meter.done)} of {total} {self._noun()}, {share}"

    def rate_line(self) -> str:
        """Return the rates as text, shown below or after the counts.

        For example `3 min 5 s left, 512 images/s now, 498 over the run, 60.1 MB/s in, 3
        quarantined`. What is unknown or zero is left out.
        """
        with self._lock:
            now, meter = self._clock(), self._meter
            rows, bytes_in, bytes_out = meter.window(now)
            left = meter.seconds_left(now)
            parts = [
                *([] if left is None else [f"{seconds_text(left)} left"]),
                f"{self._rate(rows)} {self.unit}/s now",
                f"{self._rate(meter.overall(now)[0])} over the run",
                *_byte_rates(meter, bytes_in, bytes_out),
            ]
            return ", ".join([*parts, *self._quarantined_text()])

    def final_line(self, *, completed: bool) -> str:
        """Return the summary at the end, such as `5,000 images in 10 s, 500 images/s`.

        Nothing is printed.

        Args:
            completed: True if the work is done; False if it was stopped early, for a text such as
                `stopped at 20 of 5,000 images in 10 s, 2.0 images/s`.
        """
        with self._lock:
            now, meter = self._clock(), self._meter
            rows, bytes_in, bytes_out = meter.from_start(now)
            done = self._count(meter.done)
            if meter.total is not None and meter.done != meter.total:
                done += f" of {self._count(meter.total)}"
            verb = "" if completed else "stopped at "
            this_run = (
                f", {self._count(meter.last.rows)} in this run," if meter.initial_rows else ""
            )
            parts = [
                f"{verb}{done} {self._noun()}{this_run} in {seconds_text(now - meter.start)}",
                f"{self._rate(rows)} {self.unit}/s",
                *_byte_rates(meter, bytes_in, bytes_out),
            ]
            return ", ".join([*parts, *self._quarantined_text()])

    def _noun(self) -> str:
        """Return the unit in the number that the total needs: `images`, or `image` after 1."""
        meter = self._meter
        number = meter.done if meter.total is None else meter.total
        return self.unit.removesuffix("s") if number == self._rows_per_unit else self.unit

    def _count(self, rows: int) -> str:
        if self._rows_per_unit == 1:
            return f"{rows:,}"
        return three_digits(rows / self._rows_per_unit)

    def _rate(self, rows_per_second: float) -> str:
        return _rate(rows_per_second / self._rows_per_unit)

    def share(self) -> float | None:
        """Return the fraction of rows that are done, 0 to 1; None if the total is unknown."""
        with self._lock:
            return self._meter.share()

    def _quarantined_text(self) -> list[str]:
        count = self._meter.quarantined
        return [f"{count:,} quarantined"] if count else []


class _PlainDisplay:
    def __init__(self, progress: Progress, stream: TextIO, interval_seconds: float) -> None:
        self._progress = progress
        self._stream = stream
        self._interval = interval_seconds
        self._next = 0.0

    def open(self) -> None:
        """Write the first line."""
        meter = self._progress._meter
        self._next = meter.start + self._interval
        progress = self._progress
        count = "" if meter.total is None else (
            f", {progress._count(meter.total)} {progress._noun()}"
        )  # fmt: skip
        self._write_line(f"{self._progress.title}{count}")

    def counted(self, now: float) -> None:
        if now >= self._next:
            self._next = now + self._interval
            progress = self._progress
            lines = (progress.count_line(), progress.rate_line(), progress._detail)
            self._write_line(f"{progress.title}: {', '.join(filter(None, lines))}")

    def note(self, line: str) -> None:
        self._write_line(line)

    def close(self, *, completed: bool) -> None:
        self._write_line(
            f"{self._progress.title}: {self._progress.final_line(completed=completed)}"
        )

    def _write_line(self, line: str) -> None:
        # A single write, so that lines of two threads do not interleave.
        self._stream.write(encodable(line, self._stream) + "\n")
        self._stream.flush()


class _LiveDisplay:
    def __init__(self, progress: Progress, stream: TextIO) -> None:
        self._progress = progress
        self._stream = stream
        self._live: Live | None = None
        self._final_line: str | None = None

    def open(self) -> None:
        """Start the live display and the thread that redraws it."""
        # Imported here, so that commands that write to a pipe do not pay for loading rich.
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._stream, force_terminal=True, highlight=False)
        self._live = Live(
            self,
            console=console,
            refresh_per_second=1 / REDRAW_SECONDS,
            vertical_overflow="visible",
            redirect_stderr=sys.stderr.isatty(),  # standard error sent to a file stays there
        )
        self._live.start(refresh=True)

    def counted(self, now: float) -> None:
        """Do nothing: the thread redraws the display."""

    def note(self, line: str) -> None:
        if self._live is not None:
            text = encodable(line, self._stream)
            self._live.console.print(text, markup=False, emoji=False, soft_wrap=True)

    def close(self, *, completed: bool) -> None:
        self._final_line = self._progress.final_line(completed=completed)
        if self._live is not None:
            self._live.stop()
            self._live = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        progress = self._progress
        title = Text(encodable(progress.title, self._stream), style="bold")
        if self._final_line is not None:
            yield Text.assemble(title, "  ", self._final_line)
            return
        share = progress.share()
        count = progress.count_line()
        room = options.max_width - title.cell_len - len(count) - 4
        head = Table.grid(padding=(0, 2))
        if share is None or room < 6:
            head.add_row(title, count)
        else:
            head.add_row(title, ProgressBar(completed=share * 100, width=min(room, 40)), count)
        yield head
        yield Text("  " + progress.rate_line(), style="dim")
        if progress._detail:
            yield Text("  " + encodable(progress._detail, self._stream), style="dim")


def is_terminal(stream: TextIO) -> bool:
    """Return True if a stream is a terminal that can redraw lines in place.

    Args:
        stream: The stream. A terminal whose TERM is unset, `dumb` or `unknown` gives False.
    """
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def _rate(per_second: float) -> str:
    if per_second == 0 or per_second >= 9.95:
        return f"{per_second:,.0f}"
    return f"{per_second:.2g}" if per_second < 0.995 else f"{per_second:.1f}"


def _byte_rates(meter: Meter, bytes_in: float, bytes_out: float) -> list[str]:
    seen = ((meter.last.bytes_in, bytes_in, "in"), (meter.last.bytes_out, bytes_out, "out"))
    return [f"{three_digits(rate / 1e6)} MB/s {label}" for total, rate, label in seen if total]
