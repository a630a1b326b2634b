"""The word space of a run: a vector for each class, and how other words come into it."""

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
"""Its name in a run's folder."""

Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Space:
    """What a run learns to map to, and where features lie that it maps from."""

    wnids: NDArray[np.str_]
    """(C,) of label 0, 1, ..."""
    vectors: Floats
    """(C, d) float32 of length 1; zeros for a class without."""
    centre: Floats
    """(d,) float32: what is subtracted from a word's vector of length 1."""
    parts: NDArray[np.int8]
    """(C,) int8: what each class is (`workflows.devise.class_splits`)."""
    feature_mean: Floats
    feature_spread: Floats
    """(D,) float32: of features of pictures that are learned from."""
    names: NDArray[np.str_]
    """(C,) of each class, its synonyms with commas between them."""
    words: NDArray[np.str_]
    """() the SHA-256 of the file that words are read from; empty where there is none."""

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.vectors.shape[1])

    def labels(self, *parts: int) -> NDArray[np.int64]:
        """(n,) int64, ascending: the classes that are one of *parts*."""
        return np.flatnonzero(np.isin(self.parts, parts))

    def enter(self, vectors: Floats) -> Floats:
        """(n, d) float32 of length 1: words' vectors of length 1, as vectors of this space."""
        return unit(vectors - self.centre)

    def encode(self) -> bytes:
        """The text of its file: arrays by name, in numpy's format, without pickles."""
        out = io.BytesIO()
        np.savez(out, **vars(self))
        return out.getvalue()


def load_space(folder: Path) -> Space:
    """The space of a run.

    Raises:
        TesseraeError: The folder has none that is whole.
    """
    try:
        with (folder / FILE).open("rb") as file, np.load(file, allow_pickle=False) as found:
            return Space(**{field.name: found[field.name] for field in fields(Space)})
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as e:
        raise TesseraeError(f"{folder / FILE} is no word space of a run ({e}).") from e


def make_space(
    classes: ClassVectors,
    parts: NDArray[np.int8],
    features: Floats,
    *,
    centre: bool,
    words: str = "",
) -> Space:
    """The space that classes and their vectors make.

    Args:
        classes: A vector of length 1 for each class, as far as there is one.
        parts: (C,) int8: what each class is. The centre is that of the seen ones alone.
        features: (n, D) float32 of pictures of seen classes.
        centre: Whether to move the origin to the centre of the seen classes' vectors. Vectors of
            words share a direction, which says nothing of any.
        words: The SHA-256 of their file.

    Raises:
        TesseraeError: Seen classes all have one and the same vector; features are no numbers.
    """
    if not np.isfinite(features).all():
        raise TesseraeError(
            "features to learn from have values that are no numbers: `tesserae verify` says whether"
            " they are damaged, and `tesserae features --repair` makes those anew that are."
        )
    seen = classes.vectors[parts == SEEN].mean(0)
    middle = seen if centre else np.zeros_like(seen)
    known = np.linalg.norm(classes.vectors, axis=1, keepdims=True) > 0
    apart = np.linalg.norm(classes.vectors[parts == SEEN] - seen, axis=1)
    if apart.max() < 1e-5:
        raise TesseraeError(
            f"all {len(apart)} classes to learn from have one and the same word vector: nothing can"
            " tell them apart. Name other words."
        )
    spread = features.std(0, dtype=np.float64)
    return Space(
        wnids=np.array(classes.wnids, np.str_),
        vectors=np.where(known, unit(classes.vectors - middle), 0).astype(np.float32),
        centre=middle.astype(np.float32),
        parts=parts,
        feature_mean=features.mean(0, dtype=np.float64).astype(np.float32),
        feature_spread=np.maximum(spread, 1e-3 * spread.mean() + 1e-12).astype(np.float32),
        names=np.array(classes.names, np.str_),
        words=np.array(words, np.str_),
    )


def unit(vectors: NDArray[np.floating]) -> Floats:
    """(n, d) float32 of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1), np.float32)
