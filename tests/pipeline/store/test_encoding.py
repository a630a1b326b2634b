"""Encodings are read as users write them, and name their arrays."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.store import schema
from pipeline.store.encoding import Encoding, fitting_encoding, parse_encoding


@given(st.integers(1, 4096), st.integers(1, 100))
def test_an_encoding_is_read_from_its_text_and_its_name(short_side: int, quality: int) -> None:
    """Documents accept exactly such names."""
    encoding = Encoding(short_side, quality)
    assert parse_encoding(encoding.text) == parse_encoding(encoding.array_name) == encoding
    assert schema.check(schema.EncodingName, encoding.array_name, "x") == encoding.array_name
    assert not encoding.is_original


def test_the_sources_own_bytes_are_an_encoding() -> None:
    """It has neither a size nor a quality."""
    assert parse_encoding("original").is_original
    assert parse_encoding("original").array_name == "original"


@pytest.mark.parametrize(
    "text",
    ["", "jpeg", "jpeg:256", "jpeg:0@90", "jpeg:256@0", "jpeg:256@101", "jpeg:5000@90",
     "jpeg:\u0662@90", "png:256@90", "Original", "jpeg:256@90 "],
)  # fmt: skip
def test_any_other_text_is_refused_with_what_was_expected(text: str) -> None:
    """The message has an example."""
    with pytest.raises(ValueError, match="such as jpeg:256@90"):
        parse_encoding(text)


@pytest.mark.parametrize("value", [True, None, ("jpeg:256@90",)])
def test_what_is_no_text_is_refused_in_the_same_way(value: object) -> None:
    """A loader is created by programs, which may pass anything."""
    with pytest.raises(ValueError, match="expected original, or jpeg:N@Q"):
        parse_encoding(value)  # type: ignore[arg-type]


def test_the_smallest_pictures_that_suffice_are_decoded() -> None:
    """The source's own files are the last choice; where none suffice, the largest are chosen."""
    names = ["original", "jpeg512@90", "jpeg:128@80", "jpeg128@95", "jpeg64@100"]
    chosen = [fitting_encoding(names, side) for side in (64, 65, 128, 512, 513)]
    assert [encoding.text for encoding in chosen] == [
        "jpeg:64@100", "jpeg:128@95", "jpeg:128@95", "jpeg:512@90", "original",
    ]  # fmt: skip
    assert all(each.suffices_for(64) for each in chosen)
    largest = fitting_encoding(names[1:], 513)
    assert largest.text == "jpeg:512@90"
    assert not largest.suffices_for(513)
