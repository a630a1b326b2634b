"""The vector of a query: sums, differences and interpolations of unit vectors."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.neighbours.vectors import Doubles
from workflows.search.free_text import Interpretation, interpret
from workflows.search.gallery import Gallery
from workflows.search.model import Model
from workflows.search.query import (
    Interpolation,
    Phrase,
    Query,
    QueryError,
    StoredImage,
    Term,
    UploadedImage,
)
from workflows.search.vector_store import EmbeddedSplit

TOLERANCE = 1e-6
"""The smallest length of a sum relative to its weights, and the smallest angle in radians, that
define a direction."""


class QueryEncoder:
    """An encoder of queries as vectors. It is thread-safe."""

    def __init__(
        self, model: Model, gallery: Gallery, embedded: Mapping[str, EmbeddedSplit]
    ) -> None:
        """Build the tables that look up classes by name.

        Args:
            model: The model, which looks up words and embeds images.
            gallery: The images of the model's store.
            embedded: The splits whose vectors are stored, by name.
        """
        self._model = model
        self._gallery = gallery
        self._embedded = embedded
        self._labels = {wnid: label for label, (wnid, _) in enumerate(model.classes)}
        names = reversed(list(enumerate(model.classes)))
        self._listed = {words.casefold(): label for label, (_, words) in names}
        self._lock = threading.Lock()  # the model's network need not be thread-safe

    def vector(self, query: Query, image_vector: NDArray[np.float32] | None, split: str) -> Doubles:
        """Return the unit vector of a query, (dim,) float64.

        Args:
            query: The parsed query.
            image_vector: The vector of the image that came with the query, (dim,) float32, which
                need not be of unit length but must not be zero; None: no image.
            split: The name of the split of stored images that the query names by row alone.

        Raises:
            QueryError: A word, split or row is unknown, the query has an `@` but no image came with
                it, a vector is zero or not finite, or the terms cancel each other out.
            ValueError: *image_vector*, which the query needs, has another length.
            StoreDamagedError: The shard of an image that the query names is damaged.
        """
        total = np.zeros(self._model.dim)
        for part in query.parts:
            total += part.weight * self._direction(part.term, image_vector, split)
        if np.linalg.norm(total) < TOLERANCE * sum(abs(part.weight) for part in query.parts):
            raise QueryError(f"the terms of {query} cancel each other out.")
        return _unit_vector(total)

    def encode_image(self, square: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the unit vector of an image, (dim,) float32, where dim is the model's `dim`.

        Args:
            square: The image, (size, size, 3) uint8 RGB, as `ImagePreprocessor.preprocess` returns
                it for the model's `size`; another side is not refused.
        """
        with self._lock:
            vector: NDArray[np.float32] = self._model.embed_images(square[None])[0]
            return vector

    def interpret(self, text: str) -> Interpretation:
        """Look up a name, words, a wnid or all names of a class; else interpret it as free text.

        Args:
            text: The text as typed, without operators. A wnid is spelt as in the store; all names
                of a class are separated by commas, as tables print them.

        Returns:
            The interpretation: `vector` (the unit vector, (dim,) float32), `names` (the known
            names; *text* alone if it is known as a whole) and `passed_over` (the unknown words,
            which are ignored).

        Raises:
            QueryError: No word of it is known, or the vectors of its words cancel each other out;
                the message suggests words of similar spelling.
        """
        vector = self._phrase(text)
        if vector is not None:
            return Interpretation(vector, (text,))
        interpretation = interpret(text, self._name, self._phrase)
        if interpretation is None:
            raise QueryError(f"{text!r} is unknown{self._hint(text)}")
        return interpretation

    def passed_over(self, query: Query) -> tuple[str, ...]:
        """Return the unknown words of a query, which are ignored, each once in their order.

        Args:
            query: The parsed query.

        Raises:
            QueryError: No word of a phrase is known, or its words cancel each other out.
        """
        phrases = [term.text for term in query.terms if isinstance(term, Phrase)]
        words = [word for text in phrases for word in self.interpret(text).passed_over]
        return tuple(dict.fromkeys(words))

    def _phrase(self, text: str) -> NDArray[np.float32] | None:
        vector = self._class_vector(text)
        return self._model.phrase_vector(text) if vector is None else vector

    def _name(self, text: str) -> NDArray[np.float32] | None:
        vector = self._class_vector(text)
        return self._model.name_vector(text) if vector is None else vector

    def _class_vector(self, text: str) -> NDArray[np.float32] | None:
        """Return the vector of a class by its wnid, or by all of its names as tables show them."""
        label = self._labels.get(text)
        if label is None and "," in text:
            label = self._listed.get(text.casefold())
        vector = None if label is None else self._model.class_vectors[label]
        return vector if vector is not None and vector.any() else None

    def _hint(self, text: str) -> str:
        near = " or ".join(self._model.suggest(text))
        hint = f": did you mean {near}?" if near else ": choose other words."
        if re.search(r"\S[-+~*]\S", text):
            hint += " An operator has spaces around it, as in boat + snow."
        return hint

    def _direction(
        self, term: Term | Interpolation, image_vector: NDArray[np.float32] | None, split: str
    ) -> Doubles:
        if isinstance(term, Interpolation):
            first = self._direction(term.first, image_vector, split)
            return slerp(first, self._direction(term.second, image_vector, split), term.share)
        vector = np.asarray(self._term(term, image_vector, split), np.float64)
        if not np.isfinite(vector).all() or not vector.any():
            raise QueryError(f"{term} has no valid vector to search with. Choose another.")
        return _unit_vector(vector)

    def _term(
        self, term: Term, image_vector: NDArray[np.float32] | None, split: str
    ) -> NDArray[np.float32]:
        if isinstance(term, Phrase):
            return self.interpret(term.text).vector
        if isinstance(term, StoredImage):
            return self._stored(term.split or split, term.row)
        if image_vector is None:
            raise QueryError(
                f"{UploadedImage()} is the image of the query, but the query has none: add an"
                " image."
            )
        return image_vector

    def _stored(self, split: str, row: int) -> NDArray[np.float32]:
        self._gallery.check(split, row)
        if split in self._embedded:
            return self._embedded[split].vector(row)
        return self.encode_image(self._gallery.inputs(split, [row])[0])


def slerp(first: Doubles, second: Doubles, share: float) -> Doubles:
    """Interpolate between two directions along the shortest arc.

    Shoemake, "Animating rotation with quaternion curves", 1985.

    Args:
        first: A unit vector, (dim,) float64.
        second: A unit vector, (dim,) float64.
        share: The share of the angle, from 0 (first) to 1 (second).

    Returns:
        The interpolated unit vector, (dim,) float64.

    Raises:
        QueryError: The directions are opposite, so that the shortest arc is not unique.
    """
    # The arctangent is accurate for small and large angles, where an arc cosine is not.
    angle = 2 * np.arctan2(np.linalg.norm(first - second), np.linalg.norm(first + second))
    if np.pi - angle < TOLERANCE:
        raise QueryError(
            "the two sides of ~ point in opposite directions and cannot be interpolated."
        )
    if angle < TOLERANCE:
        return _unit_vector((1 - share) * first + share * second)
    weights = np.sin((1 - share) * angle), np.sin(share * angle)
    return _unit_vector(weights[0] * first + weights[1] * second)


def _unit_vector(vector: Doubles) -> Doubles:
    return np.asarray(vector / np.linalg.norm(vector), np.float64)
