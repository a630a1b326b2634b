"""Tests of averages and intervals over classes against plain loops and theory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.workflows.evaluation.scores import scored
from workflows.evaluation.class_accuracy import (
    ClassSums,
    GeneralisedAccuracy,
    bootstrap,
    generalised_accuracy,
    paired_bootstrap,
    sum_per_class,
)
from workflows.evaluation.ranking import KS, TrueClassRanks, true_class_ranks


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 1000))
def test_averages_equal_those_of_loops(n: int, classes: int, seed: int) -> None:
    """The averages are over images, and over classes with images."""
    draw = np.random.default_rng(seed)
    values, labels = draw.random(n), draw.integers(0, classes, n)
    sums = sum_per_class(values, labels, classes)
    means = [
        float(np.mean([v for v, own in zip(values, labels, strict=True) if own == label]))
        for label in range(classes)
        if label in labels
    ]
    assert sums.micro == pytest.approx(sum(values) / n)
    assert sums.macro == pytest.approx(sum(means) / len(means))
    assert sums.means[sums.counts > 0].tolist() == pytest.approx(means)
    assert np.isnan(sums.means[sums.counts == 0]).all()


@given(st.lists(st.integers(0, 3), min_size=5, max_size=5), st.integers(0, 1000))
def test_a_class_drawn_twice_counts_twice(drawn: list[int], seed: int) -> None:
    """A class drawn twice counts like two classes with the same images."""
    draw = np.random.default_rng(seed)
    values, labels = draw.random(12), draw.integers(0, 4, 12)  # the last class has no images
    sums = sum_per_class(values, labels, 5)
    copied, names = [], []
    for label, times in enumerate(drawn):
        for again in range(times):
            copied.extend(values[labels == label])
            names.extend([4 * label + again] * int((labels == label).sum()))
    weights = np.array([drawn], np.float64)
    averages = [float(sums.resampled_means(weights, macro=macro)[0]) for macro in (True, False)]
    if copied:
        expected = sum_per_class(np.array(copied), np.array(names), 20)
        assert averages == pytest.approx([expected.macro, expected.micro])
    else:
        assert np.isnan(averages).all()


@given(st.integers(0, 1000), st.sampled_from([0, 2]))
def test_seen_and_unseen_classes_are_evaluated_separately(seed: int, levels: int) -> None:
    """Each kind has the accuracy of its images alone, among all candidates."""
    scores, labels = scored(60, 7, seed, levels=levels)
    seen = np.array([True, False, True, True, False, False, True])
    positions = true_class_ranks(scores, labels)
    for macro in (True, False):
        accuracies = generalised_accuracy(positions, labels, seen, macro=macro)
        assert list(accuracies) == list(KS)
        for k, judged in accuracies.items():
            for kind, figure in ((seen, judged.seen), (~seen, judged.unseen)):
                of = kind[labels]
                alone = sum_per_class(positions.hits(k)[of], labels[of], 7)
                assert figure == pytest.approx(alone.macro if macro else alone.micro)


@given(st.floats(0, 1), st.floats(0, 1))
def test_the_harmonic_mean_is_near_the_smaller_value(seen: float, unseen: float) -> None:
    """The mean is at most twice the smaller value, and 0 if either value is 0."""
    mean = GeneralisedAccuracy(seen, unseen).harmonic
    low, high = sorted((seen, unseen))
    assert low - 1e-9 <= mean <= min(2 * low, (low + high) / 2) + 1e-9
    assert mean <= math.sqrt(low * high) + 1e-9
    assert GeneralisedAccuracy(seen, 0).harmonic == 0
    assert GeneralisedAccuracy(0.6, 0.3).harmonic == pytest.approx(0.4)


def test_images_of_seen_and_unseen_classes_are_required() -> None:
    """Images of seen classes alone, or of unseen classes alone, are refused."""
    positions = TrueClassRanks(np.array([0, 1]), np.array([1, 1]))
    for kind, seen_pictures in ((True, 2), (False, 0)):
        with pytest.raises(ValueError, match=f"{seen_pictures} of 2 images are of seen classes"):
            generalised_accuracy(positions, np.array([0, 0]), np.array([kind, not kind]))


def of_means(means, pictures: int = 4) -> ClassSums:
    """Return sums of classes with given means and equal numbers of images."""
    counts = np.full(len(means), pictures)
    return ClassSums(np.asarray(means) * counts, counts)


def held_out_only(of_classes: ClassSums, classes) -> ClassSums:
    """Return the sums of a split that holds out only *classes*."""
    keep = np.isin(np.arange(len(of_classes.counts)), classes)
    return ClassSums(of_classes.sums * keep, of_classes.counts * keep)


@settings(max_examples=8)
@given(st.integers(2, 40), st.integers(0, 1000), st.booleans())
def test_an_interval_shrinks_with_the_number_of_classes(
    classes: int, seed: int, macro: bool
) -> None:
    """The width falls with the root of the number of classes, and grows with the level."""
    draw = np.random.default_rng(seed)
    small = ClassSums(draw.random(classes) * 5, draw.integers(5, 9, classes))
    large = ClassSums(np.tile(small.sums, 16), np.tile(small.counts, 16))
    narrow, wide = (bootstrap([of], macro=macro, seed=seed) for of in (large, small))
    assert wide.mean == pytest.approx(small.macro if macro else small.micro)
    assert wide.low <= wide.mean <= wide.high
    assert narrow.low <= narrow.mean <= narrow.high
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)
    half = bootstrap([small], macro=macro, seed=seed, level=0.5)
    assert wide.low <= half.low <= half.high <= wide.high
    assert bootstrap([small], macro=macro, seed=seed) == wide


def test_an_interval_has_the_width_of_theory() -> None:
    """With many classes an end is 1.96 standard errors from the mean over classes."""
    means = np.random.default_rng(0).random(400)
    error = means.std() / math.sqrt(400)
    interval = bootstrap([of_means(means)], draws=5_000)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * error, rel=0.05)
    assert interval.mean - interval.low == pytest.approx(1.96 * error, rel=0.05)
    assert bootstrap([of_means(means)], draws=5_000, seed=1) != interval
    more_pictures = bootstrap([of_means(means, 4000)], draws=5_000)
    assert more_pictures.low == pytest.approx(interval.low)
    assert more_pictures.high == pytest.approx(interval.high)


@pytest.mark.parametrize("macro", [True, False])
def test_an_interval_covers_the_truth_as_often_as_its_level(macro: bool) -> None:
    """The interval of 60 random classes covers the known mean in about 95 % of runs."""
    draw = np.random.default_rng(7)
    inside = 0
    for again in range(300):
        means = draw.beta(1, 3, 60)  # of mean 1/4
        interval = bootstrap([of_means(means)], macro=macro, draws=300, seed=again)
        inside += interval.low <= 0.25 <= interval.high
    assert 0.90 < inside / 300 < 0.98


def test_classes_are_drawn_once_for_all_splits() -> None:
    """Equal splits do not narrow the interval, and disjoint splits pool their classes."""
    means = np.random.default_rng(1).random(100)
    once = bootstrap([of_means(means)], draws=4000)
    five = bootstrap([of_means(means)] * 5, draws=4000)
    assert five.low == pytest.approx(once.low)
    assert five.high == pytest.approx(once.high)
    all_classes = of_means(means)
    apart = bootstrap([held_out_only(all_classes, range(s, 100, 5)) for s in range(5)], draws=4000)
    assert apart.mean == pytest.approx(once.mean)
    assert apart.high - apart.low == pytest.approx(once.high - once.low, rel=0.1)


def test_an_interval_of_two_overlapping_splits_matches_a_calculation_by_hand() -> None:
    """All four draws of two overlapping splits are as computed by hand.

    Class 0 is in one split, class 1 in both. Draw 0, 0: the first split is -6 and the second has
    no class, so -6. One of each, twice as likely: the first is their mean, (-6 + 2) / 2 = -2, the
    second 2, so 0. Draw 1, 1: 2 in both.
    """
    ours, theirs = of_means([0.0, 3.0, 9.0]), of_means([6.0, 1.0, 0.0])
    splits = [
        [held_out_only(method, [0, 1]), held_out_only(method, [1])] for method in (ours, theirs)
    ]
    difference = paired_bootstrap(*splits, draws=20_000)
    assert difference.mean == pytest.approx((-2 + 2) / 2)
    assert difference.not_better == pytest.approx(3 / 4, abs=0.02)
    for level, low, high in ((0.95, -6, 2), (0.45, 0, 0), (0.55, -6, 2)):
        between = paired_bootstrap(*splits, draws=20_000, level=level)
        assert (between.low, between.high) == pytest.approx((low, high))


def test_a_class_is_weighted_by_its_number_of_images() -> None:
    """With 1 and 3 images in two classes, half of the draws give the middle value."""
    split = ClassSums(np.array([1.0, 0.0]), np.array([1, 3]))
    for macro, middle in ((True, 0.5), (False, 0.25)):
        narrow = bootstrap([split], macro=macro, draws=20_000, level=0.45)
        assert (narrow.low, narrow.high) == (middle, middle)
        assert narrow.mean == middle
        wide = bootstrap([split], macro=macro, draws=20_000)
        assert (wide.low, wide.high) == (0, 1)


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 1000), st.booleans())
def test_a_method_does_not_differ_from_itself(
    classes: int, splits: int, seed: int, macro: bool
) -> None:
    """The difference of a method to itself is 0 everywhere."""
    draw = np.random.default_rng(seed)
    ours = [
        ClassSums(draw.random(classes), draw.integers(0, 9, classes) + 1) for _ in range(splits)
    ]
    difference = paired_bootstrap(ours, ours, macro=macro, draws=50, seed=seed)
    assert (difference.mean, difference.low, difference.high, difference.not_better) == (0, 0, 0, 1)


def test_common_difficulty_does_not_widen_a_difference() -> None:
    """A small gain in every class is a gain in every draw, even if intervals overlap."""
    hard = np.random.default_rng(2).random(50)
    ours, theirs = of_means(hard + 0.01), of_means(hard)
    difference = paired_bootstrap([ours], [theirs])
    assert (difference.mean, difference.low, difference.high) == pytest.approx((0.01, 0.01, 0.01))
    assert difference.not_better == 0
    assert bootstrap([ours]).low < bootstrap([theirs]).high
    back = paired_bootstrap([theirs], [ours])
    assert (back.low, back.high) == pytest.approx((-0.01, -0.01))
    assert back.not_better == 1


@given(st.integers(0, 1000))
def test_swapping_methods_negates_a_difference(seed: int) -> None:
    """Swapping the methods negates the difference and swaps the ends."""
    draw = np.random.default_rng(seed)
    counts = draw.integers(1, 9, 20)
    ours, theirs = (ClassSums(draw.random(20) * counts, counts) for _ in range(2))
    forward, back = (
        paired_bootstrap([ours], [theirs], draws=101),
        paired_bootstrap([theirs], [ours], draws=101),
    )
    assert (back.mean, back.low, back.high) == pytest.approx(
        (-forward.mean, -forward.high, -forward.low)
    )
    assert back.not_better == pytest.approx(1 - forward.not_better)


def test_methods_with_other_images_are_refused() -> None:
    """Different images, different classes and no splits at all are refused."""
    ours = of_means([0.5, 0.2])
    with pytest.raises(ValueError, match="8 and 10 images, or different classes"):
        paired_bootstrap([ours], [of_means([0.5, 0.2], 5)])
    with pytest.raises(ValueError, match="expected the same images"):
        paired_bootstrap([held_out_only(ours, [0])], [held_out_only(ours, [1])])
    with pytest.raises(ValueError, match=r"splits of \[2, 3\] classes"):
        bootstrap([ours, of_means([1.0, 1.0, 0.0])])
    with pytest.raises(ValueError, match=r"splits of \[\] classes"):
        bootstrap([])
    with pytest.raises(ValueError, match="0 images"):
        sum_per_class(np.empty(0), np.empty(0, np.int64), 3)
    with pytest.raises(ValueError, match="expected a sum for each class"):
        ClassSums(np.zeros(2), np.ones(3, np.int64))
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        paired_bootstrap([ours, ours], [ours])
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match=rf"class {wrong} is none of 4 candidates"):
            sum_per_class(np.ones(1), np.array([wrong]), 4)
