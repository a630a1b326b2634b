"""Tests of the metrics: unseen among unseen, seen among seen, both among all classes."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.wordvectors.hierarchy import Hierarchy
from workflows.devise.accuracy import (
    LabelledImages,
    by_hops,
    evaluate,
    hit_rate_of_part,
    identical_groups,
    table_rows,
)
from workflows.devise.class_splits import LEFT_OUT, SEEN, UNSEEN, VALIDATION

WNIDS = [f"n{label:08d}" for label in range(6)]
PARTS = np.array([SEEN, SEEN, UNSEEN, UNSEEN, VALIDATION, LEFT_OUT], np.int8)


def test_each_setting_has_its_own_candidates() -> None:
    """The hit rates equal those computed by hand for five images with the same scores."""
    scores = np.array(
        [
            [0.9, 0.1, 0.5, 0.2, 0.3, 1.0],  # of 2: first among unseen, second among all
            [0.9, 0.1, 0.5, 0.2, 0.3, 1.0],  # of 3: second among unseen, third among all
            [0.9, 0.1, 0.5, 0.2, 0.3, 1.0],  # of 0: first
            [0.9, 0.1, 0.5, 0.2, 0.3, 1.0],  # of 1: second among seen, last among all
            [0.9, 0.1, 0.5, 0.2, 0.3, 1.0],  # of 4: to choose by, in no figure
        ],
        np.float32,
    )
    metrics = evaluate(scores, LabelledImages(np.array([2, 3, 0, 1, 4]), WNIDS, PARTS))
    assert [metrics.unseen[k].micro for k in (1, 2)] == [0.5, 1.0]
    assert [metrics.seen[k].micro for k in (1, 2)] == [0.5, 1.0]
    assert set(metrics.unseen) == set(metrics.seen) == {1, 2}
    assert (metrics.generalised[1].seen, metrics.generalised[1].unseen) == (0.5, 0.0)
    assert (metrics.generalised[2].seen, metrics.generalised[2].unseen) == (0.5, 0.5)
    assert metrics.generalised[2].harmonic == 0.5
    assert metrics.unseen[1].counts.tolist() == [0, 0, 1, 1, 0, 0]


def test_hits_among_uses_one_part() -> None:
    """Images of validation classes are scored against validation classes alone."""
    scores = np.array([[1, 1, 1, 1, 0, 1], [1, 1, 1, 1, 0, 1]], np.float32)
    pictures = LabelledImages(np.array([4, 2]), WNIDS, PARTS)
    assert hit_rate_of_part(scores, pictures, VALIDATION, 1) == 1.0


def test_hierarchical_precision_uses_unseen_classes() -> None:
    """Siblings count as correct at k = 2, and the label alone at k = 1."""
    wnids = ["a", "b", "c", "d"]
    hierarchy = Hierarchy([("top", "left"), ("top", "right"), ("left", "a"), ("left", "b"),
                           ("right", "c"), ("right", "d")])  # fmt: skip
    parts = np.full(4, UNSEEN, np.int8)
    parts = np.append(parts, SEEN).astype(np.int8)
    scores = np.array([[0.8, 0.7, 0.1, 0.2, 0.0], [0.8, 0.1, 0.7, 0.2, 0.0]], np.float32)
    labels = np.array([1, 1])
    pictures = LabelledImages(np.append(labels, 4), [*wnids, "e"], parts, hierarchy=hierarchy)
    metrics = evaluate(np.vstack([scores, scores[:1]]), pictures)
    assert metrics.precision[1].micro == 0.0
    assert metrics.precision[2].micro == pytest.approx((1.0 + 0.5) / 2)


def test_classes_that_share_a_vector_share_their_hits() -> None:
    """Each of two classes with equal vectors is first in half of the orders."""
    vectors = np.array([[1, 0], [0, 1], [0, 1], [0, 0], [0, 0]], np.float32)
    assert identical_groups(vectors) == [[1, 2]]
    parts = np.array([SEEN, UNSEEN, UNSEEN, LEFT_OUT, LEFT_OUT], np.int8)
    labels = np.array([1, 0])
    pictures = LabelledImages(labels, WNIDS[:5], parts, identical_groups(vectors))
    metrics = evaluate(np.array([[0, 1, 1, 9, 9], [1, 0, 0, 9, 9]], np.float32), pictures)
    assert metrics.unseen[1].micro == 0.5


def test_the_table_has_a_row_for_each_method() -> None:
    """The cells are means over splits, in per cent."""
    parts = np.array([SEEN] * 5 + [UNSEEN] * 5, np.int8)
    labels = np.arange(10)
    pictures = LabelledImages(labels, [f"w{label}" for label in range(10)], parts)
    right, wrong = np.eye(10, dtype=np.float32), -np.eye(10, dtype=np.float32)
    head, first, second, last = table_rows(
        {"right": [evaluate(right, pictures)],
         "half": [evaluate(right, pictures), evaluate(wrong, pictures)]}
    )  # fmt: skip
    assert head[:4] == ("method", "hit@1", "hit@2", "hit@5")
    assert first[:4] == ("right", "100.0", "100.0", "100.0")
    assert second[:4] == ("half", "50.0", "50.0", "100.0")
    assert last[:4] == ("chance", "20.0", "40.0", "100.0")
    assert len(last) == len(head)


def test_unseen_classes_are_evaluated_by_hops() -> None:
    """Class b is a sibling of the seen a, c a cousin, and d is not connected to it."""
    hierarchy = Hierarchy([("left", "a"), ("left", "b"), ("top", "left"), ("top", "c")])
    parts = np.array([SEEN, UNSEEN, UNSEEN, UNSEEN], np.int8)
    scores = np.array(
        [
            [0.0, 0.5, 0.9, 1.0],  # of b: right among b alone, and beside a
            [0.9, 0.5, 0.4, 1.0],  # of b: right alone, second beside a
            [0.2, 0.9, 0.5, 1.0],  # of c: second of b and c, and beside a
            [0.2, 0.1, 0.5, 1.0],  # of d: first
        ],
        np.float32,
    )
    wnids = ["a", "b", "c", "d"]
    pictures = LabelledImages(np.array([1, 1, 2, 3]), wnids, parts, hierarchy=hierarchy)
    two, three, every = by_hops(scores, pictures)
    assert [(entry.hops, entry.classes, entry.images) for entry in (two, three, every)] == [
        (2, 1, 2), (3, 2, 3), (None, 3, 4),
    ]  # fmt: skip
    assert (two.alone[1].micro, two.with_seen[1].micro) == (1.0, 0.5)
    assert two.with_seen[2].micro == 1.0
    assert three.alone[1].micro == pytest.approx(1 / 3)
    assert three.alone[2].micro == 1.0
    assert three.with_seen[1].micro == 0.0
    assert every.alone[1].micro == pytest.approx(1 / 4)
    (alone,) = by_hops(scores, LabelledImages(np.array([1, 1, 2, 3]), wnids, parts))
    assert (alone.hops, alone.classes) == (None, 3)


@pytest.mark.parametrize("part", [SEEN, UNSEEN])
def test_images_of_one_part_are_evaluated_alone(part: int) -> None:
    """Metrics that need images of the other part are left out."""
    hierarchy = Hierarchy([("top", wnid) for wnid in WNIDS])
    parts = np.array([SEEN] * 4 + [UNSEEN] * 2, np.int8)
    labels = np.flatnonzero(part == parts)
    pictures = LabelledImages(labels, WNIDS, parts, hierarchy=hierarchy)
    metrics = evaluate(np.eye(6, dtype=np.float32)[labels], pictures)
    assert (len(metrics.seen) > 0) == (part == SEEN)
    assert (len(metrics.unseen) > 0) == (len(metrics.precision) > 0) == (part == UNSEEN)
    assert metrics.generalised == {}
    head, line, last = table_rows({"right": [metrics]})
    assert head[:2] == ("method", "hit@1")
    assert line[1] == "100.0"
    assert last[:2] == ("chance", "25.0" if part == SEEN else "50.0")
    assert len(head) == len(line) == len(last)


def test_without_unseen_classes_the_table_is_of_seen_ones() -> None:
    """The table has the hit rates among seen classes."""
    parts = np.full(4, SEEN, np.int8)
    metrics = evaluate(np.eye(4, dtype=np.float32), LabelledImages(np.arange(4), WNIDS[:4], parts))
    assert list(table_rows({"right": [metrics]})) == [
        ("method", "hit@1", "hit@2"), ("right", "100.0", "100.0"), ("chance", "25.0", "50.0"),
    ]  # fmt: skip
