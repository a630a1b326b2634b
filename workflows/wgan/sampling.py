"""Samples of a run's generator, as saved in its newest checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.errors import TesseraeError
from workflows.training.run_folder import Checkpoint, RunFolder
from workflows.training.world import World
from workflows.wgan.options import WganOptions
from workflows.wgan.stage import make_generator

STAGE = "wgan"
"""The name of the stage in `options.json`."""
BATCH_ROWS = 64
"""The number of images generated at once."""
INTERPOLATION_STEPS = 10
"""The number of images in an interpolation."""


@dataclass(frozen=True)
class Sampler:
    """A trained generator with the options, the classes and the checkpoint of its run."""

    generator: nn.Module
    """The network in evaluation mode, with the moving average of its weights."""
    options: WganOptions
    """The options of the run, as `resolved` returns them."""
    classes: tuple[str, ...]
    """The names of the classes that it conditions on; () = none."""
    wnids: tuple[str, ...]
    """The wnids of the same classes."""
    checkpoint: Checkpoint
    """The checkpoint of the weights."""
    step: int
    """The number of complete steps at the checkpoint."""
    device: torch.device
    """The device that generates images."""

    @torch.no_grad()
    def generate(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        """Generate images from noise, 64 at a time.

        Args:
            noise: Standard normal numbers, (n, latent_dim) float32, on any device, where latent_dim
                is the attribute `options.latent_dim`; n is at least 1.
            labels: The label of each image, (n,) int64 from 0 to C - 1, where C is the number of
                `classes`, on any device, used by a conditional generator (default: 0 to C - 1 in
                turn, again and again) and otherwise ignored.

        Returns:
            (n, 3, size, size) float32 in [-1, 1], on the CPU, where size is the option
            `image_size`.
        """
        inputs = [torch.split(noise, BATCH_ROWS)]
        if self.classes:
            all_labels = torch.arange(len(noise)) % len(self.classes) if labels is None else labels
            inputs.append(torch.split(all_labels, BATCH_ROWS))
        return torch.cat(
            [
                self.generator(*(tensor.to(self.device) for tensor in batch)).float().cpu()
                for batch in zip(*inputs, strict=True)
            ]
        )

    def noise(self, count: int, seed: int) -> Tensor:
        """Draw standard normal noise vectors, without torch's global generator.

        Args:
            count: Number of vectors.
            seed: Seed of the draw; equal counts and seeds give equal vectors.

        Returns:
            (count, latent_dim) float32, on the CPU, where latent_dim is the attribute
            `options.latent_dim`.
        """
        return World().normal(count, self.options.latent_dim, key=("samples", seed))

    def interpolate(self, pairs: int, steps: int, seed: int) -> Tensor:
        """Interpolate between pairs of noise vectors.

        The interpolation is spherical, since nearly all noise lies close to a sphere (White:
        Sampling Generative Networks, arXiv 1609.04468).

        Args:
            pairs: Number of pairs.
            steps: Number of vectors on each path, at least 2, its ends included.
            seed: Seed of the ends.

        Returns:
            (pairs * steps, latent_dim) float32 on the CPU, path after path, each from its start to
            its end.
        """
        ends = self.noise(2 * pairs, seed)
        start, end = ends[:pairs, None], ends[pairs:, None]
        position = torch.linspace(0, 1, steps).view(1, -1, 1)
        angle = torch.acos(
            nn.functional.cosine_similarity(start, end, dim=-1).clamp(-0.9995, 0.9995)
        )[..., None]
        paths = (torch.sin((1 - position) * angle) * start + torch.sin(position * angle) * end) / (
            torch.sin(angle)
        )
        return paths.flatten(0, 1)


def open_sampler(folder: RunFolder, device: torch.device | None = None) -> Sampler:
    """Load the generator of a run's newest checkpoint, with the moving average of its weights.

    It draws random weights from torch's global generator before it loads the trained ones.

    Args:
        folder: The run folder.
        device: The device that generates images (default: the CPU, which gives bit-identical images
            everywhere).

    Returns:
        The sampler: its `generator`, in evaluation mode on `device`; the resolved `options` of the
        run; `classes` and `wnids` by label, empty without a condition; and `checkpoint` and `step`,
        the number of complete steps.

    Raises:
        TesseraeError: The folder holds no run, or one of another stage; the run has no checkpoint
            yet; or its newest weights are not finite.
    """
    record = folder.read_options()
    if record["options"].get("stage") != STAGE:
        raise TesseraeError(
            f"{folder.path} has no generator: expected a run of `tesserae train wgan`."
        )
    newest = folder.newest_checkpoint()
    if newest is None:
        raise TesseraeError(f"{folder.path} has no checkpoint yet: train it first.")
    options = WganOptions.from_dict(record["options"]).resolved()
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
    return Sampler(
        generator.eval().to(device), options, classes, wnids, newest, state["step"], device
    )
