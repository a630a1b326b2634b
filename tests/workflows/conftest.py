"""Fixtures that all tests of workflows share."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests import browser
from workflows.terminal.signals import STOP_SIGNALS


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Limit torch to one thread, since small networks are slower with more."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Undo what a command does to its process: it handles signals, and ignores them as it ends."""
    before = {stop: signal.getsignal(stop) for stop in STOP_SIGNALS}
    yield
    for stop, handler in before.items():
        signal.signal(stop, handler)
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="session")
def _browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start one browser for all tests of this process."""
    if browser.DRIVER is None:
        pytest.skip("there is no chromedriver")
    with browser.open_chromium(tmp_path_factory.mktemp("chromium")) as driver:
        yield driver


@pytest.fixture
def chromium(_browser: Any) -> Iterator[Any]:
    """Yield the driver of a headless Chromium, and close the page of the test at its end."""
    yield _browser
    _browser.get("about:blank")  # a page that stayed open would complain in the next test
    _browser.get_log("browser")
