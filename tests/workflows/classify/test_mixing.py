"""Tests that mixed rows are those of the papers, and depend on seed, epoch and rows alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from scipy.special import betaincinv

from pipeline.order import key
from workflows.classify.mixing import MixedBatch, Mixing

PURPOSES = [0x4D4958 + number for number in range(4)]
KINDS: dict[str, dict[str, float]] = {
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
    "both": {"mixup": 0.4, "cutmix": 0.7},
}


def batch(n: int, height: int = 9, width: int = 12, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """Return normalised images, labels and row numbers."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(n, 3, height, width, generator=generator)
    labels = torch.randint(10, (n,), generator=generator)
    rows = torch.randperm(10_000, generator=generator)[:n]
    return images.contiguous(memory_format=torch.channels_last), labels, rows


def uniform(seed: int, epoch: int, row: int, purpose: int) -> float:
    """Return the draw of a row, by the documented hash."""
    return (key(seed, epoch, purpose, row) >> 40) / 2**24


def plain_pair(
    images: NDArray[np.float64], row: int, seed: int, epoch: int, mixup: float, cutmix: float
) -> tuple[NDArray[np.float64], float]:
    """Return two mixed images and the share of each itself, by loops and numpy."""
    share, kind, left, top = (uniform(seed, epoch, row, purpose) for purpose in PURPOSES)
    cuts = bool(cutmix) and (not mixup or kind < 0.5)
    parameter = cutmix if cuts else mixup
    share = float(betaincinv(parameter, parameter, share))
    own, partner = images
    if not cuts:
        blended = [share * own + (1 - share) * partner, share * partner + (1 - share) * own]
        return np.stack(blended), share
    height, width = own.shape[1:]
    side = np.sqrt(1 - share)
    rows = [y for y in range(height)
            if (top - side / 2) * height <= y + 0.5 < (top + side / 2) * height]  # fmt: skip
    columns = [x for x in range(width)
               if (left - side / 2) * width <= x + 0.5 < (left + side / 2) * width]  # fmt: skip
    mixed = images.copy()
    for y in rows:
        for x in columns:
            mixed[0, :, y, x], mixed[1, :, y, x] = partner[:, y, x], own[:, y, x]
    return mixed, 1 - len(rows) * len(columns) / (height * width)


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**63 - 1), epoch=st.integers(0, 10**6), pairs=st.integers(1, 5))
def test_mixed_rows_equal_a_plain_computation(kind: str, seed: int, epoch: int, pairs: int) -> None:
    """Images and shares are those of both papers, with the partner's label beside the own one."""
    images, labels, rows = batch(2 * pairs, seed=seed % 1_000)
    before = images.clone()
    mixed = Mixing(**KINDS[kind], seed=seed)(images, labels, rows, epoch)
    assert torch.equal(images, before)
    assert torch.equal(mixed.labels, labels)
    parameters = {"mixup": 0.0, "cutmix": 0.0, **KINDS[kind]}
    for first in range(0, 2 * pairs, 2):
        pair = slice(first, first + 2)
        expected, share = plain_pair(
            images[pair].double().numpy(), int(rows[first]), seed, epoch, **parameters
        )
        np.testing.assert_allclose(mixed.images[pair].numpy(), expected, rtol=1e-4, atol=1e-5)
        assert mixed.shares[pair].tolist() == pytest.approx([share, share], abs=1e-6)
        assert mixed.partner_labels[pair].tolist() == labels[pair].flip(0).tolist()


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("parameter", [0.2, 1.0, 3.0])
def test_shares_have_the_distribution_of_the_paper(kind: str, parameter: float) -> None:
    """The shares before a box is clipped are those of Beta(a, a), by a chi-squared test."""
    count = 20_000
    mixing = Mixing(**{kind: parameter}, seed=1)
    images = torch.zeros(2 * count, 3, 1, 1)
    labels = torch.zeros(2 * count, dtype=torch.int64)
    drawn: list[NDArray[np.float32]] = []
    original = Mixing._shares

    def record(self: Mixing, *draws: Any) -> torch.Tensor:
        shares = original(self, *draws)
        drawn.append(shares.numpy())
        return shares

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Mixing, "_shares", record)
        mixed = mixing(images, labels, torch.arange(2 * count), 0)
    (shares,) = drawn
    bins = np.linspace(0, 1, 21)  # few, as float32 has none of the values next to 1
    expected = count * np.diff(stats.beta(parameter, parameter).cdf(bins))
    assert stats.chisquare(np.histogram(shares, bins)[0], expected).pvalue > 0.001
    if kind == "mixup":
        assert np.array_equal(mixed.shares.numpy(), shares.repeat(2))


@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    seed=st.integers(0, 2**40),
    parameter=st.floats(0.1, 5),
)
def test_the_share_of_a_label_is_that_of_its_pixels(
    height: int, width: int, seed: int, parameter: float
) -> None:
    """With CutMix each pixel is one of both images, and the shares of labels count them."""
    images = torch.zeros(8, 3, height, width)
    images[1::2] = 1
    labels = torch.arange(8)
    mixed = Mixing(cutmix=parameter, seed=seed)(images, labels, torch.arange(50, 58), 3)
    assert set(mixed.images.unique().tolist()) <= {0.0, 1.0}
    own = (mixed.images == images).float()
    assert torch.equal(own.sum((1, 2, 3)) / 3, (mixed.shares * height * width).round())
    torch.testing.assert_close(own.mean((1, 2, 3)), mixed.shares, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pair_is_mixed_equally_in_any_batch(kind: str) -> None:
    """Ranks that have even parts of a batch mix what one rank mixes, in any layout in memory."""
    mixing = Mixing(**KINDS[kind], seed=2)
    images, labels, rows = batch(24)
    whole = mixing(images, labels, rows, 4)
    for cut in (2, 6, 12):
        parts = [
            mixing(images[start : start + cut], labels[start : start + cut],
                   rows[start : start + cut], 4)
            for start in range(0, 24, cut)
        ]  # fmt: skip
        joined = MixedBatch(*map(torch.cat, zip(*parts, strict=True)))
        for actual, expected in zip(joined, whole, strict=True):
            assert torch.equal(actual, expected)
    further = [mixing(images, labels, rows, 5), mixing(images, labels, rows + 1, 4),
              Mixing(**KINDS[kind], seed=3)(images, labels, rows, 4)]  # fmt: skip
    assert not any(torch.equal(mixed.shares, whole.shares) for mixed in further)


def test_with_both_half_of_the_pairs_are_cut() -> None:
    """Each pair is either blended or cut, and both are equally likely."""
    images = torch.zeros(4_000, 3, 4, 4)
    images[1::2] = 1
    labels = torch.zeros(4_000, dtype=torch.int64)
    mixed = Mixing(mixup=1.0, cutmix=1.0)(images, labels, torch.arange(4_000), 0)
    blended = ((mixed.images > 0) & (mixed.images < 1)).any(3).any(2).any(1)
    assert torch.equal(blended[::2], blended[1::2])
    assert 900 < int(blended[::2].sum()) < 1_100


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_mixed_images_keep_their_layout_and_type(layout: torch.memory_format) -> None:
    """Images stay channels last or channels first."""
    images, labels, rows = batch(4)
    mixed = Mixing(mixup=0.2, cutmix=1.0)(images.contiguous(memory_format=layout), labels, rows, 0)
    assert mixed.images.is_contiguous(memory_format=layout)
    assert (mixed.images.dtype, mixed.shares.dtype) == (torch.float32, torch.float32)


def test_an_odd_batch_is_refused() -> None:
    """Its last row would have no partner."""
    images, labels, rows = batch(3)
    with pytest.raises(ValueError, match="3 rows cannot be mixed in pairs: expected an even numb"):
        Mixing(mixup=0.2)(images, labels, rows, 0)


def test_a_mixing_without_parameters_is_false() -> None:
    """A stage can ask whether anything is mixed."""
    assert not Mixing()
    assert Mixing(mixup=0.1)
    assert Mixing(cutmix=0.1)
