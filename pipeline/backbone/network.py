"""Pictures into features, by a network that is there."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.backbone.choices import POOLINGS
from pipeline.backbone.transform import Transform
from pipeline.backbone.truncate import check_block, output_of, pool
from pipeline.errors import TesseraeError

BATCH = 8
"""Pictures that go through it at once on a processor. What more of them leave between two layers
does not fit its caches, and comes from the system anew each time: of 64, half of the time."""

GPU_BATCH = 128
"""On a GPU, which would wait for the processor with fewer."""

NO_MATTER = {
    *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype"),
    *("id2label", "label2id", "problem_type", "initializer_range"),
}
"""Settings of a model that decide nothing about features."""


class Backbone:
    """Features of pictures."""

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
        """Take a model as it is.

        Args:
            model: `transformers`: (n, 3, size, size) -> `pooler_output`, or `last_hidden_state`.
            name: What it is called wherever a figure from it stands.
            transform: Pictures as it takes them.
            pooler: Whether its `pooler_output`, where it has one, was trained; otherwise the mean
                of `last_hidden_state` is taken.
            cut: The block whose output is taken, by its name in the model; None = the end.
            pooling: How that is pooled.

        Raises:
            TesseraeError: It has no such block, or there is no such pooling.
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
        """Side of the pictures that it takes, in pixels."""
        return self.transform.size

    @property
    def mean(self) -> tuple[float, ...]:
        """Of each channel, subtracted, as a share of 255."""
        return self.transform.mean

    @property
    def std(self) -> tuple[float, ...]:
        """What each channel is divided by then."""
        return self.transform.std

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.model.parameters()).device

    @property
    def batch(self) -> int:
        """Pictures that go through it at once."""
        return GPU_BATCH if self.device.type == "cuda" else BATCH

    @cached_property
    def dim(self) -> int:
        """Numbers of a picture's features.

        Raises:
            TesseraeError: It makes none of such pictures.
        """
        blank = torch.zeros(1, 3, self.size, self.size, device=self.device)
        try:
            with torch.no_grad():
                return int(self.pooled(blank).shape[1])
        except (RuntimeError, ValueError, TypeError, AttributeError) as e:
            first = (str(e).strip().splitlines() or [""])[0]
            raise TesseraeError(
                f"{self.name} makes nothing of a picture of {self.size} px"
                f" ({type(e).__name__}: {first}): expected a vision model of transformers."
            ) from e

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of what it is: its kind, its settings, and all its weights.

        Settings count, since the same weights give other features with them. Of each weight, in the
        order of their names: name, kind, shape and values.
        """
        seen = hashlib.sha256(f"{type(self.model).__name__} {self._settings()}\n".encode())
        for name, value in sorted(self.trained().items()):
            seen.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
            seen.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return seen.hexdigest()

    def trained(self) -> dict[str, Tensor]:
        """Its weights by name, without those that are others each time it is opened."""
        state = self.model.state_dict().items()
        return {name: v for name, v in state if not _untrained(name, pooler=self._pooler)}

    def _settings(self) -> str:
        config: Any = getattr(self.model, "config", None)
        told = {} if config is None else config.to_diff_dict()
        kept = {key: value for key, value in told.items() if key not in NO_MATTER}
        return json.dumps(kept, sort_keys=True, default=str)

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """What it makes of pictures, without gradients.

        Args:
            images: (n, 3, h, w) uint8 RGB, of any size: squeezed or enlarged to what it takes.

        Returns:
            (n, d) float32, on the device of *images*.
        """
        return torch.cat(
            [self.pooled(self.normal(part)).float() for part in torch.split(images, self.batch)]
        )

    def normal(self, images: Tensor) -> Tensor:
        """Pictures as it takes them.

        Args:
            images: (n, 3, h, w) uint8 RGB.

        Returns:
            (n, 3, size, size) float32 RGB.
        """
        return self.transform.apply(images)

    def pooled(self, pixels: Tensor) -> Tensor:
        """Features of normalised pictures, with gradients if its weights have them.

        Args:
            pixels: (n, 3, size, size), as `normal` makes them.

        Returns:
            (n, d).

        Raises:
            TesseraeError: What comes out behind the cut is not of one picture each.
        """
        found = self._found(pixels)
        if len(found) != len(pixels):
            raise TesseraeError(
                f"block {self.cut!r} of {self.name} gives {len(found)} rows for {len(pixels)}"
                " pictures: expected one each. Choose another."
            )
        return found

    def _found(self, pixels: Tensor) -> Tensor:
        if self.transform.channels == "BGR":
            pixels = pixels.flip(1)
        if self.cut is not None:
            return pool(output_of(self.model, self.cut, pixels), self.pooling, self.name)
        made = self.model(pixels)
        own: Tensor | None = getattr(made, "pooler_output", None)
        if self.pooling == "end" and self._pooler and own is not None:
            return own.flatten(1)
        return pool(made.last_hidden_state, self.pooling, self.name)


def _untrained(name: str, *, pooler: bool) -> bool:
    return not pooler and name.partition(".")[0] == "pooler"
