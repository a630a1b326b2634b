"""A trained DeViSE run, which maps images and words into one space, for search and evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.backbone.network import Backbone
from pipeline.errors import StoreError, TesseraeError
from pipeline.features.reader import Features, open_features
from pipeline.features.worker import compute_features, open_recipe_backbone
from pipeline.loader import Loader
from pipeline.store import derived, records
from pipeline.store import features as feature_records
from pipeline.store.encoding import parse_encoding
from pipeline.store.features import FeatureRecipe, load_feature_recipe
from pipeline.store.open import open_objects
from pipeline.wordvectors.mapped_word_vectors import open_word_vectors
from pipeline.wordvectors.vectors import WordVectors, split_names
from workflows.devise.heads import Head
from workflows.devise.options import DeviseOptions
from workflows.devise.stage import make_head, open_trunk
from workflows.devise.word_space import WordSpace, l2_normalise, load_word_space
from workflows.training.run_folder import RunFolder

STAGE = "devise"
"""The name of the stage in `options.json`."""
MAX_BLOCK_ROWS = 4_096
"""The number of feature rows that are mapped in one block."""
MAX_TRUNK_IMAGES = 64
"""The number of images in one forward pass of the trunk."""
VECTORS_FOLDER = "search"
"""The subfolder of a run that holds the vectors of the images of its store."""
WORDS_FOLDER = Path(VECTORS_FOLDER) / "words"
"""The subfolder of a run that holds the index of its word vectors."""
MAX_VOCABULARY = 50_000
"""The number of words, from the most frequent on, that can be answers."""


@dataclass(frozen=True, kw_only=True)
class TrunkIdentity:
    """The identity of a trunk: two of the same identity compute the same features."""

    weights: str
    """The SHA-256 of its kind, settings and weights, in hexadecimal."""
    cut: str
    """The block whose output is used; empty for the last one."""
    pooling: str
    """The pooling of that output."""
    transform: tuple[int, tuple[float, ...], tuple[float, ...], str]
    """The side of its images in pixels, means, divisors and order of the channels."""
    precision: str
    """The number format of the computation, `float32` or `bfloat16`."""

    @classmethod
    def of_recipe(cls, recipe: FeatureRecipe) -> TrunkIdentity:
        """Return the identity of the trunk that has computed features.

        Args:
            recipe: The recipe of the features.
        """
        return cls(
            weights=recipe.weights,
            cut=recipe.cut,
            pooling=recipe.pooling,
            transform=(recipe.input_size, recipe.mean, recipe.std, recipe.channels),
            precision=recipe.precision,
        )


@dataclass(frozen=True)
class DeviseModel:
    """A run of DeViSE at its newest checkpoint; it implements `workflows.search.model.Model`."""

    options: DeviseOptions
    """The options of the run."""
    space: WordSpace
    """The word space of the run."""
    head: Head
    """The trained head, in evaluation mode."""
    run: RunFolder
    """The run folder."""
    store_override: str | None
    """The store as given on the command line, a path or URL; None: as recorded in the run."""
    split: str
    """The split that the run was trained on."""
    size: int
    """The side in pixels of the images that the model takes: of stored squares, or that to which
    crops of encoded rows are resized."""
    features: str | None
    """The name of the features that the head takes; None if the trunk was trained too."""
    digest: str
    """The identity of the model: it changes whenever any output may change."""
    step: int
    """The number of complete steps at the checkpoint."""
    device: torch.device
    """The device that computes vectors."""
    trunk_state: dict[str, Tensor] | None
    """The trained weights of the trunk; None for a trunk that was not trained."""
    folder: Path
    """The path of the run's folder."""

    @property
    def vectors_folder(self) -> str:
        """The name of the run's subfolder that holds the vectors of the images of its store."""
        return VECTORS_FOLDER

    @property
    def dim(self) -> int:
        """The dimension of the word space."""
        return self.space.dim

    @cached_property
    def store(self) -> str:
        """The path or URL of the store that the run was trained on.

        Raises:
            TesseraeError: No store is there, or it has other rows.
        """
        return self.run.store(self.store_override)

    @cached_property
    def _feature_recipe(self) -> FeatureRecipe | None:
        """The recipe of the features that the head takes; None if the trunk was trained too."""
        if self.features is None:
            return None
        return load_feature_recipe(open_objects(self.store), self.features)

    @property
    def encoded(self) -> str | None:
        """The name of the encoded rows that the model takes; None for stored squares.

        Raises:
            TesseraeError: The store of the run is not found, or its features are missing.
        """
        if self._feature_recipe is not None:
            return self._feature_recipe.encoded
        encoded = self.options.encoded
        return None if encoded is None else parse_encoding(encoded).array_name

    @property
    def crop_share(self) -> float:
        """The side of the centre crop of encoded rows as a fraction of the short side.

        Raises:
            TesseraeError: The store of the run is not found, or its features are missing.
        """
        return 1.0 if self._feature_recipe is None else self._feature_recipe.crop_share

    def can_read(self, store: str, splits: Sequence[str]) -> bool:
        """Return True if a store has what the model reads, its features or else its images.

        Args:
            store: The path or URL of a store with the rows of the run.
            splits: The splits that must have it (default, if empty: any finished one).

        Raises:
            TesseraeError: A record of the store is damaged, or a request failed.
        """
        objects = open_objects(store)
        if self.features is not None and self.features not in feature_records.names(objects):
            return False

        def has_input(split: str) -> bool:
            if self.features is not None:
                name, kind = self.features, FeatureRecipe
                return derived.load_finish_record(objects, kind, name, split) is not None
            done = records.load_finish_record(objects, split)
            return done is not None and self.array_name in done.array_names

        return (all if splits else any)(map(has_input, splits or records.stored_splits(objects)))

    @property
    def stored_size(self) -> int:
        """The side in pixels of the stored squares that are read: `size`."""
        return self.size

    @property
    def array_name(self) -> str:
        """The name of the array that the model's images are read from, such as `224`.

        Raises:
            TesseraeError: The store of the run is not found, or its features are missing.
        """
        return self.encoded or str(self.size)

    @cached_property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """The (wnid, names) of labels 0, 1, ..., with names separated by commas."""
        pairs = zip(self.space.wnids.tolist(), self.space.names.tolist(), strict=True)
        return tuple((str(wnid), str(words)) for wnid, words in pairs)

    @property
    def class_vectors(self) -> NDArray[np.float32]:
        """The unit vectors of the classes, (C, dim) float32; zeros for a class without a vector."""
        return self.space.vectors

    @cached_property
    def trunk(self) -> Backbone:
        """The network that computes features from images.

        A pretrained one is compared with the recipe of the features that the head was trained on,
        if the store of the run is there.

        Raises:
            StoreMismatchError: It is another network than that of the features.
            TesseraeError: It cannot be opened.
        """
        recipe = self._reachable_recipe
        if recipe is not None and self.options.trunk is not None:
            return open_recipe_backbone(recipe, self.options.trunk, self.device)
        trunk = open_trunk(self.options, self.device, trainable=False, size=self.size)
        if self.trunk_state is not None:
            trunk.model.load_state_dict(self.trunk_state)
        return trunk

    @property
    def _reachable_recipe(self) -> FeatureRecipe | None:
        """The recipe of the features; None without features, or without the store of the run."""
        try:
            return self._feature_recipe
        except TesseraeError:
            return None

    @cached_property
    def trunk_identity(self) -> TrunkIdentity:
        """The identity of the trunk, with which features of other stores are compared."""
        recipe = self._reachable_recipe
        if recipe is not None:
            return TrunkIdentity.of_recipe(recipe)
        trunk, options = self.trunk, self.options
        return TrunkIdentity(
            weights=trunk.digest,
            cut=options.cut or "",
            pooling=options.pooling,
            transform=(trunk.size, trunk.mean, trunk.std, trunk.transform.channels),
            precision=options.feature_precision,
        )

    @cached_property
    def image_digest(self) -> str:
        """The identity of all that decides the vectors of images, with the weights of the trunk.

        Raises:
            TesseraeError: Neither the store of the run nor its trunk can be opened.
        """
        if self.features is None:  # the trunk was trained too, so `digest` has its weights
            return self.digest
        return hashlib.sha256(f"{self.digest} {self.trunk_identity}".encode()).hexdigest()

    def embed_stored_features(
        self, store: str, split: str, array_name: str, crop_share: float
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]] | None:
        """Return an iterator over a split of any store, from features that are stored there.

        Args:
            store: The path or URL of the store.
            split: The name of a finished split.
            array_name: The array of images from which the features must have been computed.
            crop_share: The side of the centre crop of encoded rows as a fraction of the short side.

        Returns:
            What `embed_split` yields; None if the store has no finished features of these images by
            the network of the run, or if the run has trained its trunk.

        Raises:
            StoreError: The request to an object store failed.
            TesseraeError: The trunk of the run cannot be opened, with which they are compared.
        """
        if self.features is None:
            return None
        objects = open_objects(store)
        for name in feature_records.names(objects):
            with suppress(StoreError):  # unfinished, or without records: images are read
                recipe = load_feature_recipe(objects, name)
                images = recipe.array_name, recipe.crop_share
                if (
                    images == (array_name, crop_share)
                    and TrunkIdentity.of_recipe(recipe) == self.trunk_identity
                ):
                    return self._embed_features(open_features(store, name, split))
        return None

    @torch.no_grad()
    def embed(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Map features to unit vectors of the word space.

        Args:
            features: (n, D) float32, not standardised: the head standardises them; n may be 0.

        Returns:
            (n, dim) float32, in main memory.
        """
        parts = torch.split(torch.from_numpy(features), MAX_BLOCK_ROWS)
        outputs = [self.head(part.to(self.device)).cpu().numpy() for part in parts]
        return (
            l2_normalise(np.concatenate(outputs))
            if outputs
            else np.empty((0, self.dim), np.float32)
        )

    def embed_images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Map images, prepared with the recipe of the store, to the word space.

        The trunk, which is opened at the first call, resizes and normalises them.

        Args:
            images: The images, (n, size, size, 3) uint8 RGB, n > 0, where size is the attribute
                `size` of the model, the side of the stored images.

        Returns:
            Unit vectors, (n, dim) float32, in main memory.
        """
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        features = [
            compute_features(self.trunk, part, self.options.feature_precision)
            for part in torch.split(pixels, MAX_TRUNK_IMAGES)
        ]
        return self.embed(np.concatenate(features))

    def embed_split(self, split: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """Yield all readable rows of a split in blocks, in ascending order, each row once.

        Stored features are read if the model has them; otherwise images are read and mapped.

        Args:
            split: The name of a finished split of the model's store.

        Yields:
            The n rows of a block, (n,) int64, and their unit vectors in the word space, (n, dim)
            float32, where dim is the dimension of the word space. A block has at most 4,096 rows.

        Raises:
            TesseraeError: The store of the run is not found, or the split or its features are not
                finished.
        """
        if self.features is not None:
            yield from self._embed_features(open_features(self.store, self.features, split))
            return
        loader = Loader(
            self.store, split, size=self.size, encoded=self.encoded, batch_size=MAX_TRUNK_IMAGES,
            order="sequential", drop_last=False, rank=0, world=1,
        )  # fmt: skip
        for batch in loader:
            assert isinstance(batch.images, Tensor)  # of one size
            pixels = batch.images.permute(0, 2, 3, 1).contiguous().numpy()
            yield batch.rows.numpy(), self.embed_images(pixels)

    def _embed_features(
        self, stored: Features
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        for start in range(0, len(stored.readable), MAX_BLOCK_ROWS):
            rows = stored.readable[start : start + MAX_BLOCK_ROWS]
            yield rows, self.embed(stored.rows(rows))

    # --- words ----------------------------------------------------------------------------------

    @cached_property
    def _words(self) -> WordVectors | None:
        file = self.options.word_vectors
        if file is None:
            return None
        return open_word_vectors(Path(file), str(self.space.words), self.folder / WORDS_FOLDER)

    @cached_property
    def _label_of_name(self) -> dict[str, int]:
        """The label of each class name; the first label if several classes share a name."""
        labels = np.flatnonzero(self.class_vectors.any(1)).tolist()
        pairs = [
            (name.casefold(), label)
            for label in reversed(labels)
            for name in split_names(self.classes[label][1] or self.classes[label][0])
        ]
        return dict(pairs)

    def phrase_vector(self, text: str) -> NDArray[np.float32] | None:
        """Return the unit vector of a name or phrase in the word space; None if it is unknown.

        With word vectors, it is that of the text as one token, otherwise of the mean of its words,
        all of which must be known. Without, only the names of classes are known, and of classes
        that share one the first. The first call of this or a similar method opens the file of word
        vectors, and writes an index of it into the subfolder `search/words` of the run if there is
        none and the folder is writable.

        Args:
            text: The name or phrase, in upper or lower case, such as `golf ball`.

        Returns:
            (dim,) float32, which must only be read, or None.

        Raises:
            TesseraeError: The file of word vectors is not the one that the run was trained with, or
                cannot be read.
        """
        if self._words is None:
            label = self._label_of_name.get(" ".join(text.split()).casefold())
            return None if label is None else self.class_vectors[label]
        vector = self._words.phrase_vector(text)
        return None if vector is None else self.space.map_vectors(vector[None])[0]

    def name_vector(self, text: str) -> NDArray[np.float32] | None:
        """Return the unit vector of one name in the word space; None if it is unknown.

        The name must be one token of the word vectors: its words are not averaged. Without word
        vectors, only the names of classes are known, and of classes that share one the first. Like
        `phrase_vector` it opens the file of word vectors at first, and may write an index of it.

        Args:
            text: The name, in upper or lower case, of one or several words with spaces, `-` or `_`
                between them; without word vectors, as the class is called.

        Returns:
            (dim,) float32, which must only be read, or None.

        Raises:
            TesseraeError: The file of word vectors is not the one that the run was trained with, or
                cannot be read.
        """
        if self._words is None:
            return self.phrase_vector(text)
        vector = self._words.token_vector(text)
        return None if vector is None else self.space.map_vectors(vector[None])[0]

    def knows(self, text: str) -> bool:
        """Return True if `phrase_vector` has a vector for a text.

        Args:
            text: The name or phrase, in upper or lower case.

        Raises:
            TesseraeError: The file of word vectors is not the one that the run was trained with, or
                cannot be read.
        """
        return self.phrase_vector(text) is not None

    def suggest(self, text: str) -> list[str]:
        """Return known words that the user may have meant, at most three; empty if there are none.

        With word vectors they are tokens of similar spelling, the most similar first. Without, they
        are names of classes, in lower case, that contain the first three letters of the text, in
        alphabetical order. Like `phrase_vector` it opens the file of word vectors at first, and may
        write an index of it.

        Args:
            text: A word that is not known, in any case.

        Raises:
            TesseraeError: The file of word vectors is not the one that the run was trained with, or
                cannot be read.
        """
        if self._words is None:
            return sorted(name for name in self._label_of_name if text.casefold()[:3] in name)[:3]
        return self._words.nearest_spellings(text)

    def vocabulary(self) -> tuple[list[str], NDArray[np.float32]]:
        """Return the words beside the classes that can be answers: the 50,000 most frequent ones.

        Returns:
            The n words, as the file of word vectors writes them, from the most frequent on, and
            their unit vectors, (n, dim) float32; none if the run has no word vectors.
        """
        if self._words is None:
            return [], np.empty((0, self.dim), np.float32)
        vectors = np.asarray(self._words.vectors[:MAX_VOCABULARY], np.float32)
        usable = np.flatnonzero(np.isfinite(vectors).all(1) & vectors.any(1))
        names = [self._words.tokens[token_id] for token_id in usable.tolist()]
        return names, self.space.map_vectors(l2_normalise(vectors[usable]))


def open_devise_model(
    run: Path, device: torch.device | None = None, *, store: str | None = None
) -> DeviseModel:
    """Open a run of DeViSE at its newest checkpoint.

    It draws random weights from torch's global generator before it loads the trained ones.

    Args:
        run: The path of the run's folder.
        device: The device that computes vectors (default: a GPU if there is one, else the CPU).
        store: The present path or URL of the store (default: as recorded in the run, or a folder
            beside the run). It is checked when it is first used.

    Returns:
        The model; its store, its trunk and its word vectors are opened when they are first used.

    Raises:
        TesseraeError: The folder is no run of DeViSE, has no checkpoint yet, is damaged, or its
            newest weights are not finite.
        ValueError: The folder's `options.json` holds a value that an option does not accept.
    """
    folder = RunFolder(run)
    document = folder.read_options()
    newest = folder.newest_checkpoint()
    if document["options"].get("stage") != STAGE:
        raise TesseraeError(f"{run} is not a run of `tesserae train devise`.")
    if newest is None:
        raise TesseraeError(f"{run} has no checkpoint yet: train it first.")
    data = folder.data()
    options, space = DeviseOptions.from_dict(document["options"]), load_word_space(run)
    state = folder.load_trained(newest, "head", "trunk")
    target = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    head = make_head(options, space).to(target)
    head.load_state_dict(state["head"])
    return DeviseModel(
        options=options,
        space=space,
        head=head.eval(),
        run=folder,
        store_override=store,
        split=data["split"],
        size=int(data["size"]),
        features=data["features"],
        digest=_model_digest(head, state["trunk"], space, options),
        step=int(state["step"]),
        device=target,
        trunk_state=state["trunk"],
        folder=run,
    )


def _model_digest(
    head: Head, trunk: dict[str, Tensor] | None, space: WordSpace, options: DeviseOptions
) -> str:
    digest = hashlib.sha256(repr((options.trunk, options.cut, options.pooling)).encode())
    digest.update(repr((str(space.words), options.feature_precision)).encode())
    for array in (space.vectors, space.centre):
        digest.update(np.ascontiguousarray(array).tobytes())
    for state in (head.state_dict(), trunk or {}):
        for name, value in sorted(state.items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
