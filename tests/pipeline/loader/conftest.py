"""Fixtures that the tests of the loader share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.images import make_folder


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create 61 images, 3 of them broken."""
    return make_folder(tmp_path_factory.mktemp("source") / "train", 61, bad=3)
