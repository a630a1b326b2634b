"""Pictures as answers: the nearest of several splits, each with an index of its own."""

from __future__ import annotations

import difflib
import functools
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours.csls import NEAREST, Hubs, measure
from workflows.search.gallery import Gallery
from workflows.search.query import QueryError
from workflows.search.vector_store import Embedded
from workflows.search.word_index import Words, names_of

FEW_ROWS = 5000
"""Rows of a filter that are all compared, whatever the index."""


@dataclass(frozen=True)
class ImageHit:
    """A picture as an answer."""

    split: str
    row: int
    score: float
    label: int
    """-1: it has no class."""
    wnid: str
    words: str
    """Names of its class, with commas between them."""
    query: str
    """What to search for to find pictures of its class; empty: that cannot be typed."""
    key: str
    """Of its sample."""


class _Near(NamedTuple):
    score: float
    split: int
    """Its place among those that are searched."""
    row: int


class Images:
    """Every picture that can be answered."""

    def __init__(self, gallery: Gallery, words: Words) -> None:
        """Take the pictures, whose vectors come with each search, and what their classes are."""
        self._gallery = gallery
        self._words = words
        self._hubs: dict[tuple[str, str], Hubs] = {}
        self._lock = threading.Lock()

    def hubs(self, one: Embedded, kind: str, references: NDArray[np.float32]) -> Hubs | None:
        """How near each picture is to queries of one kind; measured once, in seconds.

        Args:
            one: Of which split.
            kind: Names the references.
            references: (n, dim) queries of that kind.
        """
        if not len(references):
            return None
        with self._lock:
            if (one.name, kind) not in self._hubs:
                self._hubs[one.name, kind] = measure(one.index, references)
            return self._hubs[one.name, kind]

    def search(
        self,
        vector: NDArray[np.float64],
        k: int,
        splits: Sequence[Embedded],
        *,
        labels: NDArray[np.bool_] | None = None,
        but: Collection[tuple[str, int]] = (),
        hubs: Sequence[Hubs | None] = (),
    ) -> list[ImageHit]:
        """The pictures nearest to a vector.

        Args:
            vector: (dim,).
            k: How many.
            splits: Whose.
            labels: As `labels` makes them; None: of all classes.
            but: (split, row) that are no answers.
            hubs: Of each split: scores are CSLS.

        Raises:
            StoreDamagedError: The table of the samples cannot be read.
        """
        found: list[_Near] = []
        shift = _mean_similarity(vector, splits) if any(hubs) else 0.0
        for place, one in enumerate(splits):
            own = {row for split, row in but if split == one.name}
            its = hubs[place] if hubs else None
            near = _nearest(one, vector, k + len(own), labels, its, shift)
            found += [_Near(score, place, row) for score, row in near if row not in own]
        found.sort(key=lambda near: (-near.score, near.split, near.row))
        return [self._hit(splits[near.split], near.row, near.score) for near in found[:k]]

    def _hit(self, one: Embedded, row: int, score: float) -> ImageHit:
        label = int(one.split.labels[row])
        key = self._gallery.key(one.name, row)
        if label < 0:
            return ImageHit(one.name, row, score, label, "", "", "", key)
        its = self._words.classes[label]
        typed = self._words.typed(its)
        return ImageHit(one.name, row, score, label, its.wnid, its.name, typed, key)

    def first(self, one: Embedded, count: int) -> list[ImageHit]:
        """Some pictures of a split, to begin with: its rows are in random order already."""
        rows = np.flatnonzero(one.readable)[:count].tolist()
        return [self._hit(one, row, 0.0) for row in rows]

    def labels(self, names: Sequence[str]) -> NDArray[np.bool_] | None:
        """(C + 1,) bool: which labels are meant, the last being that of no class; None: all.

        Args:
            names: wnids, or names of classes; a name of several classes means all of them.

        Raises:
            QueryError: There is no such class.
        """
        if not names:
            return None
        found = np.zeros(len(self._words.classes) + 1, np.bool_)
        for name in names:
            asked = self._named.get(name.casefold())
            if asked is None:
                near = difflib.get_close_matches(name.casefold(), self._named, 3)
                hint = f": did you mean {' or '.join(near)}?" if near else "."
                raise QueryError(f"there is no class {name!r} in the store{hint}")
            found[asked] = True
        return found

    @functools.cached_property
    def _named(self) -> dict[str, list[int]]:
        """Names of classes -> labels."""
        found: dict[str, list[int]] = {}
        for label, its in enumerate(self._words.classes):
            for name in names_of(its):
                found.setdefault(name, []).append(label)
        return found


def _nearest(
    one: Embedded,
    vector: NDArray[np.float64],
    k: int,
    labels: NDArray[np.bool_] | None,
    hubs: Hubs | None,
    shift: float,
) -> list[tuple[float, int]]:
    """At most k scores and rows, each row once though its mirrored copy is there too."""
    keep, candidates = None, None
    if labels is not None:
        keep = labels[one.split.labels]  # -1 is the last
        count = int(np.count_nonzero(keep))
        candidates = count if count <= FEW_ROWS else None
        keep = np.concatenate([keep, keep]) if one.mirrored else keep
    ids = one.num_rows if one.mirrored else None
    found = one.index.search(vector[None], k, keep=keep, ids=ids, hubs=hubs, candidates=candidates)
    there = found.rows[0] >= 0
    places, scores = found.rows[0][there], found.scores[0][there].astype(np.float64)
    if hubs is not None:  # what is subtracted of the query must be the same in all splits
        cosines = one.index.vectors.cosines(vector[None], places[None])[0]
        scores = 2 * cosines - hubs.means[places] - shift
    return list(zip(scores.tolist(), (places % one.num_rows).tolist(), strict=True))


def _mean_similarity(vector: NDArray[np.float64], splits: Sequence[Embedded]) -> float:
    """The mean cosine of a query with the nearest pictures of all splits."""
    found = np.concatenate([one.index.search(vector[None], NEAREST).scores[0] for one in splits])
    return float(np.mean(np.sort(found[np.isfinite(found)])[-NEAREST:])) if len(found) else 0.0
