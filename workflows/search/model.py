"""What a search asks of a run that was trained: vectors of pictures and of words, in one space."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Model(Protocol):
    """A trained run. `workflows.devise.model` has one."""

    @property
    def digest(self) -> str:
        """Identity of the trained weights and of the words."""

    @property
    def dim(self) -> int:
        """Numbers of a vector."""

    @property
    def store(self) -> str:
        """Path or URL of the store it was trained on."""

    @property
    def size(self) -> int:
        """Side in pixels of the stored pictures that it takes."""

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """(wnid, words) of label 0, 1, ..."""

    @property
    def class_vectors(self) -> NDArray[np.float32]:
        """(C, dim) of length 1; zeros where a class has none."""

    def images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Vectors of pictures.

        Args:
            images: (n, size, size, 3) uint8 RGB.

        Returns:
            (n, dim) of length 1.
        """

    def rows(self, split: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """All readable rows of a split in blocks: (n,) rows, (n, dim) vectors.

        A row that comes a second time is its mirrored copy.
        """

    def phrase(self, text: str) -> NDArray[np.float32] | None:
        """(dim,) of length 1: a name, or a word of several words; None: it is not known."""

    def name(self, text: str) -> NDArray[np.float32] | None:
        """(dim,) of length 1: a name that is known as one, never made of its words; None: none."""

    def suggest(self, text: str) -> list[str]:
        """Known words that are spelled nearly so."""

    def vocabulary(self) -> tuple[list[str], NDArray[np.float32]]:
        """Words beyond the classes that a picture may be answered with: n names, (n, dim)."""


def open_model(run: Path, *, store: str | None = None) -> Model:
    """The model of a run's folder.

    Args:
        run: The folder.
        store: Where the store of the run is now (where the run says, or beside the run).

    Raises:
        TesseraeError: It is no run that can be searched.
    """
    from workflows.devise import model  # loads torch: not before it is needed

    opened: Model = model.open_model(run, store=store)
    return opened
