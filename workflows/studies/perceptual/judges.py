"""The vision networks of the study, which are in the loss or judge images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.backbone.load import open_backbone
from pipeline.backbone.network import Backbone
from pipeline.backbone.truncate import block_names, block_outputs
from pipeline.errors import TesseraeError
from workflows.superres.perceptual import FeatureExtractor

PROBE_SIDE = 128
"""The side of the blank image that shows the resolution of each block, in pixels."""


@dataclass(frozen=True)
class Judge:
    """A vision network with the blocks whose outputs are compared."""

    model: str
    """The folder or the hub name of the network."""
    name: str
    """The last part of that, which names the network in tables."""
    digest: str
    """The digest of its weights and settings."""
    blocks: tuple[str, ...]
    """The names of the blocks."""
    features: FeatureExtractor
    """The features of images at the blocks."""

    @torch.no_grad()
    def distances(self, images: Tensor, originals: Tensor) -> Tensor:
        """Return the perceptual distance of each image to its original.

        Args:
            images: (n, 3, h, w) float32 RGB in levels, 0 to 255, on the device of the network.
            originals: The true images, of the same shape.

        Returns:
            (n,) float32, at least 0.
        """
        of_images, of_originals = self.features(images), self.features(originals)
        return torch.stack(list(map(_distance, of_images, of_originals))).sum(0)


def _distance(features: Tensor, targets: Tensor) -> Tensor:
    """Return the squared distance of unit vectors of features, averaged over positions, (n,)."""
    units = (torch.nn.functional.normalize(maps, dim=1) for maps in (features, targets))
    first, second = units
    return (first - second).square().sum(1).mean((1, 2))


def open_judges(
    models: Sequence[str], blocks: Sequence[tuple[str, ...]], device: torch.device
) -> tuple[Judge, Judge]:
    """Open the two vision networks.

    Args:
        models: Their folders or hub names.
        blocks: The names of the blocks of each; empty for `default_blocks`.
        device: The device that computes.

    Raises:
        TesseraeError: A network cannot be opened, lacks a block or has no maps of features; or both
            are the same network, or have the same name.
    """
    first, second = (
        _open(model, named, device) for model, named in zip(models, blocks, strict=True)
    )
    if first.digest == second.digest:
        raise TesseraeError(
            f"{first.model} and {second.model} are the same network: what is in the loss cannot"
            " judge. Pass two different ones as --judges."
        )
    if first.name == second.name:
        raise TesseraeError(
            f"both of --judges are named {first.name!r}, which the tables cannot tell apart: rename"
            " a folder."
        )
    return first, second


def _open(model: str, blocks: tuple[str, ...], device: torch.device) -> Judge:
    backbone = open_backbone(model, device)
    chosen = blocks or default_blocks(backbone)
    features = FeatureExtractor(backbone, chosen)
    features(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE, device=device))  # refuses what is no map
    return Judge(model, Path(model).name, backbone.digest, chosen, features)


@torch.no_grad()
def default_blocks(backbone: Backbone) -> tuple[str, ...]:
    """Return the last block of each resolution of a network, from the finest to the coarsest.

    They are where LPIPS compares features of VGG: before each down-sampling, and at the end (Zhang
    et al.: The Unreasonable Effectiveness of Deep Features as a Perceptual Metric, CVPR 2018).

    Args:
        backbone: The network.

    Raises:
        TesseraeError: It has no list of layers whose outputs are maps of features.
    """
    names = block_names(backbone.model)
    blank = torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE, device=backbone.device)
    outputs = block_outputs(backbone.model, names, blank) if names else []
    by_side = {maps.shape[2]: name for name, maps in zip(names, outputs, strict=True)
               if maps.dim() == 4}  # fmt: skip
    if not by_side:
        raise TesseraeError(
            f"{backbone.name} has no list of blocks with maps of features, (n, d, h, w). Name the"
            " blocks to compare with --first-blocks or --second-blocks."
        )
    return tuple(by_side.values())
