"""Tests of the vectors of queries: against numpy, and the laws of interpolation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.workflows.search.toy import SIZE, Toy, colour, make_store, pixels
from workflows.search.gallery import Gallery
from workflows.search.query import QueryError, parse_query
from workflows.search.query_vector import QueryEncoder, slerp


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(make_store(tmp_path_factory.mktemp("meaning")))


@pytest.fixture(scope="module")
def encoder(toy: Toy) -> QueryEncoder:
    """Return an encoder without stored vectors, which embeds stored images on demand."""
    return QueryEncoder(toy, Gallery(toy.store, SIZE), {})


def unit(vector: NDArray[np.floating]) -> NDArray[np.float64]:
    return np.asarray(vector / np.linalg.norm(vector), np.float64)


def vector_of(encoder: QueryEncoder, text: str, **options: object) -> NDArray[np.float64]:
    image_vector = options.get("image_vector")
    return encoder.vector(
        parse_query(text, has_image=image_vector is not None), image_vector, "train"
    )  # type: ignore[arg-type]


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
def test_directions_are_added(encoder: QueryEncoder, text: str, weights: dict[str, float]) -> None:
    """Unit vectors are added by weight; a class can be named by its wnid."""
    expected = unit(sum(weight * colour(name) for name, weight in weights.items()))  # type: ignore[arg-type]
    vector = vector_of(encoder, text)
    np.testing.assert_allclose(vector, expected, atol=1e-6)
    assert np.linalg.norm(vector) == pytest.approx(1)


def test_word_vectors_of_any_length_have_equal_weight(toy: Toy) -> None:
    """Frequent words have long vectors, but count like others."""
    loud = Toy(toy.store)
    loud.words["red"] = 9 * colour("red")
    gallery = Gallery(toy.store, SIZE)
    vector = vector_of(QueryEncoder(loud, gallery, {}), "red + blue")
    gallery.close()
    np.testing.assert_allclose(vector, unit(colour("red") + colour("blue")), atol=1e-6)


def test_a_stored_image_has_the_vector_of_its_row(encoder: QueryEncoder, toy: Toy) -> None:
    """A row without a split is of the first split."""
    for split in ("train", "val"):
        rows, images = pixels(toy.store, split)
        expected = toy.embed_images(images[3:4])[0]
        for text in [f"#{split}:{rows[3]}", *([f"#{rows[3]}"] if split == "train" else [])]:
            np.testing.assert_allclose(vector_of(encoder, text), expected, atol=1e-6)


def test_an_uploaded_image_is_a_term_like_others(encoder: QueryEncoder) -> None:
    """An uploaded image can be added, subtracted and interpolated."""
    image_vector = colour("yellow")
    for text, expected in [
        ("", image_vector),
        ("+ red", unit(image_vector + colour("red"))),
        ("red - @", unit(colour("red") - image_vector)),
        ("red ~0.25 @", slerp(unit(colour("red")), unit(image_vector), 0.25)),
    ]:
        np.testing.assert_allclose(
            vector_of(encoder, text, image_vector=image_vector), expected, atol=1e-6
        )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("blu", "'blu' is unknown: did you mean blue"),
        ("qqqq", "choose other words"),
        ("red+blue", "An operator has spaces around it"),
        ("n00000006", "is unknown"),
        ("red - red", "cancel each other out"),
        ("red + blue - red - blue", "cancel each other out"),
        ("#99999", "train has no row 99,999: expected 0 to 41"),
        ("#test:1", "no split 'test'"),
    ],
)
def test_a_query_without_a_direction_is_refused(
    encoder: QueryEncoder, text: str, expected: str
) -> None:
    """The sentence suggests words of similar spelling."""
    with pytest.raises(QueryError) as error:
        vector_of(encoder, text)
    assert expected in str(error.value)


def test_a_row_in_quarantine_has_no_vector(encoder: QueryEncoder, toy: Toy) -> None:
    """A quarantined row is refused, because its pixels are zeros."""
    readable, _ = pixels(toy.store, "train")
    absent = np.setdiff1d(np.arange(42), readable)
    assert len(absent) == 3
    with pytest.raises(QueryError, match="is quarantined"):
        vector_of(encoder, f"#{absent[0]}")


UNITS = st.lists(st.integers(-5, 5), min_size=4, max_size=4).filter(any).map(np.array).map(unit)


@given(UNITS, UNITS, st.floats(0, 1))
def test_slerp_divides_the_angle(first: NDArray, second: NDArray, share: float) -> None:
    """The path is the shortest, at length 1 and constant speed, and is symmetric."""
    angle = np.arccos(np.clip(first @ second, -1, 1))
    assume(angle < np.pi - 1e-3)
    vector = slerp(first, second, share)
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert np.arccos(np.clip(first @ vector, -1, 1)) == pytest.approx(share * angle, abs=1e-6)
    assert np.arccos(np.clip(vector @ second, -1, 1)) == pytest.approx(
        (1 - share) * angle, abs=1e-6
    )
    np.testing.assert_allclose(slerp(second, first, 1 - share), vector, atol=1e-9)


@given(UNITS, st.floats(0, 1))
def test_slerp_of_equal_directions_is_that_direction(direction: NDArray, share: float) -> None:
    """No sine of zero is divided by."""
    np.testing.assert_allclose(slerp(direction, direction, share), direction, atol=1e-12)


def test_half_way_is_equally_far_from_both_directions() -> None:
    """The middle has the same cosine with both directions."""
    first, second = np.array([1.0, 0, 0]), unit(np.array([1.0, 2, 2]))
    middle = slerp(first, second, 0.5)
    assert middle @ first == pytest.approx(middle @ second)


def test_slerp_of_opposite_directions_is_refused() -> None:
    """The shortest arc is not unique."""
    with pytest.raises(QueryError, match="opposite"):
        slerp(np.array([1.0, 0]), np.array([-1.0, 0]), 0.5)
