"""Text that no vector belongs to as a whole: what of it is known, and what is passed over.

A caption ("a photo of a dog"), a list ("dog, church") or the names of a class as a table prints
them ("tench, Tinca tinca") are cut at commas and other punctuation. Of each piece the longest runs
of words that are one name are looked up first, then single words. A piece is the mean of what is
known of it, the text the mean of its pieces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Lookup = Callable[[str], NDArray[np.float32] | None]
"""A name -> (dim,) of length 1; None where it is not known."""

MAX_NAME_WORDS = 6
"""Words of the longest run that is looked up as one name."""

_BETWEEN_PIECES = re.compile(r"[,;:.!?()\[\]{}|/&]+(?=\s|$)|(?<=\s)[-(\[{|/&]+(?=\S)|[,;|/&]+")
_AROUND_WORDS = "\"'`.,;:!?()[]{}<>*_-\u2026"


@dataclass(frozen=True)
class Understood:
    """What a text means, as far as it is known."""

    vector: NDArray[np.float32]
    """(dim,) of length 1."""
    names: tuple[str, ...]
    """The names that it is made of, in their order."""
    passed_over: tuple[str, ...] = ()
    """Words that are not known."""


def understand(text: str, name: Lookup, phrase: Lookup) -> Understood | None:
    """Look for what is known of *text*.

    Args:
        text: What was typed.
        name: Looks up one name, which may be of several words.
        phrase: Looks up a name or else the mean of its words.

    Returns:
        None where nothing of it is known, or where what is known cancels itself out.
    """
    names: list[str] = []
    passed_over: list[str] = []
    pieces = []
    for piece in _BETWEEN_PIECES.split(text):
        known = []
        for run, vector in _runs(piece, name, phrase):
            if vector is None:
                passed_over.append(run)
            else:
                names.append(run)
                known.append(vector)
        if known:
            pieces.append(_unit_mean(known))
    whole = [piece for piece in pieces if piece is not None]
    mean = _unit_mean(whole) if whole else None
    return None if mean is None else Understood(mean, tuple(names), tuple(passed_over))


def _runs(
    piece: str, name: Lookup, phrase: Lookup
) -> Iterator[tuple[str, NDArray[np.float32] | None]]:
    """Cut a piece into names and words, each with its vector; the longest names first."""
    words = [word for one in piece.split() if (word := one.strip(_AROUND_WORDS))]
    at = 0
    while at < len(words):
        for length in range(min(MAX_NAME_WORDS, len(words) - at), 0, -1):
            run = " ".join(words[at : at + length])
            vector = name(run) if length > 1 else phrase(run)
            if vector is not None or length == 1:
                yield run, vector
                at += length
                break


def _unit_mean(vectors: list[NDArray[np.float32]]) -> NDArray[np.float32] | None:
    mean = np.mean(np.asarray(vectors, np.float64), 0)
    length = np.linalg.norm(mean)
    return np.asarray(mean / length, np.float32) if length > 1e-6 else None
