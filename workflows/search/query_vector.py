"""A query as a vector: directions are added, taken away, and gone between."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from workflows.search.free_text import Understood, understand
from workflows.search.gallery import Gallery
from workflows.search.model import Model
from workflows.search.query import Between, Given, Phrase, Picture, Query, QueryError, Term
from workflows.search.vector_store import Embedded

Doubles = NDArray[np.float64]

LEAST = 1e-6
"""Share of a sum's weights that must be left of it for it to have a direction."""


class Meaning:
    """Looks up words and pictures. Any number of threads may ask at once."""

    def __init__(self, model: Model, gallery: Gallery, embedded: Mapping[str, Embedded]) -> None:
        """Take them.

        Args:
            model: Knows words, and makes vectors of pictures.
            gallery: The pictures of its store.
            embedded: By split, those whose vectors are there already.
        """
        self._model = model
        self._gallery = gallery
        self._embedded = embedded
        self._labels = {wnid: label for label, (wnid, _) in enumerate(model.classes)}
        names = reversed(list(enumerate(model.classes)))
        self._listed = {words.casefold(): label for label, (_, words) in names}
        self._lock = threading.Lock()  # nobody promises that a network bears two threads

    def vector(self, query: Query, given: NDArray[np.float32] | None, split: str) -> Doubles:
        """(dim,) of length 1.

        Args:
            query: What was asked.
            given: (dim,), the picture that came with it.
            split: Whose rows are meant where no split is named.

        Raises:
            QueryError: A word or a row is not known, or nothing is left of the sum.
        """
        found = np.zeros(self._model.dim)
        for part in query.parts:
            found += part.weight * self._direction(part.what, given, split)
        if np.linalg.norm(found) < LEAST * sum(abs(part.weight) for part in query.parts):
            raise QueryError(f"nothing is left of {query}: its parts cancel each other out.")
        return _unit(found)

    def picture(self, square: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(dim,) of length 1: any picture, (size, size, 3) uint8 RGB."""
        with self._lock:
            found: NDArray[np.float32] = self._model.images(square[None])[0]
            return found

    def understood(self, text: str) -> Understood:
        """Look up a name or words, the wnid of a class or its names; else what is known of it.

        Raises:
            QueryError: Nothing of it is known; names what is spelled nearly so.
        """
        vector = self._phrase(text)
        if vector is not None:
            return Understood(vector, (text,))
        found = understand(text, self._name, self._phrase)
        if found is None:
            raise QueryError(f"{text!r} is not known{self._hint(text)}")
        return found

    def passed_over(self, query: Query) -> tuple[str, ...]:
        """List the words of a query that are not known, each once."""
        phrases = [term.text for term in query.terms if isinstance(term, Phrase)]
        words = [word for text in phrases for word in self.understood(text).passed_over]
        return tuple(dict.fromkeys(words))

    def _phrase(self, text: str) -> NDArray[np.float32] | None:
        vector = self._class_vector(text)
        return self._model.phrase(text) if vector is None else vector

    def _name(self, text: str) -> NDArray[np.float32] | None:
        vector = self._class_vector(text)
        return self._model.name(text) if vector is None else vector

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
        self, what: Term | Between, given: NDArray[np.float32] | None, split: str
    ) -> Doubles:
        if isinstance(what, Between):
            first = self._direction(what.first, given, split)
            return slerp(first, self._direction(what.second, given, split), what.share)
        found = np.asarray(self._term(what, given, split), np.float64)
        if not np.isfinite(found).all() or not found.any():
            raise QueryError(f"{what} has no direction: nothing is near to it. Choose another.")
        return _unit(found)

    def _term(
        self, term: Term, given: NDArray[np.float32] | None, split: str
    ) -> NDArray[np.float32]:
        if isinstance(term, Phrase):
            return self.understood(term.text).vector
        if isinstance(term, Picture):
            return self._stored(term.split or split, term.row)
        if given is None:
            raise QueryError(f"{Given()} stands for a picture that comes with the query: give one.")
        return given

    def _stored(self, split: str, row: int) -> NDArray[np.float32]:
        self._gallery.check(split, row)
        if split in self._embedded:
            return self._embedded[split].vector(row)
        return self.picture(self._gallery.rows(split, self._model.size, [row])[0])


def slerp(first: Doubles, second: Doubles, share: float) -> Doubles:
    """Walk *share* of the angle from one direction to another, on the shortest way.

    Shoemake, "Animating rotation with quaternion curves", 1985.

    Args:
        first: (dim,) of length 1.
        second: (dim,) of length 1.
        share: 0 to 1.

    Raises:
        QueryError: They are opposite: every way is as short.
    """
    # of a chord and of a sum: exact where an arc cosine is not
    angle = 2 * np.arctan2(np.linalg.norm(first - second), np.linalg.norm(first + second))
    if np.pi - angle < LEAST:
        raise QueryError("the two sides of ~ are opposite: there is no way between them.")
    if angle < LEAST:
        return _unit((1 - share) * first + share * second)
    weights = np.sin((1 - share) * angle), np.sin(share * angle)
    return _unit(weights[0] * first + weights[1] * second)


def _unit(vector: Doubles) -> Doubles:
    return np.asarray(vector / np.linalg.norm(vector), np.float64)
