"""Words as answers: the classes of a run, and whatever words it knows beside them."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours import Index, build
from pipeline.neighbours.csls import Hubs, measure
from pipeline.wordvectors.vectors import split_names
from workflows.search.model import Model
from workflows.search.query import Part, Phrase, Query, QueryError, parse

SAME = 1 - 1e-6
"""Cosine from which on two words have one and the same vector."""
SAME_SCORE = 0.005
"""By how much their scores may differ: vectors of that cosine are 0.0014 apart, and CSLS is three
cosines."""


@dataclass(frozen=True)
class WordHit:
    """An answer in words."""

    words: str
    """Names of a class with commas between them, or one word."""
    wnid: str
    """Of the class; empty of a mere word."""
    score: float
    also: tuple[str, ...]
    """Others that have the same vector: no answer can tell them apart."""
    query: str
    """What to search for to find pictures of it; empty: it cannot be typed."""


class Word(NamedTuple):
    """What may be answered in words."""

    name: str
    wnid: str


class _Group(NamedTuple):
    score: float
    unit: NDArray[np.float64]
    words: list[Word]


class Words:
    """Everything that can be answered in words. Any number of threads may search at once."""

    def __init__(self, model: Model) -> None:
        """Gather it."""
        self._model = model
        names, vectors = model.vocabulary()
        self.classes = [Word(words or wnid, wnid) for wnid, words in model.classes]
        # Files of word vectors have _ in names of several words, and a phrase need not.
        spaced = (name.replace("_", " ").strip() or name for name in names)
        self._all = [*self.classes, *(Word(name, "") for name in spaced)]
        every = np.concatenate([model.class_vectors, np.reshape(vectors, (len(names), model.dim))])
        self._index: Index | None = build("exact", every) if len(every) else None
        pairs = zip(self.classes, model.class_vectors, strict=True)
        self._wnids = {word.wnid for word, vector in pairs if vector.any()}
        self.typed = functools.cache(self._typed)
        """What to type for a word, to find pictures of it; empty: it cannot be typed."""

    def __len__(self) -> int:
        return 0 if self._index is None else int(self._index.vectors.usable.sum())

    def sample(self, count: int) -> NDArray[np.float32]:
        """(at most count, dim): some of their vectors."""
        if self._index is None:
            return np.zeros((0, self._model.dim), np.float32)
        rows = np.flatnonzero(self._index.vectors.usable)
        return self._index.vectors.units(rows[:: max(1, -(-len(rows) // count))])

    def hubs(self, references: NDArray[np.float32]) -> Hubs | None:
        """How near each is to pictures in general; None where there is nothing to measure."""
        return measure(self._index, references) if self._index and len(references) else None

    def examples(self) -> list[str]:
        """What could be typed, of classes all over the list."""
        chosen = self.classes[:: max(1, len(self.classes) // 8)]
        typed = list(dict.fromkeys(filter(None, map(self.typed, chosen))))
        if len(typed) < 3:
            return typed
        first, second, third, *_ = typed
        return [first, f"{second} + {third}", f"{first} ~ {second}"]

    def search(
        self,
        vector: NDArray[np.float64],
        k: int,
        *,
        but: NDArray[np.float64],
        named: Collection[str] = (),
        hubs: Hubs | None = None,
    ) -> list[WordHit]:
        """The words nearest to a vector.

        Args:
            vector: (dim,).
            k: How many, of which those that share a vector count once.
            but: (n, dim) of length 1: vectors that are no answer, such as those of the query.
            named: Nor is what has one of these names, whatever its vector.
            hubs: Of these words: scores are CSLS.
        """
        left_out = {name.casefold() for name in named}
        count = 2 * k + len(but) + len(left_out) + 16
        while True:
            near = self._nearest(vector, count, hubs)
            groups = self._groups(near, but, left_out)
            if len(groups) >= k or len(near) < count:
                return [self._hit(group) for group in groups[:k]]
            count *= 4

    def _nearest(
        self, vector: NDArray[np.float64], count: int, hubs: Hubs | None
    ) -> list[tuple[float, int]]:
        """Scores and places."""
        if not len(self) or self._index is None:
            return []
        found = self._index.search(vector[None], min(count, len(self._all)), hubs=hubs)
        there = found.rows[0] >= 0
        return list(
            zip(found.scores[0][there].tolist(), found.rows[0][there].tolist(), strict=True)
        )

    def _groups(
        self, near: list[tuple[float, int]], but: NDArray[np.float64], left_out: set[str]
    ) -> list[_Group]:
        """Words that share a vector, the nearest first; without what is no answer."""
        if not near or self._index is None:
            return []
        places = np.array([place for _, place in near])
        units = self._index.vectors.units(places).astype(np.float64)
        no_answer = np.asarray((units @ but.T).max(1, initial=-1) >= SAME)
        groups: list[_Group] = []
        for (score, place), unit, out in zip(near, units, no_answer.tolist(), strict=True):
            word = self._all[place]
            if out or not left_out.isdisjoint(names_of(word)):
                continue
            group = _of(groups, score, unit)
            if group is None:
                groups.append(_Group(score, unit, [word]))
            else:
                group.words.append(word)
        return groups

    def _hit(self, group: _Group) -> WordHit:
        first, *others = group.words
        mine = {first.name, *split_names(first.name)}
        also = tuple(dict.fromkeys(one.name for one in others if one.name not in mine))
        return WordHit(first.name, first.wnid, group.score, also, self.typed(first))

    def _typed(self, word: Word) -> str:
        names = [*split_names(word.name), word.wnid] if word.wnid else [word.name]
        for name in names:
            typed = str(Phrase(name))
            if _means(typed, name) and (name in self._wnids or self._known(name)):
                return typed
        return ""

    def _known(self, name: str) -> bool:
        return self._model.phrase(name) is not None


def _of(groups: list[_Group], score: float, unit: NDArray[np.float64]) -> _Group | None:
    """The group that has this vector: it has this score, too, so it is one of the last."""
    for group in reversed(groups):
        if group.score - score > SAME_SCORE:
            return None
        if group.unit @ unit >= SAME:
            return group
    return None


def names_of(word: Word) -> set[str]:
    """All names it goes by, case folded; a class by its wnid too."""
    if not word.wnid:
        return {word.name.casefold()}
    return {name.casefold() for name in (word.wnid, word.name, *split_names(word.name))}


def _means(typed: str, name: str) -> bool:
    try:
        return parse(typed) == Query((Part(Phrase(name)),))
    except QueryError:  # it cannot be typed
        return False
