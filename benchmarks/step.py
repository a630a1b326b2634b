"""Measure how much a loader adds to the time of a training step of a small residual network.

    python benchmarks/step.py STORE [--size 72] [--batch 64] [--steps 20] [--rounds 7]

Each round trains --steps steps on batches of the loader, then as many on one fixed batch. The
network is on a GPU if there is one; a batch is then copied while the step before it runs. The
loader wait is the share of the time in which a step waits for its batch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.augment import Augment
from pipeline.loader import Batch, Loader

WIDTHS = (32, 64, 128)


class Block(nn.Module):
    """A residual block of two convolutions, which halves the sides of its input."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        # Not a 1x1 convolution with a stride of 2: its gradient for 3 channels, channels last, ends
        # the process in oneDNN on CPUs with AVX-512 (torch 2.13.0).
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(inputs, outputs, 1, bias=False))
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / 2, w / 2)."""
        hidden = functional.relu(self.norms[0](self.first(x)))
        return functional.relu(self.norms[1](self.second(hidden)) + self.norms[2](self.shortcut(x)))


def resnet(classes: int) -> nn.Module:
    """Return a classifier of three blocks and a linear layer."""
    blocks = [Block(i, o) for i, o in zip((3, *WIDTHS), WIDTHS, strict=False)]
    return nn.Sequential(
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes)
    )


def batches(loader: Loader) -> Iterator[Batch]:
    """Yield batches, epoch after epoch."""
    while True:
        yield from loader


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("store", help="store with a finished split train")
    add("--size", type=int, default=72, metavar="PIXELS", help="stored size (default 72)")
    add("--batch", type=int, default=64, metavar="ROWS", help="rows of a batch (default 64)")
    add("--steps", type=int, default=20, metavar="N", help="steps of each kind (default 20)")
    add("--rounds", type=int, default=7, metavar="N", help="number of rounds (default 7)")
    return parser.parse_args()


def main() -> int:
    """Train, and print the times of a step and their ratio."""
    args = _arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    loader = Loader(args.store, size=args.size, batch_size=args.batch, rank=0, world=1)
    model = resnet(len(loader.classes)).to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    augment = Augment(size=args.size, crop="none")

    def step(batch: Batch) -> None:
        images = batch.images.to(device, non_blocking=True)
        labels = batch.labels.to(device, non_blocking=True)
        loss = functional.cross_entropy(model(augment(images, batch.rows, 0)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def finished() -> float:
        """Wait for the device, and return the time in seconds."""
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    stream = batches(loader)
    fixed = next(stream)
    for _ in range(args.steps):
        step(fixed)
        step(next(stream))
    loaded_seconds, fixed_seconds, waits = [], [], []
    for _ in range(args.rounds):
        waiting, started = 0.0, finished()
        for _ in range(args.steps):
            requested = time.perf_counter()
            batch = next(stream)
            waiting += time.perf_counter() - requested
            step(batch)
        ended = finished()
        for _ in range(args.steps):
            step(fixed)
        loaded_seconds.append((ended - started) / args.steps)
        fixed_seconds.append((finished() - ended) / args.steps)
        waits.append(waiting / (ended - started))
    print(f"{device.type}, {args.size} px, batches of {args.batch}, {args.rounds} rounds")
    report(loaded_seconds, fixed_seconds, waits)
    return 0


def report(loaded: list[float], fixed: list[float], waits: list[float]) -> None:
    """Print the times of a step in each kind of batches, their ratio, and the loader wait.

    Args:
        loaded: The seconds of a step on the loader's batches, of each round.
        fixed: The seconds of a step on the fixed batch, of each round.
        waits: The share of the time in which a step waited for its batch, of each round.
    """
    for name, seconds in (("one fixed batch", fixed), ("the loader's batches", loaded)):
        median, best = statistics.median(seconds) * 1e3, min(seconds) * 1e3
        print(f"step on {name:<20} median {median:8.1f} ms, min {best:.1f} ms")
    ratios = [a / b for a, b in zip(loaded, fixed, strict=True)]
    print(
        f"ratio within a round: min {min(ratios):.3f}, median {statistics.median(ratios):.3f}, "
        f"max {max(ratios):.3f}; ratio of the minima {min(loaded) / min(fixed):.3f}"
    )
    print(f"loader wait {statistics.median(waits):.2%}")


if __name__ == "__main__":
    sys.exit(main())
