"""Fixtures that all tests of workflows share."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Limit torch to one thread, since small networks are slower with more."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
