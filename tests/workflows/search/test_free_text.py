"""Tests of free text: known words count, and unknown ones are listed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from workflows.search.free_text import Interpretation, interpret

AXES = ("dog", "church", "fishing net", "net", "man eater", "photo")
VECTORS = dict(zip(AXES, np.eye(6, dtype=np.float32), strict=True))


def name(text: str) -> NDArray[np.float32] | None:
    return VECTORS.get(text.casefold())


def phrase(text: str) -> NDArray[np.float32] | None:
    return name(text.replace("-", " "))


def shares(text: str) -> tuple[dict[str, float], Interpretation]:
    """Return the share of each name in the vector, relative to the largest, and the result."""
    meant = interpret(text, name, phrase)
    assert meant is not None
    np.testing.assert_allclose(np.linalg.norm(meant.vector), 1, atol=1e-6)
    by_name = dict(zip(AXES, (meant.vector / meant.vector.max()).tolist(), strict=True))
    return {name: round(share, 4) for name, share in by_name.items() if share > 1e-6}, meant


@pytest.mark.parametrize(
    ("text", "expected", "passed_over"),
    [
        ("a photo of a dog", {"photo": 1, "dog": 1}, ("a", "of", "a")),
        ("dog, church", {"dog": 1, "church": 1}, ()),
        ("dog,church", {"dog": 1, "church": 1}, ()),
        ("Dog; church / net", {"dog": 1, "church": 1, "net": 1}, ()),
        ("church, Chiesa vecchia", {"church": 1}, ("Chiesa", "vecchia")),
        ("a fishing net.", {"fishing net": 1}, ("a",)),
        ("the 'fishing net'!", {"fishing net": 1}, ("the",)),
        ("man-eater, dog", {"man eater": 1, "dog": 1}, ()),
        ("church, church bui...", {"church": 1}, ("bui",)),
        # A piece between commas counts once, however many words it has.
        ("dog photo, church", {"church": 1, "dog": 0.7071, "photo": 0.7071}, ()),
    ],
)
def test_known_names_count(
    text: str, expected: dict[str, float], passed_over: tuple[str, ...]
) -> None:
    """The longest known names are preferred."""
    actual, meant = shares(text)
    assert actual == pytest.approx(expected)
    assert meant.passed_over == passed_over


@pytest.mark.parametrize("text", ["", " , ", "xyzzy", "of the, a", "..."])
def test_text_without_known_words_is_none(text: str) -> None:
    """The result is None, which the caller reports."""
    assert interpret(text, name, phrase) is None


WORDS = st.sampled_from(["dog", "church", "fishing net", "net", "xyzzy", "a", "of", "photo"])


@given(st.lists(WORDS, min_size=1, max_size=8), st.sampled_from([" ", ", ", "; "]))
def test_each_word_is_known_or_listed_as_unknown(words: list[str], between: str) -> None:
    """Every word is either part of a known name or listed as unknown."""
    text = between.join(words)
    interpretation = interpret(text, name, phrase)
    known_words = [
        word for word in text.replace(",", "").replace(";", "").split() if name(word) is not None
    ]
    if interpretation is None:
        assert not known_words
        return
    listed = " ".join([*interpretation.names, *interpretation.passed_over]).split()
    assert sorted(listed) == sorted(text.replace(",", "").replace(";", "").split())
    assert all(name(word) is not None for word in interpretation.names)
    assert all(name(word) is None for word in interpretation.passed_over)
