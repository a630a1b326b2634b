"""Images come in their order, a little ahead of need, and a source that fails is asked again."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import ReadError
from pipeline.ingest import readahead
from pipeline.ingest.readahead import GROUP, LOCAL_DEPTH, read_ahead, read_patiently
from pipeline.ingest.source_index import Sample
from pipeline.sources.reader import Reader

QUICKLY: dict[str, Any] = {"remote": False, "pause": 0}


class Shelf:
    """Stands in for a reader: hands out the path as bytes, and fails as it is told."""

    def __init__(self, fails: Callable[[str, int], bool] = lambda path, tried: False) -> None:
        self.tried: Counter[str] = Counter()
        self._fails = fails
        self._lock = threading.Lock()

    def read(self, path: str, offset: int | None, num_bytes: int) -> bytes:
        """See `Reader.read`."""
        with self._lock:
            self.tried[path] += 1
            tried = self.tried[path]
        if self._fails(path, tried):
            raise ReadError(f"cannot read {path}: Input/output error")
        return path.encode()


def samples(count: int) -> list[Sample]:
    """Some rows."""
    names = [f"c/{row}" for row in range(count)]
    return [Sample(row, name, 0, 1, name, None, None) for row, name in enumerate(names)]


def reading(shelf: Shelf, count: int, *, remote: bool = False, tries: int = 3) -> list[bytes]:
    """All bytes of some rows."""
    reader = cast(Reader, shelf)
    return list(read_ahead(reader, samples(count), limit=None, remote=remote, tries=tries, pause=0))


@given(count=st.integers(0, 5 * GROUP), remote=st.booleans())
def test_every_image_comes_once_and_in_order(count: int, remote: bool) -> None:
    """Whatever their number is, from a disk and from afar."""
    shelf = Shelf()
    assert reading(shelf, count, remote=remote) == [f"c/{i}".encode() for i in range(count)]
    assert set(shelf.tried.values()) <= {1}


def test_a_source_that_fails_for_a_while_is_asked_again() -> None:
    """One image alone: the others of its group are read once."""
    shelf = Shelf(lambda path, tried: path == "c/5" and tried < 3)
    assert len(reading(shelf, 20)) == 20
    assert shelf.tried["c/5"] == 3
    assert shelf.tried["c/4"] == 1


def test_a_source_that_fails_for_good_fails_at_its_image() -> None:
    """After all tries; what came before it was handed out."""
    shelf = Shelf(lambda path, tried: path == "c/20")
    images = read_ahead(
        cast(Reader, shelf), samples(60), limit=None, remote=False, tries=4, pause=0
    )
    got = []
    with pytest.raises(ReadError, match="c/20: Input/output error"):
        got.extend(images)
    assert shelf.tried["c/20"] == 4
    assert len(got) <= 20


def test_only_errors_of_reading_are_tried_again() -> None:
    """A mistake in the code is not."""

    class Wrong(Shelf):
        def read(self, path: str, offset: int | None, num_bytes: int) -> bytes:
            super().read(path, offset, num_bytes)
            raise KeyError(path)

    shelf = Wrong()
    with pytest.raises(KeyError):
        reading(shelf, 1)
    assert shelf.tried["c/0"] == 1


def test_pauses_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second, two, eight: a mount that comes back within ten seconds costs nothing."""
    pauses: list[float] = []
    monkeypatch.setattr(readahead.time, "sleep", pauses.append)
    shelf = Shelf(lambda path, tried: True)
    with pytest.raises(ReadError):
        read_patiently(cast(Reader, shelf), samples(1)[0], None, tries=4, pause=0.5)
    assert pauses == [0.5, 2.0, 8.0]


def test_no_more_is_read_ahead_than_a_little() -> None:
    """A shard is not read into memory before its first image is decoded."""
    shelf = Shelf()
    images = read_ahead(
        cast(Reader, shelf), samples(20 * GROUP), limit=None, remote=False, tries=1, pause=0
    )
    next(images)
    images.close()
    assert len(shelf.tried) <= (LOCAL_DEPTH + 1) * GROUP


def test_who_stops_early_leaves_no_thread() -> None:
    """Closing waits for the read that is under way, and for no other."""
    images = read_ahead(
        cast(Reader, Shelf()), samples(100), limit=None, remote=True, tries=1, pause=0
    )
    next(images)
    images.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("read-ahead")]
