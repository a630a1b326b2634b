"""The study of DeViSE: a comparison with simpler methods on unseen classes.

Each split of the classes holds out unseen classes and validation classes. Every method is trained
with each of its settings on the remaining classes, and its setting is chosen by hit@5 on images
of the validation classes, with only these as candidates. The chosen setting is then trained on the
validation classes too, and evaluated once on the unseen classes. All methods share the same
features, which are computed beforehand.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.errors import TesseraeError
from pipeline.features.loader import FeatureLoader
from pipeline.features.reader import open_features
from pipeline.wordvectors.hierarchy import Hierarchy
from pipeline.wordvectors.vectors import ClassVectors
from workflows.devise import baselines
from workflows.devise.accuracy import (
    LabelledImages,
    MethodMetrics,
    evaluate,
    hit_rate_of_part,
    identical_groups,
)
from workflows.devise.baselines import LabelledFeatures
from workflows.devise.class_splits import SEEN, VALIDATION, class_parts
from workflows.devise.clip import Clip
from workflows.devise.options import DeviseOptions
from workflows.devise.stage import Devise
from workflows.devise.word_space import FILE, Floats, WordSpace, l2_normalise, make_word_space
from workflows.evaluation.class_accuracy import paired_bootstrap
from workflows.training.stage import Data
from workflows.training.world import World

SELECTION_K = 5
"""The k of the hit@k by which settings are chosen."""

DEVISE: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "hinge": [
        {"head": "linear", "dropout": 0.0, "learning_rate": 1e-3},
        {"head": "linear", "dropout": 0.4, "learning_rate": 1e-3},
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
"""The settings of each loss. The first of hinge is the paper's: linear, margin 0.1."""
PENALTIES = (0.1, 0.3, 1.0, 3.0)
"""The penalties of ridge regression."""
SOFTMAX_PENALTIES = (1e-5, 1e-4, 1e-3)
"""The penalties of the softmax."""
CONSE_CLASSES = (10, 1_000)
"""The numbers of most likely classes that ConSE mixes."""


@dataclass(frozen=True)
class StudyData:
    """The data that all methods share."""

    store: str
    """The folder or URL of the store."""
    features: str
    """The name of the features."""
    classes: ClassVectors
    """The word vectors of all classes."""
    hierarchy: Hierarchy | None
    """The hierarchy of the classes, for hierarchical precision; None = without."""
    train: LabelledFeatures
    """The features and labels of the training split, with images of all classes."""
    held_out: LabelledFeatures
    """The features and labels of the held-out split."""
    mirrored: bool
    """True if the training features include those of mirrored images."""
    batch_size: int = 256
    """The batch size of DeViSE."""
    unseen: str = "40"
    """The number of unseen classes, or the path of a file that names them."""
    validation: int = 30
    """The number of validation classes."""
    clip: Floats | None = None
    """The scores of the held-out images by a CLIP model, (n, C); None = without."""


def open_study_data(
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
) -> StudyData:
    """Read the features of both splits, of mirrored training images too if the store has them.

    They are read into memory. Nothing is written.

    Args:
        store: Folder or URL of the store.
        features: Name of the features.
        classes: Word vectors of all classes, by label, as
            `pipeline.wordvectors.vectors.class_vectors` returns them.
        hierarchy: Hierarchy of the classes, for hierarchical precision, as
            `pipeline.wordvectors.hierarchy.read_hierarchy` returns it (None = without).
        split: Split whose features the baselines learn from (default `train`). DeViSE always learns
            from `train`.
        held_out: Split to evaluate on (default `val`).
        unseen: Number of unseen classes to draw, in decimal (default "40"), or the path of a file
            with the wnid of one on each line.
        validation: Number of validation classes (default 30), which are drawn later from those that
            are not unseen; they choose the setting of each method.
        clip: Name or folder of a CLIP model to compare with, which then maps the held-out images
            (default None: no comparison).
        batch_size: Batch size of DeViSE (default 256).

    Returns:
        `train` and `held_out`, each with the `features`, (n, D) float32, and the `labels`, (n,)
        int64, -1 for none, of the readable rows of the split in ascending order; `mirrored`, True
        if the training features of all rows are followed by those of the mirrored images; `clip`,
        the scores of the CLIP model, (n, C) float32, or None; and the other arguments by name.

    Raises:
        StoreError: Features of a split are missing or not finished.
        TesseraeError: The CLIP model cannot be opened.
    """
    train, evaluated = (open_features(store, features, name) for name in (split, held_out))
    kinds = [kind for kind in ("plain", "mirrored") if kind in train.kinds]
    labels = train.split.labels[train.readable].astype(np.int64)
    train_features = LabelledFeatures(
        np.concatenate([train.rows(train.readable, kind) for kind in kinds]),
        np.concatenate([labels] * len(kinds)),
    )
    held_out_labels = evaluated.split.labels[evaluated.readable].astype(np.int64)
    scores = None
    if clip is not None:
        recipe, listed = evaluated.recipe, evaluated.split.recipe.classes
        scores = Clip(clip).scores(store, held_out, recipe.stored_size, listed, recipe.encoded)
    return StudyData(
        store, features, classes, hierarchy, train_features,
        LabelledFeatures(evaluated.rows(evaluated.readable), held_out_labels),
        mirrored=len(kinds) > 1, unseen=unseen, validation=validation, clip=scores,
        batch_size=batch_size,
    )  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """The result of a method on a split of the classes."""

    method: str
    """The name of the method."""
    setting: Mapping[str, Any]
    """The setting that was chosen."""
    validation_hit_rate: float
    """The hit@k on the validation classes, 0 to 1, with the k of `select_setting`."""
    evaluation: MethodMetrics
    """The metrics on seen and unseen classes."""


Method = Callable[["ClassSplit", Mapping[str, Any]], Floats]
"""A function that trains with a setting and returns scores (n, C) of the held-out images."""


class ClassSplit:
    """A split of the classes, with the validation classes held out or among the seen ones."""

    def __init__(self, data: StudyData, seed: int, *, final: bool, centre: bool = True) -> None:
        """Split the classes at random.

        Args:
            data: The data that all methods share.
            seed: Seed of the split.
            final: True to train on the validation classes too.
            centre: True to subtract the mean of the seen classes from word vectors (default).

        Raises:
            TesseraeError: Too few classes are left to train on, or the file of unseen classes
                cannot be read.
        """
        self.data, self.seed = data, seed
        parts = class_parts(
            data.classes.wnids, data.classes.has_vector,
            unseen=data.unseen, validation=data.validation, seed=seed,
        )  # fmt: skip
        if final:
            parts = np.where(parts == VALIDATION, SEEN, parts)
        is_seen = np.isin(data.train.labels, np.flatnonzero(parts == SEEN))
        self.train = LabelledFeatures(data.train.features[is_seen], data.train.labels[is_seen])
        plain = self.train.features[: len(self.train.features) // (1 + data.mirrored)]
        self.space = make_word_space(data.classes, parts, plain, centre=centre)
        self.images = LabelledImages(
            data.held_out.labels, data.classes.wnids, parts, identical_groups(self.space.vectors),
            data.hierarchy,
        )  # fmt: skip

    def devise(self, setting: Mapping[str, Any]) -> Floats:
        """Train the DeViSE stage in this process with a setting, and score the held-out images.

        It trains on the CPU, sets torch's global seed, and uses a temporary folder, which is
        removed.

        Args:
            setting: Options of the stage by name, such as `{"loss": "hinge", "head": "linear",
                "steps": 160}`; those that are left out have the defaults of `DeviseOptions`. They
                override the batch size and the mirrored images of the study.

        Returns:
            Cosines of the n held-out images and the C classes, (n, C) float32; 0 for a class
            without a vector.

        Raises:
            StoreError: Fewer images than a batch are of the classes to train on.
            ValueError: An option has an invalid value.
            TypeError: There is no such option.
        """
        common = {"batch_size": self.data.batch_size, "mirrored": self.data.mirrored}
        options = DeviseOptions(**{**common, **setting})
        embed = train_head(self.data, options, self.space)
        return l2_normalise(embed(self.data.held_out.features)) @ self.space.vectors.T


def train_head(
    data: StudyData, options: DeviseOptions, space: WordSpace
) -> Callable[[Floats], Floats]:
    """Train a head in this process, on the CPU, on the stored features of the split `train`.

    It sets torch's global seed, and uses a temporary folder, which is removed.

    Args:
        data: The data that all methods share, as `open_study_data` returns them; their store and
            the name of their features are used.
        options: The options of the DeViSE stage. `steps` is the number of updates, and `learn` must
            be `head`.
        space: The word space with its seen classes, from whose images the head learns, such as
            `ClassSplit(data, 0, final=True).space`.

    Returns:
        A function from features, (n, D) float32, not standardised, to outputs of the head, (n, d)
        float32, which are not normalised.

    Raises:
        StoreError: The features of `train` are missing or not finished, or fewer images than a
            batch are of seen classes.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / FILE).write_bytes(space.encode())
        loader = FeatureLoader(
            data.store, data.features, "train", batch_size=options.batch_size,
            seed=options.seed, mirrored=options.mirrored,
            include_labels=space.labels(SEEN).tolist(), rank=0, world=1,
        )  # fmt: skip
        torch.manual_seed(options.seed)
        classes = tuple(data.classes.wnids)
        stage = Devise(options, Data(loader, None, classes, folder=folder), World())
        while stage.step < options.steps:
            stage.advance()
        stage.batches.close()

    @torch.no_grad()
    def embed(features: Floats) -> Floats:
        embeddings: Floats = stage.head(torch.from_numpy(features)).numpy()
        return embeddings

    return embed


def _score_ridge(split: ClassSplit, setting: Mapping[str, Any]) -> Floats:
    """Regress features to the original word vectors."""
    vectors = split.data.classes.vectors
    return baselines.ridge(split.train, vectors, **setting)(split.data.held_out.features)


def _score_ridge_centred(split: ClassSplit, setting: Mapping[str, Any]) -> Floats:
    score = baselines.ridge(split.train, split.space.vectors, **setting)
    return score(split.data.held_out.features)


def _score_random(split: ClassSplit, setting: Mapping[str, Any]) -> Floats:
    classes = len(split.data.classes.wnids)
    score = baselines.random_codes(split.train, classes, seed=split.seed, **setting)
    return score(split.data.held_out.features)


def _score_clip(split: ClassSplit, setting: Mapping[str, Any]) -> Floats:
    """Return the scores of the CLIP model, which is not trained here."""
    assert split.data.clip is not None
    return split.data.clip


class _SoftmaxCache:
    """A cache of softmax classifiers by penalty, shared by ConSE and the softmax itself."""

    def __init__(self) -> None:
        self._fitted: dict[tuple[int, float], baselines.Softmax] = {}

    def fitted(self, split: ClassSplit, penalty: float) -> baselines.Softmax:
        key = (id(split), penalty)
        if key not in self._fitted:
            self._fitted[key] = baselines.fit_softmax(split.train, penalty=penalty)
        return self._fitted[key]

    def conse(self, split: ClassSplit, setting: Mapping[str, Any]) -> Floats:
        """Return ConSE's scores with the original word vectors, as in its paper."""
        return self._conse(split, split.data.classes.vectors, setting)

    def conse_centred(self, split: ClassSplit, setting: Mapping[str, Any]) -> Floats:
        """Return ConSE's scores with word vectors centred by the mean of the seen classes."""
        return self._conse(split, split.space.vectors, setting)

    def _conse(self, split: ClassSplit, vectors: Floats, setting: Mapping[str, Any]) -> Floats:
        softmax = self.fitted(split, setting["penalty"])
        score = baselines.conse(softmax, vectors, num_classes=setting["num_classes"])
        return score(split.data.held_out.features)

    def softmax(self, split: ClassSplit, setting: Mapping[str, Any]) -> Floats:
        score = baselines.softmax_scores(
            self.fitted(split, setting["penalty"]), len(split.data.classes.wnids)
        )
        return score(split.data.held_out.features)


def run_split(data: StudyData, seed: int, *, steps: int) -> Iterator[Outcome]:
    """Yield the result of each method on a split of the classes, with its chosen setting.

    A method is trained with each of its settings, and with the best one again, when its result is
    requested. DeViSE sets torch's global seed.

    Args:
        data: The features, labels and word vectors that all methods share, as `open_study_data`
            returns them.
        seed: Seed of the split, and of the random codes.
        steps: Training steps of DeViSE.

    Yields:
        The name of the `method`; the chosen `setting`, values by name such as `{"penalty": 0.3}`;
        its `validation_hit_rate`, the hit@k on the validation classes, 0 to 1, where k is 5, or the
        number of these classes minus 1 if that is smaller; and its `evaluation`, the result of
        `workflows.devise.accuracy.evaluate` on the held-out images, after training on the
        validation classes too. The methods are DeViSE with each loss, such as `DeViSE hinge`;
        `ridge`, `ridge, centred`, `ConSE`, `ConSE, centred`, `softmax` and `random codes`; and
        `CLIP` if the data have its scores.

    Raises:
        TesseraeError: There are fewer than two validation classes, they have no images, or too few
            classes, or fewer images than a batch, are left to train on.
    """
    choosing, final = (ClassSplit(data, seed, final=last) for last in (False, True))
    softmaxes = _SoftmaxCache()
    penalties = [{"penalty": penalty} for penalty in PENALTIES]
    conse_settings = [
        {"penalty": p, "num_classes": t} for p in SOFTMAX_PENALTIES for t in CONSE_CLASSES
    ]
    methods: list[tuple[str, Method, Sequence[Mapping[str, Any]]]] = [
        (
            f"DeViSE {loss}",
            ClassSplit.devise,
            [{"loss": loss, "steps": steps, **setting} for setting in settings],
        )
        for loss, settings in DEVISE.items()
    ]
    methods += [
        ("ridge", _score_ridge, penalties),
        ("ridge, centred", _score_ridge_centred, penalties),
        ("ConSE", softmaxes.conse, conse_settings),
        ("ConSE, centred", softmaxes.conse_centred, conse_settings),
        ("softmax", softmaxes.softmax, [{"penalty": p} for p in SOFTMAX_PENALTIES]),
        ("random codes", _score_random, penalties),
    ]
    if data.clip is not None:
        methods.append(("CLIP", _score_clip, [{}]))
    for name, learn, settings in methods:
        setting, hit_rate = select_setting(choosing, learn, settings)
        scores = learn(final, setting)
        yield Outcome(name, setting, hit_rate, evaluate(scores, final.images))


def select_setting(
    split: ClassSplit, learn: Method, settings: Sequence[Mapping[str, Any]]
) -> tuple[Mapping[str, Any], float]:
    """Select the setting with the best hit@k on the validation classes.

    The method is trained with each setting.

    Args:
        split: A split of the classes whose validation classes are held out: created with
            `final=False`.
        learn: The method: a function that trains with *split* and a setting, its two positional
            arguments, and returns the scores of all n held-out images against all C classes, (n, C)
            float32, higher for nearer.
        settings: Its settings, at least one: mappings that *learn* gets as they are, such as
            `{"penalty": 0.3}`.

    Returns:
        The setting, the first of those that tie, and its hit@k among the validation classes, 0 to
        1. k is 5, or the number of validation classes minus 1 if that is smaller.

    Raises:
        TesseraeError: There are fewer than two validation classes, or they have no images.
    """
    hit_rates = [
        hit_rate_of_part(learn(split, setting), split.images, VALIDATION, _selection_k(split))
        for setting in settings
    ]
    best = int(np.argmax(hit_rates))
    return settings[best], hit_rates[best]


def _selection_k(split: ClassSplit) -> int:
    classes = len(split.images.classes(VALIDATION))
    if classes < 2:
        raise TesseraeError(
            f"{classes} validation classes have images: expected 2 or more. Pass a larger"
            " --validation-classes."
        )
    return min(SELECTION_K, classes - 1)


def selected_devise(outcomes: Sequence[Outcome]) -> Outcome:
    """Return the result of DeViSE with the loss that is best on the validation classes.

    Args:
        outcomes: The results of all methods on one split, as `run_split` yields them. Those whose
            method begins with `DeViSE`, at least one, are compared by their `validation_hit_rate`.

    Returns:
        A copy of that result, the first of those that tie, with the method name `DeViSE, selected`.
    """
    devise = [outcome for outcome in outcomes if outcome.method.startswith("DeViSE")]
    best = max(devise, key=lambda outcome: outcome.validation_hit_rate)
    return replace(best, method="DeViSE, selected")


BASELINES = ("ridge", "ridge, centred", "ConSE", "ConSE, centred", "random codes")
"""The methods that DeViSE is compared with."""


def differences(evaluations: Mapping[str, Sequence[MethodMetrics]]) -> Iterator[str]:
    """Yield lines with the difference of DeViSE to each baseline and its bootstrap interval.

    Args:
        evaluations: The metrics of each method by its name, one for each split, in the same order,
            as `evaluation` of the results of `run_split`. `DeViSE, selected`, the result of
            `selected_devise`, and the baselines `ridge`, `ridge, centred`, `ConSE`, `ConSE,
            centred` and `random codes` are among the methods; others are ignored.

    Yields:
        Lines without a newline for hit@1 and hit@5 of unseen classes, in percentage points,
        averaged over images, such as `hit@1 of unseen classes: DeViSE minus ridge: +2.1 (95 % from
        +0.3 to +3.9)`. A k above the number of unseen classes of a split has none.
    """
    for name in BASELINES:
        for k in (1, 5):
            if any(k not in evaluation.unseen for evaluation in evaluations["DeViSE, selected"]):
                continue
            ours, theirs = (
                [evaluation.unseen[k] for evaluation in evaluations[method]]
                for method in ("DeViSE, selected", name)
            )
            difference = paired_bootstrap(ours, theirs, macro=False)
            mean, low, high = difference.mean, difference.low, difference.high
            yield (
                f"hit@{k} of unseen classes: DeViSE minus {name}: {100 * mean:+.1f} (95 %"
                f" from {100 * low:+.1f} to {100 * high:+.1f})"
            )
