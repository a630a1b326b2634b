"""MixUp and CutMix: training images and classes that are mixed from two rows of a batch.

Rows 0 and 1 of a batch are mixed with each other, rows 2 and 3, and so on. A batch is in random
order, so partners are drawn at random, and two of them are always in the same rank. The draws of a
pair are hashes of (seed, epoch, row), so they depend on no rank, batch or device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from scipy.special import betaincinv
from torch import Tensor

from pipeline.augment import draws
from workflows.classify.options import PARTNERS

_SHARE, _KIND, _LEFT, _TOP = range(0x4D4958, 0x4D4958 + 4)  # the letters MIX


class MixedBatch(NamedTuple):
    """Mixed images, and what their classes are."""

    images: Tensor
    """(n, 3, h, w) float32."""
    labels: Tensor
    """(n,) int64, the class of each row itself."""
    partner_labels: Tensor
    """(n,) int64, the class of the row that it is mixed with."""
    shares: Tensor
    """(n,) float32, the share of the row itself, 0 to 1; the rest is its partner's."""


@dataclass(frozen=True)
class Mixing:
    """How rows are mixed; two instances with equal fields give equal results."""

    mixup: float = 0.0
    """The parameter of the beta distribution that draws the share of a row in MixUp; 0: none (Zhang
    et al.: mixup, ICLR 2018)."""
    cutmix: float = 0.0
    """The parameter of CutMix's beta distribution; 0: none (Yun et al.: CutMix, ICCV 2019). With
    both, each pair has one of them at random."""
    seed: int = 0
    """The seed of the draws."""

    def __bool__(self) -> bool:
        """Return True if anything is mixed."""
        return bool(self.mixup or self.cutmix)

    def __call__(self, images: Tensor, labels: Tensor, rows: Tensor, epoch: int) -> MixedBatch:
        """Mix the rows of a batch in pairs.

        Args:
            images: (n, 3, h, w) float32, normalised, n even.
            labels: (n,) int64 on the same device.
            rows: The row numbers, (n,) int64, on any device.
            epoch: The epoch, whose draws are used.

        Returns:
            New images, in the layout of *images* in memory, shares, and both labels.

        Raises:
            ValueError: The number of rows is odd.
        """
        if len(images) % PARTNERS:
            raise ValueError(
                f"{len(images)} rows cannot be mixed in pairs: expected an even number."
            )
        first = rows.cpu()[::PARTNERS]
        draw = [draws(self.seed, epoch, first, purpose) for purpose in (_SHARE, _KIND, _LEFT, _TOP)]
        share, kind, left, top = (
            values.to(images.device, non_blocking=True).repeat_interleave(PARTNERS)
            for values in (self._shares(draw[0], draw[1]), *draw[1:])
        )
        partner = torch.arange(len(images), device=images.device) ^ 1
        cut = (kind < self._cut_probability)[:, None, None, None]
        box = _boxes(share, left, top, images.shape[2], images.shape[3])
        # Where a box is cut, its pixels are the partner's; elsewhere both are blended.
        weight = torch.where(cut, (~box).to(images.dtype), share[:, None, None, None])
        mixed = torch.lerp(images[partner], images, weight)  # which keeps the layout in memory
        shares = torch.where(cut[:, 0, 0, 0], 1 - box.float().mean((1, 2, 3)), share)
        return MixedBatch(mixed, labels, labels[partner], shares)

    @property
    def _cut_probability(self) -> float:
        if self.mixup and self.cutmix:
            return 0.5
        return 1.0 if self.cutmix else 0.0

    def _shares(self, uniform: Tensor, kind: Tensor) -> Tensor:
        """Return the share of each pair's rows, (pairs,) float32, by the inverse distribution."""
        parameter = torch.where(kind < self._cut_probability, self.cutmix, self.mixup)
        shares = betaincinv(parameter.double().numpy(), parameter.double().numpy(), uniform.numpy())
        return torch.from_numpy(shares).float()


def _boxes(share: Tensor, left: Tensor, top: Tensor, height: int, width: int) -> Tensor:
    """Return which pixels are in the box of each row, (n, 1, h, w) bool.

    A box has the aspect ratio of the image and, before it is clipped to it, the share that is not
    the row's own. Its centre is anywhere in the image.
    """
    side = (1 - share).clamp(0, 1).sqrt()
    spans = []
    for length, centre in ((height, top), (width, left)):
        half, middle = (side * length / 2)[:, None], (centre * length)[:, None]
        position = torch.arange(length, device=share.device) + 0.5
        spans.append((position >= middle - half) & (position < middle + half))
    return (spans[0][:, :, None] & spans[1][:, None, :])[:, None]
