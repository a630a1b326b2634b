"""The loss of JPEG compression, computed on the device of a batch for a quality of each image.

It follows libjpeg's default encoder and decoder: the tables of ITU-T T.81, annex K, scaled by the
quality, chroma at half the size in both directions, and smooth enlargement of chroma. Rounding
differs by a level here and there from a file that was written and read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99, 99, 99, 99, 99, 99, 99, 99),) * 4,
)
_TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_TO_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))
_BLOCK = 8
_UNIT = 2 * _BLOCK
"""The side of what is encoded together: four blocks of luma, and one of each chroma."""


def compress(images: Tensor, quality: Tensor) -> Tensor:
    """Return images as they are after JPEG compression, without gradients.

    Args:
        images: (n, 3, h, w) float32 RGB in levels, 0 to 255. They are only read.
        quality: (n,) the quality of each image, whole numbers from 1 to 100, on the same device.

    Returns:
        (n, 3, h, w) float32 in whole levels, 0 to 255.
    """
    height, width = images.shape[2:]
    with torch.no_grad():
        planes = _mix_channels(images, _TO_YCC).round()
        planes = functional.pad(planes, (0, -width % _UNIT, 0, -height % _UNIT), mode="replicate")
        luma, chroma = planes[:, :1], functional.avg_pool2d(planes[:, 1:], 2).round()
        luma = _quantise(luma - 128, _scaled(_LUMA_TABLE, quality)) + 128
        chroma = _quantise(chroma, _scaled(_CHROMA_TABLE, quality))
        luma, chroma = luma.round().clamp(0, 255), chroma.round().clamp(-128, 127)
        chroma = functional.interpolate(chroma, scale_factor=2, mode="bilinear")
        decoded = _mix_channels(torch.cat([luma, chroma], 1), _TO_RGB)
        return decoded[:, :, :height, :width].round().clamp(0, 255)


def _mix_channels(images: Tensor, matrix: tuple[tuple[float, ...], ...]) -> Tensor:
    return torch.einsum("oc,nchw->nohw", images.new_tensor(matrix), images)


def _scaled(table: tuple[tuple[int, ...], ...], quality: Tensor) -> Tensor:
    """Return the table of each image, (n, 8, 8), by libjpeg's rule for a quality."""
    factor = torch.where(quality < 50, 5000 // quality.long(), 200 - 2 * quality.long())
    values = torch.tensor(table, device=quality.device)
    return ((values * factor[:, None, None] + 50) // 100).clamp(1, 255).float()


def _quantise(planes: Tensor, tables: Tensor) -> Tensor:
    """Return planes (n, c, h, w) after the rounding of their blocks' coefficients by a table."""
    n, c, height, width = planes.shape
    transform = _cosines().to(planes)
    blocks = planes.view(n, c, height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    blocks = blocks.transpose(3, 4)  # (n, c, rows of blocks, blocks in a row, 8, 8)
    steps = tables[:, None, None, None]
    levels = (transform @ blocks @ transform.T / steps).round() * steps
    return (transform.T @ levels @ transform).transpose(3, 4).reshape(planes.shape)


def _cosines() -> Tensor:
    """Return the orthonormal discrete cosine transform of 8 values, (8, 8) float32."""
    k, x = torch.meshgrid(torch.arange(_BLOCK), torch.arange(_BLOCK), indexing="ij")
    cosines = torch.cos((2 * x + 1) * k * math.pi / (2 * _BLOCK)) * math.sqrt(2 / _BLOCK)
    cosines[0] /= math.sqrt(2)
    return cosines
