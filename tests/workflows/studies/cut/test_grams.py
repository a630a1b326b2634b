"""Inner products of features: those of the maps, of their means, and of maps pooled early."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.backbone.truncate import block_output
from pipeline.errors import TesseraeError
from tests.workflows.studies.cut.small import opened_network, random_images
from workflows.studies.cut import EARLY, MAP, POOLED
from workflows.studies.cut.grams import GramSum, cut_grams, end_gram, pixel_gram
from workflows.studies.cut.networks import _early_side

CUT = 2
"""The number of the cut that is tested: 8 channels of 16 x 16 positions, of which 8 x 8 follow."""


def _expected(features: torch.Tensor, num_train: int) -> np.ndarray:
    values = features.half().double()
    values = values - values.mean(0)
    return np.asarray((values[:num_train] @ values.T).numpy())


def test_cuts_have_the_shapes_of_their_maps(files: Path) -> None:
    """The lesson's cuts follow from them, and pooling early has a window of the last map."""
    network = opened_network(files)
    assert [(cut.shape, cut.early_side) for cut in network.cuts] == [
        ((4, 16, 16), 2), ((8, 16, 16), 2), ((8, 16, 16), 2),
        ((16, 8, 8), 1), ((16, 8, 8), 1), ((16, 8, 8), None),
    ]  # fmt: skip
    assert network.before_last_down_sampling is network.cuts[2]
    assert network.after_last_down_sampling is network.cuts[3]
    assert network.before_last_block is network.cuts[4]
    assert network.cuts[5].forms == (MAP,)
    assert network.cuts[0].forms == (POOLED, MAP, EARLY)


def test_the_windows_of_early_pooling_are_as_large_as_the_last_map() -> None:
    """A map that they do not divide has a smaller one at its edge; squares alone are pooled."""
    last = (8, 7, 7)
    sides = [_early_side((4, side, side), last) for side in (56, 28, 15, 14, 7)]
    assert sides == [8, 4, 3, 2, 1]
    assert _early_side((4, 14, 7), last) is None
    assert _early_side((4, 14, 14), (8, 1, 1)) is None
    assert _early_side((197, 8), last) is None


@pytest.mark.parametrize("map_bytes", [1, 20_000, 2**30])
def test_maps_are_summed_over_parts_of_their_channels(files: Path, map_bytes: int) -> None:
    """However little memory there is, the inner products are those of the whole maps."""
    network, images = opened_network(files), random_images()
    cut = network.cuts[CUT]
    backbone = network.backbone
    with torch.no_grad():
        hidden = block_output(backbone.model, cut.block, backbone.normalise(images.images))

    grams = cut_grams(network, cut, images, map_bytes=map_bytes)

    for form, features in ((MAP, hidden.flatten(1)), (POOLED, hidden.mean((2, 3)))):
        expected = _expected(features, images.num_train)
        np.testing.assert_allclose(
            grams[form].products, expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max()
        )
        assert grams[form].row_bytes == 2 * features.shape[1]
    assert grams[EARLY].row_bytes == 2 * 8 * 2 * 2
    assert grams[MAP].forward_ms > 0


def test_a_map_that_is_not_pooled_early_leads_to_the_end(files: Path) -> None:
    """With windows of one position the remaining blocks compute the network's features."""
    network, images = opened_network(files), random_images()
    whole = replace(network.cuts[CUT], early_side=16)
    end = end_gram(network, images).products
    scale = np.abs(end).max()
    early = cut_grams(network, whole, images)[EARLY].products
    np.testing.assert_allclose(early, end, atol=2e-3 * scale)
    pooled = cut_grams(network, network.cuts[CUT], images)[EARLY].products
    assert np.abs(pooled - end).max() > 0.05 * scale


def test_the_order_of_channels_is_that_of_the_network(files: Path) -> None:
    """A network that takes BGR gets BGR in all forms."""
    network, images = opened_network(files), random_images()
    reversed_images = replace(images, images=images.images.flip(1))
    bgr = opened_network(files)
    bgr.backbone.transform = replace(bgr.backbone.transform, channels="BGR")
    for index in (CUT, 5):
        expected = cut_grams(network, network.cuts[index], reversed_images)
        for form, gram in cut_grams(bgr, bgr.cuts[index], images).items():
            np.testing.assert_allclose(gram.products, expected[form].products, rtol=1e-4, atol=1e-3)


def test_pixels_have_a_byte_each() -> None:
    """Their inner products are those of values from 0 to 1."""
    images = random_images()
    gram = pixel_gram(images)
    assert gram.row_bytes == images.images[0].numel()
    values = images.images.flatten(1).double().numpy() / 255
    values -= values.mean(0)
    expected = values[: images.num_train] @ values.T
    np.testing.assert_allclose(gram.products, expected, atol=1e-3)


def test_features_beyond_float16_are_refused() -> None:
    """They could not be stored."""
    gram = GramSum(2, 3)
    with pytest.raises(TesseraeError, match="largest number of float16, 65,504"):
        gram.add(torch.full((3, 2), 1e5).half())
