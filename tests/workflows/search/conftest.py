"""A small store and an engine over it for the tests of the search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.workflows.search.toy import SIZE, Toy, make_store
from workflows.search import engine as engine_room
from workflows.search.engine import Engine, open_engine


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prepare a store with two splits of painted images, three of which are broken."""
    return make_store(tmp_path_factory.mktemp("search"))


@pytest.fixture(scope="module")
def toy(store: str) -> Toy:
    """Return a model that knows colours."""
    return Toy(store)


Opener = Callable[..., Engine]


@pytest.fixture
def open_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opener]:
    """Return a function that opens engines over a model, and close them at the end."""
    with ExitStack() as stack:

        def opens(model: Toy, run: Path = tmp_path, **options: Any) -> Engine:
            assert model.size == SIZE
            monkeypatch.setattr(engine_room, "open_model", lambda _, **__: model)
            engine = open_engine(run, **options)
            stack.callback(engine.close)
            return engine

        yield opens


@pytest.fixture
def engine(toy: Toy, open_run: Opener) -> Engine:
    """Return an engine over both splits."""
    return open_run(toy)
