"""Images are read in order, a little ahead, and a failing source is tried again."""

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
from pipeline.ingest.readahead import GROUP, MIN_DEPTH, read_ahead, read_with_retries
from pipeline.ingest.source_index import Sample
from pipeline.sources.reader import SourceReader

QUICKLY: dict[str, Any] = {"remote": False, "pause": 0}


class FakeReader:
    """A reader that returns the path as bytes, and fails when *fails* says so."""

    def __init__(self, fails: Callable[[str, int], bool] = lambda path, attempts: False) -> None:
        self.attempts: Counter[str] = Counter()
        self._fails = fails
        self._lock = threading.Lock()

    def read(self, path: str, offset: int | None, num_bytes: int) -> bytes:
        """Return the bytes of *path* as `Reader.read` does."""
        with self._lock:
            self.attempts[path] += 1
            attempts = self.attempts[path]
        if self._fails(path, attempts):
            raise ReadError(f"cannot read {path}: Input/output error")
        return path.encode()


def samples(count: int) -> list[Sample]:
    """Return *count* samples of one byte each."""
    names = [f"c/{row}" for row in range(count)]
    return [Sample(row, name, 0, 1, name, None, None) for row, name in enumerate(names)]


def read_all(
    fake_reader: FakeReader, count: int, *, readers: int = 1, tries: int = 3
) -> list[bytes]:
    """Return the bytes of *count* samples, read through `read_ahead`."""
    reader = cast(SourceReader, fake_reader)
    return list(
        read_ahead(
            reader,
            samples(count),
            limit=None,
            readers=readers,
            max_attempts=tries,
            retry_delay_seconds=0,
        )
    )


@given(count=st.integers(0, 5 * GROUP), readers=st.integers(1, 16))
def test_every_image_is_read_once_and_in_order(count: int, readers: int) -> None:
    """The numbers of images and of readers are arbitrary."""
    fake_reader = FakeReader()
    assert read_all(fake_reader, count, readers=readers) == [
        f"c/{i}".encode() for i in range(count)
    ]
    assert set(fake_reader.attempts.values()) <= {1}


def test_a_source_that_fails_temporarily_is_read_again() -> None:
    """Only the failing image is read again, not the others of its group."""
    fake_reader = FakeReader(lambda path, attempts: path == "c/5" and attempts < 3)
    assert len(read_all(fake_reader, 20)) == 20
    assert fake_reader.attempts["c/5"] == 3
    assert fake_reader.attempts["c/4"] == 1


def test_a_permanent_failure_is_raised_at_its_image() -> None:
    """All tries are used first, and earlier images are returned before the error."""
    fake_reader = FakeReader(lambda path, attempts: path == "c/20")
    images = read_ahead(
        cast(SourceReader, fake_reader),
        samples(60),
        limit=None,
        readers=1,
        max_attempts=4,
        retry_delay_seconds=0,
    )
    got = []
    with pytest.raises(ReadError, match="c/20: Input/output error"):
        got.extend(images)
    assert fake_reader.attempts["c/20"] == 4
    assert len(got) <= 20


def test_only_read_errors_are_retried() -> None:
    """An error in the code is not retried."""

    class Wrong(FakeReader):
        def read(self, path: str, offset: int | None, num_bytes: int) -> bytes:
            super().read(path, offset, num_bytes)
            raise KeyError(path)

    fake_reader = Wrong()
    with pytest.raises(KeyError):
        read_all(fake_reader, 1)
    assert fake_reader.attempts["c/0"] == 1


def test_pauses_between_tries_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses of 0.5, 2 and 8 s bridge an outage of ten seconds."""
    pauses: list[float] = []
    monkeypatch.setattr(readahead.time, "sleep", pauses.append)
    fake_reader = FakeReader(lambda path, attempts: True)
    with pytest.raises(ReadError):
        read_with_retries(
            cast(SourceReader, fake_reader),
            samples(1)[0],
            None,
            max_attempts=4,
            retry_delay_seconds=0.5,
        )
    assert pauses == [0.5, 2.0, 8.0]


def test_read_ahead_is_bounded() -> None:
    """A shard is not read into memory before its first image is decoded."""
    fake_reader = FakeReader()
    images = read_ahead(
        cast(SourceReader, fake_reader),
        samples(20 * GROUP),
        limit=None,
        readers=1,
        max_attempts=1,
        retry_delay_seconds=0,
    )
    next(images)
    images.close()
    assert len(fake_reader.attempts) <= (MIN_DEPTH + 1) * GROUP


def test_stopping_early_leaves_no_thread() -> None:
    """Closing waits for the current read, and cancels the others."""
    images = read_ahead(
        cast(SourceReader, FakeReader()),
        samples(100),
        limit=None,
        readers=16,
        max_attempts=1,
        retry_delay_seconds=0,
    )
    next(images)
    images.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("read-ahead")]
