"""An augmentation that erases a square of some images (Zhong et al., AAAI 2020)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.augment import Augment, draws

_ERASE, _LEFT, _TOP = range(8, 11)  # the purposes of draws, other than those of `augment.py`


@dataclass(frozen=True, kw_only=True)
class RandomErasing:
    """An augmentation that erases a square of some images, after another augmentation.

    Attributes:
        augment: The augmentation that is applied first, and whose seed is used.
        side: The side of the square in pixels, 1 to `augment.size`.
        probability: The probability that an image is erased in an epoch (default 0.5).
    """

    augment: Augment
    side: int
    probability: float = 0.5

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        if not 0 < self.side <= self.augment.size:
            raise ValueError(f"side is {self.side}: expected 1 to {self.augment.size} pixels.")

    def __call__(self, images: Tensor, rows: Tensor, epoch: int) -> Tensor:
        """Augment a batch; arguments and result are those of `Augment`, and erased pixels are 0."""
        augmented = self.augment(images, rows, epoch)
        rows = rows.to(augmented.device, non_blocking=True)
        erase, left, top = (
            draws(self.augment.seed, epoch, rows, purpose) for purpose in (_ERASE, _LEFT, _TOP)
        )
        selected = (erase < self.probability)[:, None, None]
        square = self._span(top)[:, :, None] & self._span(left)[:, None, :] & selected
        return augmented.masked_fill_(square[:, None], 0.0)  # in place: it keeps channels last

    def _span(self, draw: Tensor) -> Tensor:
        """Return where the square is along one axis, (n, size) bool."""
        first = (draw * (self.augment.size - self.side + 1)).long()[:, None]
        position = torch.arange(self.augment.size, device=draw.device)
        return (position >= first) & (position < first + self.side)
