"""The ONNX file of `tesserae export RUN`, of a run whose network returns images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim

from workflows.colourise.model import STAGE as COLOURISE
from workflows.colourise.model import open_colouriser
from workflows.runs.model_card import model_description
from workflows.runs.onnx_file import OnnxNetwork, write_onnx
from workflows.superres.model import STAGE as SUPERRES
from workflows.superres.model import open_upscaler
from workflows.training.run_folder import RunFolder
from workflows.training.world import World
from workflows.wgan.sampling import STAGE as WGAN
from workflows.wgan.sampling import open_sampler

UPSCALER_SIZES = ((2, 24, 20), (1, 7, 33), (3, 50, 5))
"""The number, height and width of the images by which an upscaler is checked."""
COLOURISER_SIZES = ((2, 24, 20), (1, 8, 32), (3, 48, 4))
"""The number, height and width of the images by which a colouriser is checked."""
GENERATOR_COUNTS = (2, 1, 5)
"""The numbers of noise vectors by which a generator is checked."""


class _UnitRange(nn.Module):
    """A network from images to images, both from 0 to 1 instead of *low* to *high*."""

    def __init__(self, network: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.network, self.low, self.span = network, low, high - low

    def forward(self, images: Tensor) -> Tensor:
        computed: Tensor = self.network(self.low + self.span * images)
        return ((computed - self.low) / self.span).clamp(0, 1)


class _UnitRangeGenerator(nn.Module):
    """A generator whose images are from 0 to 1 instead of -1 to 1."""

    def __init__(self, generator: nn.Module) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, noise: Tensor, labels: Tensor | None = None) -> Tensor:
        images: Tensor = self.generator(noise, labels)
        return ((images + 1) / 2).clamp(0, 1)


def export_upscaler(run: Path, out: Path | None, licence: str | None) -> None:
    """Write the network of a run of super-resolution as an ONNX file, and print its path.

    The input `images`, (n, 3, h, w) float32 RGB from 0 to 1, may have any number of images and any
    size; the output `enlarged` is (n, 3, h * scale, w * scale), from 0 to 1. The metadata has
    `scale` and `reach` (the overlap of tiles, in pixels of the input).

    Args:
        run: The run folder.
        out: The new file (None = `upscaler.onnx` in the run folder).
        licence: The licence of the weights (None = unknown).

    Raises:
        TesseraeError: The run has no checkpoint or has diverged, the file exists, or its results
            differ from torch's.
        OSError: The file cannot be written.
    """
    trained = open_upscaler(run)
    network = OnnxNetwork(
        _UnitRange(trained.network, 0, 255).eval(),
        {"images": {0: Dim("n"), 2: Dim("h"), 3: Dim("w")}},
        "enlarged",
        [(_random_images(n, 3, height, width),) for n, height, width in UPSCALER_SIZES],
        {
            "stage": SUPERRES,
            "network": trained.options.network,
            "scale": trained.scale,
            "reach": trained.network.reach,
        },
    )
    _write(
        network, RunFolder(run), out or run / "upscaler.onnx", name=trained.options.network,
        purpose=f"which enlarges by {trained.scale}", step=trained.step, licence=licence,
    )  # fmt: skip


def export_generator(run: Path, out: Path | None, licence: str | None) -> None:
    """Write the generator of a GAN's run as an ONNX file, and print its path.

    It has the moving average of the weights, as samples of the run have. The input `noise` is (n,
    latent_dim) float32, independent and standard normal, for any n; a conditional generator has a
    second input, `labels`, (n,) int64 from 0 to C - 1 for C classes. The output `images` is
    (n, 3, size, size) float32 RGB from 0 to 1. The metadata has `latent_dim`, `size` in pixels, and
    `classes` and `wnids` by label, lists that are empty without a condition.

    Args:
        run: The run folder.
        out: The new file (None = `generator.onnx` in the run folder).
        licence: The licence of the weights (None = unknown).

    Raises:
        TesseraeError: The run has no checkpoint or has diverged, the file exists, or its results
            differ from torch's.
        OSError: The file cannot be written.
    """
    sampler = open_sampler(RunFolder(run))
    options, num_classes = sampler.options, len(sampler.classes)
    count = Dim("n")
    dynamic_shapes = {"noise": {0: count}}
    if num_classes:
        dynamic_shapes["labels"] = {0: count}
    network = OnnxNetwork(
        _UnitRangeGenerator(sampler.generator).eval(),
        dynamic_shapes,
        "images",
        [
            (sampler.noise(n, seed=0), torch.arange(n) % max(1, num_classes))[: len(dynamic_shapes)]
            for n in GENERATOR_COUNTS
        ],
        {
            "stage": WGAN,
            "network": options.generator,
            "size": options.image_size,
            "latent_dim": options.latent_dim,
            "noise": "standard normal",
            "classes": sampler.classes,
            "wnids": sampler.wnids,
        },
    )
    classes = f" of {num_classes:,} classes" if num_classes else ""
    _write(
        network, RunFolder(run), out or run / "generator.onnx",
        name=f"{options.generator} generator",
        purpose=f"for images of {options.image_size} px{classes}", step=sampler.step,
        licence=licence,
    )  # fmt: skip


def export_colouriser(run: Path, out: Path | None, licence: str | None) -> None:
    """Write the network of a colourisation run as an ONNX file, and print its path.

    The input `grey`, (n, 1, h, w) float32 luma of Rec. 601 from 0 to 1, may have any number of
    images, and any height and width that are multiples of 4; the output `coloured` is (n, 3, h, w)
    RGB, from 0 to 1. The metadata has `size`, the side of the training images in pixels.

    Args:
        run: The run folder.
        out: The new file (None = `colouriser.onnx` in the run folder).
        licence: The licence of the weights (None = unknown).

    Raises:
        TesseraeError: The run has no checkpoint or has diverged, the file exists, or its results
            differ from torch's.
        OSError: The file cannot be written.
    """
    trained = open_colouriser(RunFolder(run))
    size = trained.options.image_size
    network = OnnxNetwork(
        _UnitRange(trained.network, -1, 1).eval(),
        # The network halves its maps twice, and enlarges them by 4.
        {"grey": {0: Dim("n"), 2: 4 * Dim("h"), 3: 4 * Dim("w")}},
        "coloured",
        [(_random_images(n, 1, height, width),) for n, height, width in COLOURISER_SIZES],
        {"stage": COLOURISE, "size": size},
    )
    _write(
        network, RunFolder(run), out or run / "colouriser.onnx", name="colourisation network",
        purpose=f"trained on images of {size} px", step=trained.step, licence=licence,
    )  # fmt: skip


ONNX_EXPORTS = {
    SUPERRES: export_upscaler,
    WGAN: export_generator,
    COLOURISE: export_colouriser,
}
"""The function that exports a run, by the name of its stage."""


def _random_images(count: int, channels: int, height: int, width: int) -> Tensor:
    """Return images of uniform noise, (count, channels, height, width) float32 from 0 to 1."""
    return World().uniform(count, channels, height, width, key=("onnx",))


def _write(
    network: OnnxNetwork,
    run: RunFolder,
    out: Path,
    *,
    name: str,
    purpose: str,
    step: int,
    licence: str | None,
) -> None:
    """Write a network with its description, step and licence, and print what was written."""
    description = model_description(run, title=f"{name}, {purpose}", step=step)
    # `model_license` is the name that the specification of ONNX recommends.
    metadata = {"step": step, "model_license": licence or "unknown"}
    difference = write_onnx(network, out, metadata=metadata, description=description)
    print(
        f"{out}: {name} of step {step:,} of {run.path}, {purpose}; within {difference:.1g} levels"
        " of the network in torch"
    )
