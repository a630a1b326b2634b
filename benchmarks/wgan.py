"""Measure a training step of a WGAN, and compare it with the loop of the paper's code.

    python benchmarks/wgan.py PHOTOGRAPHS STORE [--steps 3] [--rounds 7] [--methods ...]

PHOTOGRAPHS is a folder of class folders of JPEG files, and STORE was prepared from it with a size
of 72. A step is five updates of the critic and one of the generator. All methods have the same
networks (DCGAN for 64 px, without extra layers) and batches of 64 images.

    paper               the loop of the paper's code with its operations in their order, in float32:
                        a backward pass for the scores of real images, and one for those of
                        generated images; a DataLoader opens, scales, crops and normalises
                        photographs in processes
    paper-memory        the same loop over tensors in memory, so that loading costs nothing
    tesserae            the stage as `tesserae train wgan` runs it
    tesserae-float32    the same with --precision float32

Each round runs --steps steps of each method, on a GPU if there is one. The tables show real
images/s, the CPU time of all processes, the share of the time that a step waits for the loader, and
ratios of rates within a round.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from training_steps import Method, print_rates

from pipeline.loader import Loader
from workflows.adversarial.critics import ConvCritic
from workflows.training.precision import autocast
from workflows.training.stage import Data
from workflows.training.world import World
from workflows.wgan.generators import ConvGenerator
from workflows.wgan.options import WganOptions
from workflows.wgan.stage import Wgan

SIZE, STORED_SIZE, BATCH, LATENT_DIM, CRITIC_STEPS = 64, 72, 64, 100, 5
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Photographs(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Photographs as torchvision's ImageFolder, Scale, CenterCrop, ToTensor and Normalize give."""

    def __init__(self, folder: Path) -> None:
        self._files = sorted(folder.rglob("*.JPEG"))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self._files[index]) as file:
            image = file.convert("RGB")
        width, height = image.size
        scale = SIZE / min(width, height)
        size = (max(SIZE, round(width * scale)), max(SIZE, round(height * scale)))
        image = image.resize(size, Image.Resampling.BILINEAR)
        left, top = (size[0] - SIZE) // 2, (size[1] - SIZE) // 2
        image = image.crop((left, top, left + SIZE, top + SIZE))
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        return pixels.sub(0.5).div(0.5), 0


def endless(loader: Any) -> Iterator[Tensor]:
    """Yield the images of a DataLoader's batches, epoch after epoch."""
    while True:
        for images, _ in loader:
            yield images


def in_memory(folder: Path) -> Iterator[Tensor]:
    """Yield random batches of at most 1,024 photographs that are decoded before."""
    photographs = Photographs(folder)
    images = torch.stack([photographs[index][0] for index in range(min(1024, len(photographs)))])
    while True:
        for rows in torch.randperm(len(images)).split(BATCH):
            if len(rows) == BATCH:
                yield images[rows]


def paper_step(
    batches: Iterator[Tensor],
    device: torch.device = DEVICE,
    dtype: torch.dtype = torch.float32,
    *,
    image_size: int = SIZE,
    channels_last: bool = False,
) -> Callable[[], None]:
    """Return a function that makes a step as `main.py` of the authors' repository does.

    Args:
        batches: The real images, (n, 3, size, size) float32 on any device.
        device: The device that computes (default: a GPU if there is one).
        dtype: The number format of both networks (default: float32, as in the repository).
        image_size: The side of the images in pixels (default 64).
        channels_last: True for the memory layout that GPUs compute fastest (default: False).
    """
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    generator = ConvGenerator(image_size, LATENT_DIM).to(device, memory_format=layout)
    critic = ConvCritic(image_size).to(device, memory_format=layout)
    critic_optimiser = torch.optim.RMSprop(critic.parameters(), 5e-5)
    generator_optimiser = torch.optim.RMSprop(generator.parameters(), 5e-5)
    one = torch.ones((), device=device)

    def generate(rows: int) -> Tensor:
        noise = torch.empty(rows, LATENT_DIM, device=device).normal_(0, 1)
        with autocast(dtype, device):
            return generator(noise)

    def score(images: Tensor) -> Tensor:
        with autocast(dtype, device):
            return critic(images).float().mean()

    def step() -> None:
        for parameter in critic.parameters():
            parameter.requires_grad_(True)
        for _ in range(CRITIC_STEPS):
            for parameter in critic.parameters():
                parameter.data.clamp_(-0.01, 0.01)
            real = next(batches).to(device, memory_format=layout)
            critic.zero_grad()
            score(real).backward(one)
            with torch.no_grad():
                fake = generate(len(real))
            score(fake).backward(-one)
            critic_optimiser.step()
        for parameter in critic.parameters():
            parameter.requires_grad_(False)
        generator.zero_grad()
        score(generate(len(real))).backward(one)
        generator_optimiser.step()

    return step


def stage_method(store: Path, precision: str) -> Method:
    """Return the method that makes steps of Tesserae's stage."""
    options = WganOptions(precision=precision, batch_size=BATCH, warmup_critic_steps=0)
    torch.manual_seed(0)
    data = Data(Loader(store, size=STORED_SIZE, batch_size=BATCH), None, ())
    stage = Wgan(options, data, World(device=DEVICE))

    def step() -> float:
        before, waited = stage.step, stage.batches.wait_seconds
        while stage.step == before:
            stage.advance()
        return stage.batches.wait_seconds - waited

    return Method(step, CRITIC_STEPS * BATCH)


def paper_method(batches: Iterator[Tensor]) -> Method:
    """Return the method that makes steps of the paper's loop, whose waiting is not measured."""
    make_step = paper_step(batches)

    def step() -> float:
        make_step()
        return 0.0

    return Method(step, CRITIC_STEPS * BATCH)


def main() -> int:
    """Run the rounds and print the tables."""
    names = ["paper", "paper-memory", "tesserae", "tesserae-float32"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("photographs", type=Path, help="folder of class folders of JPEG files")
    add("store", type=Path, help="store that was prepared from them, with the size 72")
    add("--steps", type=int, default=3, metavar="N", help="steps of a round (default 3)")
    add("--rounds", type=int, default=7, metavar="N", help="number of rounds (default 7)")
    add(
        "--workers",
        type=int,
        default=2,
        metavar="N",
        help="processes of the paper's DataLoader (default 2)",
    )
    add("--methods", "--arms", nargs="+", choices=names, default=names, metavar="METHOD",
        help="methods to run (default: all)")  # fmt: skip
    args = parser.parse_args()
    photographs = Photographs(args.photographs)
    loader = torch.utils.data.DataLoader(
        photographs, BATCH, shuffle=True, num_workers=args.workers, drop_last=True,
        persistent_workers=True, pin_memory=DEVICE.type == "cuda",
    )  # fmt: skip
    create: dict[str, Callable[[], Method]] = {
        "paper": lambda: paper_method(endless(loader)),
        "paper-memory": lambda: paper_method(in_memory(args.photographs)),
        "tesserae": lambda: stage_method(args.store, "auto"),
        "tesserae-float32": lambda: stage_method(args.store, "float32"),
    }
    methods = {name: create[name]() for name in args.methods}
    for method in methods.values():
        method.step()
    for _ in range(args.rounds):
        for method in methods.values():
            method.measure(args.steps)
    print(f"torch {torch.__version__}, {DEVICE}, {torch.get_num_threads()} threads, batch {BATCH}")
    print_rates(methods, ("tesserae", "tesserae-float32"), ("paper", "paper-memory"))
    return 0


if __name__ == "__main__":
    with torch.random.fork_rng(devices=[]):
        sys.exit(main())
