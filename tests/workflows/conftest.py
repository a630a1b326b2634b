"""Fixtures that all tests of workflows share."""

from __future__ import annotations

import sys

import pytest


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small nets are slower with more threads than one, and much slower beside other work."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
