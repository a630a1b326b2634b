"""The files that the tests of the study share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workflows.studies.cut.small import small_files


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small store, a network and word vectors, which no test changes."""
    return small_files(tmp_path_factory.mktemp("cut"))
