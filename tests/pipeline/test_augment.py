"""Draws depend on seed, epoch and row alone, and crops follow the draws."""

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
from tests.devices import DEVICES

GOLDEN = [2175092, 2772753, 5210941]
GOLDEN_SUMS = {"none": 1425.59, "random": -549.84, "resized": 1781.61}
"""Weighted sums of augmented images, from the version before borders and cutouts."""
LEFT, TOP, CUT_LEFT, CUT_TOP = 3, 4, 5, 6
"""The purposes of the draws that place a random crop and the square of a cutout."""
BIG = st.integers(0, 2**64 - 1)


def pictures(n: int, height: int, width: int) -> torch.Tensor:
    """Return images that encode positions: red the column, green the row, blue the image."""
    images = torch.zeros(n, 3, height, width, dtype=torch.uint8)
    images[:, 0] = torch.arange(width)
    images[:, 1] = torch.arange(height)[:, None]
    images[:, 2] = torch.arange(n)[:, None, None]
    return images.contiguous(memory_format=torch.channels_last)


def plain(**words: Any) -> Augment:
    """Return an augmentation that keeps pixel values, 0 to 255."""
    return Augment(**{"mean": (0, 0, 0), "std": (1 / 255,) * 3, "flip": False, **words})


@given(seed=BIG, epoch=BIG, row=st.integers(0, 2**62), purpose=st.integers(0, 9))
def test_a_draw_is_the_documented_hash(seed: int, epoch: int, row: int, purpose: int) -> None:
    """A draw is the first 24 bits of the hash in unsigned integers."""
    drawn = draws(seed, epoch, torch.tensor([row]), purpose)
    assert drawn.item() == (key(seed, epoch, purpose, row) >> 40) / 2**24


@pytest.mark.parametrize("device", DEVICES)
def test_draws_never_change(device: str) -> None:
    """A resumed run sees the same augmented images as before, on any device."""
    drawn = draws(0, 0, torch.arange(3, device=device), 0).tolist()
    assert [round(x * 2**24) for x in drawn] == GOLDEN


def test_draws_are_uniform_and_independent() -> None:
    """Adjacent seeds, epochs, rows and purposes give independent draws."""
    rows = torch.arange(50_000)
    drawn = [draws(s, e, rows, p).numpy() for s in (0, 1) for e in (0, 1) for p in (0, 1)]
    for values in drawn:
        counts = np.histogram(values, bins=20, range=(0, 1))[0]
        assert ((counts - 2500) ** 2 / 2500).sum() < 60
    together = np.abs(np.corrcoef(drawn) - np.eye(len(drawn)))
    assert together.max() < 0.025


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("crop", "more"),
    [("none", {}), ("random", {}), ("resized", {}), ("random", {"padding": 4, "cutout": 16}),
     ("resized", {"cutout": 9})],
)  # fmt: skip
def test_an_image_is_augmented_equally_in_any_batch(
    crop: str, more: dict[str, int], device: str
) -> None:
    """The result depends on seed and epoch, but not on the other images, the order or the device.

    On a GPU it is equal within rounding.
    """
    images, rows = pictures(20, 72, 72).to(device), torch.arange(100, 120)
    augment = Augment(size=64, crop=crop, seed=3, **more)
    batch = augment(images, rows, 5)
    torch.testing.assert_close(batch.cpu(), augment(images.cpu(), rows, 5), rtol=0, atol=1e-4)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(augment(images[order], rows[order], 5), batch[order])
    torch.testing.assert_close(augment(images[7:8], rows[7:8], 5), batch[7:8])
    assert not torch.equal(augment(images, rows, 6), batch)
    assert not torch.equal(Augment(size=64, crop=crop, seed=4, **more)(images, rows, 5), batch)
    assert batch.shape == (20, 3, 64, 64)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_a_random_crop_has_a_uniform_position() -> None:
    """All positions are equally likely, and the pixels of the window are unchanged."""
    images = pictures(200, 72, 72)
    seen = []
    for epoch in range(10):
        augmented = plain(size=64, crop="random")(images, torch.arange(200), epoch)
        left, top = augmented[:, 0, 0, 0], augmented[:, 1, 0, 0]
        side = torch.arange(64.0)
        assert torch.equal(augmented[:, 0], (left[:, None, None] + side).expand(-1, 64, -1))
        assert torch.equal(augmented[:, 1], (top[:, None] + side)[:, :, None].expand(-1, -1, 64))
        assert torch.equal(augmented[:, 2, 0, 0], torch.arange(200.0))
        seen += [left, top]
    counts = torch.bincount(torch.cat(seen).long(), minlength=9)
    assert len(counts) == 9
    assert ((counts - 4000 / 9) ** 2 / (4000 / 9)).sum() < 40


def uniform(seed: int, epoch: int, row: int, purpose: int) -> float:
    """Return the draw of a row, by the documented hash."""
    return (key(seed, epoch, purpose, row) >> 40) / 2**24


def plain_crop(image: np.ndarray, size: int, padding: int, draw: Any) -> np.ndarray:
    """Return a random crop of an image with a reflected border, (h, w, 3), by indices."""
    height, width = image.shape[:2]
    top = int(draw(TOP) * (height + 2 * padding - size + 1)) - padding
    left = int(draw(LEFT) * (width + 2 * padding - size + 1)) - padding

    def reflected(position: int, length: int) -> int:
        position = abs(position)
        return 2 * (length - 1) - position if position >= length else position

    cut = np.zeros((size, size, 3))
    for y in range(size):
        for x in range(size):
            cut[y, x] = image[reflected(top + y, height), reflected(left + x, width)]
    return cut


def plain_cutout(image: np.ndarray, side: int, draw: Any) -> np.ndarray:
    """Return a normalised image, (h, w, 3), whose square is 0."""
    size = len(image)
    top, left = (int(draw(purpose) * size) - side // 2 for purpose in (CUT_TOP, CUT_LEFT))
    cut = image.copy()
    cut[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 0
    return cut


@given(
    shape=st.tuples(st.integers(8, 12), st.integers(8, 12)),
    padding=st.integers(0, 7),
    cutout=st.integers(0, 9),
    flip=st.booleans(),
    seed=BIG,
    epoch=st.integers(0, 2**40),
)
def test_borders_and_cutouts_equal_a_plain_computation(
    shape: tuple[int, int], padding: int, cutout: int, flip: bool, seed: int, epoch: int
) -> None:
    """A border reflects the image without its edge; a square is cut out of the mirrored image."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (4, *shape, 3), np.uint8)
    rows = [0, 5, 1_000_003, 2**40]
    augment = Augment(size=8, crop="random", padding=padding, cutout=cutout, flip=flip, seed=seed)
    actual = augment(torch.from_numpy(levels).permute(0, 3, 1, 2), torch.tensor(rows), epoch)
    for image, row, result in zip(levels, rows, actual, strict=True):

        def draw(purpose: int, row: int = row) -> float:
            return uniform(seed, epoch, row, purpose)

        expected = plain_crop(image, 8, padding, draw)
        if flip and draw(0) < 0.5:
            expected = expected[:, ::-1]
        expected = (expected / 255 - IMAGENET_MEAN) / IMAGENET_STD
        expected = plain_cutout(expected, cutout, draw)
        np.testing.assert_allclose(result.permute(1, 2, 0), expected, rtol=1e-4, atol=1e-5)


def test_a_border_is_around_the_resized_image() -> None:
    """Its width is in pixels of the image that is cut."""
    images = pictures(50, 32, 32)
    rows = torch.arange(50)
    resized = plain(size=8, crop="none", resize=8)(images, rows, 0)
    padded = np.pad(resized.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    augmented = plain(size=8, crop="random", resize=8, padding=2)(images, rows, 0).numpy()
    for image, row in zip(padded, augmented, strict=True):
        windows = [image[:, y : y + 8, x : x + 8] for y in range(5) for x in range(5)]
        assert min(np.abs(window - row).max() for window in windows) < 1e-3


def test_a_cutout_has_its_centre_anywhere() -> None:
    """All positions are equally likely, and the rest of the image is unchanged."""
    images, rows = pictures(2_000, 12, 12), torch.arange(2_000)
    uncut = plain(size=12, crop="none", mean=(-1 / 255,) * 3)(images, rows, 0)
    augmented = plain(size=12, crop="none", cutout=3, mean=(-1 / 255,) * 3)(images, rows, 0)
    is_cut = (augmented == 0).all(1)  # no pixel of the images themselves is 0
    assert torch.equal(augmented, uncut.masked_fill(is_cut[:, None], 0.0))
    spans = [is_cut.any(2), is_cut.any(1)]  # rows and columns of the square
    assert torch.equal(is_cut, spans[0][:, :, None] & spans[1][:, None, :])
    for span in spans:
        assert set(span.sum(1).tolist()) == {2, 3}  # clipped if its centre is at the edge
        counts = span.sum(0).float()
        expected = 2_000 / 12 * torch.tensor([2.0, *[3.0] * 10, 2.0])
        assert float(((counts - expected) ** 2 / expected).sum()) < 40


def test_a_whole_image_may_be_cut_out() -> None:
    """Twice as wide a square covers it wherever its centre is."""
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    assert not Augment(size=8, crop="none", cutout=17)(images, torch.arange(5), 0).any()


@pytest.mark.parametrize("crop", ["none", "random", "resized"])
def test_without_border_and_cutout_images_are_what_they_were(crop: str) -> None:
    """The draws of an earlier version have kept their purposes."""
    images, rows = pictures(30, 20, 20), torch.arange(30)
    augmented = plain(size=16, crop=crop, flip=True, seed=7)(images, rows, 2)
    weights = torch.arange(augmented.numel(), dtype=torch.float64).sqrt().sin()
    weighted = float((augmented * weights.view(augmented.shape)).sum())
    assert weighted == pytest.approx(GOLDEN_SUMS[crop], abs=0.02)


def test_crop_none_is_the_centre_crop() -> None:
    """Evaluation uses the centred square."""
    augmented = plain(size=64, crop="none")(pictures(2, 72, 80), torch.arange(2), 0)
    assert (augmented[0, 0, 0, 0], augmented[0, 1, 0, 0]) == (8, 4)


@pytest.mark.parametrize("crop", ["none", "random"])
def test_resizing_before_a_crop_uses_every_pixel(crop: str) -> None:
    """Every pixel contributes, as in Pillow's bilinear filter, except for the crop's margin."""
    rng = np.random.default_rng(0)
    levels = rng.integers(0, 256, (2, 224, 224, 3), np.uint8)
    images = torch.from_numpy(levels).permute(0, 3, 1, 2)
    side = 64 if crop == "none" else 72
    plain = {"flip": False, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    augmented = Augment(size=64, crop=crop, resize=side, **plain)(images, torch.arange(2), 0)
    assert augmented.shape == (2, 3, 64, 64)
    for index, picture in enumerate(levels):
        small = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
        expected = torch.from_numpy(np.array(small)).permute(2, 0, 1).float()
        windows = expected.unfold(1, 64, 1).unfold(2, 64, 1).permute(1, 2, 0, 3, 4).flatten(0, 1)
        far = (windows - augmented[index] * 255).abs().amax((1, 2, 3)).min()
        assert far < 1.0  # Pillow rounds to whole levels


def test_a_resized_crop_has_the_drawn_area_and_proportions() -> None:
    """The slopes of the output's columns and rows show the box."""
    images = pictures(100, 224, 224)
    augment = plain(size=32, crop="resized")
    augmented = torch.cat([augment(images, rows, 1) for rows in torch.arange(2000).split(100)])
    width = (augmented[:, 0, 16, 30] - augmented[:, 0, 16, 1]) / 29 * 32
    height = (augmented[:, 1, 30, 16] - augmented[:, 1, 1, 16]) / 29 * 32
    area, ratio = width * height / 224**2, width / height
    assert 0.079 < area.min() < 0.1
    assert 0.95 < area.max() <= 1.001
    free = area < 0.7  # a larger one may not fit in its proportions
    assert 0.74 < ratio[free].min() < 0.76
    assert 1.32 < ratio[free].max() < 1.35
    assert abs(torch.log(ratio[free]).mean()) < 0.02
    assert abs(area.mean() - 0.54) < 0.03
    assert augmented.amin() >= 0
    assert augmented[:, 0].amax() <= 223


def test_resizing_to_the_same_size_is_the_identity() -> None:
    """The sampling grid coincides with the pixels."""
    images = torch.randint(0, 256, (3, 3, 40, 40), dtype=torch.uint8)
    same = plain(size=40, crop="resized", area=(1.0, 1.0), ratio=(1.0, 1.0))
    torch.testing.assert_close(same(images, torch.arange(3), 0), images.float(), atol=0.01, rtol=0)


def test_half_of_the_images_are_mirrored() -> None:
    """The other half of the images is unchanged."""
    images = pictures(2000, 8, 8)
    augmented = plain(size=8, crop="none", flip=True)(images, torch.arange(2000), 0)
    mirrored = augmented[:, 0, 0, 0] == 7
    assert torch.equal(augmented[mirrored], images[mirrored].float().flip(3))
    assert torch.equal(augmented[~mirrored], images[~mirrored].float())
    assert 900 < mirrored.sum() < 1100


def test_images_are_normalised_by_channel() -> None:
    """The values of ImageNet are applied, or those that give the range -1 to 1."""
    images = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(
        normalise(images, IMAGENET_MEAN, IMAGENET_STD), (images / 255 - mean) / std
    )
    ends = normalise(torch.tensor([0, 255]).view(2, 1, 1, 1).expand(2, 3, 1, 1), *[(0.5,) * 3] * 2)
    torch.testing.assert_close(ends[:, 0, 0, 0], torch.tensor([-1.0, 1.0]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"crop": "center"}, "crop is 'center': expected one of none, random"),
        ({"area": (0.0, 1.0)}, "area is"),
        ({"area": (0.5, 1.5)}, "area is"),
        ({"ratio": (2.0, 1.0)}, "ratio is"),
        ({"padding": 2}, "padding is 2 with crop 'resized': only 'random' has a border"),
        ({"padding": 2, "crop": "none"}, "padding is 2 with crop 'none'"),
        ({"padding": -1, "crop": "random"}, "padding is -1: expected at least 0"),
        ({"cutout": -1}, "cutout is -1: expected at least 0"),
    ],
)
def test_invalid_arguments_are_refused(words: dict[str, Any], message: str) -> None:
    """The error contains the expected values."""
    with pytest.raises(ValueError, match=message):
        Augment(size=8, **words)


def test_a_crop_larger_than_the_image_is_refused() -> None:
    """The error contains both sizes."""
    with pytest.raises(ValueError, match="images are 72x72 pixels: expected at least 80"):
        Augment(size=80, crop="random")(pictures(1, 72, 72), torch.arange(1), 0)


def test_a_border_wider_than_the_image_is_refused() -> None:
    """It cannot be reflected."""
    augment = Augment(size=8, crop="random", padding=8)
    with pytest.raises(ValueError, match="images are 9x8 pixels: expected more than the border of"):
        augment(pictures(1, 8, 9), torch.arange(1), 0)
