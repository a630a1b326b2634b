"""The vision networks of the study, which are in the loss or judge images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.backbone.load import open_backbone
from pipeline.backbone.network import Backbone
from pipeline.backbone.truncate import block_names, block_outputs
from pipeline.errors import TesseraeError
from workflows.superres.judge import Judge

PROBE_SIDE = 128
"""The side of the blank image by which a network is checked, which need not be its own size."""


@dataclass(frozen=True)
class VisionNetwork:
    """A vision network that is in the loss of some arms, and judges the others."""

    model: str
    """The folder or the hub name of the network."""
    name: str
    """The last part of that, which names the network in tables."""
    digest: str
    """The digest of its weights and settings."""
    judge: Judge
    """The distance of images in its features."""

    @property
    def blocks(self) -> tuple[str, ...]:
        """The names of the blocks whose outputs are compared, in the loss and by the judge."""
        return self.judge.blocks


def open_judges(
    models: Sequence[str], blocks: Sequence[tuple[str, ...]], device: torch.device
) -> tuple[VisionNetwork, VisionNetwork]:
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


def _open(model: str, blocks: tuple[str, ...], device: torch.device) -> VisionNetwork:
    backbone = open_backbone(model, device)
    judge = Judge(backbone, blocks or default_blocks(backbone))
    blank = torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE)
    judge.distance(blank, blank)  # refuses blocks without maps of features, and other sizes
    return VisionNetwork(model, Path(model).name, backbone.digest, judge)


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
    blank = torch.zeros(1, 3, backbone.size, backbone.size, device=backbone.device)
    outputs = block_outputs(backbone.model, names, blank) if names else []
    by_side = {maps.shape[2]: name for name, maps in zip(names, outputs, strict=True)
               if maps.dim() == 4}  # fmt: skip
    if not by_side:
        raise TesseraeError(
            f"{backbone.name} has no list of blocks with maps of features, (n, d, h, w). Name the"
            " blocks to compare with --first-blocks or --second-blocks."
        )
    return tuple(by_side.values())
