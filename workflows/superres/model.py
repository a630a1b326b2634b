"""A trained network that enlarges images, for evaluation, for files and for whole stores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import TesseraeError
from workflows.superres.bicubic import round_to_levels
from workflows.superres.networks import Upscaler
from workflows.superres.options import SuperresOptions
from workflows.superres.orientations import (
    ORIENTATIONS,
    change_orientation,
    restore_orientation,
)
from workflows.superres.stage import network_of
from workflows.superres.tiles import Tile, tile_side, tiles
from workflows.training.precision import autocast, training_precision
from workflows.training.run_folder import RunFolder

STAGE = "superres"
"""The name of the stage in `options.json`."""


@dataclass(frozen=True)
class TrainedUpscaler:
    """The network of a run at its newest checkpoint."""

    network: Upscaler
    """The network in evaluation mode, with the average of its weights if the run has one."""
    options: SuperresOptions
    """The options of the run."""
    run: RunFolder
    """The run folder."""
    step: int
    """The number of complete steps at the checkpoint."""
    device: torch.device
    """The device that computes."""
    precision: torch.dtype = torch.float32
    """The dtype of the operations that autocast may lower."""

    @property
    def scale(self) -> int:
        """The factor of the enlargement."""
        return self.network.scale

    def enlarge(
        self, images: Tensor, *, side: int | None = None, self_ensemble: bool = False
    ) -> Tensor:
        """Return enlarged images in whole levels.

        Large images are computed in tiles, and many images in groups, as the memory allows.

        Args:
            images: (n, 3, h, w) RGB in levels, 0 to 255, of any dtype and on any device.
            side: The side of the tiles, as for `enlarge_tiles`.
            self_ensemble: True to average the results of all eight orientations of an image (Lim et
                al.: Enhanced Deep Residual Networks for Single Image Super-Resolution, CVPRW 2017),
                which takes eight times as long (default False).

        Returns:
            (n, 3, h * scale, w * scale) uint8 on the CPU.
        """
        count, channels, height, width = images.shape
        scale = self.scale
        enlarged = torch.empty(count, channels, height * scale, width * scale, dtype=torch.uint8)
        for tile, pixels in self.enlarge_tiles(images, side=side, self_ensemble=self_ensemble):
            enlarged[:, :, tile.rows.output(scale), tile.columns.output(scale)] = pixels
        return enlarged

    def enlarge_tiles(
        self, images: Tensor, *, side: int | None = None, self_ensemble: bool = False
    ) -> Iterator[tuple[Tile, Tensor]]:
        """Yield the parts of enlarged images, which equal those of the whole within a level.

        Args:
            images: (n, 3, h, w) RGB in levels, 0 to 255, of any dtype and on any device.
            side: The largest side of a tile without its margin, in input pixels, at least 1
                (default: the largest for which the memory suffices).
            self_ensemble: True to average the results of all eight orientations (default False).

        Yields:
            The tiles in reading order, each with its enlarged pixels without a margin, uint8 on the
            CPU.
        """
        side = side or tile_side(self.network, self.device)
        margin = self.network.reach
        # Several small images are computed at once as long as they need no more memory than a tile.
        rows = max(1, (side + 2 * margin) ** 2 // (images.shape[2] * images.shape[3]))
        for tile in tiles(images.shape[2], images.shape[3], side, margin):
            parts = [
                self._enlarge_part(tile, part, self_ensemble=self_ensemble)
                for part in torch.split(tile.read(images), rows)
            ]
            yield tile, torch.cat(parts)

    def _enlarge_part(self, tile: Tile, images: Tensor, *, self_ensemble: bool) -> Tensor:
        """Return the enlarged pixels of a tile in whole levels, uint8 on the CPU."""
        levels = images.to(self.device, torch.float32)
        orientations = range(ORIENTATIONS if self_ensemble else 1)
        total = sum(self._enlarge_turned(levels, orientation) for orientation in orientations)
        assert isinstance(total, Tensor)
        enlarged = tile.without_margin(total, self.scale) / len(orientations)
        return round_to_levels(enlarged).byte().cpu()

    @torch.no_grad()
    def _enlarge_turned(self, levels: Tensor, orientation: int) -> Tensor:
        """Return the enlarged images, computed in one orientation and turned back; float32."""
        turned = change_orientation(levels, orientation)
        with autocast(self.precision, self.device):
            enlarged: Tensor = self.network(turned)
        return restore_orientation(enlarged, orientation)


def open_upscaler(
    run: Path, device: torch.device | None = None, *, precision: str = "float32"
) -> TrainedUpscaler:
    """Open the network of a run at its newest checkpoint.

    It draws random weights from torch's global generator before it loads the trained ones.

    Args:
        run: The run folder.
        device: The device that computes (default: the CPU).
        precision: The number format of the computation, one of
            `workflows.training.precision.PRECISIONS` (default `float32`).

    Raises:
        TesseraeError: The folder holds no run of this stage, or one without a checkpoint; or the
            run has diverged.
        ValueError: The folder's `options.json` holds a value that an option does not accept.
    """
    folder = RunFolder(run)
    record = folder.read_options()
    if record["options"].get("stage") != STAGE:
        raise TesseraeError(
            f"{run} is a run of the stage {record['options'].get('stage')}: expected a run of"
            " `tesserae train superres`."
        )
    newest = folder.newest_checkpoint()
    if newest is None:
        raise TesseraeError(f"{run} has no checkpoint yet: train it first.")
    options = SuperresOptions.from_dict(record["options"])
    network = network_of(options)
    state = folder.load_trained(newest, "networks", "average")
    network.load_state_dict(_weights(state))
    device = device or torch.device("cpu")
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return TrainedUpscaler(
        network=network.eval().requires_grad_(False),
        options=options,
        run=folder,
        step=int(state["step"]),
        device=device,
        precision=training_precision(precision, device),
    )


def _weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return the weights by name of the network that the stage evaluates."""
    if state["average"] is None:
        weights: dict[str, Tensor] = state["networks"]["generator"]
        return weights
    prefix = "module."
    return {
        name.removeprefix(prefix): value
        for name, value in state["average"].items()
        if name.startswith(prefix)
    }
