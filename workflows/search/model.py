"""The interface of a trained run for search: vectors of images and of words in one space."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Model(Protocol):
    """A trained run that can be searched; `workflows.devise.model` implements it."""

    @property
    def digest(self) -> str:
        """The identity of the trained weights and of the word vectors."""

    @property
    def dim(self) -> int:
        """The dimension of the vectors."""

    @property
    def store(self) -> str:
        """The path or URL of the store that the run was trained on."""

    @property
    def size(self) -> int:
        """The side, in pixels, of the square images that the model takes."""

    @property
    def encoded(self) -> str | None:
        """The name of the encoded rows that the model takes crops of; None for stored squares."""

    @property
    def crop_share(self) -> float:
        """The side of the centre crop of encoded rows as a fraction of the short side."""

    @property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """The (wnid, names) of labels 0, 1, ..., with names separated by commas."""

    @property
    def class_vectors(self) -> NDArray[np.float32]:
        """The unit vectors of the classes, (C, dim) float32; zeros for a class without a vector."""

    def embed_images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the vectors of images.

        Args:
            images: The images, (n, size, size, 3) uint8 RGB, n > 0, where size is `self.size`.

        Returns:
            Unit vectors in the order of the images, (n, dim) float32.
        """

    def embed_split(self, split: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield the vectors of all readable rows of a split, in blocks.

        Args:
            split: The name of a finished split of the model's store.

        Yields:
            A tuple: the n rows of a block, (n,) int64, and their unit vectors, (n, dim) float32.
            The second occurrence of a row is its mirrored copy.

        Raises:
            TesseraeError: The store, or a finished split of this name, is not there.
        """

    def phrase_vector(self, text: str) -> NDArray[np.float32] | None:
        """Return the unit vector of a name or of several words, (dim,) float32; None if unknown.

        It may be a view of the model's own vectors, and must not be changed. The first call of a
        run with word vectors may write an index of them into the run folder.

        Args:
            text: The words as typed, in any case, such as `fishing net`; words that have no vector
                as one name get the mean of their vectors, if all are known. A run without word
                vectors knows only the names of classes.

        Raises:
            TesseraeError: The file of word vectors is not that of the run, or is unreadable.
        """

    def name_vector(self, text: str) -> NDArray[np.float32] | None:
        """Return the unit vector of one name, (dim,) float32; None if it is unknown.

        Args:
            text: The name as typed, of one or more words, whose vectors are never averaged.

        Raises:
            TesseraeError: The file of word vectors is not that of the run, or is unreadable.
        """

    def suggest(self, text: str) -> list[str]:
        """Return known words of similar spelling, at most three; empty if there are none.

        Args:
            text: The unknown words as typed.

        Raises:
            TesseraeError: The file of word vectors is not that of the run, or is unreadable.
        """

    def vocabulary(self) -> tuple[list[str], NDArray[np.float32]]:
        """Return the further words that can be answers, beside the classes.

        Returns:
            n words, and their unit vectors, (n, dim) float32; n may be 0.
        """


def open_model(run: Path, *, store: str | None = None) -> Model:
    """Open the model of a run.

    Args:
        run: The folder of a run of `train devise`, as a `Path`.
        store: The present path or URL of the store, which is opened when it is first used (default:
            as recorded in the run, or a folder beside the run).

    Returns:
        The model, whose properties and methods `Model` describes. It is not to be closed.

    Raises:
        TesseraeError: The run cannot be searched, such as one of another stage or without a
            checkpoint.
    """
    from workflows.devise import model  # imported late, because it loads torch

    opened: Model = model.open_devise_model(run, store=store)
    return opened
