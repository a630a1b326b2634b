"""A step of a WGAN, five updates of the critic and one of the generator, beside the plain loop.

    python benchmarks/wgan.py PHOTOGRAPHS STORE [--steps 3] [--rounds 7] [--arms ...]

PHOTOGRAPHS is a folder of <class>/<file> JPEGs, STORE was prepared from it with a size of 64 or 72.
The networks and the batch are the same in all arms: DCGAN for 64 px without extra layers, 64 rows.

    plain     the loop of the paper's code, its operations in its order, in float32: real and made
              scores each with a backward of its own; a DataLoader of two processes that open,
              scale, cut and normalise each photograph
    memory    the same loop on tensors that lie in memory: as if its loader cost nothing
    ours      the stage as `tesserae train wgan` runs it
    float32   the same with --precision float32

Arms take turns, --steps steps each, as often as there are rounds. Printed are images/s of real
pictures (wall), processor seconds a step, of all processes, and ratios to the first two arms within
each round. On a GPU if there is one: its idle share is that of the time that no kernel ran in.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.loader import Loader
from workflows.adversarial.critics import ConvCritic
from workflows.training.loop import Data
from workflows.training.world import World
from workflows.wgan.generators import ConvGenerator
from workflows.wgan.options import WganOptions
from workflows.wgan.stage import Wgan

SIZE, BATCH, NOISE, CRITIC = 64, 64, 100, 5
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Photographs(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """As torchvision's ImageFolder with Scale, CenterCrop, ToTensor and Normalize."""

    def __init__(self, folder: Path) -> None:
        self._files = sorted(folder.rglob("*.JPEG"))

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        with Image.open(self._files[place]) as image:
            picture = image.convert("RGB")
        width, height = picture.size
        scale = SIZE / min(width, height)
        size = (max(SIZE, round(width * scale)), max(SIZE, round(height * scale)))
        picture = picture.resize(size, Image.Resampling.BILINEAR)
        left, top = (size[0] - SIZE) // 2, (size[1] - SIZE) // 2
        picture = picture.crop((left, top, left + SIZE, top + SIZE))
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255)
        return pixels.sub(0.5).div(0.5), 0


def for_ever(loader: Any) -> Iterator[Tensor]:
    """Its images, epoch after epoch."""
    while True:
        for images, _ in loader:
            yield images


def in_memory(folder: Path) -> Iterator[Tensor]:
    """Batches of pictures that are decoded already."""
    photographs = Photographs(folder)
    kept = torch.stack([photographs[place][0] for place in range(min(1024, len(photographs)))])
    while True:
        for rows in torch.randperm(len(kept)).split(BATCH):
            if len(rows) == BATCH:
                yield kept[rows]


def plain(batches: Iterator[Tensor]) -> Callable[[], None]:
    """A step of the paper's loop: what `main.py` of the authors' repository does, and when."""
    torch.manual_seed(0)
    generator = ConvGenerator(SIZE, NOISE).to(DEVICE)
    critic = ConvCritic(SIZE).to(DEVICE)
    of_critic = torch.optim.RMSprop(critic.parameters(), 5e-5)
    of_generator = torch.optim.RMSprop(generator.parameters(), 5e-5)
    one = torch.ones((), device=DEVICE)

    def step() -> None:
        for parameter in critic.parameters():
            parameter.requires_grad_(True)
        for _ in range(CRITIC):
            for parameter in critic.parameters():
                parameter.data.clamp_(-0.01, 0.01)
            real = next(batches).to(DEVICE)
            critic.zero_grad()
            critic(real).mean().backward(one)
            noise = torch.empty(BATCH, NOISE, device=DEVICE).normal_(0, 1)
            with torch.no_grad():
                fake = generator(noise)
            critic(fake).mean().backward(-one)
            of_critic.step()
        for parameter in critic.parameters():
            parameter.requires_grad_(False)
        generator.zero_grad()
        noise = torch.empty(BATCH, NOISE, device=DEVICE).normal_(0, 1)
        critic(generator(noise)).mean().backward(one)
        of_generator.step()

    return step


def ours(store: Path, precision: str) -> Arm:
    """A step of the stage."""
    options = WganOptions(precision=precision, batch_size=BATCH, warmup_critic_steps=0)
    torch.manual_seed(0)
    size = 72
    data = Data(Loader(store, size=size, batch_size=BATCH), None, ())
    stage = Wgan(options, data, World(device=DEVICE))

    def step() -> None:
        before = stage.step
        while stage.step == before:
            stage.advance()

    return Arm(step, stage)


def cpu_seconds() -> float:
    """Of this process and of those that it has started."""
    every = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return sum(p.cpu_times().user + p.cpu_times().system for p in every)


@dataclass
class Arm:
    """What was measured of one way."""

    step: Callable[[], None]
    stage: Wgan | None = None
    images_per_second: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    waiting: list[float] = field(default_factory=list)

    def measure(self, steps: int) -> None:
        """Take some steps."""
        waited = self.stage.batches.wait_seconds if self.stage else 0.0
        began, used = time.perf_counter(), cpu_seconds()
        for _ in range(steps):
            self.step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - began
        self.images_per_second.append(steps * CRITIC * BATCH / took)
        self.cpu.append((cpu_seconds() - used) / steps)
        self.waiting.append(
            (self.stage.batches.wait_seconds - waited) / took if self.stage else 0.0
        )


def show(arms: dict[str, Arm]) -> None:
    """Print figures and ratios."""
    print(f"{torch.__version__}, {DEVICE}, {torch.get_num_threads()} threads, batch {BATCH}")
    print(f"{'':10} {'images/s':>10} {'best':>10} {'CPU s/step':>11} {'waiting':>8}")
    for name, arm in arms.items():
        rate, best = statistics.median(arm.images_per_second), max(arm.images_per_second)
        cpu, wait = statistics.median(arm.cpu), statistics.median(arm.waiting)
        print(f"{name:10} {rate:10.1f} {best:10.1f} {cpu:11.2f} {wait:8.2%}")
    for name, beside in itertools.product(("ours", "float32"), ("plain", "memory")):
        if name in arms and beside in arms:
            both = zip(arms[name].images_per_second, arms[beside].images_per_second, strict=True)
            ratios = [one / other for one, other in both]
            print(
                f"{name} / {beside}: median {statistics.median(ratios):.2f},"
                f" least {min(ratios):.2f}"
            )


def main() -> int:
    """Measure, and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photographs", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--workers", type=int, default=2, help="of the DataLoader")
    parser.add_argument("--arms", nargs="+", default=["plain", "memory", "ours", "float32"])
    args = parser.parse_args()
    photographs = Photographs(args.photographs)
    feed = torch.utils.data.DataLoader(
        photographs, BATCH, shuffle=True, num_workers=args.workers, drop_last=True,
        persistent_workers=True, pin_memory=DEVICE.type == "cuda",
    )  # fmt: skip
    made: dict[str, Callable[[], Arm]] = {
        "plain": lambda: Arm(plain(for_ever(feed))),
        "memory": lambda: Arm(plain(in_memory(args.photographs))),
        "ours": lambda: ours(args.store, "auto"),
        "float32": lambda: ours(args.store, "float32"),
    }
    arms = {name: made[name]() for name in args.arms}
    for arm in arms.values():
        arm.step()
    for _ in range(args.rounds):
        for arm in arms.values():
            arm.measure(args.steps)
    show(arms)
    return 0


if __name__ == "__main__":
    with torch.random.fork_rng(devices=[]):
        sys.exit(main())
