"""DeViSE beside what is simpler, on classes that nothing was learned from.

For each split of the classes: some are kept back for the end, some more to choose by. Every method
is tried in each of its settings on what is left, and chosen by hit@5 of pictures of the classes to
choose by, among these. The chosen setting then learns from both, and the classes of the end are
looked at, once. Features are made before, and are the same for all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from pipeline.features.loader import FeatureLoader
from pipeline.features.reader import open_features
from pipeline.wordvectors.hierarchy import Hierarchy
from pipeline.wordvectors.vectors import ClassVectors
from workflows.devise import baselines
from workflows.devise.baselines import Learned
from workflows.devise.class_space import FILE, Space, make_space, unit
from workflows.devise.class_splits import SEEN, VALIDATION, class_parts
from workflows.devise.clip import Clip
from workflows.devise.evaluation import Judgement, Pictures, alike, hits_among, judge
from workflows.devise.options import Options
from workflows.devise.stage import Devise
from workflows.evaluation.per_class import compare
from workflows.training.loop import Data
from workflows.training.world import World

Floats = NDArray[np.float32]
STEPS = 160
CHOSEN_BY = 5
"""hit@k that settings are chosen by."""

DEVISE: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "hinge": [
        {"head": "linear", "dropout": 0.0, "rate": 1e-3},
        {"head": "linear", "dropout": 0.4, "rate": 1e-3},
        {"head": "mlp", "dropout": 0.4},
    ],
    "cosine": [
        {"head": "linear", "dropout": 0.4},
        {"head": "mlp", "dropout": 0.4},
        {"head": "mlp", "dropout": 0.6},
    ],
    "l2": [
        {"head": "linear", "dropout": 0.4},
        {"head": "mlp", "dropout": 0.4},
        {"head": "mlp", "dropout": 0.6},
    ],
    "infonce": [
        {"head": "mlp", "dropout": 0.4, "temperature": 0.3},
        {"head": "mlp", "dropout": 0.6, "temperature": 0.3},
        {"head": "mlp", "dropout": 0.6, "temperature": 0.5},
    ],
}
"""Settings of each loss. Hinge in the first is the paper's: linear, margin 0.1."""
PENALTIES = (0.1, 0.3, 1.0, 3.0)
SOFTMAX_PENALTIES = (1e-5, 1e-4, 1e-3)
LIKELIEST = (10, 1_000)


@dataclass(frozen=True)
class Ground:
    """What all methods are given."""

    store: str
    features: str
    classes: ClassVectors
    hierarchy: Hierarchy | None
    learned: Learned
    """Pictures of all classes, of the split that is learned from."""
    judged: Learned
    """Of the split that is judged."""
    mirrored: bool
    batch_size: int = 256
    unseen: str = "40"
    validation: int = 30
    clip: Floats | None = None
    """(n, C) scores of the judged pictures by a CLIP model."""


def open_ground(
    store: str,
    features: str,
    classes: ClassVectors,
    hierarchy: Hierarchy | None,
    *,
    split: str = "train",
    held_out: str = "val",
    unseen: str = "40",
    validation: int = 30,
    clip: str | None = None,
    batch_size: int = 256,
) -> Ground:
    """Read the features of both splits, mirrored ones too where there are such."""
    train, judged = (open_features(store, features, name) for name in (split, held_out))
    kinds = [kind for kind in ("plain", "mirrored") if kind in train.kinds]
    labels = train.split.labels[train.readable].astype(np.int64)
    learned = Learned(
        np.concatenate([train.rows(train.readable, kind) for kind in kinds]),
        np.concatenate([labels] * len(kinds)),
    )
    there = judged.split.labels[judged.readable].astype(np.int64)
    scores = None
    if clip is not None:
        size, listed = judged.recipe.stored_size, judged.split.recipe.classes
        scores = Clip(clip).scores(store, held_out, size, listed)
    return Ground(
        store, features, classes, hierarchy, learned, Learned(judged.rows(judged.readable), there),
        mirrored=len(kinds) > 1, unseen=unseen, validation=validation, clip=scores,
        batch_size=batch_size,
    )  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came of one method on one split of the classes."""

    method: str
    setting: Mapping[str, Any]
    chosen_by: float
    """hit@5 of the classes to choose by."""
    judged: Judgement


Method = Callable[["Arena", Mapping[str, Any]], Floats]
"""Learns in a setting; returns scores (n, C) of the judged pictures."""


class Arena:
    """One split of the classes, with or without those to choose by among the learned ones."""

    def __init__(self, ground: Ground, seed: int, *, final: bool, centre: bool = True) -> None:
        """Deal out the classes."""
        self.ground, self.seed = ground, seed
        parts = class_parts(
            ground.classes.wnids, ground.classes.known,
            unseen=ground.unseen, validation=ground.validation, seed=seed,
        )  # fmt: skip
        if final:
            parts = np.where(parts == VALIDATION, SEEN, parts)
        there = np.isin(ground.learned.labels, np.flatnonzero(parts == SEEN))
        self.learned = Learned(ground.learned.features[there], ground.learned.labels[there])
        plain = self.learned.features[: len(self.learned.features) // (1 + ground.mirrored)]
        self.space = make_space(ground.classes, parts, plain, centre=centre)
        self.pictures = Pictures(
            ground.judged.labels, ground.classes.wnids, parts, alike(self.space.vectors),
            ground.hierarchy,
        )  # fmt: skip

    def devise(self, setting: Mapping[str, Any]) -> Floats:
        """Train the stage itself."""
        given = {"batch_size": self.ground.batch_size, "mirrored": self.ground.mirrored}
        options = Options(**{**given, **setting})
        made = train_head(self.ground, options, self.space)
        return unit(made(self.ground.judged.features)) @ self.space.vectors.T


def train_head(ground: Ground, options: Options, space: Space) -> Callable[[Floats], Floats]:
    """Train a head in this process; returns what maps features to word space."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FILE).write_bytes(space.encode())
        loader = FeatureLoader(
            ground.store, ground.features, "train", batch_size=options.batch_size,
            seed=options.seed, mirrored=options.mirrored, only=space.labels(SEEN).tolist(),
            rank=0, world=1,
        )  # fmt: skip
        torch.manual_seed(options.seed)
        classes = tuple(ground.classes.wnids)
        stage = Devise(options, Data(loader, None, classes, folder=folder), World())
        while stage.step < options.steps:
            stage.advance()
        stage.batches.close()

    @torch.no_grad()
    def embed(features: Floats) -> Floats:
        made: Floats = stage.head(torch.from_numpy(features)).numpy()
        return made

    return embed


def _ridge(arena: Arena, setting: Mapping[str, Any]) -> Floats:
    """Plain: to the vectors of words as they are."""
    vectors = arena.ground.classes.vectors
    return baselines.ridge(arena.learned, vectors, **setting)(arena.ground.judged.features)


def _ridge_centred(arena: Arena, setting: Mapping[str, Any]) -> Floats:
    made = baselines.ridge(arena.learned, arena.space.vectors, **setting)
    return made(arena.ground.judged.features)


def _random(arena: Arena, setting: Mapping[str, Any]) -> Floats:
    classes = len(arena.ground.classes.wnids)
    made = baselines.random_codes(arena.learned, classes, seed=arena.seed, **setting)
    return made(arena.ground.judged.features)


def _clip(arena: Arena, setting: Mapping[str, Any]) -> Floats:
    """Learns nothing here."""
    assert arena.ground.clip is not None
    return arena.ground.clip


class _Softmaxes:
    """Fitted once for each penalty: ConSE in all its settings, and the softmax alone, share it."""

    def __init__(self) -> None:
        self._fitted: dict[tuple[int, float], baselines.Softmax] = {}

    def of(self, arena: Arena, penalty: float) -> baselines.Softmax:
        key = (id(arena), penalty)
        if key not in self._fitted:
            self._fitted[key] = baselines.fit_softmax(arena.learned, penalty=penalty)
        return self._fitted[key]

    def conse(self, arena: Arena, setting: Mapping[str, Any]) -> Floats:
        """Mix the vectors of words as they are, as the paper does."""
        return self._conse(arena, arena.ground.classes.vectors, setting)

    def conse_centred(self, arena: Arena, setting: Mapping[str, Any]) -> Floats:
        """Mix the vectors from which the mean of the learned classes' is subtracted."""
        return self._conse(arena, arena.space.vectors, setting)

    def _conse(self, arena: Arena, vectors: Floats, setting: Mapping[str, Any]) -> Floats:
        softmax = self.of(arena, setting["penalty"])
        made = baselines.conse(softmax, vectors, likeliest=setting["likeliest"])
        return made(arena.ground.judged.features)

    def alone(self, arena: Arena, setting: Mapping[str, Any]) -> Floats:
        made = baselines.softmax_scores(
            self.of(arena, setting["penalty"]), len(arena.ground.classes.wnids)
        )
        return made(arena.ground.judged.features)


def run_split(ground: Ground, seed: int, *, steps: int = STEPS) -> Iterator[Outcome]:
    """All methods on one split of the classes, each in the setting that was chosen for it."""
    choosing, final = (Arena(ground, seed, final=last) for last in (False, True))
    softmaxes = _Softmaxes()
    penalties = [{"penalty": penalty} for penalty in PENALTIES]
    likely = [{"penalty": p, "likeliest": t} for p in SOFTMAX_PENALTIES for t in LIKELIEST]
    methods: list[tuple[str, Method, Sequence[Mapping[str, Any]]]] = [
        (f"DeViSE {loss}", Arena.devise, [{"loss": loss, "steps": steps, **one} for one in some])
        for loss, some in DEVISE.items()
    ]
    methods += [
        ("ridge", _ridge, penalties),
        ("ridge, centred", _ridge_centred, penalties),
        ("ConSE", softmaxes.conse, likely),
        ("ConSE, centred", softmaxes.conse_centred, likely),
        ("softmax", softmaxes.alone, [{"penalty": p} for p in SOFTMAX_PENALTIES]),
        ("random codes", _random, penalties),
    ]
    if ground.clip is not None:
        methods.append(("CLIP", _clip, [{}]))
    for name, learn, settings in methods:
        setting, reached = choose(choosing, learn, settings)
        scores = learn(final, setting)
        yield Outcome(name, setting, reached, judge(scores, final.pictures))


def choose(
    arena: Arena, learn: Method, settings: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], float]:
    """The setting with the most hits among the classes to choose by, and how many those are."""
    reached = [
        hits_among(learn(arena, setting), arena.pictures, VALIDATION, _chosen_by(arena))
        for setting in settings
    ]
    best = int(np.argmax(reached))
    return settings[best], reached[best]


def _chosen_by(arena: Arena) -> int:
    classes = len(arena.pictures.classes(VALIDATION))
    if classes < 2:
        raise TesseraeError(
            f"{classes} classes are left to choose by: expected 2 or more. Pass a larger"
            " --validation."
        )
    return min(CHOSEN_BY, classes - 1)


def chosen_devise(outcomes: Sequence[Outcome]) -> Outcome:
    """Of one split: DeViSE with the loss that did best among the classes to choose by."""
    some = [one for one in outcomes if one.method.startswith("DeViSE")]
    best = max(some, key=lambda one: one.chosen_by)
    return replace(best, method="DeViSE, chosen")


BESIDE = ("ridge", "ridge, centred", "ConSE", "ConSE, centred", "random codes")


def differences(found: Mapping[str, Sequence[Judgement]]) -> Iterator[str]:
    """How far DeViSE is ahead of what is simpler: intervals by drawing classes again."""
    for name in BESIDE:
        for k in (1, 5):
            if any(k not in one.unseen for one in found["DeViSE, chosen"]):
                continue
            ours, theirs = (
                [one.unseen[k] for one in found[method]] for method in ("DeViSE, chosen", name)
            )
            ahead = compare(ours, theirs, macro=False)
            yield (
                f"hit@{k} of unseen classes: DeViSE less {name}: {100 * ahead.mean:+.1f}"
                f" (95 % from {100 * ahead.low:+.1f} to {100 * ahead.high:+.1f})"
            )
