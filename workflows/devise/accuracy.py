"""The accuracy of a method on seen and unseen classes.

The same scores are evaluated in three ways: images of unseen classes among unseen classes; images
of seen classes among seen classes; and all images among all classes. The last is the generalised
setting, in which a model prefers the classes that it has learned from. Results are zero-shot only
if the trunk has not seen the unseen classes either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from pipeline.wordvectors.hierarchy import Hierarchy
from workflows.devise.class_splits import SEEN, UNSEEN
from workflows.devise.word_space import Floats
from workflows.evaluation.class_accuracy import (
    ClassSums,
    GeneralisedAccuracy,
    generalised_accuracy,
    sum_per_class,
)
from workflows.evaluation.ranking import KS, chance, hierarchical_precision, true_class_ranks

MAX_MIXED_K = 5
"""The largest k of hit@k that is reported for seen and unseen classes together."""


@dataclass(frozen=True)
class LabelledImages:
    """The labels of the images to evaluate on, and the classes that they are scored against."""

    labels: NDArray[np.int64]
    """The true class of each image, (n,) int64."""
    wnids: Sequence[str]
    """The wnids of all C classes, by label."""
    parts: NDArray[np.int8]
    """The part of each class, (C,) int8 (`workflows.devise.class_splits`)."""
    groups: Sequence[Sequence[int]] = ()
    """The groups of labels of classes that share a vector."""
    hierarchy: Hierarchy | None = None
    """The hierarchy of the classes, for hierarchical precision; None = without."""

    def classes(self, *parts: int) -> NDArray[np.int64]:
        """Return the labels of the classes in any of *parts*.

        Args:
            parts: Any of `SEEN` (0), `VALIDATION` (1), `UNSEEN` (2) and `LEFT_OUT` (3) of
                `workflows.devise.class_splits`.

        Returns:
            (n,) int64, ascending; empty if there are none.
        """
        return np.flatnonzero(np.isin(self.parts, parts))


@dataclass(frozen=True)
class MethodMetrics:
    """The metrics of one method on one split of the classes."""

    unseen: Mapping[int, ClassSums]
    """The hit@k of images of unseen classes among unseen classes, by k."""
    seen: Mapping[int, ClassSums]
    """The hit@k of images of seen classes among seen classes, by k."""
    generalised: Mapping[int, GeneralisedAccuracy]
    """The hit@k of all images among seen and unseen classes, by k."""
    precision: Mapping[int, ClassSums] = field(default_factory=dict)
    """The hierarchical precision of images of unseen classes among unseen classes, by k."""
    candidates: tuple[int, int] = (0, 0)
    """The numbers of unseen and of seen classes."""


def evaluate(scores: Floats, images: LabelledImages) -> MethodMetrics:
    """Compute the metrics of a method from its scores.

    Images of validation classes and of classes that are left out are ignored. k is each of 1, 2, 5,
    10 and 20 that is at most the number of candidates.

    Args:
        scores: The scores of n images against all C classes, (n, C) float; higher is nearer.
        images: The `labels` of the n images, (n,) int64, and the `wnids`, the `parts`, (C,) int8,
            and, if they have any, the `groups` and the `hierarchy` of the C classes.

    Returns:
        For each k: the hit@k of images of `unseen` and of `seen` classes among their own kind and
        the hierarchical `precision` of the former, as `sums` over images and `counts` of images by
        class, (C,) each; and `generalised`, the hit@k of `seen` and of `unseen` images among both
        kinds, averaged over images, 0 to 1. Also `candidates`, the numbers of unseen and of seen
        classes. A metric is an empty mapping if there are no images for it: `unseen`, `precision`
        and `generalised` without images of unseen classes, `seen` and `generalised` without images
        of seen ones. `precision` is also empty unless the hierarchy has all unseen classes.

    Raises:
        ValueError: A score of an image of a seen or unseen class against such a class is NaN.
    """
    unseen, seen = images.classes(UNSEEN), images.classes(SEEN)
    both = images.classes(SEEN, UNSEEN)
    return MethodMetrics(
        unseen=_hits(scores, images, unseen) if len(unseen) else {},
        seen=_hits(scores, images, seen),
        generalised=_generalised(scores, images, both) if len(unseen) else {},
        precision=_hierarchical_precision(scores, images, unseen) if len(unseen) else {},
        candidates=(len(unseen), len(seen)),
    )


@dataclass(frozen=True)
class HopMetrics:
    """The metrics of the unseen classes within a number of hops of the seen classes."""

    hops: int | None
    """The maximum distance in the hierarchy to the nearest seen class; None: any distance."""
    classes: int
    """The number of these unseen classes."""
    images: int
    """The number of their images."""
    alone: Mapping[int, ClassSums]
    """The hit@k of their images among these classes, by k."""
    with_seen: Mapping[int, ClassSums]
    """The hit@k of their images among these and the seen classes, by k."""


def by_hops(scores: Floats, images: LabelledImages) -> Iterator[HopMetrics]:
    """Yield the metrics of unseen classes within 1, 2 and 3 hops of the seen ones, and of all.

    This follows Frome et al. 2013, table 2, whose sets are "2-hop", "3-hop" and all of ImageNet
    2011, each alone and with the 1,000 seen classes ("+1K"). Without a hierarchy only the set of
    all is yielded.

    Args:
        scores: The scores of the n images of *images*, whatever their class, against all C classes,
            (n, C) float; higher is nearer.
        images: The `labels` of the n images, (n,) int64, and the `wnids`, the `parts`, (C,) int8,
            and, if they have any, the `groups` and the `hierarchy` of the C classes.

    Yields:
        The metrics of a set, the nearest set first, all unseen classes last: `hops`, the maximum
        distance, None for all; the numbers of its `classes` and of their `images`; and by k the
        hit@k of these images, `alone` among the set, and `with_seen` among the set and the seen
        classes, as `sums` over images and `counts` of images by class, (C,) each. k is each of 1,
        2, 5, 10 and 20 that is at most the number of candidates. A set is left out if it has no
        images or as many classes as the last one that was yielded, also the set of all.

    Raises:
        ValueError: A score of an image of an unseen class against a seen or unseen class is NaN.
    """
    unseen, seen = images.classes(UNSEEN), images.classes(SEEN)
    previous_count = 0
    for hops in (1, 2, 3, None):
        classes = unseen
        if hops is not None:
            nearby = _wnids_within_hops(images, seen, hops)
            classes = unseen[[images.wnids[label] in nearby for label in unseen.tolist()]]
        selected = np.isin(images.labels, classes)
        if len(classes) == previous_count or not selected.any():
            continue
        previous_count = len(classes)
        subset = LabelledImages(images.labels[selected], images.wnids, images.parts, images.groups)
        all_classes = np.sort(np.concatenate([seen, classes]))
        yield HopMetrics(
            hops=hops,
            classes=len(classes),
            images=int(selected.sum()),
            alone=_hits(scores, images, classes),
            with_seen=_hits(scores[selected], subset, all_classes),
        )


def _wnids_within_hops(images: LabelledImages, seen: NDArray[np.int64], hops: int) -> set[str]:
    if images.hierarchy is None:
        return set()
    seen_wnids = [images.wnids[label] for label in seen.tolist()]
    return images.hierarchy.neighbours_within(
        [w for w in seen_wnids if w in images.hierarchy], hops
    )


def hit_rate_of_part(scores: Floats, images: LabelledImages, part: int, k: int) -> float:
    """Return hit@k of the images of one part's classes among these classes, averaged over images.

    Args:
        scores: The scores of n images against all C classes, (n, C) float; higher is nearer.
        images: The `labels` of the n images, (n,) int64, and the `wnids`, the `parts`, (C,) int8,
            and, if they have any, the `groups` of the C classes.
        part: The part of the classes: `SEEN` (0), `VALIDATION` (1) or `UNSEEN` (2) of
            `workflows.devise.class_splits`.
        k: The number of first answers that count, at least 1.

    Returns:
        The share of the images whose class is among the first k, 0 to 1; an image whose class ties
        with others counts in part.

    Raises:
        TesseraeError: The part has fewer than k classes, or no images.
        ValueError: A score of such an image against such a class is NaN, or k is below 1.
    """
    classes = images.classes(part)
    hits = _hits(scores, images, classes, ks=(k,)) if len(classes) >= k else {}
    if not hits:
        raise TesseraeError(
            f"{len(classes)} classes to select by: expected at least {k}, with images."
        )
    return hits[k].micro


def restrict_to_classes(
    scores: Floats, images: LabelledImages, classes: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64], list[list[int]]]:
    """Restrict scores to the images of some classes, and to these classes as candidates.

    Args:
        scores: The scores of n images against all C classes, (n, C) float. They are not changed.
        images: The `labels` of the n images, (n,) int64, and the `wnids`, the `parts`, (C,) int8,
            and, if they have any, the `groups` of the C classes.
        classes: The labels of the m classes, ascending, (m,) int64.

    Returns:
        The scores of the q images of these classes, in their order, as a new array, (q, m), with a
        column for each of *classes*; the true column of each image, (q,) int64; and the groups of
        two or more columns of classes that share a vector. q may be 0.
    """
    selected = np.isin(images.labels, classes)
    columns = np.searchsorted(classes, images.labels[selected])
    column_of = {label: column for column, label in enumerate(classes.tolist())}
    groups = [
        [column_of[label] for label in group if label in column_of] for group in images.groups
    ]
    groups = [group for group in groups if len(group) > 1]
    return scores[np.ix_(np.flatnonzero(selected), classes)], columns, groups


def _hits(
    scores: Floats,
    images: LabelledImages,
    classes: NDArray[np.int64],
    ks: Sequence[int] = KS,
) -> dict[int, ClassSums]:
    selected, columns, groups = restrict_to_classes(scores, images, classes)
    if not len(columns):
        return {}
    ranks = true_class_ranks(selected, columns, groups=groups)
    labels, count = classes[columns], len(images.parts)
    return {k: sum_per_class(ranks.hits(k), labels, count) for k in ks if k <= len(classes)}


def _generalised(
    scores: Floats, images: LabelledImages, classes: NDArray[np.int64]
) -> dict[int, GeneralisedAccuracy]:
    selected, columns, groups = restrict_to_classes(scores, images, classes)
    is_seen = images.parts[classes] == SEEN
    if is_seen[columns].all() or not is_seen[columns].any():
        return {}
    ranks = true_class_ranks(selected, columns, groups=groups)
    ks = [k for k in KS if k <= len(classes)]
    return generalised_accuracy(ranks, columns, is_seen, ks=ks, macro=False)


def _hierarchical_precision(
    scores: Floats, images: LabelledImages, classes: NDArray[np.int64]
) -> dict[int, ClassSums]:
    hierarchy = images.hierarchy
    wnids = [images.wnids[label] for label in classes.tolist()]
    if hierarchy is None or any(wnid not in hierarchy for wnid in wnids):
        return {}
    selected, columns, groups = restrict_to_classes(scores, images, classes)
    if not len(columns):
        return {}
    valid, column_of = set(wnids), {wnid: column for column, wnid in enumerate(wnids)}
    correct = {
        k: {
            column: {column_of[w] for w in hierarchy.correct_set(wnids[column], k, valid)}
            for column in np.unique(columns).tolist()
        }
        for k in KS
        if k <= len(classes)
    }
    precisions = hierarchical_precision(selected, columns, correct, groups=groups)
    labels, count = classes[columns], len(images.parts)
    return {k: sum_per_class(values, labels, count) for k, values in precisions.items()}


def identical_groups(vectors: Floats) -> list[list[int]]:
    """Return the groups of classes with equal vectors, which no method can distinguish.

    Args:
        vectors: The vectors of all classes, (C, d) float32; zeros for a class without a vector,
            which is in no group.

    Returns:
        Lists of two or more labels, ascending; empty if all vectors differ.
    """
    labels_of_vector: dict[bytes, list[int]] = {}
    for label, vector in enumerate(vectors):
        if vector.any():
            labels_of_vector.setdefault(vector.tobytes(), []).append(label)
    return [labels for labels in labels_of_vector.values() if len(labels) > 1]


def table_rows(
    metrics_by_method: Mapping[str, Sequence[MethodMetrics]],
) -> Iterator[tuple[str, ...]]:
    """Yield the rows of a table as text: the head, a row for each method, and the chance level.

    Cells are means over splits, in per cent of images, with one decimal. The columns are hit@k and,
    for k above 1, the hierarchical precision hp@k among unseen classes; then, for k = 5 or the
    largest k below, the hit@k of seen classes among themselves, and of seen and unseen ones among
    all classes, with their harmonic mean. A column is left out unless all splits of all methods
    have it. If a split has no metrics of unseen classes, the table has the hit@k of seen classes
    alone.

    Args:
        metrics_by_method: The metrics of each method by its name, as a list with one for each
            split of the classes. There is at least one method, and at least one split.

    Yields:
        Equally many cells in each row. The first column has the head `method`, the names of methods
        and `chance`; the chance level is empty for columns other than hit@k.
    """
    every_split = [split for splits in metrics_by_method.values() for split in splits]
    if not all(split.unseen for split in every_split):
        yield from _seen_rows(metrics_by_method)
        return
    ks = [k for k in KS if all(k in split.unseen for split in every_split)]
    precision_ks = [k for k in KS if k > 1 and all(k in split.precision for split in every_split)]
    mixed_ks = [
        k for k in ks if all(k in split.seen and k in split.generalised for split in every_split)
    ]
    mixed_ks = [k for k in mixed_ks if k <= MAX_MIXED_K][-1:]
    mixed_heads = [(f"seen@{k}", f"all: seen@{k}", f"unseen@{k}", "harmonic") for k in mixed_ks]
    yield (
        "method",
        *(f"hit@{k}" for k in ks),
        *(f"hp@{k}" for k in precision_ks),
        *chain(*mixed_heads),
    )
    for name, splits in metrics_by_method.items():
        yield (
            name,
            *(_percent(split.unseen[k].micro for split in splits) for k in ks),
            *(_percent(split.precision[k].micro for split in splits) for k in precision_ks),
            *(cell for k in mixed_ks for cell in _mixed(splits, k)),
        )
    chances = (_percent(chance(k, split.candidates[0]) for split in every_split) for k in ks)
    yield ("chance", *chances, *[""] * (len(precision_ks) + 4 * len(mixed_ks)))


def _mixed(splits: Sequence[MethodMetrics], k: int) -> Iterator[str]:
    yield _percent(split.seen[k].micro for split in splits)
    yield _percent(split.generalised[k].seen for split in splits)
    yield _percent(split.generalised[k].unseen for split in splits)
    yield _percent(split.generalised[k].harmonic for split in splits)


def _seen_rows(
    metrics_by_method: Mapping[str, Sequence[MethodMetrics]],
) -> Iterator[tuple[str, ...]]:
    every_split = [split for splits in metrics_by_method.values() for split in splits]
    ks = [k for k in KS if all(k in split.seen for split in every_split)]
    yield ("method", *(f"hit@{k}" for k in ks))
    for name, splits in metrics_by_method.items():
        yield (name, *(_percent(split.seen[k].micro for split in splits) for k in ks))
    yield (
        "chance",
        *(_percent(chance(k, split.candidates[1]) for split in every_split) for k in ks),
    )


def _percent(values: Iterable[float]) -> str:
    return f"{100 * float(np.mean(list(values))):.1f}"
