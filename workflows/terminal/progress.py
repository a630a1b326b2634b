"""How far a run has come: a live display on a terminal, plain lines everywhere else.

`meter.Meter` does the sums, given the time; `Progress` shows what it says. On a terminal the
display is redrawn twice a second by a thread; elsewhere (a pipe, a log file) there is
the first line, the last, and between them one at most every ten seconds, written when something
was counted: nothing is written while nothing happens. Names that come from data are shown with
their control characters escaped, and never read as markup.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType
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
REDRAW_SECONDS = 0.5


class _Display(Protocol):
    def open(self) -> None: ...
    def counted(self, now: float) -> None: ...
    def note(self, line: str) -> None: ...
    def close(self, *, whole: bool) -> None: ...


def _alone(stream: TextIO) -> bool:
    # A second display, of another thread, would be drawn over the first.
    return is_terminal(stream) and threading.current_thread() is threading.main_thread()


def say_waiting(holder: str) -> None:
    """That nothing happens because *holder* has what is needed."""
    print(f"waiting for {holder}", flush=True)


class Progress:
    """Shows how far a run has come, for as long as it is open.

    `with Progress("train: prepare", rows=1_281_167) as progress: progress.update(rows=1024)`.
    May be updated from any thread. An exception, Ctrl-C too, closes the display and passes.
    """

    def __init__(
        self,
        title: str,
        *,
        rows: int | None = None,
        unit: str = "images",
        interval_seconds: float = INTERVAL_SECONDS,
        stream: TextIO | None = None,
        live: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Open nothing yet.

        Args:
            title: What is being done.
            rows: How many there are to do; None = not known: they are counted, without an end.
            unit: What a row is called here, in the plural.
            interval_seconds: Between two plain lines, at least.
            live: Redraw in place; None = where *stream* is a terminal.
        """
        self.title = printable(title)
        self.unit = unit
        self._rows = rows
        self._clock = clock
        self._detail = ""
        # Never held while rich is called: who draws holds a lock of rich's, and then wants this.
        self._lock = threading.RLock()
        self._meter = Meter(rows, clock())
        stream = sys.stdout if stream is None else stream
        live = _alone(stream) if live is None else live
        self._display: _Display = (
            _LiveDisplay(self, stream) if live else _PlainDisplay(self, stream, interval_seconds)
        )

    def __enter__(self) -> Self:
        self._meter = Meter(self._rows, self._clock())
        self._display.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._display.close(whole=kind is None)

    def update(
        self, *, rows: int = 0, bytes_in: int = 0, bytes_out: int = 0, quarantined: int = 0
    ) -> None:
        """Count what was done since the call before."""
        with self._lock:
            now = self._clock()
            self._meter.add(now, rows, bytes_in, bytes_out, quarantined)
            self._display.counted(now)

    def begin_at(self, rows: int) -> None:
        """Note that *rows* were done before: they count for no rate."""
        with self._lock:
            self._meter.before = rows

    def restart_rates(self, *, rows: int = 0) -> None:
        """Count *rows*, and rates and the time left from now on: what was before took longer."""
        with self._lock:
            now = self._clock()
            self._meter.add(now, rows, 0, 0, 0)
            self._meter.restart_rates(now)
            self._display.counted(now)

    def seconds_left(self) -> float | None:
        """Until all rows are done; None = nobody knows."""
        with self._lock:
            return self._meter.seconds_left(self._clock())

    def detail(self, text: str) -> None:
        """Show *text* beside the rates, until there is another."""
        self._detail = printable(text)

    def note(self, line: str) -> None:
        """Say something that stays readable above the display."""
        self._display.note(printable(line))

    def count_line(self) -> str:
        """How many are done, of how many."""
        with self._lock:
            meter = self._meter
            if meter.total is None:
                return f"{meter.done:,} {self._noun()}"
            share = share_text(meter.done, meter.total)
            return f"{meter.done:,} of {meter.total:,} {self._noun()}, {share}"

    def rate_line(self) -> str:
        """Rates now and over the run, the time left, what is in quarantine."""
        with self._lock:
            now, meter = self._clock(), self._meter
            rows, bytes_in, bytes_out = meter.window(now)
            left = meter.seconds_left(now)
            parts = [
                *([] if left is None else [f"{seconds_text(left)} left"]),
                f"{_rate(rows)} {self.unit}/s now, {_rate(meter.overall(now)[0])} over the run",
                *_byte_rates(meter, bytes_in, bytes_out),
            ]
            return ", ".join([*parts, *self._bad()])

    def final_line(self, *, whole: bool) -> str:
        """What was done, when it is over; not *whole* = it was stopped."""
        with self._lock:
            now, meter = self._clock(), self._meter
            rows, bytes_in, bytes_out = meter.from_start(now)
            done = f"{meter.done:,}"
            if meter.total is not None and meter.done != meter.total:
                done += f" of {meter.total:,}"
            verb = "" if whole else "stopped at "
            own = f", {meter.last.rows:,} of them" if meter.before else ""
            parts = [
                f"{verb}{done} {self._noun()}{own} in {seconds_text(now - meter.start)}",
                f"{_rate(rows)} {self.unit}/s",
                *_byte_rates(meter, bytes_in, bytes_out),
            ]
            return ", ".join([*parts, *self._bad()])

    def _noun(self) -> str:
        """Return the unit as it follows the number of all: `images`, or `image` after a 1."""
        meter = self._meter
        number = meter.done if meter.total is None else meter.total
        return self.unit.removesuffix("s") if number == 1 else self.unit

    def share(self) -> float | None:
        """Of the rows that are done, 0 to 1; None = their number is not known."""
        with self._lock:
            return self._meter.share()

    def _bad(self) -> list[str]:
        count = self._meter.quarantined
        return [f"{count:,} quarantined"] if count else []


class _PlainDisplay:
    def __init__(self, progress: Progress, stream: TextIO, interval_seconds: float) -> None:
        self._progress = progress
        self._stream = stream
        self._interval = interval_seconds
        self._next = 0.0

    def open(self) -> None:
        """Begin to show it: a live display in a terminal, lines elsewhere."""
        meter = self._progress._meter
        self._next = meter.start + self._interval
        count = "" if meter.total is None else f", {meter.total:,} {self._progress._noun()}"
        self._say(f"{self._progress.title}{count}")

    def counted(self, now: float) -> None:
        if now >= self._next:
            self._next = now + self._interval
            progress = self._progress
            lines = (progress.count_line(), progress.rate_line(), progress._detail)
            self._say(f"{progress.title}: {', '.join(filter(None, lines))}")

    def note(self, line: str) -> None:
        self._say(line)

    def close(self, *, whole: bool) -> None:
        self._say(f"{self._progress.title}: {self._progress.final_line(whole=whole)}")

    def _say(self, line: str) -> None:
        # One write, so that lines of two threads do not mix.
        self._stream.write(encodable(line, self._stream) + "\n")
        self._stream.flush()


class _LiveDisplay:
    def __init__(self, progress: Progress, stream: TextIO) -> None:
        self._progress = progress
        self._stream = stream
        self._live: Live | None = None
        self._end: str | None = None
        self._closed = threading.Event()
        # Ours, not rich's: that one is not waited for, and may write after the end.
        self._thread = threading.Thread(target=self._redraw, name="progress", daemon=True)

    def open(self) -> None:
        """Begin to show it: a live display in a terminal, lines elsewhere."""
        # Here, not above: who writes to a pipe does not pay for rich.
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._stream, force_terminal=True, highlight=False)
        self._live = Live(
            self,
            console=console,
            auto_refresh=False,
            vertical_overflow="visible",
            redirect_stderr=sys.stderr.isatty(),  # who sent it to a file wants it there
        )
        self._live.start(refresh=True)
        self._thread.start()

    def _redraw(self) -> None:
        while not self._closed.wait(REDRAW_SECONDS):
            if self._live is not None:
                self._live.refresh()

    def counted(self, now: float) -> None:
        """Nothing to do: the thread comes by."""

    def note(self, line: str) -> None:
        if self._live is not None:
            text = encodable(line, self._stream)
            self._live.console.print(text, markup=False, emoji=False, soft_wrap=True)

    def close(self, *, whole: bool) -> None:
        self._end = self._progress.final_line(whole=whole)
        self._closed.set()
        if self._live is not None:
            self._thread.join()
            self._live.stop()
            self._live = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        progress = self._progress
        title = Text(encodable(progress.title, self._stream), style="bold")
        if self._end is not None:
            yield Text.assemble(title, "  ", self._end)
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
    """Whether lines on *stream* can be drawn over."""
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown")


def _rate(per_second: float) -> str:
    if per_second == 0 or per_second >= 9.95:
        return f"{per_second:,.0f}"
    return f"{per_second:.2g}" if per_second < 0.995 else f"{per_second:.1f}"


def _byte_rates(meter: Meter, bytes_in: float, bytes_out: float) -> list[str]:
    seen = ((meter.last.bytes_in, bytes_in, "in"), (meter.last.bytes_out, bytes_out, "out"))
    return [f"{three_digits(rate / 1e6)} MB/s {way}" for total, rate, way in seen if total]
