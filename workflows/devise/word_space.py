"""The word space of a run: a vector for each class, and the map from word vectors into it."""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from pipeline.wordvectors.vectors import ClassVectors
from workflows.devise.class_splits import SEEN

FILE = "space.npz"
"""The file name of the word space in a run's folder."""

Floats = NDArray[np.float32]
"""An array of float32 numbers."""


@dataclass(frozen=True, kw_only=True)
class WordSpace:
    """The class vectors that a run maps images to, and the statistics of the features it maps.

    The file in the run folder stores every field under its name.
    """

    wnids: NDArray[np.str_]
    """The wnids of labels 0, 1, ..., (C,)."""
    vectors: Floats
    """The unit vectors of the classes, (C, d) float32; zeros for a class without a word vector."""
    centre: Floats
    """The vector to subtract from a unit word vector, (d,) float32."""
    parts: NDArray[np.int8]
    """The part of each class, (C,) int8 (`workflows.devise.class_splits`)."""
    feature_mean: Floats
    """The mean features of images of seen classes, (D,) float32."""
    feature_spread: Floats
    """The standard deviation of those features, (D,) float32, bounded from below."""
    names: NDArray[np.str_]
    """The comma-separated names of each class, (C,)."""
    words: NDArray[np.str_]
    """The SHA-256 of the word-vector file, (); empty without a file."""

    @property
    def dim(self) -> int:
        """The dimension d of the word space."""
        return int(self.vectors.shape[1])

    def labels(self, *parts: int) -> NDArray[np.int64]:
        """Return the labels of the classes in any of *parts*.

        Args:
            parts: Any of `SEEN` (0), `VALIDATION` (1), `UNSEEN` (2) and `LEFT_OUT` (3) of
                `workflows.devise.class_splits`.

        Returns:
            (n,) int64, ascending; empty if there are none.
        """
        return np.flatnonzero(np.isin(self.parts, parts))

    def map_vectors(self, vectors: Floats) -> Floats:
        """Map word vectors into this space, by subtracting the centre and scaling to length 1.

        Args:
            vectors: (n, d) float32 of length 1, which are not changed.

        Returns:
            (n, d) float32 of length 1; zeros for a vector that equals the centre.
        """
        return l2_normalise(vectors - self.centre)

    def encode(self) -> bytes:
        """Return the bytes of a .npz file that holds every field by name, without pickles."""
        out = io.BytesIO()
        np.savez(out, **vars(self))
        return out.getvalue()


def load_word_space(folder: Path) -> WordSpace:
    """Load the word space from the file `space.npz` in a run's folder.

    Args:
        folder: The path of the run's folder.

    Returns:
        Arrays: by label the `wnids`, `names` and `parts` of the C classes, (C,) each, and their
        unit `vectors`, (C, d) float32, zeros for a class without one; the `centre`, (d,); the
        `feature_mean` and `feature_spread`, (D,) each; and `words`, (), the SHA-256 of the
        word-vector file, empty without one: `str(space.words)` is the text.

    Raises:
        TesseraeError: The file is missing or incomplete.
    """
    try:
        with (folder / FILE).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return WordSpace(**{field.name: arrays[field.name] for field in fields(WordSpace)})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as e:
        raise TesseraeError(
            f"{folder / FILE} is not the word space of a run ({e}). Restore it from a backup, or"
            " train again in another folder."
        ) from e


def make_word_space(
    classes: ClassVectors,
    parts: NDArray[np.int8],
    features: Floats,
    *,
    centre: bool,
    words: str = "",
) -> WordSpace:
    """Return the word space of a set of classes.

    Args:
        classes: The names and unit vectors of all C classes by label, zeros for a class without
            one, as `load_class_vectors` of `workflows.devise.data` returns them.
        parts: The part of each class, (C,) int8 (`workflows.devise.class_splits`), with at least
            two seen classes. Only these determine the centre.
        features: The features of images of seen classes, (n, D) float32, not standardised, n > 0.
        centre: True to move the origin to the mean of the seen classes' vectors. Word vectors share
            a common direction that carries no information about any one word.
        words: The SHA-256 of the word-vector file, in hexadecimal (default "": no file).

    Returns:
        The unit `vectors` of all classes after the move, (C, d) float32, zeros for a class without
        one; the `centre` that was subtracted, (d,), zeros without *centre*; and `feature_mean` and
        `feature_spread`, the mean and the standard deviation of *features*, (D,) each, where a
        deviation below a thousandth of their mean is raised to that; with the wnids, names, parts
        and *words*.

    Raises:
        TesseraeError: All seen classes have the same vector, as a single one has, or a feature is
            not finite.
    """
    if not np.isfinite(features).all():
        raise TesseraeError(
            "the training features contain NaN or infinity: `tesserae verify` finds damaged"
            " features, and `tesserae features --repair` recomputes them."
        )
    seen_mean = classes.vectors[parts == SEEN].mean(0)
    origin = seen_mean if centre else np.zeros_like(seen_mean)
    distances = np.linalg.norm(classes.vectors[parts == SEEN] - seen_mean, axis=1)
    if distances.max() < 1e-5:
        raise TesseraeError(
            f"all {len(distances)} training classes have the same word vector and cannot be"
            " distinguished. Pass other word vectors."
        )
    spread = features.std(0, dtype=np.float64)
    return WordSpace(
        wnids=np.array(classes.wnids, np.str_),
        vectors=move_origin(classes.vectors, origin),
        centre=origin.astype(np.float32),
        parts=parts,
        feature_mean=features.mean(0, dtype=np.float64).astype(np.float32),
        feature_spread=np.maximum(spread, 1e-3 * spread.mean() + 1e-12).astype(np.float32),
        names=np.array(classes.names, np.str_),
        words=np.array(words, np.str_),
    )


def move_origin(vectors: Floats, origin: Floats) -> Floats:
    """Subtract a vector from class vectors, and scale the differences to length 1.

    Args:
        vectors: The vectors of all classes, (C, d) float32; zeros for a class without one.
        origin: The vector to subtract, (d,) float32, such as the mean of the seen classes.

    Returns:
        (C, d) float32; zeros for a class without a vector.
    """
    has_vector = np.linalg.norm(vectors, axis=1, keepdims=True) > 0
    return np.where(has_vector, l2_normalise(vectors - origin), 0).astype(np.float32)


def l2_normalise(vectors: NDArray[np.floating]) -> Floats:
    """Scale vectors along the last axis to length 1; zeros stay zeros.

    Args:
        vectors: (..., d) of any floating-point dtype, which are not changed.

    Returns:
        A new array, (..., d) float32.
    """
    vectors = np.asarray(vectors, np.result_type(vectors, np.float32))  # float16 would overflow
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
