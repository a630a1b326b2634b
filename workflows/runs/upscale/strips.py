"""An enlarged image from top to bottom, as the network computes it tile by tile."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from workflows.runs.upscale.images import SourceImage
from workflows.superres import bicubic
from workflows.superres.model import TrainedUpscaler
from workflows.superres.networks import RGB


def enlarged_strips(
    image: SourceImage,
    trained: TrainedUpscaler,
    *,
    side: int | None,
    self_ensemble: bool,
    count: Callable[[int], None],
) -> Iterator[NDArray[np.uint8]]:
    """Yield the rows of an enlarged image, from top to bottom.

    The network enlarges the colours; those of a grey image are the luma of its result. Transparency
    is enlarged by bicubic interpolation.

    Args:
        image: The image.
        trained: The network.
        side: The largest side of a tile, in input pixels (None: as the memory allows).
        self_ensemble: True to average the results of all eight orientations.
        count: A function that is called with the number of enlarged pixels after each tile.

    Yields:
        (rows, width * scale, channels) uint8, as many rows as a row of tiles has.
    """
    scale, width = trained.scale, image.size[0]
    colours = torch.from_numpy(image.visible_colours).permute(2, 0, 1)[None]
    alpha = None if image.alpha is None else torch.from_numpy(image.alpha)[None, None]
    strip = np.empty(0, np.uint8)
    for tile, pixels in trained.enlarge_tiles(
        colours.expand(1, RGB, -1, -1), side=side, self_ensemble=self_ensemble
    ):
        if not tile.columns.start:
            strip = np.empty((pixels.shape[2], width * scale, image.channels), np.uint8)
        part = strip[:, tile.columns.output(scale)]
        part[:, :, : colours.shape[1]] = _colours(pixels, is_grey=colours.shape[1] == 1)
        if alpha is not None:
            opacity = bicubic.enlarge(tile.read(alpha).float(), scale)
            part[:, :, -1] = tile.without_margin(opacity, scale)[0, 0].byte().numpy()
        count(pixels.shape[2] * pixels.shape[3])
        if tile.columns.stop == width:
            yield strip


def _colours(pixels: Tensor, *, is_grey: bool) -> NDArray[np.uint8]:
    """Return (1, 3, h, w) pixels as (h, w, 3), or as their luma in (h, w, 1)."""
    colours: NDArray[np.uint8] = pixels[0].permute(1, 2, 0).contiguous().numpy()
    if not is_grey:
        return colours
    return np.asarray(Image.fromarray(colours).convert("L"))[:, :, None]
