"""The query language of the search.

    fishing net              a name, or words
    engine + boat            the sum of both
    king - man + woman       a sum with a subtraction
    2*boat + engine          a weighted sum
    paddle ~ boat            half way between two terms; ~0.3: nearer to the first
    #1234, #val:1234         an image of the store, by its row, or by split and row
    @                        the image that is uploaded with the query
    "rock - paper"           a quoted name, in which no sign is an operator
    a photo of a dog         free text: known words count, unknown ones are ignored
    dog, church              pieces between commas, which have equal weights

Forms can be combined: `@ - snow + 2*#val:7 ~0.3 beach`. An operator has spaces around it, so
man-eater is a word. `~` binds more tightly than + and -, and a weight applies to both of its terms.
Typographic quotes, apostrophes and dashes are read as the plain ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.errors import TesseraeError

DIRECTIONS = ("images", "words", "both")
"""The kinds of answers that a search can return."""

MAX_CHARACTERS = 500
MAX_TERMS = 16
MAX_WEIGHT = 1000.0

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_OPENING, _CLOSING = "\u201c\u201e\u00ab", "\u201c\u201d\u00bb"
_QUOTED = rf'"([^"]*)"|[{_OPENING}]([^"{_OPENING}{_CLOSING}]*)[{_CLOSING}]'
_TOKEN = re.compile(rf"(?:({_NUMBER})\*)?(?:{_QUOTED})(?!\S)|(\S+)")
_NORMALISED_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        **dict.fromkeys("\u2018\u2019\u201b", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", None),
    }
)
"""The map from typographic hyphens, apostrophes and quotes to the plain signs."""
_WEIGHTED = re.compile(rf"({_NUMBER})\*(.*)", re.DOTALL)
_SHARED = re.compile(rf"~({_NUMBER})")
_STORED_IMAGE = re.compile(r"#(?:([^:#\s]+):)?([0-9]{1,15})")


class QueryError(TesseraeError):
    """The query is invalid; the message gives the reason and what to type."""


@dataclass(frozen=True)
class Phrase:
    """A name or free text, of one or more words."""

    text: str

    def __str__(self) -> str:
        return self.text if _is_plain_phrase(self.text) else f'"{self.text}"'


@dataclass(frozen=True)
class StoredImage:
    """An image of the store."""

    split: str | None
    """The name of its split; None: the first split that is searched."""
    row: int
    """Its row in the split, from 0."""

    def __str__(self) -> str:
        return f"#{self.row}" if self.split is None else f"#{self.split}:{self.row}"


@dataclass(frozen=True)
class UploadedImage:
    """The image that is uploaded with the query."""

    def __str__(self) -> str:
        return "@"


Term = Phrase | StoredImage | UploadedImage


@dataclass(frozen=True)
class Interpolation:
    """A direction between those of two terms."""

    first: Term
    second: Term
    share: float
    """The position between both terms: 0 is the first, 1 the second."""

    def __str__(self) -> str:
        share = "" if self.share == 0.5 else _weight_text(self.share)
        return f"{self.first} ~{share} {self.second}"


@dataclass(frozen=True)
class WeightedTerm:
    """A term of the sum with its weight."""

    term: Term | Interpolation
    weight: float = 1.0
    """The weight, not 0; a negative weight subtracts the term."""

    def __str__(self) -> str:
        size = abs(self.weight)
        return str(self.term) if size == 1 else f"{_weight_text(size)}*{self.term}"


@dataclass(frozen=True)
class Query:
    """A query, which is the sum of weighted terms; the first has a positive weight."""

    parts: tuple[WeightedTerm, ...]

    def __str__(self) -> str:
        first, *following = self.parts
        suffixes = (f" {'+' if part.weight > 0 else '-'} {part}" for part in following)
        return "".join([str(first), *suffixes])

    @property
    def terms(self) -> tuple[Term, ...]:
        """The terms without their weights, in the order in which they were typed."""
        terms: list[Term] = []
        for part in self.parts:
            term = part.term
            terms += [term.first, term.second] if isinstance(term, Interpolation) else [term]
        return tuple(terms)


def _weight_text(value: float) -> str:
    return np.format_float_positional(value, trim="-")


def parse_query(text: str, *, has_image: bool = False) -> Query:
    """Parse a query, such as `fishing net`, `king - man + woman` or `@ - snow + 2*#val:7`.

    A query is a sum of terms between ` + ` and ` - `, with spaces around them. A term is a name or
    words, a text in quotes (no operator in it), `#ROW` or `#SPLIT:ROW` (an image of the store) or
    `@` (the image that comes with the query). `2*` before a term is its weight, and `first ~0.3
    second` lies between two terms, nearer to the first; `~` alone is half way.

    Args:
        text: The text as typed, at most 500 characters and 16 terms, with weights up to 1000.
        has_image: True if an image comes with the text (default False). If the text has no `@`, the
            image comes first: `snow` is `@ + snow`, `- snow` is `@ - snow`, and no text is `@`.
            Without an image no `-` may come first.

    Returns:
        The query. Its `parts` are a tuple of `WeightedTerm`, each with a `term` (a `Phrase`,
        `StoredImage`, `UploadedImage`, or `Interpolation` of two of them) and a `weight`, negative
        to subtract it and never 0; `str()` gives it back as text.

    Raises:
        QueryError: The text is no query, such as an empty one without an image, or one with an `@`
            without an image; the message says what to type.

    Examples:
        >>> str(tesserae.parse_query("2*boat + fishing net"))
        '2*boat + fishing net'
    """
    if len(text) > MAX_CHARACTERS:
        raise QueryError(
            f"the query has {len(text):,} characters: expected at most {MAX_CHARACTERS}."
        )
    tokens = _with_image_sign(_tokens(text)) if has_image else _tokens(text)
    if not tokens:
        raise QueryError("the query is empty: type words, such as fishing net.")
    query = Query(tuple(_weighted_terms(tokens)))
    if len(query.terms) > MAX_TERMS:
        raise QueryError(f"the query has {len(query.terms)} terms: expected at most {MAX_TERMS}.")
    if not has_image and UploadedImage() in query.terms:
        raise QueryError(
            "@ is the image of the query, but the query has none: add an image, or put the @ in"
            ' quotes ("@").'
        )
    return query


# --- tokens and operators ------------------------------------------------------------------------


class _Token(NamedTuple):
    text: str
    quoted: bool = False
    weight: float | None = None

    @property
    def operator(self) -> str:
        """The operator `+`, `-` or `~`; an empty string for any other token."""
        if self.quoted:
            return ""
        return self.text[0] if self.text in ("+", "-", "~") or _SHARED.fullmatch(self.text) else ""


def _tokens(text: str) -> list[_Token]:
    tokens = []
    for weight, quoted, curly, plain in _TOKEN.findall(text):
        if not plain:
            inside = quoted or curly.strip()
            tokens.append(_Token(inside, True, float(weight) if weight else None))
        elif typed := plain.translate(_NORMALISED_SIGNS):
            tokens.append(_Token(typed))
    return tokens


def _with_image_sign(tokens: list[_Token]) -> list[_Token]:
    if any(_is_image_sign(token) for token in tokens):
        return tokens
    sign = [_Token("+")] if tokens and not tokens[0].operator else []
    return [_Token("@"), *sign, *tokens]


def _is_image_sign(token: _Token) -> bool:
    weighted = _WEIGHTED.fullmatch(token.text)
    return not token.quoted and (weighted[2] if weighted else token.text) == "@"


def _weighted_terms(tokens: Sequence[_Token]) -> Iterator[WeightedTerm]:
    sign, waiting = "", list(tokens)
    while True:
        weight, first = _operand(_next_operand(waiting, sign))
        term: Term | Interpolation = first
        operator = waiting.pop(0) if waiting else None
        if operator is not None and operator.operator == "~":
            term = _interpolation(first, operator, waiting)
            operator = waiting.pop(0) if waiting else None
            if operator is not None and operator.operator == "~":
                raise QueryError(
                    f"{operator.text} after {term}: expected two terms around each ~. Put a + or -"
                    " before the next."
                )
        yield WeightedTerm(term, -weight if sign == "-" else weight)
        if operator is None:
            return
        sign = operator.operator


def _next_operand(waiting: list[_Token], before: str) -> list[_Token]:
    operand = []
    while waiting and not waiting[0].operator:
        operand.append(waiting.pop(0))
    if not operand:
        problem = f"found {waiting[0].text}" if waiting else "the query ends there"
        location = f"after {before}" if before else "at the beginning"
        raise QueryError(f"a term is missing {location}: {problem}. Write as in boat + snow.")
    return operand


def _interpolation(first: Term, operator: _Token, waiting: list[_Token]) -> Interpolation:
    shared = _SHARED.fullmatch(operator.text)
    share = float(shared[1]) if shared else 0.5
    if share > 1:
        raise QueryError(f"{operator.text}: expected a share from ~0 to ~1, such as ~0.3.")
    weight, second = _operand(_next_operand(waiting, operator.text))
    if weight != 1:
        raise QueryError(
            f"{_weight_text(weight)}*{second} after ~: expected the weight before the first of both"
            " terms, or a share such as ~0.3."
        )
    return Interpolation(first, second, share)


# --- one term ------------------------------------------------------------------------------------


def _operand(tokens: Sequence[_Token]) -> tuple[float, Term]:
    """Parse the tokens between two operators into a weight and a term."""
    weight, operand = _weight(tokens)
    if not operand:
        raise QueryError(f"{tokens[0].text} has a weight but no term: write as in 2*boat.")
    if not 0 < weight <= MAX_WEIGHT:
        raise QueryError(
            f"a weight is {_weight_text(weight)}: expected more than 0 and at most {MAX_WEIGHT:g}."
        )
    return weight, _term(operand)


def _weight(tokens: Sequence[_Token]) -> tuple[float, list[_Token]]:
    first = tokens[0]
    if first.quoted:
        return (1.0 if first.weight is None else first.weight), [
            _Token(first.text, True),
            *tokens[1:],
        ]
    weighted = _WEIGHTED.fullmatch(first.text)
    if weighted:
        operand = [_Token(weighted[2])] if weighted[2] else []
        return float(weighted[1]), [*operand, *tokens[1:]]
    if len(tokens) > 1 and tokens[1] == _Token("*") and re.fullmatch(_NUMBER, first.text):
        return float(first.text), list(tokens[2:])
    return 1.0, list(tokens)


def _term(tokens: Sequence[_Token]) -> Term:
    text = " ".join(token.text for token in tokens)
    if any(token.quoted for token in tokens):
        if len(tokens) > 1:
            raise QueryError(f"{text}: expected + or - between a quoted name and other words.")
        if not text.strip():
            raise QueryError('the quotes are empty: expected words, as in "fishing net".')
        return Phrase(text)
    stored_image = _STORED_IMAGE.fullmatch(text)
    if stored_image:
        return StoredImage(stored_image[1], int(stored_image[2]))
    if text == "@":
        return UploadedImage()
    problem = next(
        (found_problem for token in tokens if (found_problem := _phrase_problem(token.text))), None
    )
    if problem:
        raise QueryError(f"{text}: {problem}")
    return Phrase(text)


def _phrase_problem(token: str) -> str:
    """Return the reason why a token cannot be part of a phrase; an empty string if it can."""
    if token[0] == "#":
        return (
            f"{token} is not a stored image, or needs a + or - next to it: expected #1234 or"
            ' #val:1234, or quotes ("#1").'
        )
    if token[0] == '"':
        return 'the quotes are not closed: expected as in "rock - paper".'
    if token == "@" or _WEIGHTED.fullmatch(token):
        return f"{token} needs a + or - before or after it, as in @ + snow."
    if token[0] in "+-~*":
        return f"{token} needs a space after its sign: boat {token[0]} {token[1:] or 'snow'}."
    return ""


def _is_plain_phrase(text: str) -> bool:
    """Return True if a phrase without quotes is parsed as the same phrase."""
    tokens = _tokens(text)
    if not tokens or any(token.quoted or token.operator for token in tokens):
        return False
    try:
        return _operand(tokens) == (1.0, Phrase(text))
    except QueryError:
        return False
