"""A perceptual distance in the features of a pretrained network, which judges enlarged images.

It is that of Zhang et al.: The Unreasonable Effectiveness of Deep Features as a Perceptual Metric,
CVPR 2018, without the learned weights of channels: features have unit length at each position, and
their squared differences are averaged over positions and summed over blocks. A network that was
trained against these features would be judged by its own loss, so the networks must differ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.backbone.load import open_backbone
from pipeline.backbone.network import Backbone
from pipeline.backbone.truncate import block_names
from pipeline.errors import TesseraeError
from workflows.superres.options import SuperresOptions
from workflows.superres.perceptual import FeatureExtractor

MIN_LENGTH = 1e-10
"""What is added to the length of a feature before it is divided by it, as in Zhang et al."""


class Judge:
    """A network with the blocks whose features are compared."""

    def __init__(self, backbone: Backbone, blocks: Sequence[str]) -> None:
        """Prepare a network, which is not changed.

        Args:
            backbone: The network, on the device that computes.
            blocks: The names of the blocks, as `named_modules` of the model has them.

        Raises:
            TesseraeError: There is no such block.
        """
        self.name = backbone.name
        self.blocks = tuple(blocks)
        self._device = backbone.device
        self._extract = FeatureExtractor(backbone, blocks)

    @torch.no_grad()
    def distance(self, images: Tensor, originals: Tensor) -> Tensor:
        """Return the perceptual distance of each image, 0 for equal images.

        Args:
            images: (n, 3, h, w) RGB in levels, 0 to 255, of any dtype and on any device.
            originals: The true images, of the same shape.

        Returns:
            (n,) float64 on the CPU, at most 4 for each block.

        Raises:
            TesseraeError: A block is not used, its output is not a map of features, or the network
                does not take images of that size.
        """
        features, targets = (self._features(each) for each in (images, originals))
        return feature_distance(features, targets).cpu()

    def _features(self, images: Tensor) -> list[Tensor]:
        try:
            return self._extract(images.to(self._device, torch.float32))
        except (RuntimeError, ValueError, TypeError) as e:  # of networks that take one size only
            first = (str(e).strip().splitlines() or [""])[0]
            raise TesseraeError(
                f"{self.name} fails on images of {images.shape[3]}x{images.shape[2]} pixels"
                f" ({type(e).__name__}: {first}): expected a network for images of any size, such"
                " as a convolutional one. Pass another --judge."
            ) from e


def feature_distance(features: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
    """Return the squared distance of unit features, averaged over positions, summed over blocks.

    Args:
        features: The features of images at each block, (n, d, h, w).
        targets: Those of the true images, of the same shapes.

    Returns:
        (n,) float64.
    """
    distances = [
        (_unit(of_image) - _unit(of_target)).square().sum(1).double().mean((1, 2))
        for of_image, of_target in zip(features, targets, strict=True)
    ]
    return torch.stack(distances).sum(0)


def _unit(features: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    return features / (length + MIN_LENGTH)


def open_judge(
    name_or_path: str, blocks: Sequence[str], options: SuperresOptions, device: torch.device
) -> Judge:
    """Open the network that judges the images of a run.

    Args:
        name_or_path: A vision model of `transformers`, a folder or a hub name.
        blocks: The names of its blocks.
        options: The options of the run.
        device: The device that computes.

    Raises:
        TesseraeError: The model cannot be opened, no block is named or one does not exist, or the
            network is that of the run's loss.
    """
    backbone = open_backbone(name_or_path, device)
    if not blocks:
        names = ", ".join(block_names(backbone.model)) or "those that its named_modules has"
        raise TesseraeError(
            f"--judge is {name_or_path}: pass the blocks to compare as well, with --judge-blocks."
            f" Its blocks are {names}."
        )
    if options.perceptual is not None and (options.perceptual_weight or options.style_weight):
        _refuse_network_of_loss(backbone, name_or_path, options.perceptual)
    return Judge(backbone, blocks)


def _refuse_network_of_loss(judge: Backbone, name_or_path: str, name_of_loss: str) -> None:
    try:
        of_loss = open_backbone(name_of_loss)
    except TesseraeError as e:
        raise TesseraeError(
            f"the network of the run's loss cannot be opened, and --judge must be another one: {e}"
        ) from e
    if judge.digest == of_loss.digest:
        raise TesseraeError(
            f"--judge is {name_or_path}, the network of the run's own loss ({name_of_loss}): its"
            " distance says how well that loss was minimised, not how the images look. Pass"
            " another network."
        )
