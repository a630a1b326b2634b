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
def test_urls_and_chained_urls_are_recognised(text: str) -> None:
    """A chain of fsspec is a URL, too."""
    assert is_url(text)


@pytest.mark.parametrize(
    "text", ["run::1", "2026-03-01::a", "a", ".", "/a/run::1", "./s3://b", "~/a::/b", "a/b::/c"]
)
def test_paths_with_colons_are_not_urls(text: str) -> None:
    """Dates and names of runs may contain colons."""
    assert not is_url(text)


@given(st.sampled_from(["/", "./", "../", "~/"]), st.text())
def test_text_with_a_path_prefix_is_a_path(start: str, tail: str) -> None:
    """Any text may follow the prefix."""
    assert not is_url(start + tail)


def test_an_existing_file_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same text would otherwise be read as a chain of fsspec."""
    monkeypatch.chdir(tmp_path)
    assert is_url("run::/1")
    (tmp_path / "run::" / "1").mkdir(parents=True)
    assert not is_url("run::/1")
