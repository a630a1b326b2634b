"""The loss of enlarged images: weighted differences of pixels and of a network's features."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from pipeline.backbone.load import open_backbone
from pipeline.errors import TesseraeError
from workflows.superres.choices import DEFAULT_SCALE
from workflows.superres.options import SuperresOptions
from workflows.superres.perceptual import FEATURE_LOSSES, FeatureExtractor, gram_error
from workflows.superres.pixel_losses import PIXEL_LOSSES, total_variation
from workflows.training.precision import autocast


class ImageLoss:
    """The sum of all losses but the adversarial one, each times its weight.

    Losses whose weight is 0 are not computed.
    """

    def __init__(
        self, options: SuperresOptions, device: torch.device, precision: torch.dtype
    ) -> None:
        """Open the network of the perceptual loss, if there is one.

        Args:
            options: The losses and their weights.
            device: The device of the images.
            precision: The dtype of the network's operations that autocast may lower.

        Raises:
            TesseraeError: The network cannot be opened, or lacks a block.
        """
        self._options = options
        self._device = device
        self._precision = precision
        self._extract: FeatureExtractor | None = None
        if options.perceptual is not None and (options.perceptual_weight or options.style_weight):
            backbone = open_backbone(options.perceptual, device)
            self._extract = FeatureExtractor(backbone, options.perceptual_blocks)

    def __call__(self, images: Tensor, originals: Tensor) -> dict[str, Tensor]:
        """Return each loss times its weight, 0-d float32 tensors with gradients, by its name.

        Args:
            images: (n, 3, h, w) float32 in levels, 0 to 255.
            originals: The true images, of the same shape.

        Returns:
            `pixel_loss`, `variation_loss`, `perceptual_loss` and `style_loss`, as far as they have
            weights; at least one.
        """
        return dict(self._losses(images, originals))

    def _losses(self, images: Tensor, originals: Tensor) -> Iterator[tuple[str, Tensor]]:
        options = self._options
        if options.pixel_weight:
            loss = PIXEL_LOSSES[options.pixel_loss](images, originals)
            yield "pixel_loss", options.pixel_weight * loss
        if options.variation_weight:
            yield "variation_loss", options.variation_weight * total_variation(images)
        if self._extract is None:
            return
        with autocast(self._precision, self._device):
            with torch.no_grad():
                targets = [maps.float() for maps in self._extract(originals)]
            features = [maps.float() for maps in self._extract(images)]
        for name, weight, difference in (
            ("perceptual_loss", options.perceptual_weight, FEATURE_LOSSES[options.perceptual_loss]),
            ("style_loss", options.style_weight, gram_error),
        ):
            if weight:
                losses = [
                    block_weight * difference(of_image, of_target)
                    for block_weight, of_image, of_target in zip(
                        options.block_weights, features, targets, strict=True
                    )
                ]
                yield name, weight * torch.stack(losses).sum()


def check_perceptual(options: SuperresOptions) -> None:
    """Refuse a network of the perceptual loss that cannot be used with the patches.

    Args:
        options: The options of the stage, with the network and its blocks.

    Raises:
        TesseraeError: The network cannot be opened, lacks a block, fails on images of the size of a
            patch, or the output of a block is not a map of features.
    """
    assert options.perceptual is not None
    backbone = open_backbone(options.perceptual)
    extract = FeatureExtractor(backbone, options.perceptual_blocks)
    scale = options.scale or DEFAULT_SCALE
    side = scale * options.patch_size
    try:
        with torch.no_grad():
            extract(torch.zeros(1, 3, side, side))
    except TesseraeError:
        raise
    except Exception as e:  # of many kinds for a foreign network
        first = (str(e).strip().splitlines() or [""])[0].rstrip(".")
        fitting = backbone.size // scale if backbone.size % scale == 0 else None
        cure = f"Pass {fitting}" if fitting else "Pass another size"
        raise TesseraeError(
            f"--patch-size is {options.patch_size}: {backbone.name} fails on its originals of"
            f" {side} px ({type(e).__name__}: {first}). {cure}, or another --perceptual."
        ) from e
