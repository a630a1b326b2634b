"""Fixtures that the tests of ingest share: a finished store, and copies of it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.store.local import LocalObjects
from tests.images import SMALL, make_folder, prepare_inline


@pytest.fixture(scope="session")
def finished_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepare a store of 11 images, one of them broken, that no test changes."""
    root = tmp_path_factory.mktemp("ingest")
    prepare_inline(make_folder(root / "images", 11, bad=1), str(root / "store"), **SMALL)
    return root / "store"


@pytest.fixture
def store(finished_store: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished store that a test may damage."""
    return shutil.copytree(finished_store, tmp_path / "store")


@pytest.fixture
def objects(store: Path) -> LocalObjects:
    """Return the objects of the copy, for a run that may write."""
    objects = LocalObjects(str(store), "train-1")
    objects.begin()
    return objects
