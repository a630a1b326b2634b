"""Pictures from a run: of its generator, as its newest checkpoint has it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import TesseraeError
from workflows.training.run_folder import Checkpoint, RunFolder
from workflows.training.world import World
from workflows.wgan.options import Options
from workflows.wgan.stage import make_generator

STAGE = "workflows.wgan.stage:Wgan"
BATCH = 64


@dataclass(frozen=True)
class Painter:
    """A generator that was trained."""

    generator: nn.Module
    options: Options
    classes: tuple[str, ...]
    """Those that it tells apart, in words; () = none."""
    wnids: tuple[str, ...]
    """Of the same."""
    checkpoint: Checkpoint
    step: int
    device: torch.device

    @torch.no_grad()
    def paint(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Make pictures.

        Args:
            noise: (n, noise) float32.
            labels: (n,) int64, where it tells classes apart.

        Returns:
            (n, 3, size, size) float32 in [-1, 1].
        """
        parts = [torch.split(noise, BATCH)]
        if self.classes:
            every = torch.arange(len(noise)) % len(self.classes) if labels is None else labels
            parts.append(torch.split(every, BATCH))
        return torch.cat(
            [
                self.generator(*(one.to(self.device) for one in part)).float().cpu()
                for part in zip(*parts, strict=True)
            ]
        )

    def noise(self, count: int, seed: int) -> Tensor:
        """(count, noise) float32, of *seed*."""
        return World().normal(count, self.options.noise, key=("samples", seed))

    def between(self, rows: int, steps: int, seed: int) -> Tensor:
        """Noise on the way from one picture to another: (rows * steps, noise), way by way.

        Along the sphere, on which nearly all noise lies (White: Sampling Generative Networks,
        arXiv 1609.04468).
        """
        ends = self.noise(2 * rows, seed)
        one, other = ends[:rows, None], ends[rows:, None]
        share = torch.linspace(0, 1, steps).view(1, -1, 1)
        angle = torch.acos(
            nn.functional.cosine_similarity(one, other, dim=-1).clamp(-0.9995, 0.9995)
        )[..., None]
        made = (torch.sin((1 - share) * angle) * one + torch.sin(share * angle) * other) / (
            torch.sin(angle)
        )
        return made.flatten(0, 1)


def open_painter(folder: RunFolder, device: torch.device | None = None) -> Painter:
    """The generator of a run.

    Args:
        folder: Of the run.
        device: Where it makes pictures (the processor, on which they are the same to the bit).

    Raises:
        TesseraeError: It is no run of this stage, or has not saved anything yet.
    """
    asked = folder.asked()
    if asked["options"].get("stage") != STAGE:
        raise TesseraeError(
            f"{folder.path} makes no pictures from noise: expected a run of `tesserae train wgan`."
        )
    newest = folder.newest()
    if newest is None:
        raise TesseraeError(f"{folder.path} has no checkpoint yet.")
    options = Options.of(asked["options"]).filled()
    classes = tuple(folder.data()["classes"]) if options.condition != "none" else ()
    state = folder.load_trained(newest, "average")
    generator = make_generator(options, len(classes))
    average = {
        name.removeprefix("module."): value
        for name, value in state["average"].items()
        if name.startswith("module.")
    }
    generator.load_state_dict(average)
    wnids = tuple(folder.data()["wnids"]) if classes else ()
    device = device or torch.device("cpu")
    return Painter(
        generator.eval().to(device), options, classes, wnids, newest, state["step"], device
    )
