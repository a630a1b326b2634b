"""Free text: what is known of it counts, and what is passed over is said."""

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
    """What each name's share of the vector is, the largest being 1."""
    meant = interpret(text, name, phrase)
    assert meant is not None
    np.testing.assert_allclose(np.linalg.norm(meant.vector), 1, atol=1e-6)
    found = dict(zip(AXES, (meant.vector / meant.vector.max()).tolist(), strict=True))
    return {one: round(share, 4) for one, share in found.items() if share > 1e-6}, meant


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
def test_what_is_known_counts(
    text: str, expected: dict[str, float], passed_over: tuple[str, ...]
) -> None:
    """The longest names first."""
    found, meant = shares(text)
    assert found == pytest.approx(expected)
    assert meant.passed_over == passed_over


@pytest.mark.parametrize("text", ["", " , ", "xyzzy", "of the, a", "..."])
def test_nothing_known_is_nothing(text: str) -> None:
    """It is the caller's to say so."""
    assert interpret(text, name, phrase) is None


WORDS = st.sampled_from(["dog", "church", "fishing net", "net", "xyzzy", "a", "of", "photo"])


@given(st.lists(WORDS, min_size=1, max_size=8), st.sampled_from([" ", ", ", "; "]))
def test_each_word_is_part_of_it_or_said_to_be_passed_over(words: list[str], between: str) -> None:
    """Whatever was typed."""
    text = between.join(words)
    meant = interpret(text, name, phrase)
    known = [
        word for word in text.replace(",", "").replace(";", "").split() if name(word) is not None
    ]
    if meant is None:
        assert not known
        return
    said = " ".join([*meant.names, *meant.passed_over]).split()
    assert sorted(said) == sorted(text.replace(",", "").replace(";", "").split())
    assert all(name(one) is not None for one in meant.names)
    assert all(name(one) is None for one in meant.passed_over)
