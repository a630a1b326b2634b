"""The search engine: queries of words and images, answered with images and words."""

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
from workflows.search.image_index import ImageHit, ImageIndex
from workflows.search.model import Model, open_model
from workflows.search.other_store import vectors_root
from workflows.search.query import DIRECTIONS, Phrase, Query, QueryError, StoredImage
from workflows.search.query_image import ImagePreprocessor
from workflows.search.query_vector import QueryEncoder
from workflows.search.vector_store import EmbeddedSplit, open_embedded
from workflows.search.word_index import WordHit, WordIndex
from workflows.terminal.formatting import printable

MAX_ANSWERS = 1000
"""The maximum number of answers of a search."""
MAX_HUB_QUERIES = 2000
"""The number of queries of one kind, at most, with which hubs are measured."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """The options of a search, beside its query."""

    k: int = 10
    """The number of answers, from 1 to `MAX_ANSWERS`."""
    to: str = "images"
    """The kind of answers: `images`, `words` or `both`."""
    splits: tuple[str, ...] = ()
    """The splits whose images can be answers; empty: all that are searched."""
    classes: tuple[str, ...] = ()
    """The classes whose images can be answers, by wnid or name; empty: all."""
    csls: bool = False
    """True to score by CSLS, which lowers the scores of hubs: answers near to every query."""
    fold: bool = True
    """True to make an image and its copies, such as files of another size, one answer."""


@dataclass(frozen=True)
class Answer:
    """The answers of a search, the nearest first."""

    query: str
    """The query as it was parsed."""
    images: tuple[ImageHit, ...]
    """The nearest images; empty if only words were to be found."""
    words: tuple[WordHit, ...]
    """The nearest classes and words; empty if only images were to be found."""
    passed_over: tuple[str, ...] = ()
    """The words of the query that are unknown and were ignored."""


class Engine:
    """A run that can be searched. It is thread-safe; `open_engine` makes one."""

    def __init__(self, model: Model, gallery: Gallery, embedded: Sequence[EmbeddedSplit]) -> None:
        """Build the indexes of words and images.

        Args:
            model: The model, which embeds words and further images.
            gallery: The images of the model's store.
            embedded: The splits to search, one or more.
        """
        self.model = model
        self.gallery = gallery
        self.embedded = {entry.name: entry for entry in embedded}
        self.words = WordIndex(model)
        self.images = ImageIndex(gallery, self.words)
        self._encoder = QueryEncoder(model, gallery, self.embedded)
        self._word_hubs: Hubs | None = None
        self._lock = threading.Lock()

    def search(
        self,
        query: Query,
        options: SearchOptions = SearchOptions(),
        *,
        image_vector: NDArray[np.float32] | None = None,
    ) -> Answer:
        """Return the images or words, or both, that are nearest to a query.

        Images and words that the query itself names are not among the answers.

        Args:
            query: The parsed query, from `tesserae.parse_query`. A row without a split, as in
                `#12`, is one of the first of `options.splits`, or of all splits.
            options: The `k` (number of answers, 1 to 1000), `to` (`images`, `words` or `both`), and
                the filters of images `splits` (names) and `classes` (wnids or names), each empty
                for all; with `csls` the scores of hubs, which are near to every query, are lowered,
                and the first such search takes seconds longer; with `fold`, an image and its copies
                are one answer (default: 10 images, of any split and class, by cosine, folded).
            image_vector: The unit vector of the image that came with the query, (dim,) float32,
                from `embed`; None if there is none (default). It is unused unless the query has an
                `@`.

        Returns:
            An `Answer`: `query` (the query as text), `images` (a tuple of `ImageHit`), `words` (a
            tuple of `WordHit`) and `passed_over` (the words of the query that are unknown and were
            ignored). `images` and `words` have at most `options.k` each, the nearest first; the
            kind that `options.to` excludes is empty. An `ImageHit` has `split`, `row`, `score` (the
            larger, the nearer), `label`, `wnid`, `words` (the names of its class), `query` (one
            that finds its class), `key` and `copies` (a tuple with `split`, `row`, `score` and
            `key` of each copy of it); a `WordHit` has `words` (the names of a class, or one
            word), `wnid`, `score`, `also` (words with the same vector) and `query`. Texts that do
            not apply are empty.

        Raises:
            QueryError: A word, row, split or class is unknown, an option is out of range, the query
                has an `@` but no image vector, or its terms cancel each other out.
            ValueError: *image_vector* has another length.
            StoreDamagedError: The table of the samples, or the shard of an image that the query
                names, is unreadable.
        """
        splits = self._check(options)
        vector = self._encoder.vector(query, image_vector, splits[0].name)
        images = [] if options.to == "words" else self._images(query, vector, splits, options)
        words = [] if options.to == "images" else self._words(query, vector, options)
        passed_over = self._encoder.passed_over(query)
        return Answer(str(query), tuple(images), tuple(words), passed_over)

    def open_preprocessor(self) -> ImagePreprocessor:
        """Return a new preprocessor of further images as the model takes them, to be closed."""
        model = self.model
        takes_squares = model.encoded is None and model.crop_share == 1
        share = None if takes_squares else model.crop_share
        return ImagePreprocessor(self.gallery.recipe, self.model.size, crop_share=share)

    def embed(self, square: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the unit vector of an image, (dim,) float32.

        Args:
            square: The image, (size, size, 3) uint8 RGB, where size is `self.model.size`: a result
                of `ImagePreprocessor.preprocess`.
        """
        return self._encoder.encode_image(square)

    def first(self, count: int) -> list[ImageHit]:
        """Return the first readable images of the first split, to show before the first search.

        Rows are stored in random order, so this is a random sample, the same one each time.

        Args:
            count: The number of images, at least 0; a split with fewer readable rows gives fewer.

        Returns:
            The images, as in the answers of `search`, in the order of their rows, each with score
            0.

        Raises:
            StoreDamagedError: The table of the samples is unreadable.
        """
        return self.images.first(next(iter(self.embedded.values())), count)

    def measure_hubs(self) -> None:
        """Measure all hubs now, so that the first searches with `csls` need not wait for it."""
        for entry in self.embedded.values():
            self._image_hubs(entry, by_words=True)
            self._image_hubs(entry, by_words=False)
        self._hubs_of_words()

    def close(self) -> None:
        """Release threads and files."""
        self.gallery.close()

    def _check(self, options: SearchOptions) -> list[EmbeddedSplit]:
        if not 1 <= options.k <= MAX_ANSWERS:
            raise QueryError(f"k is {options.k}: expected 1 to {MAX_ANSWERS:,}.")
        if options.to not in DIRECTIONS:
            raise QueryError(f"to is {options.to!r}: expected one of {', '.join(DIRECTIONS)}.")
        for name in options.splits:
            if name not in self.embedded:
                available = ", ".join(self.embedded)
                raise QueryError(f"split {name!r} is not searched here: expected {available}.")
        return [self.embedded[name] for name in dict.fromkeys(options.splits or self.embedded)]

    def _images(
        self,
        query: Query,
        vector: NDArray[np.float64],
        splits: list[EmbeddedSplit],
        options: SearchOptions,
    ) -> list[ImageHit]:
        stored_images = [term for term in query.terms if isinstance(term, StoredImage)]
        query_images = {(term.split or splits[0].name, term.row) for term in stored_images}
        by_words = all(isinstance(term, Phrase) for term in query.terms)
        hubs = [self._image_hubs(entry, by_words=by_words) for entry in splits if options.csls]
        labels = self.images.labels(options.classes)
        return self.images.search(
            vector,
            options.k,
            splits,
            labels=labels,
            exclude=query_images,
            hubs=hubs,
            fold=options.fold,
        )

    def _words(
        self, query: Query, vector: NDArray[np.float64], options: SearchOptions
    ) -> list[WordHit]:
        phrases = [term.text for term in query.terms if isinstance(term, Phrase)]
        interpretations = [self._encoder.interpret(text) for text in phrases]
        query_vectors = np.zeros((len(interpretations), self.model.dim))
        for index, interpretation in enumerate(interpretations):
            query_vectors[index] = interpretation.vector
        named = [
            *phrases,
            *(name for interpretation in interpretations for name in interpretation.names),
        ]
        hubs = self._hubs_of_words() if options.csls else None
        return self.words.search(vector, options.k, exclude=query_vectors, named=named, hubs=hubs)

    def _image_hubs(self, entry: EmbeddedSplit, *, by_words: bool) -> Hubs | None:
        if by_words:
            return self.images.hubs(entry, "words", self.words.sample(MAX_HUB_QUERIES))
        return self.images.hubs(entry, "images", entry.sample(MAX_HUB_QUERIES))

    def _hubs_of_words(self) -> Hubs | None:
        with self._lock:
            if self._word_hubs is None:
                samples = [entry.sample(MAX_HUB_QUERIES) for entry in self.embedded.values()]
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
    vectors: Path | None = None,
) -> Engine:
    """Open a run or a CLIP-like model to search a store; embed images unless their vectors exist.

    Vectors and indexes are kept in the folder `search` of the run, or, of a store that the run was
    not trained on, in a folder such as `search-photos-1a2b3c4d` with the name of the store and a
    digest of its location.

    Args:
        run: The folder of a run of `train devise`, or of a CLIP-like model of `transformers` with
            its tokenizer, as a `Path`, not a string.
        splits: The splits to search, each once; an error of any of them is raised. By default these
            are all finished ones that store the input size of the model; one with a StoreError,
            such as damaged shards, is then left out with a notice, and the error is raised only if
            no split remains.
        kind: The kind of index: `exact`, `lsh` or `hnsw` (default: `exact` up to 200,000 rows of a
            split, otherwise `hnsw`).
        digests: True to compare stored vectors with their digests, too (default); sizes and
            indexes always are. What is damaged is computed again.
        stream: The stream of progress and notices (default: standard error).
        store: The path or URL of the store to search, which is any, or the present location of the
            store that the run was trained on (default: that store, as recorded in the run, or a
            folder beside the run). Classes of another store are matched by wnid; it need not have
            classes. Its images of the size that the model takes are read, or others and resized.
        vectors: The folder in which a subfolder, with the name of the run and a digest of its path,
            has the folders of vectors (default: *run* has them).

    Returns:
        The engine, which the caller closes with `close`.

    Raises:
        TesseraeError: The run, the model or the store cannot be searched, or has no such split.
        ValueError: There is no such kind of index.
    """
    root = vectors_root(run, vectors)
    model = open_model(run, store=store, splits=splits, vectors=root, stream=stream)
    gallery = Gallery(
        model.store, model.size, model.encoded, model.crop_share, stored_size=model.stored_size
    )
    folder = root / model.vectors_folder
    named = [gallery.split(name) for name in dict.fromkeys(splits)]

    def embed(split: Split) -> EmbeddedSplit:
        return open_embedded(model, folder, split, kind, digests=digests, stream=stream)

    if named:
        return Engine(model, gallery, [embed(split) for split in named])
    embedded, reason = [], ""
    for split in gallery.splits.values():
        try:
            embedded.append(embed(split))
        except StoreError as e:
            reason = f"{split.plan.split} is not searched: {e}"
            print(printable(reason), file=stream or sys.stderr, flush=True)
    if not embedded:
        raise StoreError(reason)
    return Engine(model, gallery, embedded)
