"""A trained network as the tasks of a cluster use it to enlarge the images of a store."""

from __future__ import annotations

import hashlib
import math
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbone.determinism import probe_pixels
from pipeline.errors import StoreMismatchError
from pipeline.features.probes import encode_probe
from pipeline.features.worker import RowNetwork, RowTaskConfig, reproducible_sums
from pipeline.store import derived, upscaled
from pipeline.store.derived import DerivedRecipe, Family
from pipeline.store.objects import Objects
from pipeline.store.upscaled import UpscaledRecipe
from workflows.superres.model import TrainedUpscaler, open_upscaler

BATCH_PIXELS = 2**16
"""The number of input pixels, about, that are computed at once on CPU cores: 12 images of 72 px."""
GPU_BATCH_PIXELS = 2**19
"""The number of input pixels, about, that are computed at once on a GPU: 101 images of 72 px."""
PROBE_SIDE = 48
"""The side in pixels of the two test images by which machines are compared."""


@dataclass(frozen=True, kw_only=True)
class UpscaleTaskConfig(RowTaskConfig):
    """The arguments that all tasks of a run share that enlarges the images of a store."""

    family: ClassVar[Family] = upscaled.FAMILY

    folder: str
    """The folder of the training run, as workers see it."""

    def load_recipe(self, objects: Objects) -> UpscaledRecipe:
        """Load the recipe of the upscaled images from the store, as `RowTaskConfig` says."""
        return derived.load_recipe(objects, UpscaledRecipe, self.name)

    def open_network(self, recipe: DerivedRecipe, device: torch.device) -> RowNetwork:
        """Open the network of the run, and compare it with the recipe, as `RowTaskConfig` says."""
        assert isinstance(recipe, UpscaledRecipe)
        trained = open_upscaler(Path(self.folder), device, precision=recipe.precision)
        if weights_digest(trained) != recipe.weights:
            raise StoreMismatchError(
                f"on {socket.gethostname()} the run {self.folder} is at step {trained.step} with"
                f" other weights than those of the upscaled images {recipe.name}, of step"
                f" {recipe.step}. Run the command again once the run is the same on all machines"
                " and no longer trains."
            )
        return UpscalerNetwork(
            trained, stored_size=recipe.stored_size, self_ensemble=recipe.self_ensemble
        )


class UpscalerNetwork:
    """A `RowNetwork` that enlarges images."""

    def __init__(self, trained: TrainedUpscaler, *, stored_size: int, self_ensemble: bool) -> None:
        """Wrap a trained network.

        Args:
            trained: The network, on the device that computes.
            stored_size: The side in pixels of the images that are enlarged.
            self_ensemble: True to average the results of all eight orientations.
        """
        self._trained = trained
        self._self_ensemble = self_ensemble
        self.device = trained.device
        pixels = GPU_BATCH_PIXELS if trained.device.type == "cuda" else BATCH_PIXELS
        self.batch_rows = max(1, pixels // stored_size**2)
        # Sums depend on the tiles, too: the free memory of a GPU must not decide on them.
        self._side = math.isqrt(pixels)
        self.software: dict[str, str] = {}

    def compute(self, images: torch.Tensor, kind: str) -> NDArray[np.uint8]:
        """Enlarge images.

        Args:
            images: (n, 3, h, w) uint8 RGB, n at least 1, on any device.
            kind: Ignored: there is one kind of rows.

        Returns:
            (n, h * scale, w * scale, 3) uint8 RGB.
        """
        enlarged = self._trained.enlarge(images, side=self._side, self_ensemble=self._self_ensemble)
        pixels: NDArray[np.uint8] = enlarged.permute(0, 2, 3, 1).numpy()
        return pixels

    def probe(self) -> str:
        """Return the pixels of two enlarged test images as base64 text."""
        with reproducible_sums(self.device):
            pixels = self.compute(probe_pixels(PROBE_SIDE), "")
        return encode_probe(pixels.reshape(len(pixels), -1).astype(np.float32))


def weights_digest(trained: TrainedUpscaler) -> str:
    """Return the SHA-256, in hexadecimal, of a trained network: its kind, settings and weights.

    Args:
        trained: The network.
    """
    network = trained.network
    settings = f"{trained.options.network} {network.scale} {network.base}\n"
    digest = hashlib.sha256(settings.encode())
    for name, value in sorted(network.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        values = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(values.numpy().data)
    return digest.hexdigest()
