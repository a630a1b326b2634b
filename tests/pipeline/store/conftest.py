"""Fixtures of the tests of the store."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.store.local import LocalObjects


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    """Return the objects of an empty store, open for writing."""
    objects = LocalObjects(str(tmp_path), "train-1")
    objects.begin()
    return objects
