"""Averages and intervals over classes, beside plain loops, theory and examples by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workflows.evaluation.scores import scored
from workflows.evaluation.per_class import (
    Generalised,
    PerClass,
    bootstrap,
    compare,
    generalised,
    per_class,
)
from workflows.evaluation.ranking import KS, Places, places


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 1000))
def test_averages_are_those_of_loops(n: int, classes: int, seed: int) -> None:
    """Over pictures, and over the classes that have any."""
    draw = np.random.default_rng(seed)
    values, labels = draw.random(n), draw.integers(0, classes, n)
    found = per_class(values, labels, classes)
    means = [
        float(np.mean([v for v, one in zip(values, labels, strict=True) if one == label]))
        for label in range(classes)
        if label in labels
    ]
    assert found.micro == pytest.approx(sum(values) / n)
    assert found.macro == pytest.approx(sum(means) / len(means))
    assert found.means[found.counts > 0].tolist() == pytest.approx(means)
    assert np.isnan(found.means[found.counts == 0]).all()


@given(st.lists(st.integers(0, 3), min_size=5, max_size=5), st.integers(0, 1000))
def test_a_class_that_is_drawn_twice_is_there_twice(drawn: list[int], seed: int) -> None:
    """With all its pictures: as if they were copied under another name."""
    draw = np.random.default_rng(seed)
    values, labels = draw.random(12), draw.integers(0, 4, 12)  # the last class has no pictures
    found = per_class(values, labels, 5)
    copied, names = [], []
    for label, times in enumerate(drawn):
        for again in range(times):
            copied.extend(values[labels == label])
            names.extend([4 * label + again] * int((labels == label).sum()))
    weights = np.array([drawn], np.float64)
    made = [float(found.redrawn(weights, macro=macro)[0]) for macro in (True, False)]
    if copied:
        expected = per_class(np.array(copied), np.array(names), 20)
        assert made == pytest.approx([expected.macro, expected.micro])
    else:
        assert np.isnan(made).all()


@given(st.integers(0, 1000), st.sampled_from([0, 2]))
def test_seen_and_unseen_are_judged_apart_among_all(seed: int, levels: int) -> None:
    """Each as if its pictures were alone, with the same candidates."""
    scores, labels = scored(60, 7, seed, levels=levels)
    seen = np.array([True, False, True, True, False, False, True])
    found = places(scores, labels)
    for macro in (True, False):
        made = generalised(found, labels, seen, macro=macro)
        assert list(made) == list(KS)
        for k, judged in made.items():
            for kind, figure in ((seen, judged.seen), (~seen, judged.unseen)):
                of = kind[labels]
                alone = per_class(found.hits(k)[of], labels[of], 7)
                assert figure == pytest.approx(alone.macro if macro else alone.micro)


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_harmonic_mean_is_near_the_lesser(seen: float, unseen: float) -> None:
    """Between it and its double, and under the other means; 0 as soon as one is."""
    found = Generalised(seen, unseen).harmonic
    low, high = sorted((seen, unseen))
    assert low - 1e-9 <= found <= min(2 * low, (low + high) / 2) + 1e-9
    assert found <= math.sqrt(low * high) + 1e-9
    assert Generalised(seen, 0).harmonic == 0
    assert Generalised(0.6, 0.3).harmonic == pytest.approx(0.4)


def test_pictures_of_one_kind_are_no_generalised_figure() -> None:
    """Neither seen ones alone nor unseen ones."""
    found = Places(np.array([0, 1]), np.array([1, 1]))
    for kind, many in ((True, 2), (False, 0)):
        with pytest.raises(ValueError, match=f"of 2 pictures {many} are of seen classes"):
            generalised(found, np.array([0, 0]), np.array([kind, not kind]))


def of_means(means, pictures: int = 4) -> PerClass:
    """Classes of as many pictures."""
    counts = np.full(len(means), pictures)
    return PerClass(np.asarray(means) * counts, counts)


def held(of_classes: PerClass, classes) -> PerClass:
    """The same in a split that holds out only some classes."""
    keep = np.isin(np.arange(len(of_classes.counts)), classes)
    return PerClass(of_classes.sums * keep, of_classes.counts * keep)


@settings(max_examples=20)
@given(st.integers(2, 40), st.integers(0, 1000), st.booleans())
def test_an_interval_holds_the_figure_and_shrinks_with_classes(
    classes: int, seed: int, macro: bool
) -> None:
    """As their root; more of the draws need more room."""
    draw = np.random.default_rng(seed)
    few = PerClass(draw.random(classes) * 5, draw.integers(5, 9, classes))
    many = PerClass(np.tile(few.sums, 16), np.tile(few.counts, 16))
    narrow, wide = (bootstrap([of], macro=macro, seed=seed) for of in (many, few))
    assert wide.mean == pytest.approx(few.macro if macro else few.micro)
    assert wide.low <= wide.mean <= wide.high
    assert narrow.low <= narrow.mean <= narrow.high
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)
    half = bootstrap([few], macro=macro, seed=seed, level=0.5)
    assert wide.low <= half.low <= half.high <= wide.high
    assert bootstrap([few], macro=macro, seed=seed) == wide


def test_an_interval_is_as_wide_as_theory_has_it() -> None:
    """Of many classes: 1.96 standard errors to either side, of the mean over classes."""
    means = np.random.default_rng(0).random(400)
    error = means.std() / math.sqrt(400)
    found = bootstrap([of_means(means)], draws=5_000)
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert found.mean - found.low == pytest.approx(1.96 * error, rel=0.05)
    assert bootstrap([of_means(means)], draws=5_000, seed=1) != found
    more_pictures = bootstrap([of_means(means, 4000)], draws=5_000)
    assert more_pictures.low == pytest.approx(found.low)
    assert more_pictures.high == pytest.approx(found.high)


@pytest.mark.parametrize("macro", [True, False])
def test_an_interval_holds_the_truth_as_often_as_it_says(macro: bool) -> None:
    """Of 60 classes drawn again and again from some with a known mean."""
    draw = np.random.default_rng(7)
    inside = 0
    for again in range(300):
        means = draw.beta(1, 3, 60)  # of mean 1/4
        found = bootstrap([of_means(means)], macro=macro, draws=300, seed=again)
        inside += found.low <= 0.25 <= found.high
    assert 0.90 < inside / 300 < 0.98


def test_over_splits_classes_are_drawn_once() -> None:
    """The same split five times says no more than once; splits that share nothing say more."""
    means = np.random.default_rng(1).random(100)
    once = bootstrap([of_means(means)], draws=4000)
    five = bootstrap([of_means(means)] * 5, draws=4000)
    assert five.low == pytest.approx(once.low)
    assert five.high == pytest.approx(once.high)
    whole = of_means(means)
    apart = bootstrap([held(whole, range(s, 100, 5)) for s in range(5)], draws=4000)
    assert apart.mean == pytest.approx(once.mean)
    assert apart.high - apart.low == pytest.approx(once.high - once.low, rel=0.1)


def test_two_splits_that_overlap_by_hand() -> None:
    """Of class 0 in one split and class 1 in both, the four draws that there are.

    0 and 0: the first split is -6, the second has nothing: -6. One of each, twice as likely: the
    first is their mean, (-6 + 2) / 2 = -2, the second 2: 0. 1 and 1: 2 in both.
    """
    ours, theirs = of_means([0.0, 3.0, 9.0]), of_means([6.0, 1.0, 0.0])
    splits = [[held(one, [0, 1]), held(one, [1])] for one in (ours, theirs)]
    found = compare(*splits, draws=20_000)
    assert found.mean == pytest.approx((-2 + 2) / 2)
    assert found.not_better == pytest.approx(3 / 4, abs=0.02)
    for level, low, high in ((0.95, -6, 2), (0.45, 0, 0), (0.55, -6, 2)):
        between = compare(*splits, draws=20_000, level=level)
        assert (between.low, between.high) == pytest.approx((low, high))


def test_over_pictures_a_class_weighs_as_much_as_it_has() -> None:
    """Of two classes with 1 and 3 pictures: three figures in a half and two quarters of draws."""
    split = PerClass(np.array([1.0, 0.0]), np.array([1, 3]))
    for macro, middle in ((True, 0.5), (False, 0.25)):
        found = bootstrap([split], macro=macro, draws=20_000, level=0.45)
        assert (found.low, found.high) == (middle, middle)
        assert found.mean == middle
        wide = bootstrap([split], macro=macro, draws=20_000)
        assert (wide.low, wide.high) == (0, 1)


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 1000), st.booleans())
def test_a_method_is_no_better_than_itself(
    classes: int, splits: int, seed: int, macro: bool
) -> None:
    """The difference is nothing, everywhere."""
    draw = np.random.default_rng(seed)
    ours = [PerClass(draw.random(classes), draw.integers(0, 9, classes) + 1) for _ in range(splits)]
    found = compare(ours, ours, macro=macro, draws=50, seed=seed)
    assert (found.mean, found.low, found.high, found.not_better) == (0, 0, 0, 1)


def test_what_is_hard_for_both_is_not_in_their_difference() -> None:
    """A little better in every class is better in every draw, though either interval is wide."""
    hard = np.random.default_rng(2).random(50)
    ours, theirs = of_means(hard + 0.01), of_means(hard)
    found = compare([ours], [theirs])
    assert (found.mean, found.low, found.high) == pytest.approx((0.01, 0.01, 0.01))
    assert found.not_better == 0
    assert bootstrap([ours]).low < bootstrap([theirs]).high
    back = compare([theirs], [ours])
    assert (back.low, back.high) == pytest.approx((-0.01, -0.01))
    assert back.not_better == 1


@given(st.integers(0, 1000))
def test_the_other_way_round_a_difference_turns(seed: int) -> None:
    """Ends and all."""
    draw = np.random.default_rng(seed)
    counts = draw.integers(1, 9, 20)
    ours, theirs = (PerClass(draw.random(20) * counts, counts) for _ in range(2))
    found, back = compare([ours], [theirs], draws=101), compare([theirs], [ours], draws=101)
    assert (back.mean, back.low, back.high) == pytest.approx((-found.mean, -found.high, -found.low))
    assert back.not_better == pytest.approx(1 - found.not_better)


def test_methods_of_other_pictures_are_not_compared() -> None:
    """Nor splits of other classes, nor nothing."""
    ours = of_means([0.5, 0.2])
    with pytest.raises(ValueError, match="8 and 10 pictures, or of other classes"):
        compare([ours], [of_means([0.5, 0.2], 5)])
    with pytest.raises(ValueError, match="expected the same pictures"):
        compare([held(ours, [0])], [held(ours, [1])])
    with pytest.raises(ValueError, match=r"splits of \[2, 3\] classes"):
        bootstrap([ours, of_means([1.0, 1.0, 0.0])])
    with pytest.raises(ValueError, match=r"splits of \[\] classes"):
        bootstrap([])
    with pytest.raises(ValueError, match="0 pictures"):
        per_class(np.empty(0), np.empty(0, np.int64), 3)
    with pytest.raises(ValueError, match="expected a sum for each class"):
        PerClass(np.zeros(2), np.ones(3, np.int64))
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        compare([ours, ours], [ours])
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match=rf"class {wrong} is none of 4 candidates"):
            per_class(np.ones(1), np.array([wrong]), 4)
