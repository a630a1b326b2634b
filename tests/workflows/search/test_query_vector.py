"""A query as a vector: against plain numpy, and the laws of what lies between."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.workflows.search.toy import SIZE, Toy, colour, make_store, pixels
from workflows.search.gallery import Gallery
from workflows.search.query import QueryError, parse
from workflows.search.query_vector import QueryEncoder, slerp


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(make_store(tmp_path_factory.mktemp("meaning")))


@pytest.fixture(scope="module")
def meaning(toy: Toy) -> QueryEncoder:
    """With no vector kept: pictures are embedded when they are asked for."""
    return QueryEncoder(toy, Gallery(toy.store, SIZE), {})


def unit(vector: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(vector / np.linalg.norm(vector), np.float64)


def vector_of(meaning: QueryEncoder, text: str, **options: object) -> NDArray[np.float64]:
    picture = options.get("given")
    return meaning.vector(parse(text, has_image=picture is not None), picture, "train")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("red", {"red": 1}),
        ("red + blue", {"red": 1, "blue": 1}),
        ("red - blue + green", {"red": 1, "blue": -1, "green": 1}),
        ("2*red + .5*dark blue", {"red": 2, "dark blue": 0.5}),
        ("man-eater - red", {"man-eater": 1, "red": -1}),
        ("n00000002 + red", {"blue": 1, "red": 1}),
    ],
)
def test_directions_are_added(meaning: QueryEncoder, text: str, weights: dict[str, float]) -> None:
    """Those of length 1, each as often as it says; a class by its wnid too."""
    expected = unit(sum(weight * colour(name) for name, weight in weights.items()))  # type: ignore[arg-type]
    found = vector_of(meaning, text)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.linalg.norm(found) == pytest.approx(1)


def test_a_word_counts_once_however_long_its_vector_is(toy: Toy) -> None:
    """Frequent words have long ones."""
    loud = Toy(toy.store)
    loud.words["red"] = 9 * colour("red")
    gallery = Gallery(toy.store, SIZE)
    found = vector_of(QueryEncoder(loud, gallery, {}), "red + blue")
    gallery.close()
    np.testing.assert_allclose(found, unit(colour("red") + colour("blue")), atol=1e-6)


def test_a_stored_picture_is_its_row(meaning: QueryEncoder, toy: Toy) -> None:
    """Of the split that is named, or of the first."""
    for split in ("train", "val"):
        rows, images = pixels(toy.store, split)
        expected = toy.images(images[3:4])[0]
        for text in [f"#{split}:{rows[3]}", *([f"#{rows[3]}"] if split == "train" else [])]:
            np.testing.assert_allclose(vector_of(meaning, text), expected, atol=1e-6)


def test_a_picture_that_is_given_is_a_term_like_others(meaning: QueryEncoder) -> None:
    """Added to, taken away, gone to."""
    given = colour("yellow")
    for text, expected in [
        ("", given),
        ("+ red", unit(given + colour("red"))),
        ("red - @", unit(colour("red") - given)),
        ("red ~0.25 @", slerp(unit(colour("red")), unit(given), 0.25)),
    ]:
        np.testing.assert_allclose(vector_of(meaning, text, given=given), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("blu", "'blu' is not known: did you mean blue"),
        ("qqqq", "choose other words"),
        ("red+blue", "An operator has spaces around it"),
        ("n00000006", "not known"),
        ("red - red", "cancel each other out"),
        ("red + blue - red - blue", "cancel each other out"),
        ("#99999", "train has no row 99,999: expected 0 to 41"),
        ("#test:1", "no split 'test'"),
    ],
)
def test_what_means_nothing_is_told(meaning: QueryEncoder, text: str, says: str) -> None:
    """With what is spelled nearly so."""
    with pytest.raises(QueryError) as refused:
        vector_of(meaning, text)
    assert says in str(refused.value)


def test_a_row_in_quarantine_has_no_vector(meaning: QueryEncoder, toy: Toy) -> None:
    """Its pixels are zeros."""
    readable, _ = pixels(toy.store, "train")
    absent = np.setdiff1d(np.arange(42), readable)
    assert len(absent) == 3
    with pytest.raises(QueryError, match="in quarantine"):
        vector_of(meaning, f"#{absent[0]}")


UNITS = st.lists(st.integers(-5, 5), min_size=4, max_size=4).filter(any).map(np.array).map(unit)


@given(UNITS, UNITS, st.floats(0, 1))
def test_a_share_of_the_angle_is_gone(first: NDArray, second: NDArray, share: float) -> None:
    """On the shortest way, at length 1, at even speed; to the other side it is the same way."""
    angle = np.arccos(np.clip(first @ second, -1, 1))
    assume(angle < np.pi - 1e-3)
    found = slerp(first, second, share)
    assert np.linalg.norm(found) == pytest.approx(1)
    assert np.arccos(np.clip(first @ found, -1, 1)) == pytest.approx(share * angle, abs=1e-6)
    assert np.arccos(np.clip(found @ second, -1, 1)) == pytest.approx((1 - share) * angle, abs=1e-6)
    np.testing.assert_allclose(slerp(second, first, 1 - share), found, atol=1e-9)


@given(UNITS, st.floats(0, 1))
def test_between_a_direction_and_itself_there_is_only_that(one: NDArray, share: float) -> None:
    """No division by the sine of nothing."""
    np.testing.assert_allclose(slerp(one, one, share), one, atol=1e-12)


def test_lengths_do_not_pull() -> None:
    """Half way is as far from both, however long the vectors of the words were."""
    first, second = np.array([1.0, 0, 0]), unit(np.array([1.0, 2, 2]))
    middle = slerp(first, second, 0.5)
    assert middle @ first == pytest.approx(middle @ second)


def test_between_opposites_there_is_no_way() -> None:
    """Every one is as short."""
    with pytest.raises(QueryError, match="opposite"):
        slerp(np.array([1.0, 0]), np.array([-1.0, 0]), 0.5)
