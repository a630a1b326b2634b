"""A network and a store that the tests of features share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.images import make_folder, prepare_inline
from tests.pipeline.features.small import ROWS, SIZE, small_trunk


@pytest.fixture(scope="session")
def trunk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small network."""
    return small_trunk(tmp_path_factory.mktemp("vit") / "tiny")


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 21 images, the last two of which are broken."""
    return make_folder(tmp_path_factory.mktemp("images") / "train", ROWS, bad=2)


@pytest.fixture(scope="session")
def images(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of the images, at 8 and 16 px."""
    store = tmp_path_factory.mktemp("images") / "store"
    prepare_inline(source, str(store), sizes=(8, SIZE))
    return store


@pytest.fixture
def store(images: Path, tmp_path: Path) -> Path:
    """Return a copy of the store that a test may change."""
    return Path(shutil.copytree(images, tmp_path / "store"))
