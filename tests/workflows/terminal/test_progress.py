"""The progress of a run, on a terminal and in a log."""

import io
import os
import re
import subprocess
import sys
import threading

import pytest

from tests.commands import wait_until
from workflows.terminal.progress import Progress, is_terminal

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Clock:
    """A clock that a test advances."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self):
        return True


@pytest.fixture(name="clock")
def _clock():
    return Clock()


def plain(clock, **options):
    """Return a progress that writes to a log, and the log."""
    stream = io.StringIO()
    return Progress("train: prepare", stream=stream, clock=clock, **options), stream


def interrupt(progress, clock):
    """Run a progress that Ctrl-C stops after seven rows."""
    with progress:
        clock.now += 1
        progress.update(rows=7)
        raise KeyboardInterrupt


def test_logs_get_one_line_per_ten_seconds(clock):
    """The first and the last line are always written, however often rows are counted."""
    progress, stream = plain(clock, rows=1000)
    with progress:
        for _ in range(250):
            clock.now += 0.1
            progress.update(rows=4)
    lines = stream.getvalue().splitlines()

    assert lines[0] == "train: prepare, 1,000 images"
    assert len(lines) == 4  # and two in 25 seconds
    assert lines[1].startswith(
        "train: prepare: 400 of 1,000 images, 40.0 %, 15 s left, 40 images/s"
    )
    assert lines[-1] == "train: prepare: 1,000 images in 25 s, 40 images/s"


def test_a_line_has_rates_bytes_time_left_and_quarantine(clock):
    """The line also has the share and the total number of images."""
    progress, stream = plain(clock, rows=4096, interval_seconds=0.0)
    with progress:
        clock.now += 2
        progress.update(rows=1024, bytes_in=110_000_000, bytes_out=440_000_000, quarantined=3)
        line = stream.getvalue().splitlines()[-1]

    assert line == (
        "train: prepare: 1,024 of 4,096 images, 25.0 %, 6.0 s left, 512 images/s now, 512 over the"
        " run, 55.0 MB/s in, 220 MB/s out, 3 quarantined"
    )


def test_progress_without_a_total_shows_counts(clock):
    """While a folder is listed there is no share and no time left."""
    progress, stream = plain(clock, interval_seconds=0.0)
    with progress:
        clock.now += 1
        progress.update(rows=5000)

    assert stream.getvalue().splitlines() == [
        "train: prepare",
        "train: prepare: 5,000 images, 5,000 images/s now, 5,000 over the run",
        "train: prepare: 5,000 images in 1.0 s, 5,000 images/s",
    ]


@pytest.mark.parametrize(("total", "noun"), [(1, "image"), (2, "images"), (0, "images")])
def test_a_single_row_is_singular(clock, total, noun):
    """The first line, progress and the last line agree."""
    progress, stream = plain(clock, rows=total)
    with progress:
        progress.update(rows=total)
        assert progress.count_line().startswith(f"{total} of {total} {noun}, ")
    first, last = stream.getvalue().splitlines()
    assert first == f"train: prepare, {total} {noun}"
    assert last.startswith(f"train: prepare: {total} {noun} in ")


def test_pixels_are_shown_as_megapixels(clock):
    """Counts and rates are in the unit, of which there may be fractions."""
    progress, stream = plain(
        clock, rows=5_500_000, unit="megapixels", rows_per_unit=1_000_000, interval_seconds=1
    )
    with progress:
        clock.now += 2
        progress.update(rows=4_250_000)
    assert stream.getvalue().splitlines() == [
        "train: prepare, 5.50 megapixels",
        "train: prepare: 4.25 of 5.50 megapixels, 77.3 %, 588 ms left, 2.1 megapixels/s now, 2.1"
        " over the run",
        "train: prepare: 4.25 of 5.50 megapixels in 2.0 s, 2.1 megapixels/s",
    ]


def test_the_last_line_of_an_interrupted_run_has_its_progress(clock):
    """The interrupt is raised again, and the line differs from that of a complete run."""
    progress, stream = plain(clock, rows=50, unit="blocks")
    with pytest.raises(KeyboardInterrupt):
        interrupt(progress, clock)

    assert stream.getvalue().endswith("stopped at 7 of 50 blocks in 1.0 s, 7.0 blocks/s\n")


@pytest.mark.parametrize("live", [False, True])
def test_names_are_escaped_in_progress(clock, live):
    """Markup, emoji codes and terminal escapes have no effect."""
    name = "[red]x[/red] :smile: \x1b[31mboo\nnext [/]"
    stream = Terminal()
    with Progress(name, rows=2, stream=stream, live=live, clock=clock) as progress:
        progress.note(f"shard 1: {name}")
    text = ESCAPES.sub("", stream.getvalue())

    assert r"shard 1: [red]x[/red] :smile: \x1b[31mboo\nnext [/]" in text
    assert text.count(r"[red]x[/red] :smile: \x1b[31mboo\nnext [/]") >= 3


def test_a_terminal_is_restored_after_progress(clock):
    """The cursor is visible again, and one line with the result remains."""
    stream = Terminal()
    with Progress("val: prepare", rows=10, stream=stream, live=True, clock=clock) as progress:
        clock.now += 1
        progress.update(rows=10)

    assert stream.getvalue().endswith("\x1b[?25h")  # the cursor
    assert "val: prepare  10 images in 1.0 s, 10 images/s" in ESCAPES.sub("", stream.getvalue())


def test_a_terminal_is_restored_after_ctrl_c(clock):
    """No traceback or late line is printed, the cursor is visible, and the thread has ended."""
    stream, before = Terminal(), set(threading.enumerate())
    progress = Progress("val: prepare", rows=10, stream=stream, live=True, clock=clock)
    with pytest.raises(KeyboardInterrupt):
        interrupt(progress, clock)

    written = stream.getvalue()
    assert "\x1b[?25h" in written
    assert "stopped at 7 of 10 images" in ESCAPES.sub("", stream.getvalue())
    assert "Traceback" not in stream.getvalue()
    assert wait_until(lambda: set(threading.enumerate()) <= before)
    assert stream.getvalue() == written


@pytest.mark.parametrize(("columns", "bar"), [(30, False), (44, False), (60, True), (200, True)])
def test_a_narrow_terminal_shows_counts_without_a_bar(clock, monkeypatch, columns, bar):
    """A small window is no error."""
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    with Progress("train: prepare", rows=100, stream=stream, live=True, clock=clock) as progress:
        progress.update(rows=50)

    assert "50 of 100 images" in ESCAPES.sub("", stream.getvalue()).replace("\n", "")
    assert bar == ("\u2501" in stream.getvalue())


def test_concurrent_updates_and_notes_do_not_deadlock():
    """No count is lost while another thread draws."""
    stream = Terminal()
    with Progress("train: prepare", rows=800, stream=stream, live=True) as progress:

        def work():
            for _ in range(100):
                progress.update(rows=1)
                progress.note("line")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert "800 images in" in ESCAPES.sub("", stream.getvalue())


@pytest.mark.parametrize("live", [False, True])
def test_progress_is_escaped_for_an_ascii_terminal(clock, live):
    """A name with an accent does not stop a run in the C locale."""
    out = io.BytesIO()
    stream = io.TextIOWrapper(out, encoding="ascii")
    with Progress("café", rows=2, stream=stream, live=live, clock=clock) as progress:
        progress.note("naïve")
        progress.update(rows=1)
    stream.flush()

    assert rb"caf\xe9" in out.getvalue()
    assert rb"na\xefve" in out.getvalue()


def test_pipes_and_dumb_terminals_are_no_terminals(monkeypatch):
    """Live progress needs cursor movements."""
    monkeypatch.setenv("TERM", "xterm-256color")
    assert is_terminal(Terminal())
    assert not is_terminal(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not is_terminal(Terminal())


def test_rich_is_not_imported_for_pipes():
    """A log does not slow down the start of a command."""
    code = (
        "import sys\nfrom workflows.terminal.progress import Progress\n"
        "with Progress('x', rows=1) as p: p.update(rows=1)\n"
        "sys.exit('rich' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("x, 1 image\n")
