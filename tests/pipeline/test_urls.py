"""URLs are distinguished from paths that look like URLs."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.urls import is_url


@pytest.mark.parametrize(
    "text",
    [
        "s3://bucket/a",
        "https://example.org/a::b.tar",
        "file:///a",
        "simplecache::s3://bucket/a",
        "zip::/a/b.zip",
        "tar://a.tar::s3://bucket/b",
    ],
)
def test_urls_and_chains_of_them(text: str) -> None:
    """URLs and chains of fsspec are recognised."""
    assert is_url(text)


@pytest.mark.parametrize(
    "text", ["run::1", "2026-03-01::a", "a", ".", "/a/run::1", "./s3://b", "~/a::/b", "a/b::/c"]
)
def test_paths_with_colons(text: str) -> None:
    """Dates and names of runs are paths."""
    assert not is_url(text)


@given(st.sampled_from(["/", "./", "../", "~/"]), st.text())
def test_what_begins_as_a_path_is_one(start: str, tail: str) -> None:
    """Any continuation is accepted."""
    assert not is_url(start + tail)


def test_what_exists_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text could also be a chain."""
    monkeypatch.chdir(tmp_path)
    assert is_url("run::/1")
    (tmp_path / "run::" / "1").mkdir(parents=True)
    assert not is_url("run::/1")
