"""What is drawn depends on seed, epoch and row alone; what is cut is what was drawn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.augment import IMAGENET_MEAN, IMAGENET_STD, Augment, draws, normalise
from pipeline.order import key

GOLDEN = [2175092, 2772753, 5210941]
BIG = st.integers(0, 2**64 - 1)


def pictures(n: int, height: int, width: int) -> torch.Tensor:
    """Pixels that say where they were: red is the column, green the row, blue the picture."""
    made = torch.zeros(n, 3, height, width, dtype=torch.uint8)
    made[:, 0] = torch.arange(width)
    made[:, 1] = torch.arange(height)[:, None]
    made[:, 2] = torch.arange(n)[:, None, None]
    return made.contiguous(memory_format=torch.channels_last)


def plain(**words: Any) -> Augment:
    """Pixels as they are, 0 to 255."""
    return Augment(**{"mean": (0, 0, 0), "std": (1 / 255,) * 3, "flip": False, **words})


@given(seed=BIG, epoch=BIG, row=st.integers(0, 2**62), purpose=st.integers(0, 9))
def test_a_draw_is_the_documented_hash(seed: int, epoch: int, row: int, purpose: int) -> None:
    """The same as in unsigned integers: its first 24 bits."""
    found = draws(seed, epoch, torch.tensor([row]), purpose)
    assert found.item() == (key(seed, epoch, purpose, row) >> 40) / 2**24


def test_draws_never_change() -> None:
    """A run that is resumed tomorrow sees the same pictures."""
    found = draws(0, 0, torch.arange(3), 0).tolist()
    assert [round(x * 2**24) for x in found] == GOLDEN


def test_draws_are_even_and_know_nothing_of_each_other() -> None:
    """Of seeds, epochs, rows and purposes that are neighbours."""
    rows = torch.arange(50_000)
    found = [draws(s, e, rows, p).numpy() for s in (0, 1) for e in (0, 1) for p in (0, 1)]
    for values in found:
        counts = np.histogram(values, bins=20, range=(0, 1))[0]
        assert ((counts - 2500) ** 2 / 2500).sum() < 60
    together = np.abs(np.corrcoef(found) - np.eye(len(found)))
    assert together.max() < 0.025


@pytest.mark.parametrize("crop", ["none", "random", "resized"])
def test_a_picture_is_augmented_the_same_in_any_batch(crop: str) -> None:
    """Alone or among others, in any order; in another epoch otherwise, if anything is drawn."""
    images, rows = pictures(20, 72, 72), torch.arange(100, 120)
    augment = Augment(size=64, crop=crop, seed=3)
    whole = augment(images, rows, 5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(augment(images[order], rows[order], 5), whole[order])
    torch.testing.assert_close(augment(images[7:8], rows[7:8], 5), whole[7:8])
    assert not torch.equal(augment(images, rows, 6), whole)
    assert not torch.equal(Augment(size=64, crop=crop, seed=4)(images, rows, 5), whole)
    assert whole.shape == (20, 3, 64, 64)
    assert whole.dtype == torch.float32
    assert whole.is_contiguous(memory_format=torch.channels_last)


def test_a_random_crop_is_a_window_at_any_place() -> None:
    """Every place comes up, each as often, and the pixels are the picture's."""
    images = pictures(200, 72, 72)
    seen = []
    for epoch in range(10):
        made = plain(size=64, crop="random")(images, torch.arange(200), epoch)
        left, top = made[:, 0, 0, 0], made[:, 1, 0, 0]
        side = torch.arange(64.0)
        assert torch.equal(made[:, 0], (left[:, None, None] + side).expand(-1, 64, -1))
        assert torch.equal(made[:, 1], (top[:, None] + side)[:, :, None].expand(-1, -1, 64))
        assert torch.equal(made[:, 2, 0, 0], torch.arange(200.0))
        seen += [left, top]
    counts = torch.bincount(torch.cat(seen).long(), minlength=9)
    assert len(counts) == 9
    assert ((counts - 4000 / 9) ** 2 / (4000 / 9)).sum() < 40


def test_no_crop_is_the_middle() -> None:
    """As evaluations have it."""
    made = plain(size=64, crop="none")(pictures(2, 72, 80), torch.arange(2), 0)
    assert (made[0, 0, 0, 0], made[0, 1, 0, 0]) == (8, 4)


@pytest.mark.parametrize("crop", ["none", "random"])
def test_a_picture_that_is_shrunk_first_is_all_there(crop: str) -> None:
    """As Pillow's bilinear filter shrinks it: no pixel is left out, but for the crop's margin."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (2, 224, 224, 3), np.uint8)
    images = torch.from_numpy(levels).permute(0, 3, 1, 2)
    side = 64 if crop == "none" else 72
    plain = {"flip": False, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    made = Augment(size=64, crop=crop, shrink=side, **plain)(images, torch.arange(2), 0)
    assert made.shape == (2, 3, 64, 64)
    for place, picture in enumerate(levels):
        small = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
        expected = torch.from_numpy(np.array(small)).permute(2, 0, 1).float()
        windows = expected.unfold(1, 64, 1).unfold(2, 64, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        far = (windows - made[place] * 255).abs().amax((1, 2, 3)).min()
        assert far < 1.0  # Pillow rounds to whole levels


def test_a_resized_crop_keeps_the_area_and_proportions_it_drew() -> None:
    """Seen in the slope of the columns and rows that come out."""
    images = pictures(2000, 224, 224)[:, :, :, :]
    made = plain(size=32, crop="resized")(images, torch.arange(2000), 1)
    width = (made[:, 0, 16, 30] - made[:, 0, 16, 1]) / 29 * 32
    height = (made[:, 1, 30, 16] - made[:, 1, 1, 16]) / 29 * 32
    area, ratio = width * height / 224**2, width / height
    assert 0.079 < area.min() < 0.1
    assert 0.95 < area.max() <= 1.001
    free = area < 0.7  # a larger one may not fit in its proportions
    assert 0.74 < ratio[free].min() < 0.76
    assert 1.32 < ratio[free].max() < 1.35
    assert abs(torch.log(ratio[free]).mean()) < 0.02
    assert abs(area.mean() - 0.54) < 0.03
    assert made.amin() >= 0
    assert made[:, 0].amax() <= 223


def test_the_whole_picture_resized_to_its_size_is_itself() -> None:
    """So the grid is where the pixels are."""
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8)
    same = plain(size=40, crop="resized", area=(1.0, 1.0), ratio=(1.0, 1.0))
    torch.testing.assert_close(same(images, torch.arange(3), 0), images.float(), atol=0.01, rtol=0)


def test_half_of_the_pictures_are_mirrored() -> None:
    """And the others are as they were."""
    images = pictures(2000, 8, 8)
    made = plain(size=8, crop="none", flip=True)(images, torch.arange(2000), 0)
    mirrored = made[:, 0, 0, 0] == 7
    assert torch.equal(made[mirrored], images[mirrored].float().flip(3))
    assert torch.equal(made[~mirrored], images[~mirrored].float())
    assert 900 < mirrored.sum() < 1100


def test_normalising_is_by_channel() -> None:
    """ImageNet's figures, or -1 to 1."""
    images = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(
        normalise(images, IMAGENET_MEAN, IMAGENET_STD), (images / 255 - mean) / std
    )
    ends = normalise(torch.tensor([0, 255]).view(2, 1, 1, 1).expand(2, 3, 1, 1), *[(0.5,) * 3] * 2)
    torch.testing.assert_close(ends[:, 0, 0, 0], torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ({"crop": "center"}, "crop is 'center': expected one of none, random"),
        ({"area": (0.0, 1.0)}, "area is"),
        ({"area": (0.5, 1.5)}, "area is"),
        ({"ratio": (2.0, 1.0)}, "ratio is"),
    ],
)
def test_what_makes_no_sense_is_refused(words: dict[str, Any], what: str) -> None:
    """With what was expected."""
    with pytest.raises(ValueError, match=what):
        Augment(size=8, **words)


def test_a_crop_larger_than_the_picture_is_refused() -> None:
    """By both sizes."""
    with pytest.raises(ValueError, match="pictures of 72x72 have no crop of 80"):
        Augment(size=80, crop="random")(pictures(1, 72, 72), torch.arange(1), 0)
