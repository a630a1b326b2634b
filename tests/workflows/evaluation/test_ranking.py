"""Tests of ranking metrics against plain loops over all orders of ties, and by their laws."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workflows.evaluation.scores import scored
from workflows.evaluation import ranking
from workflows.evaluation.class_accuracy import bootstrap, generalised_accuracy, sum_per_class
from workflows.evaluation.ranking import (
    KS,
    NO_PATH,
    chance,
    hierarchical_precision,
    hit_rates,
    hops,
    same_class_precision,
    top_k,
    true_class_ranks,
)


def some_sets(candidates: int, seed: int, ks=KS) -> dict[int, dict[int, set[int]]]:
    """Return, for each k and label, a set of the label and random other classes."""
    draw = np.random.default_rng(seed)
    return {
        k: {
            label: {label, *draw.integers(0, candidates, draw.integers(0, candidates)).tolist()}
            for label in range(candidates)
        }
        for k in ks
        if k <= candidates
    }


def orders(scores: np.ndarray) -> list[list[int]]:
    """Return all lists of answers that a row of scores allows, each equally likely."""
    columns = range(len(scores))
    return [sorted(order, key=lambda c: -scores[c]) for order in itertools.permutations(columns)]


small = st.tuples(
    st.integers(1, 6), st.integers(1, 5), st.integers(0, 10_000), st.sampled_from([0, 1, 2, 3])
)
large = st.tuples(
    st.integers(1, 40), st.integers(1, 30), st.integers(0, 10_000), st.sampled_from([0, 1, 2, 9])
)


def test_metrics_of_a_small_example_match_a_calculation_by_hand() -> None:
    """The example has four images among three kinds of dog and a violin."""
    scores = np.array(
        [
            [0.9, 0.5, 0.1, 0.0],  # right at once
            [0.5, 0.9, 0.1, 0.0],  # the right dog is the second
            [0.1, 0.3, 0.3, 0.3],  # one of three that are first
            [0.4, 0.3, 0.2, 0.1],  # the last
        ]
    )
    labels = np.array([0, 0, 2, 3])
    positions = true_class_ranks(scores, labels)
    assert positions.above.tolist() == [0, 1, 0, 3]
    assert positions.tied.tolist() == [1, 1, 3, 1]
    assert positions.mean.tolist() == [0, 1, 1, 3]
    assert positions.hits(1).tolist() == [1, 0, 1 / 3, 0]
    assert positions.hits(2).tolist() == [1, 1, 2 / 3, 0]
    assert hit_rates(positions, (1, 2, 3)) == {1: (4 / 3) / 4, 2: (8 / 3) / 4, 3: 3 / 4}

    dogs = {0: {0, 1, 2}, 1: {0, 1, 2}, 2: {0, 1, 2}, 3: {3}}
    precise = hierarchical_precision(scores, labels, {1: dogs, 2: dogs})
    assert precise[1].tolist() == pytest.approx([1, 1, 2 / 3, 0])
    assert precise[2].tolist() == pytest.approx([1, 1, 2 / 3, 0])

    of_classes = sum_per_class(positions.hits(1), labels, 4)
    assert of_classes.counts.tolist() == [2, 0, 1, 1]
    assert of_classes.sums.tolist() == [1, 0, 1 / 3, 0]
    assert of_classes.micro == pytest.approx((1 + 1 / 3) / 4)
    assert of_classes.macro == pytest.approx((1 / 2 + 1 / 3 + 0) / 3)

    judged = generalised_accuracy(positions, labels, np.array([True, True, False, False]), ks=(1,))[
        1
    ]
    assert (judged.seen, judged.unseen) == pytest.approx((1 / 2, 1 / 6))
    assert judged.harmonic == pytest.approx(1 / 4)

    apart = np.array([[0, 1, 1, 6], [1, 0, 1, 6], [1, 1, 0, 6], [6, 6, 6, 0]], np.int16)
    far = hops(scores, labels, apart)
    assert far.shares == pytest.approx({0: (1 + 1 / 3) / 4, 1: (1 + 1 / 3) / 4, 6: (1 + 1 / 3) / 4})
    assert far.mean == pytest.approx(7 * (1 + 1 / 3) / 4)


@given(small, st.integers(1, 6))
def test_a_position_is_the_mean_over_orders_of_ties(of, k: int) -> None:
    """Positions and hits are means over all lists that the scores allow."""
    scores, labels = scored(*of[:3], levels=of[3])
    positions = true_class_ranks(scores, labels)
    for row, label in enumerate(labels):
        lists = orders(scores[row])
        assert positions.mean[row] == pytest.approx(
            np.mean([order.index(label) for order in lists])
        )
        hit = np.mean([label in order[:k] for order in lists])
        assert positions.hits(k)[row] == pytest.approx(hit)


@given(small)
def test_hierarchical_precision_is_the_mean_over_orders_of_ties(of) -> None:
    """The precision of a list is the share of its first k answers in the label's set."""
    scores, labels = scored(*of[:3], levels=of[3])
    sets = some_sets(scores.shape[1], of[2], ks=(1, 2, 3, 5))
    precisions = hierarchical_precision(scores, labels, sets)
    assert precisions.keys() == sets.keys()
    for (k, precision), (row, label) in itertools.product(
        precisions.items(), enumerate(labels.tolist())
    ):
        expected = [len(sets[k][label] & set(order[:k])) / k for order in orders(scores[row])]
        assert precision[row] == pytest.approx(np.mean(expected))


@given(small)
def test_hops_are_averaged_over_all_first_answers(of) -> None:
    """Several first answers share the weight of an image."""
    scores, labels = scored(*of[:3], levels=of[3])
    apart = np.random.default_rng(of[2]).integers(0, 4, (of[1], of[1])).astype(np.int16)
    expected: Counter[int] = Counter()
    for row, label in enumerate(labels):
        lists = orders(scores[row])
        for order in lists:
            expected[int(apart[label, order[0]])] += 1 / len(lists) / len(labels)
    distribution = hops(scores, labels, apart)
    assert distribution.shares == pytest.approx(dict(expected))
    assert list(distribution.shares) == sorted(distribution.shares)
    assert distribution.mean == pytest.approx(sum(far * share for far, share in expected.items()))


@given(large, st.integers(0, 1000))
def test_metrics_satisfy_their_invariants(of, seed: int) -> None:
    """A larger k hits no less, k = C always hits, and the order of columns has no effect."""
    scores, labels = scored(*of[:3], levels=of[3])
    candidates = of[1]
    positions = true_class_ranks(scores, labels)
    hits = np.stack([positions.hits(k) for k in range(1, candidates + 1)])
    assert (np.diff(hits, axis=0) >= 0).all()
    assert (hits[-1] == 1).all()
    assert positions.hits(candidates + 5).tolist() == hits[-1].tolist()
    np.testing.assert_allclose(hits.sum(axis=0), candidates - positions.mean)

    shuffled = np.random.default_rng(seed).permutation(candidates)
    moved = np.argsort(shuffled)  # the class of column c is now at moved[c]
    again = true_class_ranks(scores[:, shuffled], moved[labels])
    assert (again.above == positions.above).all()
    assert (again.tied == positions.tied).all()
    sets = some_sets(candidates, seed)
    moved_sets = {
        k: {int(moved[label]): moved[list(right)].tolist() for label, right in of_labels.items()}
        for k, of_labels in sets.items()
    }
    precision = hierarchical_precision(scores, labels, sets)
    shuffled_precision = hierarchical_precision(scores[:, shuffled], moved[labels], moved_sets)
    for k in sets:
        np.testing.assert_allclose(precision[k], shuffled_precision[k])
    apart = np.random.default_rng(seed).integers(0, 9, (candidates,) * 2).astype(np.int16)
    shuffled_hops = hops(scores[:, shuffled], moved[labels], apart[np.ix_(shuffled, shuffled)])
    assert shuffled_hops.shares == pytest.approx(hops(scores, labels, apart).shares)


@given(large)
def test_precision_with_only_the_class_itself_is_a_hit(of) -> None:
    """At k = 1 the precision is hit@1, at other k a k-th of hit@k; all right gives 1."""
    scores, labels = scored(*of[:3], levels=of[3])
    candidates = of[1]
    positions = true_class_ranks(scores, labels)
    ks = [k for k in KS if k <= candidates]
    alone = {k: {label: [label] for label in range(candidates)} for k in ks}
    precise = hierarchical_precision(scores, labels, alone)
    assert precise[1].tolist() == positions.hits(1).tolist()
    for k in ks:
        np.testing.assert_allclose(precise[k], positions.hits(k) / k)
    apart = 1 - np.eye(candidates, dtype=np.int16)
    assert hops(scores, labels, apart).shares.get(0, 0) == pytest.approx(hit_rates(positions)[1])
    everything = {k: dict.fromkeys(range(candidates), range(candidates)) for k in ks}
    for precision in hierarchical_precision(scores, labels, everything).values():
        np.testing.assert_allclose(precision, 1)


@given(st.integers(1, 20), st.integers(1, 40), st.floats(-1, 1, width=32))
def test_equal_scores_give_chance(n: int, candidates: int, score: float) -> None:
    """Equal scores give chance, not 1 as counting only better scores would."""
    labels = np.arange(n) % candidates
    equal = np.full((n, candidates), score, np.float32)
    for k, rate in hit_rates(true_class_ranks(equal, labels)).items():
        assert rate == pytest.approx(chance(k, candidates))
    sets = some_sets(candidates, n)
    for k, precision in hierarchical_precision(equal, labels, sets).items():
        expected = [chance(len(sets[k][label]), candidates) for label in labels.tolist()]
        np.testing.assert_allclose(precision, expected)


def test_random_scores_hit_by_chance() -> None:
    """Random scores hit by chance on average, as in table 1 of Frome et al."""
    positions = true_class_ranks(*scored(20_000, 50, 0))
    for k, rate in hit_rates(positions).items():
        sigma = math.sqrt(k / 50 * (1 - k / 50) / 20_000)
        assert rate == pytest.approx(chance(k, 50), abs=4 * sigma)
    assert list(hit_rates(positions)) == [1, 2, 5, 10, 20]
    sizes, table = (6.5, 12.5, 22.5, 41.7), (0.007, 0.013, 0.022, 0.042)
    assert [chance(size, 1000) for size in sizes] == pytest.approx(table, abs=6e-4)
    assert chance(20, 10) == 1


def test_classes_of_a_group_are_tied_despite_rounding() -> None:
    """Each of three classes "crib" in a group is first in a third of the orders."""
    scores = np.array([[0.1, 0.7, 0.7 + 1e-9, 0.7 - 1e-9, 0.3], [0.8, 0.1, 0.2, 0.1, 0.9]])
    labels = np.array([3, 1])
    before = scores.copy()
    cribs = [[1, 3, 2]]
    positions = true_class_ranks(scores, labels, groups=cribs)
    assert positions.above.tolist() == [0, 2]
    assert positions.tied.tolist() == [3, 3]
    assert positions.hits(1).tolist() == [1 / 3, 0]
    assert true_class_ranks(scores, labels).above.tolist() == [2, 3]
    assert top_k(scores, 3, groups=cribs).tolist() == [[1, 2, 3], [4, 0, 1]]
    alone = {1: {label: [label] for label in range(5)}}
    assert hierarchical_precision(scores, labels, alone, groups=cribs)[1].tolist() == [1 / 3, 0]
    near = hops(scores, labels, 1 - np.eye(5, dtype=np.int16), groups=cribs)
    assert near.shares == pytest.approx({0: 1 / 6, 1: 5 / 6})
    assert (scores == before).all()


@given(large, st.data())
def test_groups_have_equal_scores(of, data) -> None:
    """Every class of a group gets the best score of the group, for each image."""
    scores, labels = scored(*of[:3], levels=of[3])
    order = np.random.default_rng(of[2]).permutation(of[1]).tolist()
    cuts = sorted(data.draw(st.sets(st.integers(0, of[1]))))
    groups = [order[start:stop] for start, stop in itertools.pairwise(cuts)]
    level = scores.copy()
    for group, row in itertools.product(groups, range(len(scores))):
        level[row, group] = max(scores[row, column] for column in group)
    positions, expected = (
        true_class_ranks(scores, labels, groups=groups),
        true_class_ranks(level, labels),
    )
    assert (positions.above == expected.above).all()
    assert (positions.tied == expected.tied).all()
    assert (top_k(scores, of[1], groups=groups) == top_k(level, of[1])).all()


@given(large, st.integers(1, 30))
def test_the_first_answers_are_those_of_a_sort(of, k: int) -> None:
    """The first answers equal a stable sort, with ties in column order."""
    scores, _ = scored(*of[:3], levels=of[3])
    k = min(k, of[1])
    answers = top_k(scores, k)
    for row, first in zip(scores, answers.tolist(), strict=True):
        assert first == sorted(range(of[1]), key=lambda c: -row[c])[:k]


def test_blocks_of_any_size_give_the_same_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of any size give the same metrics, and so do draws."""
    scores, labels = scored(50, 13, 4, levels=5)
    sets, groups = some_sets(13, 1), [[0, 5], [7, 2]]
    apart = np.random.default_rng(0).integers(0, 9, (13, 13)).astype(np.int16)

    def everything():
        positions = true_class_ranks(scores, labels, groups=groups)
        of_classes = sum_per_class(positions.hits(2), labels, 13)
        return (
            positions.above.tolist(),
            positions.tied.tolist(),
            top_k(scores, 4).tolist(),
            {
                k: precision.tolist()
                for k, precision in hierarchical_precision(
                    scores, labels, sets, groups=groups
                ).items()
            },
            hops(scores, labels, apart).shares,
            bootstrap([of_classes], draws=150, seed=3),
        )

    expected = everything()
    for limit in (1, 13 * 7, 13 * 50):
        monkeypatch.setattr(ranking, "MAX_BLOCK_SCORES", limit)
        parts = everything()
        assert parts[:4] == expected[:4]
        assert parts[4] == pytest.approx(expected[4])
        ends = (parts[5].mean, parts[5].low, parts[5].high)
        assert ends == pytest.approx((expected[5].mean, expected[5].low, expected[5].high))


def test_masked_candidates_come_last() -> None:
    """Candidates with a score of minus infinity come last."""
    scores = np.array([[-np.inf, 0.2, -np.inf, 0.1]])
    positions = true_class_ranks(scores, np.array([0]))
    assert (positions.above.tolist(), positions.tied.tolist()) == ([2], [2])
    assert top_k(scores, 4).tolist() == [[1, 3, 0, 2]]
    precise = hierarchical_precision(scores, np.array([0]), {3: {0: [0, 1]}})
    assert precise[3].tolist() == [1.5 / 3]


def test_classes_without_a_path_are_counted_apart() -> None:
    """Classes without a connecting path are counted, but not in the mean."""
    scores = np.array([[0.9, 0.1, 0.0]] * 4)
    apart = np.array([[0, NO_PATH, 3], [NO_PATH, 0, 1], [3, 1, 0]], np.int16)
    distribution = hops(scores, np.array([0, 1, 2, 2]), apart)
    assert distribution.shares == {0: 0.25, 3: 0.5, NO_PATH: 0.25}
    assert distribution.mean == (0 + 3 + 3) / 3
    assert math.isnan(hops(scores[:1], np.array([1]), apart).mean)


@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 12), st.integers(0, 1000))
def test_the_precision_of_a_search_equals_that_of_a_loop(
    q: int, k: int, rows: int, seed: int
) -> None:
    """The query's own row is left out at any position, and a missing row is a miss."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(-1, 3, rows)
    query_classes = draw.integers(0, 3, q)
    own = draw.integers(0, rows, q)
    nearest = np.stack([draw.permutation(max(rows, k + 1))[: k + 1] for _ in range(q)])
    nearest[nearest >= rows] = -1
    precision = same_class_precision(nearest, query_classes, labels, k, query_rows=own)
    for query in range(q):
        counted = [row for row in nearest[query].tolist() if row != own[query]][:k]
        right = [row != -1 and labels[row] == query_classes[query] for row in counted]
        assert precision[query] == sum(right) / k
    plain = same_class_precision(nearest, query_classes, labels, k)
    for query in range(q):
        right = [
            row != -1 and labels[row] == query_classes[query] for row in nearest[query, :k].tolist()
        ]
        assert plain[query] == sum(right) / k


def test_a_search_with_too_few_rows_is_refused() -> None:
    """Too few rows, and unknown rows or classes, are refused."""
    labels, query_classes = np.array([0, 1, 0]), np.array([0])
    nearest = np.array([[0, 2]])
    assert same_class_precision(
        nearest, query_classes, labels, 1, query_rows=np.array([0])
    ).tolist() == [1]
    with pytest.raises(ValueError, match="a query has 1 results besides itself: expected 2"):
        same_class_precision(nearest, query_classes, labels, 2, query_rows=np.array([0]))
    with pytest.raises(ValueError, match="0 results besides itself"):
        same_class_precision(np.empty((1, 0), np.int64), query_classes, labels, 1)
    with pytest.raises(ValueError, match="k is 0"):
        same_class_precision(nearest, query_classes, labels, 0)
    with pytest.raises(ValueError, match="a query has class -1"):
        same_class_precision(nearest, np.array([-1]), labels, 1)
    for row in (3, -2):
        with pytest.raises(ValueError, match=r"expected 0\.\.2, and -1"):
            same_class_precision(np.array([[0, row]]), query_classes, labels, 1)


def test_invalid_arguments_are_refused() -> None:
    """The errors name the value and the expected value."""
    scores, labels = scored(3, 4, 0)
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match=rf"class {wrong} is none of 4 candidates"):
            true_class_ranks(scores, np.array([0, wrong, 1]))
        with pytest.raises(ValueError, match=rf"class {wrong} is none of 4 candidates"):
            true_class_ranks(scores, labels, groups=[[0, wrong]])
        with pytest.raises(ValueError, match=rf"class {wrong} is none of 4 candidates"):
            hierarchical_precision(scores, labels, {1: {label: [wrong] for label in range(4)}})
    with pytest.raises(ValueError, match=r"labels of shape \(2,\)"):
        true_class_ranks(scores, labels[:2])
    with pytest.raises(ValueError, match=r"scores of shape \(3,\)"):
        true_class_ranks(scores[:, 0], labels)
    nan = np.where(np.eye(3, 4) > 0, np.nan, scores)
    with pytest.raises(ValueError, match="rows 0 to 2 have NaN scores"):
        true_class_ranks(nan, labels)
    with pytest.raises(ValueError, match="class 2 is in two groups"):
        true_class_ranks(scores, labels, groups=[[0, 2], [2, 1]])
    with pytest.raises(ValueError, match="k is 0: expected 1 or more"):
        true_class_ranks(scores, labels).hits(0)
    alone = {label: [label] for label in range(4)}
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k is {k}: expected"):
            top_k(scores, k)
        with pytest.raises(ValueError, match=f"k is {k}: expected"):
            hierarchical_precision(scores, labels, {1: alone, k: alone})
    with pytest.raises(ValueError, match="k is 1: expected at most the number of candidates, 0"):
        top_k(scores[:, :0], 1)
    with pytest.raises(ValueError, match="has no correct set at k = 1"):
        hierarchical_precision(scores, labels, {1: {}})
    with pytest.raises(ValueError, match=r"distances of shape \(3, 3\)"):
        hops(scores, labels, np.zeros((3, 3), np.int16))
    with pytest.raises(ValueError, match="0 images, 4 candidates"):
        hops(scores[:0], labels[:0], np.zeros((4, 4), np.int16))
