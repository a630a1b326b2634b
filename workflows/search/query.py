"""What is searched for, as a person types it.

    fishing net              a name, or words
    engine + boat            the mean of both
    king - man + woman       and what is taken away
    2*boat + engine          one counts more than the other
    paddle ~ boat            half way from one to the other; ~0.3: nearer to the first
    #1234, #val:1234         a picture of the store, by its row, and by split and row
    @                        the picture that is handed in with the query
    "rock - paper"           in quotes no sign means anything
    a photo of a dog         free text: what is known of it counts, the rest is passed over
    dog, church              pieces between commas count equally

They go together: `@ - snow + 2*#val:7 ~0.3 beach`. An operator has spaces around it, so man-eater
is a word. `~` joins two terms before + and - are looked at, and a weight is that of both. Quotes,
apostrophes and dashes may be those that editors make of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from pipeline.errors import TesseraeError

DIRECTIONS = ("images", "words", "both")
"""What a search may answer with."""

MOST_CHARACTERS = 500
MOST_TERMS = 16
MOST_WEIGHT = 1000.0

_NUMBER = r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
_OPENING, _CLOSING = "\u201c\u201e\u00ab", "\u201c\u201d\u00bb"
_QUOTED = rf'"([^"]*)"|[{_OPENING}]([^"{_OPENING}{_CLOSING}]*)[{_CLOSING}]'
_TOKEN = re.compile(rf"(?:({_NUMBER})\*)?(?:{_QUOTED})(?!\S)|(\S+)")
_TYPED = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212", "-"),
        **dict.fromkeys("\u2018\u2019\u201b", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", None),
    }
)
"""What editors make of a hyphen, an apostrophe and a quote -> what the language has."""
_WEIGHTED = re.compile(rf"({_NUMBER})\*(.*)", re.DOTALL)
_SHARED = re.compile(rf"~({_NUMBER})")
_PICTURE = re.compile(r"#(?:([^:#\s]+):)?([0-9]{1,15})")


class QueryError(TesseraeError):
    """What was typed cannot be searched for; the message says why, and what to type."""


@dataclass(frozen=True)
class Phrase:
    """A name, or a word of several words."""

    text: str

    def __str__(self) -> str:
        return self.text if _stands(self.text) else f'"{self.text}"'


@dataclass(frozen=True)
class Picture:
    """A picture of the store."""

    split: str | None
    """None: the first of those that are searched."""
    row: int

    def __str__(self) -> str:
        return f"#{self.row}" if self.split is None else f"#{self.split}:{self.row}"


@dataclass(frozen=True)
class Given:
    """The picture that comes with the query."""

    def __str__(self) -> str:
        return "@"


Term = Phrase | Picture | Given


@dataclass(frozen=True)
class Between:
    """A place on the way from one term to another."""

    first: Term
    second: Term
    share: float
    """0 is the first, 1 the second."""

    def __str__(self) -> str:
        share = "" if self.share == 0.5 else _figure(self.share)
        return f"{self.first} ~{share} {self.second}"


@dataclass(frozen=True)
class Part:
    """What is added or taken away."""

    what: Term | Between
    weight: float = 1.0
    """Below 0 it is taken away; never 0."""

    def __str__(self) -> str:
        size = abs(self.weight)
        return str(self.what) if size == 1 else f"{_figure(size)}*{self.what}"


@dataclass(frozen=True)
class Query:
    """The sum of its parts; the first has a weight above 0."""

    parts: tuple[Part, ...]

    def __str__(self) -> str:
        first, *others = self.parts
        rest = (f" {'+' if part.weight > 0 else '-'} {part}" for part in others)
        return "".join([str(first), *rest])

    @property
    def terms(self) -> tuple[Term, ...]:
        """All, in the order in which they were typed."""
        found: list[Term] = []
        for part in self.parts:
            what = part.what
            found += [what.first, what.second] if isinstance(what, Between) else [what]
        return tuple(found)


def _figure(value: float) -> str:
    return np.format_float_positional(value, trim="-")


def parse(text: str, *, given: bool = False) -> Query:
    """Read a query.

    Args:
        text: What was typed.
        given: Whether a picture comes with it. If the text does not say where it belongs (`@`), it
            comes first: `snow` is `@ + snow`, `- snow` is `@ - snow`, and nothing is `@`.

    Raises:
        QueryError: It is none; the message says what to type.
    """
    if len(text) > MOST_CHARACTERS:
        raise QueryError(
            f"the query has {len(text):,} characters: expected at most {MOST_CHARACTERS}."
        )
    tokens = _with_given(_tokens(text)) if given else _tokens(text)
    if not tokens:
        raise QueryError("there is nothing to search for: type words, such as fishing net.")
    query = Query(tuple(_parts(tokens)))
    if len(query.terms) > MOST_TERMS:
        raise QueryError(f"the query has {len(query.terms)} terms: expected at most {MOST_TERMS}.")
    if not given and Given() in query.terms:
        raise QueryError(
            "@ stands for a picture that comes with the query, and none did: give one, or put the"
            ' @ in quotes ("@").'
        )
    return query


# --- signs and what is between them --------------------------------------------------------------


class _Token(NamedTuple):
    text: str
    quoted: bool = False
    weight: float | None = None

    @property
    def operator(self) -> str:
        """`+`, `-` or `~`; nothing if it is none."""
        if self.quoted:
            return ""
        return self.text[0] if self.text in ("+", "-", "~") or _SHARED.fullmatch(self.text) else ""


def _tokens(text: str) -> list[_Token]:
    found = []
    for weight, quoted, curly, plain in _TOKEN.findall(text):
        if not plain:
            inside = quoted or curly.strip()
            found.append(_Token(inside, True, float(weight) if weight else None))
        elif typed := plain.translate(_TYPED):
            found.append(_Token(typed))
    return found


def _with_given(tokens: list[_Token]) -> list[_Token]:
    if any(_is_given(token) for token in tokens):
        return tokens
    sign = [_Token("+")] if tokens and not tokens[0].operator else []
    return [_Token("@"), *sign, *tokens]


def _is_given(token: _Token) -> bool:
    weighted = _WEIGHTED.fullmatch(token.text)
    return not token.quoted and (weighted[2] if weighted else token.text) == "@"


def _parts(tokens: Sequence[_Token]) -> Iterator[Part]:
    sign, waiting = "", list(tokens)
    while True:
        weight, first = _operand(_next_operand(waiting, sign))
        what: Term | Between = first
        operator = waiting.pop(0) if waiting else None
        if operator is not None and operator.operator == "~":
            what = _between(first, operator, waiting)
            operator = waiting.pop(0) if waiting else None
            if operator is not None and operator.operator == "~":
                raise QueryError(
                    f"{operator.text} after {what}: expected two terms around each ~. Put a + or -"
                    " before the next."
                )
        yield Part(what, -weight if sign == "-" else weight)
        if operator is None:
            return
        sign = operator.operator


def _next_operand(waiting: list[_Token], before: str) -> list[_Token]:
    taken = []
    while waiting and not waiting[0].operator:
        taken.append(waiting.pop(0))
    if not taken:
        found = f"found {waiting[0].text}" if waiting else "the query ends there"
        where = f"behind {before}" if before else "at the beginning"
        raise QueryError(f"a term is missing {where}: {found}. Write as in boat + snow.")
    return taken


def _between(first: Term, operator: _Token, waiting: list[_Token]) -> Between:
    shared = _SHARED.fullmatch(operator.text)
    share = float(shared[1]) if shared else 0.5
    if share > 1:
        raise QueryError(f"{operator.text}: expected a share from ~0 to ~1, such as ~0.3.")
    weight, second = _operand(_next_operand(waiting, operator.text))
    if weight != 1:
        raise QueryError(
            f"{_figure(weight)}*{second} behind ~: expected the weight before the first of both, or"
            " a share such as ~0.3."
        )
    return Between(first, second, share)


# --- one term ------------------------------------------------------------------------------------


def _operand(tokens: Sequence[_Token]) -> tuple[float, Term]:
    """The weight and the term that stand between two operators."""
    weight, rest = _weight(tokens)
    if not rest:
        raise QueryError(f"{tokens[0].text} weighs nothing: write as in 2*boat.")
    if not 0 < weight <= MOST_WEIGHT:
        raise QueryError(
            f"a weight is {_figure(weight)}: expected more than 0 and at most {MOST_WEIGHT:g}."
        )
    return weight, _term(rest)


def _weight(tokens: Sequence[_Token]) -> tuple[float, list[_Token]]:
    first = tokens[0]
    if first.quoted:
        return (1.0 if first.weight is None else first.weight), [
            _Token(first.text, True),
            *tokens[1:],
        ]
    weighted = _WEIGHTED.fullmatch(first.text)
    if weighted:
        rest = [_Token(weighted[2])] if weighted[2] else []
        return float(weighted[1]), [*rest, *tokens[1:]]
    if len(tokens) > 1 and tokens[1] == _Token("*") and re.fullmatch(_NUMBER, first.text):
        return float(first.text), list(tokens[2:])
    return 1.0, list(tokens)


def _term(tokens: Sequence[_Token]) -> Term:
    text = " ".join(token.text for token in tokens)
    if any(token.quoted for token in tokens):
        if len(tokens) > 1:
            raise QueryError(f"{text}: expected + or - between what is in quotes and the rest.")
        if not text.strip():
            raise QueryError('there is nothing in the quotes: expected words, as in "fishing net".')
        return Phrase(text)
    picture = _PICTURE.fullmatch(text)
    if picture:
        return Picture(picture[1], int(picture[2]))
    if text == "@":
        return Given()
    wrong = next((complaint for token in tokens if (complaint := _wrong(token.text))), None)
    if wrong:
        raise QueryError(f"{text}: {wrong}")
    return Phrase(text)


def _wrong(token: str) -> str:
    """Why a token cannot be part of a phrase; nothing if it can."""
    if token[0] == "#":
        return (
            f"{token} is no picture, or has no + or - beside it: expected #1234 or #val:1234, or"
            ' quotes ("#1").'
        )
    if token[0] == '"':
        return 'quotes open and do not close: expected as in "rock - paper".'
    if token == "@" or _WEIGHTED.fullmatch(token):
        return f"{token} has no + or - before it, or behind it. Write as in @ + snow."
    if token[0] in "+-~*":
        return f"{token} needs a space behind its sign: boat {token[0]} {token[1:] or 'snow'}."
    return ""


def _stands(text: str) -> bool:
    """Whether a phrase is read as itself without quotes."""
    tokens = _tokens(text)
    if not tokens or any(token.quoted or token.operator for token in tokens):
        return False
    try:
        return _operand(tokens) == (1.0, Phrase(text))
    except QueryError:
        return False
