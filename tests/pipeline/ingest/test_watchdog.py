"""The watchdog ends a process whose decoder exceeds the time limit, and no other."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

START = """
import ctypes, threading, time
from pipeline.ingest.watchdog import Watchdog

def hang():
    ctypes.PyDLL(None).pause()  # never returns, and holds the interpreter's lock

"""


def run_code(code: str) -> tuple[int, float]:
    """Run *code* in a process of its own and return its exit status and duration in seconds."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", START + code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
        check=False,
    )
    return done.returncode, time.monotonic() - started


def test_a_hanging_image_ends_the_process() -> None:
    """The process ends although the decoder holds the GIL, and not before the limit."""
    status, seconds = run_code("watchdog = Watchdog(0.5)\nwith watchdog:\n    hang()")
    assert status == -signal.SIGALRM
    assert seconds >= 0.5


def test_a_hang_in_one_of_two_threads_is_detected() -> None:
    """The other thread decodes one image after the other meanwhile."""
    status, _ = run_code("""
watchdog = Watchdog(0.5)
def work(picture):
    while True:
        with watchdog:
            picture()
threading.Thread(target=work, args=(lambda: time.sleep(0.05),), daemon=True).start()
threading.Thread(target=work, args=(lambda: time.sleep(100),), daemon=True).start()
time.sleep(50)
""")
    assert status == -signal.SIGALRM


MANY_IMAGES = "for _ in range(20):\n    with Watchdog(0.2):\n        time.sleep(0.02)"
WAIT = "with Watchdog(0.2):\n    pass\ntime.sleep(0.5)"
ERROR = """
try:
    with Watchdog(0.2):
        raise OSError
except OSError:
    time.sleep(0.5)
"""
UNLIMITED = "with Watchdog(0.0):\n    time.sleep(0.5)"


@pytest.mark.parametrize("code", [MANY_IMAGES, WAIT, ERROR, UNLIMITED])
def test_a_process_without_a_hang_goes_on(code: str) -> None:
    """Neither the age of a process nor its waits for a source count."""
    assert run_code(code)[0] == 0
