"""Words as answers: the classes of a run, and the further words of its vocabulary."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours import Index, build
from pipeline.neighbours.csls import Hubs, measure_hubs
from pipeline.wordvectors.vectors import split_names
from workflows.search.model import Model
from workflows.search.query import Phrase, Query, QueryError, WeightedTerm, parse_query

MIN_SAME_COSINE = 1 - 1e-6
"""The smallest cosine at which two words count as having the same vector."""
MAX_SAME_SCORE_GAP = 0.005
"""The largest difference of their scores: vectors of that cosine are 0.0014 apart, and a CSLS score
is a sum of three cosines."""


@dataclass(frozen=True)
class WordHit:
    """A class or word as an answer."""

    words: str
    """The comma-separated names of a class, or one word."""
    wnid: str
    """The wnid of the class; empty for a word that is no class."""
    score: float
    """Its cosine similarity to the query, -1 to 1, or its CSLS score; larger is nearer."""
    also: tuple[str, ...]
    """Further words with the same vector, which no search can tell apart."""
    query: str
    """The query that finds images of it; empty if there is none."""


class Word(NamedTuple):
    """A class or word that can be an answer."""

    name: str
    """The comma-separated names of a class, or one word."""
    wnid: str
    """The wnid of the class; empty for a word that is no class."""


class _Group(NamedTuple):
    score: float
    unit: NDArray[np.float64]
    words: list[Word]


class WordIndex:
    """An index of all classes and words that can be answers. It is thread-safe."""

    def __init__(self, model: Model) -> None:
        """Collect the classes and the vocabulary of a model, and build an exact index of them.

        Args:
            model: The model. Classes and words with a vector of zeros are never answers.
        """
        self._model = model
        names, vectors = model.vocabulary()
        self.classes = [Word(words or wnid, wnid) for wnid, words in model.classes]
        # Files of word vectors join the words of a name by _, where people type spaces.
        spaced = (name.replace("_", " ").strip() or name for name in names)
        self._all = [*self.classes, *(Word(name, "") for name in spaced)]
        every = np.concatenate([model.class_vectors, np.reshape(vectors, (len(names), model.dim))])
        self._index: Index | None = build("exact", every) if len(every) else None
        pairs = zip(self.classes, model.class_vectors, strict=True)
        self._wnids = {word.wnid for word, vector in pairs if vector.any()}
        self.query_for = functools.cache(self._query_for)
        """A cached function from a word to the query that finds images of it; empty: none."""

    def __len__(self) -> int:
        return 0 if self._index is None else int(self._index.vectors.usable.sum())

    def sample(self, count: int) -> NDArray[np.float32]:
        """Return the unit vectors of words that are evenly spread over the list.

        Args:
            count: The maximum number of words, at least 1.

        Returns:
            (n, dim) float32 with n <= count; n is 0 without words.
        """
        if self._index is None:
            return np.zeros((0, self._model.dim), np.float32)
        rows = np.flatnonzero(self._index.vectors.usable)
        return self._index.vectors.units(rows[:: max(1, -(-len(rows) // count))])

    def hubs(self, references: NDArray[np.float32]) -> Hubs | None:
        """Measure which words are hubs, near to very many images.

        Args:
            references: The vectors of a sample of images, (n, dim) float32, which need not be of
                unit length; zeros and vectors that are not finite are ignored.

        Returns:
            The hubs, for `search`; None if there are no words, or if *references* is empty.

        Raises:
            ValueError: No reference is finite and not zero, or they have another shape or dtype.
        """
        return measure_hubs(self._index, references) if self._index and len(references) else None

    def examples(self) -> list[str]:
        """Return up to three example queries, made of classes spread over the list."""
        chosen = self.classes[:: max(1, len(self.classes) // 8)]
        typed = list(dict.fromkeys(filter(None, map(self.query_for, chosen))))
        if len(typed) < 3:
            return typed
        first, second, third, *_ = typed
        return [first, f"{second} + {third}", f"{first} ~ {second}"]

    def search(
        self,
        vector: NDArray[np.float64],
        k: int,
        *,
        exclude: NDArray[np.float64],
        named: Collection[str] = (),
        hubs: Hubs | None = None,
    ) -> list[WordHit]:
        """Return the words nearest to a vector, the nearest first.

        Args:
            vector: The query, a unit vector, (dim,) float64.
            k: The number of answers; words that share a vector count once.
            exclude: The unit vectors that are not answers, such as those of the query, (n, dim)
                float64; n may be 0.
            named: The names whose words and classes are not answers, in any case (default: none).
            hubs: The result of `hubs`; with it, scores are CSLS, which lowers those of hubs,
                instead of cosines (default: none).

        Returns:
            At most *k* answers, each for all words that share a vector: `words` is the first of
            them (the comma-separated names of a class, or one word), `wnid` its wnid or empty,
            `also` has the others, `score` is larger the nearer, and `query` is one that finds its
            images, or empty.

        Raises:
            ValueError: The vector is zero, not finite or of another length.
        """
        left_out = {name.casefold() for name in named}
        count = 2 * k + len(exclude) + len(left_out) + 16
        while True:
            near = self._nearest(vector, count, hubs)
            groups = self._groups(near, exclude, left_out)
            if len(groups) >= k or len(near) < count:
                return [self._hit(group) for group in groups[:k]]
            count *= 4

    def _nearest(
        self, vector: NDArray[np.float64], count: int, hubs: Hubs | None
    ) -> list[tuple[float, int]]:
        """Return up to *count* pairs of score and word id, the nearest first."""
        if not len(self) or self._index is None:
            return []
        results = self._index.search(vector[None], min(count, len(self._all)), hubs=hubs)
        valid = results.rows[0] >= 0
        return list(
            zip(results.scores[0][valid].tolist(), results.rows[0][valid].tolist(), strict=True)
        )

    def _groups(
        self, near: list[tuple[float, int]], exclude: NDArray[np.float64], left_out: set[str]
    ) -> list[_Group]:
        """Return the groups of words that share a vector, nearest first, without excluded words."""
        if not near or self._index is None:
            return []
        word_ids = np.array([word_id for _, word_id in near])
        units = self._index.vectors.units(word_ids).astype(np.float64)
        no_answer = np.asarray((units @ exclude.T).max(1, initial=-1) >= MIN_SAME_COSINE)
        groups: list[_Group] = []
        for (score, word_id), unit, excluded in zip(near, units, no_answer.tolist(), strict=True):
            word = self._all[word_id]
            if excluded or not left_out.isdisjoint(names_of(word)):
                continue
            group = _matching_group(groups, score, unit)
            if group is None:
                groups.append(_Group(score, unit, [word]))
            else:
                group.words.append(word)
        return groups

    def _hit(self, group: _Group) -> WordHit:
        first, *further = group.words
        own_names = {first.name, *split_names(first.name)}
        also = tuple(dict.fromkeys(word.name for word in further if word.name not in own_names))
        return WordHit(first.name, first.wnid, group.score, also, self.query_for(first))

    def _query_for(self, word: Word) -> str:
        names = [*split_names(word.name), word.wnid] if word.wnid else [word.name]
        for name in names:
            typed = str(Phrase(name))
            if _parses_as(typed, name) and (name in self._wnids or self._model.knows(name)):
                return typed
        return ""


def _matching_group(groups: list[_Group], score: float, unit: NDArray[np.float64]) -> _Group | None:
    """Return the group with the vector *unit*; None if there is none.

    Equal vectors have nearly equal scores, so only the last groups need to be compared.
    """
    for group in reversed(groups):
        if group.score - score > MAX_SAME_SCORE_GAP:
            return None
        if group.unit @ unit >= MIN_SAME_COSINE:
            return group
    return None


def names_of(word: Word) -> set[str]:
    """Return all names of a word, case-folded; those of a class include its wnid.

    Args:
        word: The class or word, with `name` (the comma-separated names of a class, or one word) and
            `wnid` (empty for a word that is no class). The names of a class are returned singly and
            as a whole.
    """
    if not word.wnid:
        return {word.name.casefold()}
    return {name.casefold() for name in (word.wnid, word.name, *split_names(word.name))}


def _parses_as(typed: str, name: str) -> bool:
    try:
        return parse_query(typed) == Query((WeightedTerm(Phrase(name)),))
    except QueryError:  # no query means this name
        return False
