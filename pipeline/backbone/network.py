"""A network that turns images into features."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbone.choices import POOLINGS
from pipeline.backbone.transform import Transform
from pipeline.backbone.truncate import block_output, check_block, pool
from pipeline.errors import TesseraeError

CPU_BATCH_SIZE = 8
"""The number of images in a batch on a CPU. The activations of more images do not fit into its
caches and are allocated anew each time: with 64 images that takes half of the time."""

GPU_BATCH_SIZE = 128
"""The number of images in a batch on a GPU, which would wait for the CPU with fewer."""

IGNORED_SETTINGS = {
    *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype"),
    *("id2label", "label2id", "problem_type", "initializer_range"),
}
"""The settings of a model that do not affect its results."""


class Backbone:
    """A network that computes features of images."""

    def __init__(
        self,
        model: nn.Module,
        *,
        name: str,
        transform: Transform,
        pooler: bool = True,
        cut: str | None = None,
        pooling: str = "end",
    ) -> None:
        """Wrap a model and freeze it.

        Args:
            model: A model of `transformers`, from (n, 3, size, size) to an output that has
                `pooler_output` or `last_hidden_state`.
            name: The name of the network in reports and errors.
            transform: The preprocessing of its images.
            pooler: True if its `pooler_output` was trained; otherwise the mean of
                `last_hidden_state` is used.
            cut: The name of the block whose output is used, as `named_modules` of the model has it;
                None: the last one.
            pooling: The pooling of that output, one of `POOLINGS`, which `pipeline.backbone`
                describes (default: end).

        Raises:
            TesseraeError: The block or the pooling does not exist.
        """
        if pooling not in POOLINGS:
            expected = ", ".join(POOLINGS)
            raise TesseraeError(f"pooling is {pooling!r}: expected one of {expected}.")
        self.model = model.eval().requires_grad_(False)
        self.name = name
        self.transform = transform
        self.cut = cut
        self.pooling = pooling
        self._pooler = pooler
        if cut is not None:
            if _untrained(cut, pooler=pooler):
                raise TesseraeError(f"{name} has no weights for block {cut!r}: it was not trained.")
            check_block(model, name, cut)

    @property
    def size(self) -> int:
        """The side in pixels of the images that the network takes."""
        return self.transform.size

    @property
    def mean(self) -> tuple[float, ...]:
        """The means of red, green and blue, which are subtracted, as shares of 255."""
        return self.transform.mean

    @property
    def std(self) -> tuple[float, ...]:
        """The divisors of red, green and blue after the subtraction, as shares of 255."""
        return self.transform.std

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    @property
    def batch_size(self) -> int:
        """The number of images that are computed at once."""
        return GPU_BATCH_SIZE if self.device.type == "cuda" else CPU_BATCH_SIZE

    @cached_property
    def dim(self) -> int:
        """The number of features of an image.

        Raises:
            TesseraeError: The network fails on images of its size.
        """
        blank = torch.zeros(1, 3, self.size, self.size, device=self.device)
        try:
            with torch.no_grad():
                return int(self.forward(blank).shape[1])
        except (RuntimeError, ValueError, TypeError, AttributeError) as e:
            first = (str(e).strip().splitlines() or [""])[0]
            raise TesseraeError(
                f"{self.name} fails on images of {self.size} px"
                f" ({type(e).__name__}: {first}): expected a vision model of transformers."
            ) from e

    @cached_property
    def digest(self) -> str:
        """The SHA-256, in hexadecimal, of the network: its class, its settings and all its weights.

        Settings are included, since they change the features of the same weights. Each weight is
        included with name, dtype, shape and values, in the order of names.
        """
        hasher = hashlib.sha256(
            f"{type(self.model).__name__} {settings_text(self.model)}\n".encode()
        )
        hash_weights(hasher, self.trained_weights())
        return hasher.hexdigest()

    def trained_weights(self) -> dict[str, Tensor]:
        """Return the weights and buffers by name, without those of a pooler that was not trained.

        Returns:
            The tensors of the model's `state_dict`, which are not copied.
        """
        state = self.model.state_dict().items()
        return {name: v for name, v in state if not _untrained(name, pooler=self._pooler)}

    @torch.no_grad()
    def extract(self, images: Tensor) -> Tensor:
        """Return the features of images, without gradients.

        They are computed in batches of 8 images on a CPU, or 128 on a GPU.

        Args:
            images: (n, 3, h, w) uint8 RGB of any size, n at least 1, on the device of the network;
                they are stretched to the network's size and normalised.

        Returns:
            (n, d) float32, on the same device, as the network computes them: they are not scaled.
        """
        return torch.cat(
            [
                self.forward(self.normalise(part)).float()
                for part in torch.split(images, self.batch_size)
            ]
        )

    def normalise(self, images: Tensor) -> Tensor:
        """Return images resized and normalised for the network.

        Args:
            images: (n, 3, h, w) uint8 RGB, 0 to 255, on any device, of any size: other shapes than
                the network's square are stretched to it, bicubically, without keeping the aspect
                ratio.

        Returns:
            (n, 3, size, size) float32 RGB, a new tensor on the device of *images*: value / 255
            minus the network's mean of the channel, divided by its standard deviation.
        """
        return self.transform.apply(images)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the features of normalised images, with gradients if the weights have them.

        Args:
            pixels: (n, 3, size, size) float32 RGB, as returned by `normalise`, on the device of the
                network. The channels are reversed here if the network takes BGR.

        Returns:
            (n, d) features, float32 unless under autocast, on the same device; d is `dim`.

        Raises:
            TesseraeError: The output of the cut does not have one row for each image, or cannot be
                pooled as the network's `pooling` says.
        """
        rows = self._pooled_output(pixels)
        if len(rows) != len(pixels):
            raise TesseraeError(
                f"block {self.cut!r} of {self.name} gives {len(rows)} rows for {len(pixels)}"
                " images: expected one row for each. Choose another block."
            )
        return rows

    def _pooled_output(self, pixels: Tensor) -> Tensor:
        if self.transform.channels == "BGR":
            pixels = pixels.flip(1)
        if self.cut is not None:
            return pool(block_output(self.model, self.cut, pixels), self.pooling, self.name)
        output = self.model(pixels)
        pooler_output: Tensor | None = getattr(output, "pooler_output", None)
        if self.pooling == "end" and self._pooler and pooler_output is not None:
            return pooler_output.flatten(1)
        return pool(output.last_hidden_state, self.pooling, self.name)


def settings_text(model: nn.Module) -> str:
    """Return the settings of a model of `transformers` that affect its results, as JSON.

    Args:
        model: The model. One without a `config` has no settings.
    """
    config: Any = getattr(model, "config", None)
    settings = {} if config is None else config.to_diff_dict()
    relevant = {key: value for key, value in settings.items() if key not in IGNORED_SETTINGS}
    return json.dumps(relevant, sort_keys=True, default=str)


def hash_weights(hasher: Any, weights: Mapping[str, Tensor]) -> None:
    """Feed weights to a hash: name, dtype, shape and values of each, in the order of names.

    Args:
        hasher: The hash, an object of `hashlib`, which is updated.
        weights: The tensors by name, on any device, as `state_dict` of a model returns them.
    """
    for name, value in sorted(weights.items()):
        hasher.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        hasher.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)


def _untrained(name: str, *, pooler: bool) -> bool:
    return not pooler and name.partition(".")[0] == "pooler"
