"""Images as answers: the nearest rows of several splits, each of which has its own index."""

from __future__ import annotations

import difflib
import functools
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours.csls import NEAREST, Hubs, measure_hubs
from workflows.search.duplicates import SmallPicture, originals
from workflows.search.gallery import Gallery
from workflows.search.query import QueryError
from workflows.search.vector_store import EmbeddedSplit
from workflows.search.word_index import Word, WordIndex, names_of

MAX_EXHAUSTIVE_ROWS = 5000
"""The number of rows that pass a filter up to which all are compared, with any kind of index."""


MAX_CANDIDATES = 2_000
"""The number of nearest images, at most, among which copies are looked for."""


@dataclass(frozen=True)
class ImageCopy:
    """A copy of an image that is an answer."""

    split: str
    """The name of its split."""
    row: int
    """Its row in the split, from 0."""
    score: float
    """Its own score."""
    key: str
    """The key of its sample."""


@dataclass(frozen=True)
class ImageHit:
    """An image as an answer."""

    split: str
    """The name of its split."""
    row: int
    """Its row in the split, from 0."""
    score: float
    """Its cosine similarity to the query, -1 to 1, or its CSLS score; larger is nearer."""
    label: int
    """The label of its class; -1 for no class."""
    wnid: str
    """The wnid of its class; empty for no class."""
    words: str
    """The names of its class, separated by commas; empty for no class."""
    query: str
    """The query that finds images of its class; empty if there is none."""
    key: str
    """The key of its sample."""
    copies: tuple[ImageCopy, ...] = ()
    """The copies of the image that are nearly as near, the nearest first."""


class _RankedRow(NamedTuple):
    score: float
    split: int
    """The position of its split among those that are searched."""
    row: int


class ImageIndex:
    """An index of the images that can be answers. It is thread-safe."""

    def __init__(self, gallery: Gallery, words: WordIndex) -> None:
        """Create an index without vectors: each search passes the splits that hold them.

        Args:
            gallery: The images of the store, for their keys and classes.
            words: The classes and words of the model. A class of the store that is one of these, by
                its wnid, has their names.
        """
        self._gallery = gallery
        self._words = words
        names = {word.wnid: word.name for word in words.classes}
        self._classes = [
            Word(names.get(wnid) or words_of_store or wnid, wnid)
            for wnid, words_of_store in gallery.recipe.classes
        ]
        self._hubs: dict[tuple[str, str], Hubs] = {}
        self._lock = threading.Lock()

    def hubs(
        self, embedded: EmbeddedSplit, kind: str, references: NDArray[np.float32]
    ) -> Hubs | None:
        """Measure which images of a split are hubs, near to very many queries of one kind.

        The measurement takes seconds and is cached by split and kind.

        Args:
            embedded: The split and its index, from `open_embedded`.
            kind: The name of the kind of queries, such as `words` or `images`, under which the
                result is cached. For a split and kind that are cached, *references* are not read.
            references: The vectors of a sample of such queries, (n, dim) float32, which need not be
                of unit length; zeros and vectors that are not finite are ignored.

        Returns:
            The hubs of the split, for `search`; None if *references* is empty.

        Raises:
            ValueError: No reference is finite and not zero, or they have another shape or dtype.
        """
        if not len(references):
            return None
        with self._lock:
            if (embedded.name, kind) not in self._hubs:
                self._hubs[embedded.name, kind] = measure_hubs(embedded.index, references)
            return self._hubs[embedded.name, kind]

    def search(
        self,
        vector: NDArray[np.float64],
        k: int,
        splits: Sequence[EmbeddedSplit],
        *,
        labels: NDArray[np.bool_] | None = None,
        exclude: Collection[tuple[str, int]] = (),
        hubs: Sequence[Hubs | None] = (),
        fold: bool = True,
    ) -> list[ImageHit]:
        """Return the images nearest to a vector, the nearest first.

        Args:
            vector: The query, a unit vector, (dim,) float64.
            k: The number of images, at least 1.
            splits: The splits to search, from `open_embedded`.
            labels: The mask of labels that can be answers, (C + 1,) bool, from `labels`; its last
                element is for label -1 (default: all).
            exclude: The (split, row) of images that are not answers (default: none).
            hubs: The result of `hubs` for each split, in the order of *splits*, with None for a
                split to be scored by cosine; with hubs, scores are CSLS, which lowers those of hubs
                (default: empty, for cosines).
            fold: True to make an image and its copies, such as files of another size or quality,
                one answer (default).

        Returns:
            At most *k* images over all splits, each with `split`, `row`, `score` (the larger, the
            nearer), `label`, `wnid`, `words` (the names of its class), `query` (one that finds its
            class), `key` and `copies`; equal scores are ordered by the position of the split in
            *splits*, then by row. An image and its mirrored copy count once.

        Raises:
            ValueError: The vector is zero, not finite or of another length, or k is less than 1.
            StoreDamagedError: The table of the samples is unreadable.
        """
        shift = _mean_similarity(vector, splits) if any(hubs) else 0.0
        count = k
        while True:
            ranked = self._ranked(vector, count, splits, labels, exclude, hubs, shift)
            groups = self._groups(splits, ranked) if fold else [[near] for near in ranked]
            if len(groups) >= k or len(ranked) < count or count >= MAX_CANDIDATES:
                return [self._folded(splits, group) for group in groups[:k]]
            count = min(4 * count, MAX_CANDIDATES)

    def _ranked(
        self,
        vector: NDArray[np.float64],
        count: int,
        splits: Sequence[EmbeddedSplit],
        labels: NDArray[np.bool_] | None,
        exclude: Collection[tuple[str, int]],
        hubs: Sequence[Hubs | None],
        shift: float,
    ) -> list[_RankedRow]:
        """Return the rows nearest to a vector over all splits, at most *count*."""
        ranked: list[_RankedRow] = []
        for index, embedded in enumerate(splits):
            excluded_rows = {row for split, row in exclude if split == embedded.name}
            split_hubs = hubs[index] if hubs else None
            near = _nearest(embedded, vector, count + len(excluded_rows), labels, split_hubs, shift)
            ranked += [
                _RankedRow(score, index, row) for score, row in near if row not in excluded_rows
            ]
        ranked.sort(key=lambda near: (-near.score, near.split, near.row))
        return ranked[:count]

    def _groups(
        self, splits: Sequence[EmbeddedSplit], ranked: Sequence[_RankedRow]
    ) -> list[list[_RankedRow]]:
        """Return groups of copies in the order of their first, which is the nearest of them."""
        if not ranked:
            return []
        vectors = np.stack([splits[near.split].vector(near.row) for near in ranked])

        def small_pictures(positions: Sequence[int]) -> dict[int, SmallPicture]:
            pictures = {}
            for number, embedded in enumerate(splits):
                of_row = {ranked[i].row: i for i in positions if ranked[i].split == number}
                for row, picture in self._gallery.small_pictures(embedded.name, [*of_row]).items():
                    pictures[of_row[row]] = picture
            return pictures

        groups: dict[int, list[_RankedRow]] = {}
        for near, original in zip(ranked, originals(vectors, small_pictures), strict=True):
            groups.setdefault(original, []).append(near)
        return list(groups.values())

    def _folded(self, splits: Sequence[EmbeddedSplit], group: Sequence[_RankedRow]) -> ImageHit:
        first, *copies = group
        hit = self._hit(splits[first.split], first.row, first.score)
        return replace(hit, copies=tuple(self._copy(splits[c.split], c) for c in copies))

    def _copy(self, embedded: EmbeddedSplit, near: _RankedRow) -> ImageCopy:
        key = self._gallery.key(embedded.name, near.row)
        return ImageCopy(embedded.name, near.row, near.score, key)

    def _hit(self, embedded: EmbeddedSplit, row: int, score: float) -> ImageHit:
        label = int(embedded.split.labels[row])
        key = self._gallery.key(embedded.name, row)
        if label < 0:
            return ImageHit(embedded.name, row, score, label, "", "", "", key)
        word = self._classes[label]
        typed = self._words.query_for(word)
        return ImageHit(embedded.name, row, score, label, word.wnid, word.name, typed, key)

    def first(self, embedded: EmbeddedSplit, count: int) -> list[ImageHit]:
        """Return the first readable images of a split, with score 0.

        Rows are stored in random order, so this is a random sample, the same one each time.

        Args:
            embedded: The split, from `open_embedded`.
            count: The number of images, at least 0; a split with fewer readable rows gives fewer.

        Returns:
            The images in the order of their rows, as `search` returns them.

        Raises:
            StoreDamagedError: The table of the samples is unreadable.
        """
        rows = np.flatnonzero(embedded.readable)[:count].tolist()
        return [self._hit(embedded, row, 0.0) for row in rows]

    def labels(self, names: Sequence[str]) -> NDArray[np.bool_] | None:
        """Return a mask of the labels of named classes, for `search`.

        Args:
            names: The wnids or names of classes, in any case; a name of several classes selects all
                of them.

        Returns:
            (C + 1,) bool for C classes, whose last element, that of label -1 (no class), is False;
            None for no names, which means all labels.

        Raises:
            QueryError: A name is of no class.
        """
        if not names:
            return None
        mask = np.zeros(len(self._classes) + 1, np.bool_)
        for name in names:
            labels = self._named.get(name.casefold())
            if labels is None:
                near = difflib.get_close_matches(name.casefold(), self._named, 3)
                hint = f": did you mean {' or '.join(near)}?" if near else "."
                raise QueryError(f"there is no class {name!r} in the store{hint}")
            mask[labels] = True
        return mask

    @functools.cached_property
    def _named(self) -> dict[str, list[int]]:
        """The labels of each class name."""
        labels_of: dict[str, list[int]] = {}
        for label, word in enumerate(self._classes):
            for name in names_of(word):
                labels_of.setdefault(name, []).append(label)
        return labels_of


def _nearest(
    embedded: EmbeddedSplit,
    vector: NDArray[np.float64],
    k: int,
    labels: NDArray[np.bool_] | None,
    hubs: Hubs | None,
    shift: float,
) -> list[tuple[float, int]]:
    """Return at most k pairs of score and row; a row and its mirrored copy count once."""
    keep, candidates = None, None
    if labels is not None:
        keep = labels[embedded.split.labels]  # label -1 selects the last element
        count = int(np.count_nonzero(keep))
        candidates = count if count <= MAX_EXHAUSTIVE_ROWS else None
        keep = np.concatenate([keep, keep]) if embedded.mirrored else keep
    ids = embedded.num_rows if embedded.mirrored else None
    results = embedded.index.search(
        vector[None], k, keep=keep, ids=ids, hubs=hubs, candidates=candidates
    )
    valid = results.rows[0] >= 0
    vector_rows, scores = results.rows[0][valid], results.scores[0][valid].astype(np.float64)
    if hubs is not None:
        # Each index subtracts the query's mean similarity within its own split. Scores of several
        # splits are comparable only with one common value, which *shift* is.
        cosines = embedded.index.vectors.cosines(vector[None], vector_rows[None])[0]
        scores = 2 * cosines - hubs.means[vector_rows] - shift
    return list(zip(scores.tolist(), (vector_rows % embedded.num_rows).tolist(), strict=True))


def _mean_similarity(vector: NDArray[np.float64], splits: Sequence[EmbeddedSplit]) -> float:
    """Return the mean cosine of a query and its nearest images over all splits."""
    scores = np.concatenate(
        [embedded.index.search(vector[None], NEAREST).scores[0] for embedded in splits]
    )
    return float(np.mean(np.sort(scores[np.isfinite(scores)])[-NEAREST:])) if len(scores) else 0.0
