"""The interpretation of free text, for which as a whole there is no vector.

A caption ("a photo of a dog"), a list ("dog, church") or the names of a class as a table prints
them ("tench, Tinca tinca") are split at commas and other punctuation. In each piece the longest
runs of words that are one name are looked up first, then single words. The vector of a piece is the
mean of its known names, and that of the text the mean of its pieces. Unknown words are ignored.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Lookup = Callable[[str], NDArray[np.float32] | None]
"""A function from a name to its unit vector, (dim,); None for an unknown name."""

MAX_NAME_WORDS = 6
"""The number of words of the longest run that is looked up as one name."""

_BETWEEN_PIECES = re.compile(r"[,;:.!?()\[\]{}|/&]+(?=\s|$)|(?<=\s)[-(\[{|/&]+(?=\S)|[,;|/&]+")
_AROUND_WORDS = "\"'`.,;:!?()[]{}<>*_-\u2026"


@dataclass(frozen=True)
class Interpretation:
    """The vector of a text, its known names and its unknown words."""

    vector: NDArray[np.float32]
    """The unit vector of the text, (dim,) float32."""
    names: tuple[str, ...]
    """The known names, in the order of the text."""
    passed_over: tuple[str, ...] = ()
    """The unknown words, which are ignored."""


def interpret(text: str, name: Lookup, phrase: Lookup) -> Interpretation | None:
    """Interpret free text by its known names.

    The text is split at commas and other punctuation. In each piece the longest runs of two to six
    words that *name* knows are names, then the single words that *phrase* knows. The vector is the
    mean of the means of the pieces.

    Args:
        text: The text as typed.
        name: A function that looks up one name of several words, joined by single spaces. It
            returns the unit vector, (dim,) float32, or None if the name is unknown.
        phrase: A function that looks up a single word, with the same result.

    Returns:
        The interpretation: `vector` (the unit vector of the text, (dim,) float32), `names` (the
        known names) and `passed_over` (the unknown words), both as typed, in the order of the text
        and with repetitions. None if no name is known, or if the vectors cancel each other out.
    """
    names: list[str] = []
    passed_over: list[str] = []
    pieces = []
    for piece in _BETWEEN_PIECES.split(text):
        vectors = []
        for run, vector in _runs(piece, name, phrase):
            if vector is None:
                passed_over.append(run)
            else:
                names.append(run)
                vectors.append(vector)
        if vectors:
            pieces.append(_unit_mean(vectors))
    piece_means = [piece for piece in pieces if piece is not None]
    mean = _unit_mean(piece_means) if piece_means else None
    return None if mean is None else Interpretation(mean, tuple(names), tuple(passed_over))


def _runs(
    piece: str, name: Lookup, phrase: Lookup
) -> Iterator[tuple[str, NDArray[np.float32] | None]]:
    """Split a piece into names and words, each with its vector; prefer the longest names."""
    words = [word for token in piece.split() if (word := token.strip(_AROUND_WORDS))]
    start = 0
    while start < len(words):
        for length in range(min(MAX_NAME_WORDS, len(words) - start), 0, -1):
            run = " ".join(words[start : start + length])
            vector = name(run) if length > 1 else phrase(run)
            if vector is not None or length == 1:
                yield run, vector
                start += length
                break


def _unit_mean(vectors: list[NDArray[np.float32]]) -> NDArray[np.float32] | None:
    mean = np.mean(np.asarray(vectors, np.float64), 0)
    length = np.linalg.norm(mean)
    return np.asarray(mean / length, np.float32) if length > 1e-6 else None
