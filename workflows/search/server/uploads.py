"""Pictures that visitors hand in: decoded in children, remembered for a while as vectors."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workflows.reports.html import encode_jpeg
from workflows.search.engine import Engine
from workflows.search.gallery import Squarer

KEPT = 256
"""Pictures that are remembered: some 20 kB each."""


@dataclass(frozen=True)
class Handed:
    """A picture as it is remembered."""

    name: str
    """By which it can be asked for: a digest of its bytes, which nobody guesses."""
    vector: NDArray[np.float32]
    jpeg: bytes
    """The square that the model saw."""


class HandedIn:
    """Those of a server. Any number of threads may use it at once."""

    def __init__(self, engine: Engine) -> None:
        """Start nothing yet."""
        self._engine = engine
        self._mine = threading.local()
        self._squarers: list[Squarer] = []
        self._kept: OrderedDict[str, Handed] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, data: bytes) -> Handed:
        """Decode and embed an image file, and remember it.

        Raises:
            QueryError: It is no readable picture.
        """
        name = hashlib.blake2b(data, digest_size=16).hexdigest()
        known = self.get(name)
        if known is not None:
            return known
        square = self._squarer().square(data)
        made = Handed(name, self._engine.embed(square), encode_jpeg(square))
        with self._lock:
            self._kept[name] = made
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return made

    def get(self, name: str) -> Handed | None:
        """One that was handed in not too long ago."""
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
            return self._kept.get(name)

    def _squarer(self) -> Squarer:
        squarer: Squarer | None = getattr(self._mine, "squarer", None)
        if squarer is None:
            engine = self._engine
            squarer = self._mine.squarer = Squarer(engine.gallery.recipe, engine.model.size)
            with self._lock:
                self._squarers.append(squarer)
        return squarer

    def close(self) -> None:
        """End the children; no thread may be using one."""
        for squarer in self._squarers:
            squarer.close()
