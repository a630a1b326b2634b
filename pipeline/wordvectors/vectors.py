"""Word vectors, and the vectors of classes by their names.

A class has several names, and a name may have several words: "great white shark, man-eater". A name
is looked up in this order:

    as one token            great_white_shark, as it is written, then in any case
    by its words            great + white + shark, all of which must exist; their mean

`synonyms` decides which names count: the `first`, or the `mean` of all that are found, where names
that are one token come before those made of words. Words are taken as they are: no endings are cut
off, and nothing is guessed. A token whose vector has no direction (all zero, or with a NaN) counts
as missing.
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
VECTOR_SOURCES = ("token", "words", "taxonomy", "none")
"""The ways in which a class gets its vector."""

MAX_SPELLINGS = 100_000
"""The number of most frequent tokens that are searched for similar spellings."""

_Key = TypeVar("_Key")
_BETWEEN = re.compile(r"[\s_\-]+")
_WNID = re.compile(r"n[0-9]{8}", re.ASCII)


class WordVectors:
    """Tokens and their vectors, the most frequent first."""

    def __init__(self, tokens: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Wrap tokens and vectors.

        Args:
            tokens: n different tokens.
            vectors: (n, d) float32; not copied.

        Raises:
            ValueError: The number of tokens and of vectors differ.
        """
        if vectors.ndim != 2 or len(tokens) != len(vectors):
            raise ValueError(f"{len(tokens)} tokens and vectors of {vectors.shape}.")
        self.tokens: Sequence[str] = tuple(tokens)
        self.vectors = vectors

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def dim(self) -> int:
        """The number of dimensions, d."""
        return int(self.vectors.shape[1])

    @cached_property
    def _exact(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    @cached_property
    def _folded(self) -> dict[str, int]:
        # Only tokens with capitals: the others are found by `_exact` and need no second entry.
        numbers: dict[str, int] = {}
        for number, token in enumerate(self.tokens):
            folded = token.casefold()
            if folded != token:
                numbers.setdefault(folded, number)
        return numbers

    def index_of(self, token: str) -> int | None:
        """Return the number of a token as it is written, or else as it is written in another case.

        Args:
            token: The token, such as `great_white_shark`.

        Returns:
            The index in `tokens` and `vectors`: of the token itself if there is one, otherwise of
            the most frequent one that differs only in capitals; None if there is neither.
        """
        number = self._number_of(token)
        if number is not None:
            return number
        folded = token.casefold()
        folded_numbers = (self._number_of(folded), self._folded_number_of(folded))
        return min((number for number in folded_numbers if number is not None), default=None)

    def _number_of(self, token: str) -> int | None:
        """Return the number of a token, as it is written."""
        return self._exact.get(token)

    def _folded_number_of(self, folded: str) -> int | None:
        """Return the number of the first token with capitals that case-folds to *folded*."""
        return self._folded.get(folded)

    def unit_vector(self, number: int) -> NDArray[np.float32] | None:
        """Return the vector of a token, scaled to length 1; None if it is zero or not finite.

        Args:
            number: The index of the token in `tokens`, from 0.

        Returns:
            (d,) float32, a copy; or None.
        """
        vector = self.vectors[number].astype(np.float64)
        length = np.linalg.norm(vector)
        if not np.isfinite(length) or not length:
            return None
        return np.asarray(vector / length, np.float32)

    def token_vector(self, name: str) -> NDArray[np.float32] | None:
        """Return the vector of a name as one token; None if no spelling of it has one.

        Args:
            name: One or several words with spaces, `-` or `_` between them. Tokens in which they
                are joined by `_`, `-` or a space are tried, as written and in any case.

        Returns:
            (d,) float32 of length 1; or None.
        """
        for joined in _token_spellings(name):
            number = self.index_of(joined)
            if number is not None and (vector := self.unit_vector(number)) is not None:
                return vector
        return None

    def mean_of_words(self, name: str) -> NDArray[np.float32] | None:
        """Return the mean of the vectors of the words of a name; None if one of them is missing.

        The vectors have length 1 before their mean is taken, and the mean is scaled to length 1.

        Args:
            name: Words with spaces, `-` or `_` between them.

        Returns:
            (d,) float32 of length 1; None also if the mean is zero or there are no words.
        """
        parts = _words_of_name(name)
        vectors = [vector for part in parts if (vector := self.token_vector(part)) is not None]
        return unit_mean(vectors) if len(vectors) == len(parts) else None

    def phrase_vector(self, name: str) -> NDArray[np.float32] | None:
        """Return the vector of a name as one token, otherwise the mean of its words.

        Args:
            name: Words with spaces, `-` or `_` between them.

        Returns:
            (d,) float32 of length 1; None if there is no such token, and one of the words has no
            vector.
        """
        vector = self.token_vector(name)
        return vector if vector is not None else self.mean_of_words(name)

    def query_vector(self, text: str) -> NDArray[np.float32]:
        """Return the vector of a text that a user typed.

        It is that of the text as one token, otherwise the mean of its words, all of which must
        exist.

        Args:
            text: Words with spaces, `-` or `_` between them.

        Returns:
            (d,) float32 of length 1.

        Raises:
            TesseraeError: It has no vector; the error names tokens of similar spelling.
        """
        vector = self.phrase_vector(text)
        if vector is not None:
            return vector
        unknown = next(
            (part for part in _words_of_name(text) if self.token_vector(part) is None), text
        )
        context = "" if unknown == text else f" in {text!r}"
        near = ", ".join(map(repr, self.nearest_spellings(unknown))) or "none"
        raise TesseraeError(
            f"no vector for {unknown!r}{context}: nearest spellings: {near}. Choose other words."
        )

    def nearest_spellings(self, word: str, count: int = 3) -> list[str]:
        """Return frequent tokens with a spelling similar to a word, the most similar first.

        Args:
            word: The word, in any case.
            count: The maximum number of tokens, at least 1 (default: 3).

        Returns:
            The tokens as they are written, among the first 100,000, which are the most frequent, of
            those that differ only in capitals the first; empty if none is similar. Similar ones
            have a ratio of 0.6 or more (`difflib.SequenceMatcher`), and a length that differs by 2
            at most.
        """
        joined, size = "_".join(_words_of_name(word)).casefold(), len(word)
        near: dict[str, str] = {}
        for token in islice(self.tokens, MAX_SPELLINGS):
            if abs(len(token) - size) <= 2:
                near.setdefault(token.casefold(), token)
        alike = difflib.get_close_matches(joined, near, count)
        return [near[folded] for folded in alike]


def unit_mean(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32] | None:
    """Return the direction of the mean of vectors; None if there are none, or if it is zero.

    Args:
        vectors: A list of vectors of length 1, each (d,) float32; not one array of them all.

    Returns:
        (d,) float32 of length 1; or None.
    """
    if not vectors:
        return None
    mean = np.mean(np.asarray(vectors, np.float64), 0)
    length = np.linalg.norm(mean)
    return np.asarray(mean / length, np.float32) if length > 1e-6 else None


def _words_of_name(name: str) -> list[str]:
    return [part for part in _BETWEEN.split(name) if part]


def _token_spellings(name: str) -> list[str]:
    """Return the possible spellings of *name* as one token, the likeliest first."""
    parts = _words_of_name(name)
    joined = ("_".join(name.split()), "_".join(parts), "-".join(parts), " ".join(parts))
    return [spelling for spelling in dict.fromkeys(joined) if spelling]


# --- classes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassVectors:
    """The vectors of classes, as far as their names have one."""

    wnids: tuple[str, ...]
    """The wnid of each class, as it was passed."""
    names: tuple[str, ...]
    """The names of each class, synonyms separated by commas."""
    vectors: NDArray[np.float32]
    """(C, d) float32 of length 1; zeros for a class without a vector."""
    sources: tuple[str, ...]
    """The way in which each class got its vector, one of `VECTOR_SOURCES`."""
    used_names: tuple[tuple[str, ...], ...]
    """The names that each vector was computed from."""

    @property
    def has_vector(self) -> NDArray[np.bool_]:
        """(C,) bool: True for classes that have a vector."""
        return np.array([source != "none" for source in self.sources], bool)

    @property
    def missing(self) -> list[str]:
        """The wnids of the classes without a vector."""
        return [w for w, source in zip(self.wnids, self.sources, strict=True) if source == "none"]

    @property
    def homonyms(self) -> dict[str, list[str]]:
        """The names used for the vectors of several classes, each with their wnids.

        The names are compared in lower case, with spaces in place of `_` and `-`.
        """
        pairs = (
            (name, wnid)
            for wnid, used in zip(self.wnids, self.used_names, strict=True)
            for name in dict.fromkeys(" ".join(_words_of_name(name)).casefold() for name in used)
        )
        return dict(sorted(_groups_of_wnids(pairs).items()))

    @property
    def identical_groups(self) -> list[list[str]]:
        """The groups of wnids with identical vectors, which no search can tell apart."""
        rows = np.flatnonzero(self.has_vector)
        pairs = ((self.vectors[row].tobytes(), self.wnids[row]) for row in rows)
        return list(_groups_of_wnids(pairs).values())

    def coverage(self) -> dict[str, int]:
        """Return the number of classes by the source of their vector.

        Returns:
            The numbers for all of `token`, `words`, `taxonomy` and `none`, 0 included.
        """
        return {source: self.sources.count(source) for source in VECTOR_SOURCES}


def _groups_of_wnids(pairs: Iterable[tuple[_Key, str]]) -> dict[_Key, list[str]]:
    """Group wnids by a value, and return the groups with more than one wnid."""
    groups: dict[_Key, list[str]] = defaultdict(list)
    for common, wnid in pairs:
        groups[common].append(wnid)
    return {common: wnids for common, wnids in groups.items() if len(wnids) > 1}


def class_vectors(
    word_vectors: WordVectors, classes: Iterable[tuple[str, str]], *, synonyms: str = "mean"
) -> ClassVectors:
    """Return the vector of each class by its names.

    Args:
        word_vectors: The word vectors, of any length; each counts as if it had length 1.
        classes: Pairs of a wnid and its names, which are separated by commas, such as
            `("n02121808", "domestic cat, cat")`; without names, the wnid is the name.
        synonyms: `first`: the first name alone, as one token or else by its words. `mean` (the
            default): the mean of all names that are one token in some spelling; without any, of all
            names of which each word has a vector, as the means of their words.

    Returns:
        The C classes in their order, as a `ClassVectors`. Its `vectors` are (C, d) float32 of
        length 1, zeros for a class without a vector; its `sources` say for each class how it got
        its vector: `token`, `words` or `none`. `wnids`, `names` and `used_names` are tuples of C
        items, too: the arguments, and the names that each vector was computed from.

    Raises:
        ValueError: *synonyms* is neither.

    Examples:
        >>> words = tesserae.WordVectors(["cat", "dog"], np.eye(2, dtype=np.float32))
        >>> tesserae.class_vectors(words, [("n02121808", "domestic cat, cat")]).vectors
        array([[1., 0.]], dtype=float32)
    """
    if synonyms not in SYNONYMS:
        raise ValueError(f"synonyms is {synonyms!r}: expected {' or '.join(SYNONYMS)}.")
    wnids, names = _wnids_and_names(classes)
    vectors = np.zeros((len(wnids), word_vectors.dim), np.float32)
    sources, used_names = [], []
    for row, listed in enumerate(names):
        candidates = split_names(listed)
        source, vectors_by_name = _look_up_names(
            word_vectors, candidates[:1] if synonyms == "first" else candidates
        )
        mean = unit_mean(list(vectors_by_name.values()))
        if mean is not None:
            vectors[row] = mean
        sources.append(source if mean is not None else "none")
        used_names.append(tuple(vectors_by_name) if mean is not None else ())
    return ClassVectors(wnids, names, vectors, tuple(sources), tuple(used_names))


def taxonomy_vectors(
    hierarchy: Hierarchy, classes: Iterable[tuple[str, str]], dim: int = 64
) -> ClassVectors:
    """Return vectors from the positions of classes in a hierarchy, without word vectors.

    Args:
        hierarchy: The is-a graph; a class whose wnid is not in it gets no vector.
        classes: Pairs of a wnid and its names, which are separated by commas, such as
            `("n02121808", "domestic cat, cat")`. The wnids alone decide the vectors; the names, or
            the wnid without any, are only kept in `names` of the result.
        dim: The number of dimensions, at least 1 (default: 64).

    Returns:
        The C classes in their order, as a `ClassVectors`. Its `vectors` are (C, dim) float32 of
        length 1, zeros for a class without a vector; its `sources` are `taxonomy` or `none`.
    """
    wnids, names = _wnids_and_names(classes)
    in_hierarchy = np.array([wnid in hierarchy for wnid in wnids], bool)
    vectors = np.where(in_hierarchy[:, None], hierarchy.vectors(wnids, dim), np.float32(0))
    sources = tuple("taxonomy" if each else "none" for each in in_hierarchy)
    return ClassVectors(wnids, names, vectors, sources, ((),) * len(wnids))


def _wnids_and_names(classes: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    listed = [(wnid, names.strip() or wnid) for wnid, names in classes]
    return tuple(wnid for wnid, _ in listed), tuple(names for _, names in listed)


def names_of_id(key: str) -> str:
    """Return the name that a class's id gives by itself, such as a folder's name.

    Args:
        key: The id of the class: a wnid (`n` and eight digits), or any text.

    Returns:
        The empty string for a wnid; otherwise the id with one space in place of each series of
        spaces, `_` and `-`: "golf ball" for "golf_ball". An id without any words stays as it is.
    """
    if _WNID.fullmatch(key):
        return ""
    return " ".join(_words_of_name(key)) or key


def split_names(names: str) -> list[str]:
    """Return the different synonyms in a text such as "tench, Tinca tinca".

    Args:
        names: Names with commas between them.

    Returns:
        The names without space around them, in their order; an equal one, capitals included, is
        left out after the first; empty if there are none.
    """
    return list(dict.fromkeys(part.strip() for part in names.split(",") if part.strip()))


def _look_up_names(
    words: WordVectors, names: Sequence[str]
) -> tuple[str, Mapping[str, NDArray[np.float32]]]:
    for source, look_up in (("token", words.token_vector), ("words", words.mean_of_words)):
        vectors_by_name = {name: vector for name in names if (vector := look_up(name)) is not None}
        if vectors_by_name:
            return source, vectors_by_name
    return "none", {}
