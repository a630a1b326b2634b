"""The vectors of a study: those of words, from a file, or of images, from the features of a store.

A set has no vector that is zero or not finite: no direction can be compared with it. Nor are all of
its vectors equal: no measure tells those apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from pipeline.features.reader import Features, finished_features, open_features
from pipeline.neighbours.vectors import Floats, Rows, measure_lengths
from pipeline.store import records
from pipeline.store.open import open_objects
from pipeline.wordvectors.files import read_word_vectors
from workflows.studies.vector_options import VectorStudyOptions
from workflows.terminal.formatting import counted

MIN_VECTORS, MIN_QUERIES = 100, 20
"""The numbers of searched vectors, and of queries of a split of their own, below which a set is
refused: its figures would be noise."""


@dataclass(frozen=True, kw_only=True)
class VectorSet:
    """The vectors of words, or of the images of a split."""

    name: str
    """The kind of vectors: `words` or `images`."""
    origin: str
    """The file, or the features and the split, that they are from."""
    vectors: Floats
    """(n, d) float32, finite and not zero; of words the most frequent first."""
    labels: Rows | None = None
    """(n,) int64, the class of each image, -1 for none; None for words."""
    queries: Floats | None = None
    """(q, d) float32 of the split of the queries; None for words, which have no splits."""
    query_labels: Rows | None = None
    """(q,) int64, the class of each query."""
    num_dropped: int = 0
    """The number of vectors that were left out because they are zero or not finite."""

    @property
    def identity(self) -> dict[str, Any]:
        """The JSON values that tell these vectors from others, for the settings of a study."""
        digest = xxhash.xxh3_128(np.ascontiguousarray(self.vectors).data)
        if self.queries is not None:
            digest.update(np.ascontiguousarray(self.queries).data)
        return {"origin": self.origin, "vectors": self.shape_text, "digest": digest.hexdigest()}

    @property
    def shape_text(self) -> str:
        """The number of vectors and of their dimensions, such as `8,000 x 300`."""
        return f"{len(self.vectors):,} x {self.vectors.shape[1]}"

    def describe(self) -> str:
        """Return a sentence on the vectors, without a period."""
        queries = "" if self.queries is None else f", and {len(self.queries):,} queries"
        dropped = (
            f"; {counted(self.num_dropped, 'vector')} left out, zero or not finite"
            if self.num_dropped
            else ""
        )
        return f"{self.name}: {self.origin}, {self.shape_text}{queries}{dropped}"


def open_vector_sets(options: VectorStudyOptions) -> Iterator[VectorSet]:
    """Read the word vectors and the features that the options name.

    Args:
        options: The options of a study.

    Yields:
        The words first, then the images.

    Raises:
        SourceError: The file of word vectors cannot be read.
        TesseraeError: The store or its features cannot be opened, or there are too few vectors.
        ValueError: `features` is None, and the store has none or several.
    """
    if options.word_vectors is not None:
        yield _words(options.word_vectors, options.max_vectors)
    if options.store is not None:
        yield _images(options)


def _words(file: str, limit: int) -> VectorSet:
    vectors, _, num_dropped = _usable(
        read_word_vectors(file, limit=limit).vectors, file, MIN_VECTORS
    )
    return VectorSet(name="words", origin=Path(file).name, vectors=vectors, num_dropped=num_dropped)


def _images(options: VectorStudyOptions) -> VectorSet:
    store = str(options.store)
    name = options.features or only_features(store, options.split)
    splits = []
    num_dropped = 0
    for split, min_count in ((options.split, MIN_VECTORS), (options.query_split, MIN_QUERIES)):
        features = open_features(store, name, split)
        rows = features.readable[: options.max_vectors]
        vectors, usable, dropped = _usable(
            features.rows(rows), f"split {split} of {store}", min_count
        )
        num_dropped += dropped
        splits.append((vectors, _labels(features, rows[usable])))
    (vectors, labels), (queries, query_labels) = splits
    return VectorSet(
        name="images",
        origin=f"features {name}, split {options.split}",
        vectors=vectors,
        labels=labels,
        queries=queries,
        query_labels=query_labels,
        num_dropped=num_dropped,
    )


def _labels(features: Features, rows: Rows) -> Rows:
    return np.asarray(features.split.labels[rows], np.int64)


def _usable(vectors: NDArray[Any], origin: str, min_count: int) -> tuple[Floats, Rows, int]:
    """Return the vectors with a direction, their numbers, and how many others there are."""
    rows = np.flatnonzero(measure_lengths(vectors).usable)
    if len(rows) < min_count:
        raise TesseraeError(
            f"{origin} has {counted(len(rows), 'vector')} that are finite and not zero: expected"
            f" at least {min_count}. Pass a larger file, or another split."
        )
    usable = np.asarray(vectors[rows], np.float32)
    if (usable == usable[0]).all():
        raise TesseraeError(
            f"all {len(rows):,} vectors of {origin} are equal, so that none is nearer than another:"
            " the network that computed them may have diverged. Pass other vectors."
        )
    return usable, rows, len(vectors) - len(rows)


def only_features(store: str, split: str) -> str:
    """Return the name of the only features of a split.

    Args:
        store: Folder or URL of the store.
        split: Name of the split.

    Raises:
        StoreError: There is no store, or no such split.
        ValueError: The split has none, or several.
    """
    objects = open_objects(store)
    records.load_plan(objects, split)  # says so if there is no store, or no such split
    names = list(finished_features(objects, split))
    if not names:
        raise ValueError(
            f"split {split!r} of {store} has no features of a network: compute them with `tesserae"
            " features`."
        )
    if len(names) > 1:
        raise ValueError(
            f"--features is required: split {split!r} of {store} has {', '.join(names)}."
        )
    return names[0]
