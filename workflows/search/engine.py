"""Search in every direction: from words, pictures and what lies between, to pictures and words."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreError
from pipeline.neighbours.csls import Hubs
from pipeline.store.split import Split
from workflows.search.gallery import Gallery
from workflows.search.image_index import ImageHit, Images
from workflows.search.model import Model, open_model
from workflows.search.query import DIRECTIONS, Phrase, Picture, Query, QueryError
from workflows.search.query_vector import Meaning
from workflows.search.vector_store import Embedded, open_embedded
from workflows.search.word_index import WordHit, Words
from workflows.terminal.formatting import printable

MOST_ANSWERS = 1000
REFERENCES = 2000
"""Queries of a kind by which it is measured what is near to everything."""
FOLDER = "search"
"""Of a run, where vectors and indexes are kept."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which answers are wanted."""

    k: int = 10
    to: str = "images"
    """One of `DIRECTIONS`."""
    splits: tuple[str, ...] = ()
    """Whose pictures; none: of all that are searched."""
    classes: tuple[str, ...] = ()
    """Of which classes, by wnid or name; none: of all."""
    csls: bool = False
    """Whether it counts against a picture or a word that it is near to everything."""


@dataclass(frozen=True)
class Answer:
    """What was found, the nearest first."""

    query: str
    """As it was understood."""
    images: tuple[ImageHit, ...]
    words: tuple[WordHit, ...]
    passed_over: tuple[str, ...] = ()
    """Words of the query that are not known: it was searched without them."""


class Engine:
    """A run that can be searched. Any number of threads may search at once."""

    def __init__(self, model: Model, gallery: Gallery, embedded: Sequence[Embedded]) -> None:
        """Take what was opened.

        Args:
            model: What makes vectors of words and of other pictures.
            gallery: The pictures of its store.
            embedded: The splits that are searched, one or more.
        """
        self.model = model
        self.gallery = gallery
        self.embedded = {one.name: one for one in embedded}
        self.words = Words(model)
        self.images = Images(gallery, self.words)
        self._meaning = Meaning(model, gallery, self.embedded)
        self._word_hubs: Hubs | None = None
        self._lock = threading.Lock()

    def search(
        self,
        query: Query,
        wanted: Wanted = Wanted(),
        *,
        given: NDArray[np.float32] | None = None,
    ) -> Answer:
        """The nearest pictures, or words, or both.

        Pictures and words that the query itself names are no answers.

        Args:
            query: What was asked.
            wanted: Which answers.
            given: (dim,), the picture that came with it, see `embed`.

        Raises:
            QueryError: Something of the query, or of what is wanted, is not known here.
            StoreDamagedError: The table of the samples cannot be read.
        """
        splits = self._check(wanted)
        vector = self._meaning.vector(query, given, splits[0].name)
        images = [] if wanted.to == "words" else self._images(query, vector, splits, wanted)
        words = [] if wanted.to == "images" else self._words(query, vector, wanted)
        passed_over = self._meaning.passed_over(query)
        return Answer(str(query), tuple(images), tuple(words), passed_over)

    def embed(self, square: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(dim,) of length 1: any picture, (size, size, 3) uint8 RGB, as the store's were made."""
        return self._meaning.picture(square)

    def first(self, count: int) -> list[ImageHit]:
        """Some pictures, to begin with."""
        return self.images.first(next(iter(self.embedded.values())), count)

    def measure_hubs(self) -> None:
        """Do now what the first searches with `csls` would wait for."""
        for one in self.embedded.values():
            self._picture_hubs(one, by_words=True)
            self._picture_hubs(one, by_words=False)
        self._hubs_of_words()

    def close(self) -> None:
        """Let go of threads and files."""
        self.gallery.close()

    def _check(self, wanted: Wanted) -> list[Embedded]:
        if not 1 <= wanted.k <= MOST_ANSWERS:
            raise QueryError(f"k is {wanted.k}: expected 1 to {MOST_ANSWERS:,}.")
        if wanted.to not in DIRECTIONS:
            raise QueryError(f"to is {wanted.to!r}: expected one of {', '.join(DIRECTIONS)}.")
        for name in wanted.splits:
            if name not in self.embedded:
                known = ", ".join(self.embedded)
                raise QueryError(f"split {name!r} is not searched here: expected {known}.")
        return [self.embedded[name] for name in dict.fromkeys(wanted.splits or self.embedded)]

    def _images(
        self, query: Query, vector: NDArray[np.float64], splits: list[Embedded], wanted: Wanted
    ) -> list[ImageHit]:
        pictures = [term for term in query.terms if isinstance(term, Picture)]
        own = {(term.split or splits[0].name, term.row) for term in pictures}
        by_words = all(isinstance(term, Phrase) for term in query.terms)
        hubs = [self._picture_hubs(one, by_words=by_words) for one in splits if wanted.csls]
        labels = self.images.labels(wanted.classes)
        return self.images.search(vector, wanted.k, splits, labels=labels, but=own, hubs=hubs)

    def _words(self, query: Query, vector: NDArray[np.float64], wanted: Wanted) -> list[WordHit]:
        phrases = [term.text for term in query.terms if isinstance(term, Phrase)]
        meant = [self._meaning.understood(text) for text in phrases]
        own = np.zeros((len(meant), self.model.dim))
        for place, one in enumerate(meant):
            own[place] = one.vector
        named = [*phrases, *(name for one in meant for name in one.names)]
        hubs = self._hubs_of_words() if wanted.csls else None
        return self.words.search(vector, wanted.k, but=own, named=named, hubs=hubs)

    def _picture_hubs(self, one: Embedded, *, by_words: bool) -> Hubs | None:
        if by_words:
            return self.images.hubs(one, "words", self.words.sample(REFERENCES))
        return self.images.hubs(one, "pictures", one.sample(REFERENCES))

    def _hubs_of_words(self) -> Hubs | None:
        with self._lock:
            if self._word_hubs is None:
                samples = [one.sample(REFERENCES) for one in self.embedded.values()]
                self._word_hubs = self.words.hubs(np.concatenate(samples))
            return self._word_hubs


def open_engine(
    run: Path,
    splits: Sequence[str] = (),
    kind: str | None = None,
    *,
    digests: bool = True,
    stream: TextIO | None = None,
    store: str | None = None,
) -> Engine:
    """Open a run to be searched; embed its store, if that was not done yet.

    Args:
        run: Its folder.
        splits: Which are searched; none: all that are finished, but for those whose vectors cannot
            be had, which is said.
        kind: Of index: exact, lsh or hnsw; None: what suits the number of rows.
        digests: Whether all that is kept is compared with its digests.
        stream: Where progress is shown (standard error).
        store: Where the store of the run is now (where the run says, or beside the run).

    Raises:
        TesseraeError: The run or the store cannot be searched.
    """
    model = open_model(run, store=store)
    gallery = Gallery(model.store, model.size)
    named = [gallery.split(name) for name in dict.fromkeys(splits)]

    def embed(split: Split) -> Embedded:
        return open_embedded(model, run / FOLDER, split, kind, digests=digests, stream=stream)

    if named:
        return Engine(model, gallery, [embed(split) for split in named])
    embedded, why = [], ""
    for split in gallery.splits.values():
        try:
            embedded.append(embed(split))
        except StoreError as e:
            why = f"{split.plan.split} is not searched: {e}"
            print(printable(why), file=stream or sys.stderr, flush=True)
    if not embedded:
        raise StoreError(why)
    return Engine(model, gallery, embedded)
