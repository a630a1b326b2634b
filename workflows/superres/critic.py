"""The critic of enlarged images, for patches of any size."""

from __future__ import annotations

from torch import Tensor, nn

from workflows.adversarial.layers import with_norm

MIN_SIDE = 24
"""The smallest side of an image that a critic takes, in pixels."""
MAX_FACTOR = 8
"""The largest number of channels, as a multiple of those of the first layer."""


class PatchCritic(nn.Module):
    """A critic that averages the scores of overlapping regions of an image.

    Each region is 70 pixels wide, as in Isola et al.: Image-to-Image Translation with Conditional
    Adversarial Networks, CVPR 2017, so that images may have any size from 24 pixels.
    """

    def __init__(self, width: int, *, norm: str) -> None:
        """Create a critic with random weights.

        Args:
            width: Number of channels of the first layer.
            norm: Normalisation of the layers between the first and the last, one of
                `workflows.adversarial.layers.NORMS`.
        """
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        channels = width
        for stride in (2, 2, 1):
            wider = min(2 * channels, MAX_FACTOR * width)
            conv = nn.Conv2d(channels, wider, 4, stride, 1)
            layers += [*with_norm(conv, norm, wider), nn.LeakyReLU(0.2, inplace=True)]
            channels = wider
        last = nn.Conv2d(channels, 1, 4, 1, 1)
        self.body = nn.Sequential(
            *layers, *with_norm(last, "spectral" if norm == "spectral" else "none", 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of images, high for those that are taken for real.

        Args:
            images: (n, 3, h, w) float32 RGB in levels, 0 to 255, with sides of at least `MIN_SIDE`.

        Returns:
            (n,) unbounded scores, float32 unless autocast lowers it.
        """
        scores: Tensor = self.body(images / 127.5 - 1)
        return scores.mean((1, 2, 3))
