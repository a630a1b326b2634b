"""What a loader adds to a training step: a small ResNet fed by it, and on one batch that stays.

    python benchmarks/step.py STORE [--size 72] [--batch 64] [--steps 20] [--rounds 7]

Each round trains --steps steps on batches of the loader and as many on one of them, in turn, from
where the round before ended. On a GPU if there is one, where batches are copied while the step
before runs. Waiting is the share of the time that the step waited for its batch.
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
    """Two convolutions and a way past them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.past = nn.Conv2d(inputs, outputs, 1, 2, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(outputs) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / 2, w / 2)."""
        made = functional.relu(self.norms[0](self.first(x)))
        return functional.relu(self.norms[1](self.second(made)) + self.norms[2](self.past(x)))


def resnet(classes: int) -> nn.Module:
    """Three blocks and a linear layer."""
    blocks = [Block(i, o) for i, o in zip((3, *WIDTHS), WIDTHS, strict=False)]
    return nn.Sequential(
        *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTHS[-1], classes)
    )


def batches(loader: Loader) -> Iterator[Batch]:
    """Epoch after epoch."""
    while True:
        yield from loader


def main() -> int:
    """Train, and print the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store")
    parser.add_argument("--size", type=int, default=72)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
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

    def finish() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    feed = batches(loader)
    fixed = next(feed)
    for _ in range(args.steps):
        step(fixed)
        step(next(feed))
    fed, still, waited = [], [], []
    for _ in range(args.rounds):
        waiting, started = 0.0, finish()
        for _ in range(args.steps):
            asked = time.perf_counter()
            batch = next(feed)
            waiting += time.perf_counter() - asked
            step(batch)
        ended = finish()
        for _ in range(args.steps):
            step(fixed)
        fed.append((ended - started) / args.steps)
        still.append((finish() - ended) / args.steps)
        waited.append(waiting / (ended - started))
    print(f"{device.type}, {args.size} px, batches of {args.batch}, {args.rounds} rounds")
    report(fed, still, waited)
    return 0


def report(fed: list[float], still: list[float], waited: list[float]) -> None:
    """Print seconds a step of each round, and their ratio."""
    for name, found in (("one batch", still), ("the loader's", fed)):
        median, least = statistics.median(found) * 1e3, min(found) * 1e3
        print(f"step on {name:<13} {median:8.1f} ms, least {least:.1f}")
    ratios = [a / b for a, b in zip(fed, still, strict=True)]
    print(
        f"ratio, of the rounds: min {min(ratios):.3f}, median {statistics.median(ratios):.3f}, max"
        f" {max(ratios):.3f}; of the least: {min(fed) / min(still):.3f}"
    )
    print(f"waiting for batches   {statistics.median(waited):8.2%}")


if __name__ == "__main__":
    sys.exit(main())
