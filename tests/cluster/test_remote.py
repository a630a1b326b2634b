"""Patience with a scheduler that is somewhere else."""

from __future__ import annotations

import socket
import time

from cluster.remote import Patience


def test_a_scheduler_that_is_there_may_be_silent_for_any_time() -> None:
    """However short the patience is: it is looked for more often than that."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        patience = Patience(f"tls://127.0.0.1:{server.getsockname()[1]}", 0.4)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert not patience.over()
            time.sleep(0.02)


def test_one_that_is_gone_ends_it() -> None:
    """Not at once."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    patience = Patience(f"tcp://127.0.0.1:{port}", 0.4)
    assert not patience.over()
    time.sleep(0.5)
    assert patience.over()
