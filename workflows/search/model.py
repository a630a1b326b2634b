"""The interface of models for search: vectors of images and of words in one space.

A `TextImageModel` knows images and words, and no store. A `Model` also embeds the images of one
store: a run of DeViSE that of the store it was trained on, and `workflows.search.other_store` that
of any other store.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from pipeline.store.open import open_objects
from pipeline.store.records import load_recipe

if TYPE_CHECKING:
    from workflows.devise.model import DeviseModel


class TextImageModel(Protocol):
    """A model of images and words; `workflows.devise` implements it for runs and CLIP models."""

    @property
    def digest(self) -> str:
        """The identity of the trained weights and of the word vectors."""

    @property
    def dim(self) -> int:
        """The dimension of the vectors."""

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

    @property
    def image_digest(self) -> str:
        """The identity of all that decides the vectors of images: settings and all weights.

        Raises:
            TesseraeError: The network of the images cannot be opened.
        """

    def embed_stored_features(
        self, store: str, split: str, array_name: str, crop_share: float
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]] | None:
        """Return the vectors of a split of any store, from features that are stored there.

        Args:
            store: The path or URL of the store.
            split: The name of a finished split.
            array_name: The array of images from which the features must have been computed, such as
                `224` or `jpeg256@90`.
            crop_share: The side of the centre crop of encoded rows as a fraction of the short side.

        Returns:
            An iterator over tuples: the n rows of a block, (n,) int64, and their unit vectors, (n,
            dim) float32; None if the store has no such features that the model takes.

        Raises:
            TesseraeError: The network of the images cannot be opened, or a request failed.
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

    def knows(self, text: str) -> bool:
        """Return True if `phrase_vector` has a vector for a text.

        Args:
            text: The words as typed.

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


class Model(TextImageModel, Protocol):
    """A model with the images of one store; `workflows.devise.model` implements it for a run."""

    @property
    def store(self) -> str:
        """The path or URL of the store."""

    @property
    def vectors_folder(self) -> str:
        """The name of the folder, in that of the run or model, of the vectors of this store."""

    @property
    def stored_size(self) -> int:
        """The side, in pixels, of the stored squares that are read; encoded rows ignore it."""

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


def open_model(
    path: Path,
    *,
    store: str | None = None,
    splits: Sequence[str] = (),
    vectors: Path | None = None,
    stream: TextIO | None = None,
) -> Model:
    """Open a run of DeViSE or a CLIP-like model, and select the images of a store for it.

    Args:
        path: The folder of a run of `train devise`, or of a CLIP-like model of `transformers` with
            its tokenizer.
        store: The path or URL of the store to search: any, or the present location of the store
            that the run was trained on, if it has the features or images that the run reads
            (default: as recorded in the run, or a folder beside the run; a CLIP-like model has
            none).
        splits: The splits to search, which must have the images that are selected from a store
            that the run was not trained on (default: all finished ones).
        vectors: The folder that has the folders of vectors (default: *path*).
        stream: The stream of progress messages (default: standard error).

    Returns:
        The model, whose properties and methods `Model` describes. It is not to be closed.

    Raises:
        TesseraeError: It cannot be searched with, such as a run of another stage or without a
            checkpoint, or a model without a tokenizer; or the store does not suit it.
    """
    # Modules that load torch are imported late: a mistake in a query is reported without them.
    from workflows.search.other_store import OtherStoreModel, vectors_folder_of

    if not (path / "options.json").exists() and (path / "config.json").exists():
        from workflows.search.clip_model import ClipModel

        if store is None:
            raise TesseraeError(
                f"--store is required with {path}, which is not a run: the store to search."
            )
        classes = load_recipe(open_objects(store)).classes
        folder = (vectors or path) / vectors_folder_of(store)
        clip_model = ClipModel(path, classes, folder, stream=stream)
        return OtherStoreModel(clip_model, store, splits, stream=stream)
    from workflows.devise.model import open_devise_model

    run_model: DeviseModel = open_devise_model(path)
    if store is None:
        return run_model
    # A store of the same images may have other sizes, or no features.
    if run_model.run.was_trained_on(store) and run_model.can_read(store, splits):
        return replace(run_model, store_override=store)
    return OtherStoreModel(run_model, store, splits, stream=stream)
