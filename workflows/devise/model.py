"""A trained run, for whoever searches with it or judges it: pictures and words into one space."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.backbone.network import Backbone
from pipeline.errors import TesseraeError
from pipeline.features.reader import open_features
from pipeline.features.shard import features_of
from pipeline.loader import Loader
from pipeline.wordvectors.index import open_words
from pipeline.wordvectors.vectors import Words, split_names
from workflows.devise.class_space import Space, load_space, unit
from workflows.devise.heads import Head
from workflows.devise.options import Options
from workflows.devise.stage import make_head, open_trunk
from workflows.training.run_folder import RunFolder

STAGE = "workflows.devise.stage:Devise"
ROWS = 4_096
"""Rows that are mapped at once."""
PICTURES = 64
"""Pictures that go through the trunk at once."""
WORDS_FOLDER = Path("search") / "words"
"""Of a run, where an index of its words is kept."""
VOCABULARY = 50_000
"""Words, the most frequent, that a picture can be answered by."""


@dataclass(frozen=True)
class DeviseModel:
    """A run of DeViSE at its newest checkpoint."""

    options: Options
    space: Space
    head: Head
    run: RunFolder
    named_store: str | None
    """Folder or URL of what it was trained on, as a person says; None = as the run says."""
    split: str
    """That it was trained on."""
    size: int
    """Side of the stored pictures that it takes, in pixels."""
    features: str | None
    """Name of the features that it takes; None = pixels."""
    digest: str
    """Changes when anything else comes out for the same picture or word."""
    step: int
    device: torch.device
    trunk_state: dict[str, Tensor] | None
    folder: Path
    """Of the run."""

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return self.space.dim

    @cached_property
    def store(self) -> str:
        """Folder or URL of what it was trained on."""
        return self.run.store(self.named_store)

    @cached_property
    def classes(self) -> tuple[tuple[str, str], ...]:
        """(wnid, words) of label 0, 1, ..."""
        pairs = zip(self.space.wnids.tolist(), self.space.names.tolist(), strict=True)
        return tuple((str(wnid), str(words)) for wnid, words in pairs)

    @property
    def class_vectors(self) -> NDArray[np.float32]:
        """(C, dim) float32 of length 1; zeros for a class without a word vector."""
        return self.space.vectors

    @cached_property
    def trunk(self) -> Backbone:
        """The network that features come from."""
        found = open_trunk(self.options, self.device, learns=False, size=self.size)
        if self.trunk_state is not None:
            found.model.load_state_dict(self.trunk_state)
        return found

    @torch.no_grad()
    def embed(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(n, D) features -> (n, dim) float32 of length 1."""
        parts = torch.split(torch.from_numpy(features), ROWS)
        made = [self.head(part.to(self.device)).cpu().numpy() for part in parts]
        return unit(np.concatenate(made)) if made else np.empty((0, self.dim), np.float32)

    def images(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pictures as a store of the same recipe would hold them, in word space.

        Args:
            images: (n, size, size, 3) uint8 RGB.

        Returns:
            (n, dim) float32 of length 1.
        """
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
        made = [
            features_of(self.trunk, part, self.options.feature_precision)
            for part in torch.split(pixels, PICTURES)
        ]
        return self.embed(np.concatenate(made))

    def rows(self, split: str) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """All readable rows of a split, in blocks, with their vectors: (n,), (n, dim).

        Raises:
            StoreError: The split, or what is wanted of its features, is not finished.
        """
        if self.features is not None:
            found = open_features(self.store, self.features, split)
            for start in range(0, len(found.readable), ROWS):
                rows = found.readable[start : start + ROWS]
                yield rows, self.embed(found.rows(rows))
            return
        loader = Loader(
            self.store, split, size=self.size, batch_size=PICTURES, order="sequential",
            drop_last=False, rank=0, world=1,
        )  # fmt: skip
        for batch in loader:
            assert isinstance(batch.images, Tensor)  # of one size
            pixels = batch.images.permute(0, 2, 3, 1).contiguous().numpy()
            yield batch.rows.numpy(), self.images(pixels)

    # --- words ----------------------------------------------------------------------------------

    @cached_property
    def _words(self) -> Words | None:
        file = self.options.words
        if file is None:
            return None
        return open_words(Path(file), str(self.space.words), self.folder / WORDS_FOLDER)

    @cached_property
    def _named(self) -> dict[str, int]:
        """The names of classes -> label, the first of a name."""
        known = np.flatnonzero(self.class_vectors.any(1)).tolist()
        pairs = [
            (name.casefold(), label)
            for label in reversed(known)
            for name in split_names(self.classes[label][1] or self.classes[label][0])
        ]
        return dict(pairs)

    def phrase(self, text: str) -> NDArray[np.float32] | None:
        """(dim,) float32 of length 1: where a name or phrase lies; None for an unknown one."""
        if self._words is None:
            label = self._named.get(" ".join(text.split()).casefold())
            return None if label is None else self.class_vectors[label]
        found = self._words.phrase(text)
        return None if found is None else self.space.enter(found[None])[0]

    def name(self, text: str) -> NDArray[np.float32] | None:
        """(dim,) float32 of length 1: where one name lies; never made of its words."""
        if self._words is None:
            return self.phrase(text)
        found = self._words.token(text)
        return None if found is None else self.space.enter(found[None])[0]

    def suggest(self, text: str) -> list[str]:
        """Known words that are spelled nearly so."""
        if self._words is None:
            return sorted(name for name in self._named if text.casefold()[:3] in name)[:3]
        return self._words.nearest_spellings(text)

    def vocabulary(self) -> tuple[list[str], NDArray[np.float32]]:
        """Words that a picture can be answered by beside its classes: n of them, (n, dim)."""
        if self._words is None:
            return [], np.empty((0, self.dim), np.float32)
        vectors = np.asarray(self._words.vectors[:VOCABULARY], np.float32)
        usable = np.flatnonzero(np.isfinite(vectors).all(1) & vectors.any(1))
        names = [self._words.tokens[place] for place in usable.tolist()]
        return names, self.space.enter(unit(vectors[usable]))


def open_model(
    run: Path, device: torch.device | None = None, *, store: str | None = None
) -> DeviseModel:
    """Open a run at its newest checkpoint.

    Args:
        run: Its folder.
        device: Where pictures are mapped (a GPU, if there is one).
        store: Where the store of the run is now (where the run says, or beside the run).

    Raises:
        TesseraeError: It is no run of DeViSE, or has no checkpoint yet.
    """
    folder = RunFolder(run)
    asked = folder.asked()
    newest = folder.newest()
    if asked["options"].get("stage") != STAGE:
        raise TesseraeError(f"{run} is no run of `tesserae train devise`.")
    if newest is None:
        raise TesseraeError(f"{run} has no checkpoint yet: train it first.")
    data = folder.data()
    options, space = Options.of(asked["options"]), load_space(run)
    state = folder.load_trained(newest, "head", "trunk")
    where = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    head = make_head(options, space).to(where)
    head.load_state_dict(state["head"])
    return DeviseModel(
        options=options,
        space=space,
        head=head.eval(),
        run=folder,
        named_store=store,
        split=data["split"],
        size=int(data["size"]),
        features=data["features"],
        digest=_digest(head, state["trunk"], space, options),
        step=int(state["step"]),
        device=where,
        trunk_state=state["trunk"],
        folder=run,
    )


def _digest(head: Head, trunk: dict[str, Tensor] | None, space: Space, options: Options) -> str:
    seen = hashlib.sha256(repr((options.trunk, options.cut, options.pooling)).encode())
    seen.update(repr((str(space.words), options.feature_precision)).encode())
    for array in (space.vectors, space.centre):
        seen.update(np.ascontiguousarray(array).tobytes())
    for state in (head.state_dict(), trunk or {}):
        for name, value in sorted(state.items()):
            seen.update(name.encode())
            seen.update(value.detach().cpu().contiguous().numpy().tobytes())
    return seen.hexdigest()
