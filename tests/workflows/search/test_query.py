"""Tests of the query language: texts are parsed, or refused with what to type."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from workflows.search.query import (
    MAX_CHARACTERS,
    MAX_TERMS,
    Interpolation,
    Phrase,
    Query,
    QueryError,
    StoredImage,
    UploadedImage,
    WeightedTerm,
    parse_query,
)

WORDS = st.text(
    st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters='"'), min_size=1
)
PHRASES = st.lists(WORDS, min_size=1, max_size=4).map(" ".join).map(Phrase)
SPLITS = st.text("abcXYZ-_é", min_size=1, max_size=8)
PICTURES = st.builds(StoredImage, st.none() | SPLITS, st.integers(0, 10**12))
TERMS = PHRASES | PICTURES | st.just(UploadedImage())
FIGURES = st.floats(0.001, 1000, allow_subnormal=False)
PARTS = st.builds(
    WeightedTerm,
    TERMS | st.builds(Interpolation, TERMS, TERMS, st.floats(0, 1)),
    st.just(1.0) | st.just(-1.0) | FIGURES | FIGURES.map(lambda weight: -weight),
)


@st.composite
def queries(draw: st.DrawFn) -> Query:
    """Generate any query, as a value."""
    first, *following = draw(st.lists(PARTS, min_size=1, max_size=5))
    return Query((WeightedTerm(first.term, abs(first.weight)), *following))


@given(queries())
def test_a_printed_query_is_parsed_to_the_same_query(query: Query) -> None:
    """The words of a query may contain any sign."""
    text = str(query)
    assume(len(text) <= MAX_CHARACTERS)
    assert parse_query(text, has_image=True) == _with_image(query)


def _with_image(query: Query) -> Query:
    return (
        query
        if UploadedImage() in query.terms
        else Query((WeightedTerm(UploadedImage()), *query.parts))
    )


@given(st.text(max_size=80) | st.text(' ab"#@~+-*0.3:', max_size=40), st.booleans())
def test_any_text_is_parsed_or_refused(text: str, with_picture: bool) -> None:
    """A parsed query that is printed means the same again."""
    try:
        query = parse_query(text, has_image=with_picture)
    except QueryError:
        return
    assert query.parts[0].weight > 0
    assert parse_query(str(query), has_image=with_picture) == query


@given(st.lists(PHRASES, min_size=1, max_size=5), st.data())
def test_spaces_do_not_matter(phrases: list[Phrase], data: st.DataObject) -> None:
    """Any white space may surround operators and words."""
    text = " + ".join(map(str, phrases))
    assume(len(text) <= 200)
    assume('"' not in text)
    spaces = st.text(" \t\n\u00a0", min_size=1, max_size=2)
    spaced = "".join(data.draw(spaces) if c == " " else c for c in text)
    assert parse_query(f"  {spaced} ") == parse_query(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("fishing net", [(1, Phrase("fishing net"))]),
        ("man-eater", [(1, Phrase("man-eater"))]),
        ("engine + boat", [(1, Phrase("engine")), (1, Phrase("boat"))]),
        (
            "king - man + woman",
            [(1, Phrase("king")), (-1, Phrase("man")), (1, Phrase("woman"))],
        ),
        ("2*boat + .5 * engine", [(2, Phrase("boat")), (0.5, Phrase("engine"))]),
        ("paddle ~ boat", [(1, Interpolation(Phrase("paddle"), Phrase("boat"), 0.5))]),
        ("2*paddle ~0.3 boat", [(2, Interpolation(Phrase("paddle"), Phrase("boat"), 0.3))]),
        ("a - b ~1 c", [(1, Phrase("a")), (-1, Interpolation(Phrase("b"), Phrase("c"), 1))]),
        ("#1234 + snow", [(1, StoredImage(None, 1234)), (1, Phrase("snow"))]),
        ("#val:7", [(1, StoredImage("val", 7))]),
        ('"rock - paper"', [(1, Phrase("rock - paper"))]),
        ('3*"#1"', [(3, Phrase("#1"))]),
        ("c++", [(1, Phrase("c++"))]),
    ],
)
def test_the_language_follows_the_manual(text: str, expected: list[tuple[float, object]]) -> None:
    """Each form of the manual is parsed as documented."""
    assert [(part.weight, part.term) for part in parse_query(text).parts] == expected


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("", "@"),
        ("snow", "@ + snow"),
        ("- snow", "@ - snow"),
        ("~0.3 beach", "@ ~0.3 beach"),
        ("snow - @", "snow - @"),
        ("snow + 2*@", "snow + 2*@"),
        ('"@"', '@ + "@"'),
    ],
)
def test_an_image_comes_first_unless_its_position_is_given(text: str, read: str) -> None:
    """The image is a term of the query exactly once."""
    assert str(parse_query(text, has_image=True)) == read


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "type words"),
        ("  ", "type words"),
        ("+ boat", "at the beginning"),
        ("boat +", "after +: the query ends"),
        ("boat + - snow", "after +: found -"),
        ("a ~ b ~ c", "two terms around each ~"),
        ("a ~1.5 b", "from ~0 to ~1"),
        ("a ~ 2*b", "weight before the first"),
        ("king -man", "-man needs a space after its sign: boat - man"),
        ("~boat", "needs a space"),
        ("#12 boat", "a + or - next to it"),
        ("#", "expected #1234"),
        ("#val:", "expected #1234"),
        ("@ snow", "@ + snow"),
        ("@", "the query has none"),
        ('"net', "quotes are not closed"),
        ('"net"s + boat', "quotes are not closed"),
        ('""', "quotes are empty"),
        ('"a" b', "between a quoted name"),
        ("0*boat", "more than 0"),
        ("2000*boat", "at most 1000"),
        ("2*", "has a weight but no term"),
        ("x" * 501, "501 characters"),
        (" + ".join("abcdefghijklmnopq"), "17 terms"),
    ],
)
def test_an_invalid_query_is_refused_with_the_correct_form(text: str, expected: str) -> None:
    """The sentence names the mistake and the correct form."""
    with pytest.raises(QueryError) as error:
        parse_query(text)
    assert expected in str(error.value)


def test_the_number_of_terms_is_limited() -> None:
    """Both terms around ~ count."""
    text = " + ".join(["a"] * MAX_TERMS)
    assert len(parse_query(text).terms) == MAX_TERMS
    with pytest.raises(QueryError, match="17 terms"):
        parse_query(f"{text[:-1]}a ~ b")


@pytest.mark.parametrize(
    ("typed", "plain"),
    [
        ("\u201cfishing net\u201d", '"fishing net"'),
        ("\u201efishing net\u201c", '"fishing net"'),
        ("\u00ab fishing net \u00bb + boat", '"fishing net" + boat'),
        ("2*\u201crock - paper\u201d", '2*"rock - paper"'),
        ("boat \u2013 snow", "boat - snow"),
        ("boat \u2212 snow \u2014 ice", "boat - snow - ice"),
        ("man\u2013eater", "man-eater"),
        ("shepherd\u2019s dog", "shepherd's dog"),
        ("\u201cfishing net", "fishing net"),
    ],
)
def test_typographic_signs_are_read_as_plain_ones(typed: str, plain: str) -> None:
    """Phones and word processors replace quotes and hyphens."""
    assert parse_query(typed) == parse_query(plain)


def test_straight_quotes_keep_typographic_signs() -> None:
    """A class with such a name can be typed."""
    assert parse_query('"man\u2013eater \u201cx\u201d"').parts[0].term == Phrase(
        "man\u2013eater \u201cx\u201d"
    )
