"""Words as vectors, and which vector a class has.

A class has several names, and a name may be of several words: "great white shark, man-eater". What
is looked for, in this order:

    a name as one token     great_white_shark, as it is written, then in any case
    its words               great + white + shark, all of which must be there; their mean

and which of the names count is `synonyms`: the `first`, or the `mean` of all that are found, those
that are one token before those that are made of words. Words are taken as they are: no endings are
cut off, and nothing is guessed. A token whose vector has no direction (all zero, or with a NaN) is
no token.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from pipeline.wordvectors.hierarchy import Hierarchy

SYNONYMS = ("first", "mean")
HOW = ("token", "words", "taxonomy", "none")
"""Ways a class comes to its vector."""

SPELLINGS_OF = 100_000
"""Tokens, the most frequent, among which those are looked for that are spelled alike."""

_Key = TypeVar("_Key")
_BETWEEN = re.compile(r"[\s_\-]+")
_WNID = re.compile(r"n[0-9]{8}", re.ASCII)


class Words:
    """Tokens and their vectors, the most frequent first."""

    def __init__(self, tokens: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Take them.

        Args:
            tokens: n of them, none twice.
            vectors: (n, d) float32; not copied.

        Raises:
            ValueError: There are more of one than of the other.
        """
        if vectors.ndim != 2 or len(tokens) != len(vectors):
            raise ValueError(f"{len(tokens)} tokens and vectors of {vectors.shape}.")
        self.tokens: Sequence[str] = tuple(tokens)
        self.vectors = vectors

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def _exact(self) -> dict[str, int]:
        return {token: place for place, token in enumerate(self.tokens)}

    @cached_property
    def _folded(self) -> dict[str, int]:
        # Only of tokens with capitals: the others are found as they are, and need no second entry.
        found: dict[str, int] = {}
        for place, token in enumerate(self.tokens):
            folded = token.casefold()
            if folded != token:
                found.setdefault(folded, place)
        return found

    def find(self, token: str) -> int | None:
        """Where *token* is: as it is written, or else in the most frequent of other cases."""
        place = self._place(token)
        if place is not None:
            return place
        folded = token.casefold()
        others = (self._place(folded), self._folded_place(folded))
        return min((place for place in others if place is not None), default=None)

    def _place(self, token: str) -> int | None:
        """Return where a token is, as it is written."""
        return self._exact.get(token)

    def _folded_place(self, folded: str) -> int | None:
        """Return where the first token with capitals is that is *folded* without them."""
        return self._folded.get(folded)

    def unit(self, place: int) -> NDArray[np.float32] | None:
        """The vector of one token, of length 1; None where it has no direction."""
        vector = self.vectors[place].astype(np.float64)
        length = np.linalg.norm(vector)
        if not np.isfinite(length) or not length:
            return None
        return np.asarray(vector / length, np.float32)

    def token(self, name: str) -> NDArray[np.float32] | None:
        """(d,) float32 of length 1: *name* as one token; None where there is none."""
        for joined in _spellings(name):
            place = self.find(joined)
            if place is not None and (vector := self.unit(place)) is not None:
                return vector
        return None

    def mean_of_words(self, name: str) -> NDArray[np.float32] | None:
        """(d,) float32 of length 1: the mean of its words' vectors; None where one is missing."""
        parts = _parts(name)
        found = [vector for part in parts if (vector := self.token(part)) is not None]
        return unit_mean(found) if len(found) == len(parts) else None

    def phrase(self, name: str) -> NDArray[np.float32] | None:
        """(d,) float32 of length 1: *name* as one token or else by its words; None: neither."""
        found = self.token(name)
        return found if found is not None else self.mean_of_words(name)

    def query(self, text: str) -> NDArray[np.float32]:
        """(d,) float32 of length 1: the `phrase` that a person typed.

        Raises:
            TesseraeError: There is no vector for it; names what is spelled nearly so.
        """
        found = self.phrase(text)
        if found is not None:
            return found
        unknown = next((part for part in _parts(text) if self.token(part) is None), text)
        which = "" if unknown == text else f" in {text!r}"
        near = ", ".join(map(repr, self.nearest_spellings(unknown))) or "none"
        raise TesseraeError(
            f"no vector for {unknown!r}{which}: nearest spellings: {near}. Choose other words."
        )

    def nearest_spellings(self, word: str, count: int = 3) -> list[str]:
        """Up to *count* of the more frequent tokens that are spelled nearly as *word*."""
        joined, size = "_".join(_parts(word)).casefold(), len(word)
        near: dict[str, str] = {}
        for token in islice(self.tokens, SPELLINGS_OF):
            if abs(len(token) - size) <= 2:
                near.setdefault(token.casefold(), token)
        alike = difflib.get_close_matches(joined, near, count)
        return [near[folded] for folded in alike]


def unit_mean(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32] | None:
    """(d,) float32: the direction of the mean of vectors of length 1; None where it has none."""
    if not vectors:
        return None
    mean = np.mean(np.asarray(vectors, np.float64), 0)
    length = np.linalg.norm(mean)
    return np.asarray(mean / length, np.float32) if length > 1e-6 else None


def _parts(name: str) -> list[str]:
    return [part for part in _BETWEEN.split(name) if part]


def _spellings(name: str) -> list[str]:
    """What *name* may be as one token; the likeliest first."""
    parts = _parts(name)
    joined = ("_".join(name.split()), "_".join(parts), "-".join(parts), " ".join(parts))
    return [one for one in dict.fromkeys(joined) if one]


# --- classes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassVectors:
    """The vector of each class, as far as words go."""

    wnids: tuple[str, ...]
    names: tuple[str, ...]
    """Of each class, its synonyms with commas between them."""
    vectors: NDArray[np.float32]
    """(C, d) float32 of length 1; zeros where there is none."""
    how: tuple[str, ...]
    """One of `HOW`."""
    used: tuple[tuple[str, ...], ...]
    """The names that each vector is made of."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """(C,) bool: which have a vector."""
        return np.array([how != "none" for how in self.how], bool)

    @property
    def missing(self) -> list[str]:
        """The wnids without."""
        return [w for w, how in zip(self.wnids, self.how, strict=True) if how == "none"]

    @property
    def homonyms(self) -> dict[str, list[str]]:
        """Names that stand for several classes, and are part of their vectors -> wnids."""
        pairs = (
            (name, wnid)
            for wnid, used in zip(self.wnids, self.used, strict=True)
            for name in dict.fromkeys(" ".join(_parts(name)).casefold() for name in used)
        )
        return dict(sorted(_groups(pairs).items()))

    @property
    def alike(self) -> list[list[str]]:
        """Wnids that share one and the same vector: no answer can tell them apart."""
        known = np.flatnonzero(self.known)
        pairs = ((self.vectors[place].tobytes(), self.wnids[place]) for place in known)
        return list(_groups(pairs).values())

    def coverage(self) -> dict[str, int]:
        """Classes by `how`."""
        return {how: self.how.count(how) for how in HOW}


def _groups(pairs: Iterable[tuple[_Key, str]]) -> dict[_Key, list[str]]:
    """What several wnids have in common -> those."""
    found: dict[_Key, list[str]] = defaultdict(list)
    for common, wnid in pairs:
        found[common].append(wnid)
    return {common: wnids for common, wnids in found.items() if len(wnids) > 1}


def class_vectors(
    words: Words, classes: Iterable[tuple[str, str]], *, synonyms: str = "mean"
) -> ClassVectors:
    """Look for the vector of each class.

    Args:
        words: Where.
        classes: (wnid, names), names with commas between them; without any, the wnid is the name.
        synonyms: `first`: the first name alone. `mean`: of the names that are one token, or else
            of those that are made of words.

    Raises:
        ValueError: *synonyms* is neither.
    """
    if synonyms not in SYNONYMS:
        raise ValueError(f"synonyms is {synonyms!r}: expected {' or '.join(SYNONYMS)}.")
    wnids, names = _columns(classes)
    vectors = np.zeros((len(wnids), words.dim), np.float32)
    hows, useds = [], []
    for place, listed in enumerate(names):
        every = split_names(listed)
        how, found = _look_up(words, every[:1] if synonyms == "first" else every)
        mean = unit_mean(list(found.values()))
        if mean is not None:
            vectors[place] = mean
        hows.append(how if mean is not None else "none")
        useds.append(tuple(found) if mean is not None else ())
    return ClassVectors(wnids, names, vectors, tuple(hows), tuple(useds))


def taxonomy_vectors(
    hierarchy: Hierarchy, classes: Iterable[tuple[str, str]], dim: int = 64
) -> ClassVectors:
    """Vectors from what the classes are kinds of, where there are no words.

    Args:
        hierarchy: Where they stand; a class that is not in it has no vector.
        classes: As for `class_vectors`.
        dim: Numbers of a vector.
    """
    wnids, names = _columns(classes)
    known = np.array([wnid in hierarchy for wnid in wnids], bool)
    vectors = np.where(known[:, None], hierarchy.vectors(wnids, dim), np.float32(0))
    hows = tuple("taxonomy" if each else "none" for each in known)
    return ClassVectors(wnids, names, vectors, hows, ((),) * len(wnids))


def _columns(classes: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    listed = [(wnid, names.strip() or wnid) for wnid, names in classes]
    return tuple(wnid for wnid, _ in listed), tuple(names for _, names in listed)


def names_of_id(key: str) -> str:
    """Return the names that the id of a class is by itself: a folder's name, with its words apart.

    Returns:
        "golf ball" of "golf_ball"; nothing of a wnid, which is no word.
    """
    if _WNID.fullmatch(key):
        return ""
    return " ".join(_parts(key)) or key


def split_names(names: str) -> list[str]:
    """The synonyms of "tench, Tinca tinca"; none twice."""
    return list(dict.fromkeys(part.strip() for part in names.split(",") if part.strip()))


def _look_up(words: Words, names: Sequence[str]) -> tuple[str, Mapping[str, NDArray[np.float32]]]:
    for how, look in (("token", words.token), ("words", words.mean_of_words)):
        found = {name: vector for name in names if (vector := look(name)) is not None}
        if found:
            return how, found
    return "none", {}
