"""Ctrl-C and SIGTERM at any moment and repeatedly: a message, an exit status, and no leftovers."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.commands import ROOT, Command, committed, run, saboteur, start, wait_until
from tests.images import contents, make_folder, prepare_inline
from workflows.terminal import signals

WORDS = ("--shard-rows", 8, "--chunk-rows", 4, "--sizes", 16, "--workers", 2)

PAUSE = """
import os, time

def pausing(name):
    def change(module):
        function = getattr(module, name)

        def pause(*args, **options):
            open(os.environ["REACHED"], "w").close()
            time.sleep(float(os.environ["PAUSE"]))
            return function(*args, **options)

        setattr(module, name, pause)
    return change

module, name = os.environ["PAUSE_IN"].rsplit(".", 1)
after_import(module, pausing(name))
"""

MOMENTS = {
    "listing": ("pipeline.ingest.planning.read_listing", 5.0, "Nothing was planned yet: run the"),
    "starting": (
        "cluster.local.applied_settings",
        0.3,
        "0 of 13 shards of split 'train' are committed",
    ),
    "decoding": ("pipeline.ingest.readahead.read_ahead", 0.2, "of 13 shards of split 'train' are"),
    "finishing": ("pipeline.ingest.finish.parts_digest", 5.0, "13 of 13 shards of split 'train'"),
    "reporting": (
        "workflows.reports.store_report.collect_report",
        5.0,
        "Run the same command again to continue.",
    ),
}


@pytest.fixture(autouse=True)
def _listening(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "_last", float("-inf"))
    signals.install_handlers()


def check_stopped(command: Command, number: int, times: int) -> None:
    """Signal the process group as a terminal does, and check output, status and processes."""
    for _ in range(times):
        command.signal_all(number)
        time.sleep(0.1)
    assert command.wait(30) == 130, command.err
    assert command.gone(5)
    assert command.err.lstrip().startswith("tesserae: stopped. ")
    assert command.err.strip().count("\n") == 0, command.err


CASES = list(itertools.product(MOMENTS, signals.STOP_SIGNALS, (1, 2, 3)))
QUICK = (("decoding", signal.SIGINT, 2),)


@pytest.mark.parametrize(
    ("moment", "number", "times"),
    [pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow) for case in CASES],
)
def test_a_run_is_stopped_cleanly_at_any_moment(
    tmp_path: Path, moment: str, number: int, times: int
) -> None:
    """The message has the progress and how to resume; the resumed run gives the same bytes."""
    source = make_folder(tmp_path / "source", 100)
    store = tmp_path / "store"
    reached = tmp_path / "reached"
    where, seconds, how_to_go_on = MOMENTS[moment]
    with (
        saboteur(tmp_path / "path", PAUSE) as path,
        start(
            *("prepare", source, store, *WORDS, "--no-dashboard"),
            scratch=tmp_path,
            extra_path=path,
            REACHED=str(reached),
            PAUSE_IN=where,
            PAUSE=str(seconds),
        ) as command,
    ):
        assert wait_until(reached.exists)
        if moment == "decoding":
            assert wait_until(lambda: committed(store) > 2)
        check_stopped(command, number, times)
        assert how_to_go_on in command.err
    assert not list((store / ".tmp").glob("train-*"))
    again = run("prepare", source, store, *WORDS, "--no-dashboard", scratch=tmp_path)
    assert (again.status, again.err) == (0, "")
    prepare_inline(source, str(tmp_path / "clean"), sizes=(16,), shard_rows=8, chunk_rows=4)
    assert contents(store) == contents(tmp_path / "clean")


@pytest.mark.slow
def test_large_shards_do_not_delay_the_end(tmp_path: Path) -> None:
    """Running tasks are not awaited, since their results are not committed."""
    source = make_folder(tmp_path / "source", 64)
    with (
        saboteur(tmp_path / "path", PAUSE) as path,
        start(
            *("prepare", source, tmp_path / "store", "--no-dashboard", "--sizes", 16),
            scratch=tmp_path,
            extra_path=path,
            REACHED=str(tmp_path / "reached"),
            PAUSE_IN="pipeline.ingest.readahead.read_ahead",
            PAUSE="60",
        ) as command,
    ):
        assert wait_until((tmp_path / "reached").exists)
        started = time.monotonic()
        check_stopped(command, signal.SIGINT, 1)
        assert time.monotonic() - started < 30


def test_a_signal_is_deferred_until_a_block_has_ended() -> None:
    """Several signals interrupt once."""
    done = []

    def block() -> None:
        with signals.deferred_signals():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
                signal.raise_signal(number)
            done.append(1)

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == [1]


def test_a_second_signal_does_not_replace_the_first_interrupt() -> None:
    """The message of the first interrupt is kept during the cleanup."""

    def stopped() -> None:
        try:
            raise KeyboardInterrupt("so far")
        finally:
            with signals.deferred_signals():
                signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="so far"):
        stopped()


def test_repeated_signals_are_debounced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes much later interrupts again."""
    for stop in signals.STOP_SIGNALS:
        monkeypatch.setattr(signals, "DEBOUNCE_SECONDS", 3600.0)
        monkeypatch.setattr(signals, "_last", float("-inf"))
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(stop)
        signal.raise_signal(stop)
        monkeypatch.setattr(signals, "DEBOUNCE_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(stop)


def test_an_error_in_the_block_takes_precedence() -> None:
    """The deferred signal is dropped, since the command ends anyway."""

    def failing() -> None:
        with signals.deferred_signals():
            signal.raise_signal(signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()


def test_only_the_main_thread_defers_signals() -> None:
    """Python runs signal handlers in the main thread only."""
    seen = []

    def block() -> None:
        with signals.deferred_signals():
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == [before]


def test_ctrl_c_while_modules_are_loaded_ends_quietly() -> None:
    """No handler is installed yet, so Python raises in the middle of an import."""
    code = """
import runpy, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "workflows.cli":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupt())
runpy.run_module("workflows", run_name="__main__")
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")
