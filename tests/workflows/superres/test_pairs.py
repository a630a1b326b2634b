"""Pairs are aligned to the pixel, and drawn by row: laws, and the compression of Pillow."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from workflows.superres import bicubic, jpeg, orientations
from workflows.superres.choices import BICUBIC, BLUR_JPEG, STORED
from workflows.superres.orientations import (
    ORIENTATIONS,
    change_orientation,
    restore_orientation,
    turned,
)
from workflows.superres.pairs import PairMaker, cut_squares, gaussian_blur


def random_pixels(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.integers(2, 4),
    patch=st.integers(4, 9),
    extra=st.tuples(st.integers(0, 9), st.integers(0, 9)),
)
def test_a_reduced_patch_is_a_part_of_the_reduced_image(
    seed: int, scale: int, patch: int, extra: tuple[int, int]
) -> None:
    """Also at the edges of the image, and where its sides are no multiples of the scale."""
    height, width = (scale * patch + each for each in extra)
    images = random_pixels(seed, 5, 3, height, width)
    maker = PairMaker(scale=scale, degradation=BICUBIC, patch=patch, seed=seed)
    rows = torch.arange(100, 105)
    low, high = maker((images,), rows, 3)
    assert high.shape == (5, 3, scale * patch, scale * patch)
    whole = images[:, :, : height // scale * scale, : width // scale * scale].float()
    reduced = bicubic.reduce(whole, scale)
    top, left = maker._position(height // scale, width // scale, rows, 3)
    assert torch.equal(low, cut_squares(reduced, top, left, patch))
    assert torch.equal(high, cut_squares(whole, scale * top, scale * left, scale * patch))


@given(seed=st.integers(0, 2**32 - 1), scale=st.integers(2, 4), patch=st.integers(1, 6))
def test_stored_pairs_are_cut_at_the_same_place(seed: int, scale: int, patch: int) -> None:
    """The original of the pixel at (y, x) is the square from (scale * y, scale * x) on."""
    low = random_pixels(seed, 4, 3, 6, 6)
    high = low.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    for is_turned in (False, True):
        maker = PairMaker(scale=scale, degradation=STORED, patch=patch, seed=seed, turned=is_turned)
        pair = maker((low, high), torch.arange(4), 0)
        assert pair.low.shape == (4, 3, patch, patch)
        repeated = pair.low.repeat_interleave(scale, 2).repeat_interleave(scale, 3)
        assert torch.equal(pair.high, repeated)


def test_every_orientation_occurs_and_draws_depend_on_the_row_alone() -> None:
    """A row gets the same pair in any batch; another epoch or seed gives another one."""
    maker = PairMaker(scale=2, degradation=BICUBIC, patch=4, seed=1, turned=True)
    images = random_pixels(0, 1, 3, 16, 16).expand(400, -1, -1, -1)
    rows = torch.arange(400)
    low, high = maker((images,), rows, 0)
    for part in ([7], [399, 7, 0]):
        again = maker((images[part],), rows[part], 0)
        assert torch.equal(again.low, low[part])
        assert torch.equal(again.high, high[part])
    assert not torch.equal(maker((images,), rows, 1).low, low)
    square = torch.arange(9.0).view(1, 1, 3, 3).expand(8, -1, -1, -1)
    in_all = turned(square, torch.arange(8))
    assert len({tuple(each.flatten().tolist()) for each in in_all}) == 8
    assert torch.equal(in_all[0], square[0])
    places = PairMaker(scale=2, degradation=BICUBIC, patch=4, seed=1)._position(8, 8, rows, 0)
    assert {tuple(p) for p in torch.stack(places, 1).tolist()} == {
        (y, x) for y in range(5) for x in range(5)
    }


def test_orientations_are_undone_and_are_the_same_on_every_device() -> None:
    """A GPU turns all images of a batch together, and cuts them by an index."""
    images = random_pixels(0, ORIENTATIONS, 3, 5, 5)
    turn = torch.arange(ORIENTATIONS)
    changed = turned(images, turn)
    assert torch.equal(orientations._turned_together(images, turn), changed)
    for orientation in range(ORIENTATIONS):
        oblong = images[:, :, :2]
        turned_oblong = change_orientation(oblong, orientation)
        assert torch.equal(restore_orientation(turned_oblong, orientation), oblong)
        assert torch.equal(
            change_orientation(images[orientation], orientation), changed[orientation]
        )
    start = torch.tensor([2, 0, 3, 1, 2, 0, 1, 3])
    without, with_margin = (
        cut_squares(images, start, start.flip(0), 2, margin=margin) for margin in (0, 1)
    )
    assert torch.equal(with_margin[:, :, 1:-1, 1:-1], without)


@pytest.mark.parametrize("degradation", [BICUBIC, BLUR_JPEG])
def test_what_the_loader_has_cut_is_reduced_without_its_margin(degradation: str) -> None:
    """The pixels of a patch are those of a larger cut, as the margin is wide enough."""
    maker = PairMaker(scale=4, degradation=degradation, patch=8, cut_by_loader=True)
    side = 4 * (8 + 2 * maker.margin)
    larger = PairMaker(scale=4, degradation=degradation, patch=8 + 16, cut_by_loader=True)
    images = random_pixels(0, 3, 3, side + 4 * 16, side + 4 * 16)
    cut = images[:, :, 32:-32, 32:-32]
    rows = torch.arange(3)
    low, high = maker((cut,), rows, 0)
    whole = larger((images,), rows, 0)
    assert torch.equal(high, whole.high[:, :, 32:-32, 32:-32])
    if degradation == BICUBIC:  # blocks of JPEG begin at the upper left pixel of a patch
        assert torch.equal(low, whole.low[:, :, 8:-8, 8:-8])
    assert low.shape == (3, 3, 8, 8)


def test_images_of_other_sizes_are_refused() -> None:
    """The message has the sizes."""
    maker = PairMaker(scale=4, degradation=STORED, patch=8)
    images = random_pixels(0, 1, 3, 16, 16)
    with pytest.raises(ValueError, match="the originals are 16x16 pixels: expected 64x64, 4 times"):
        maker((images, images), torch.arange(1), 0)
    maker = PairMaker(scale=4, degradation=BICUBIC, patch=8)
    with pytest.raises(
        ValueError, match="are 4x4 pixels: expected at least the side of a patch, 8"
    ):
        maker((images,), torch.arange(1), 0)


def test_a_blur_keeps_levels_and_has_its_standard_deviation() -> None:
    """A single bright pixel becomes a Gaussian of its image's own width."""
    images = torch.zeros(2, 1, 31, 31)
    images[:, :, 15, 15] = 1
    sigma = torch.tensor([0.8, 2.0])
    blurred = gaussian_blur(images, sigma, 8)
    assert blurred.sum((1, 2, 3)).tolist() == pytest.approx([1, 1], abs=1e-5)
    offsets = torch.arange(31) - 15
    variance = (blurred.sum((1, 2)) * offsets**2).sum(1)
    assert variance.sqrt().tolist() == pytest.approx([0.8, 2.0], rel=0.01)
    level = torch.full((1, 3, 5, 5), 77.0)
    torch.testing.assert_close(gaussian_blur(level, sigma[:1], 4), level)


@pytest.mark.parametrize("quality", [5, 30, 50, 75, 95])
def test_compression_has_the_loss_of_a_file(quality: int) -> None:
    """Pillow writes and reads a smooth picture with some noise, and so do we, nearly."""
    ramp = np.linspace(0, 255, 72)
    rng = np.random.default_rng(0)
    picture = np.stack(
        [ramp + 0 * ramp[:, None], ramp[:, None] + 0 * ramp, 255 - ramp + 0 * ramp[:, None]], 2
    )
    pixels = np.clip(picture + rng.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    written = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None].float()
    images = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    compressed = jpeg.compress(images, torch.tensor([quality]))
    loss, ours = (float((each - images).abs().mean()) for each in (written, compressed))
    assert ours == pytest.approx(loss, rel=0.03)
    assert float((compressed - written).abs().mean()) < 0.3 * loss
    both = jpeg.compress(images.expand(2, -1, -1, -1), torch.tensor([100, quality]))
    assert torch.equal(both[1:], compressed)
