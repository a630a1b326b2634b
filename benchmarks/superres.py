"""Measure a training step of super-resolution, and compare it with a plain loop over photographs.

    python benchmarks/superres.py PHOTOGRAPHS STORE [--network NAME] [--rounds 7] [--methods ...]

PHOTOGRAPHS is a folder of class folders of JPEG files, and STORE was prepared from it with the
sizes 72 and 288 and, for the method `tesserae-original`, with `--encoded original`. All methods
train the same network from the same weights with Adam and the mean absolute error, in the same
number format and memory layout, on random patches of 32 px and their originals of 128 px, turned
and mirrored at random. The scale is 4.

    folder              a plain loop: a DataLoader opens photographs in processes, cuts a patch of
                        128 px, reduces it with Pillow's bicubic filter, and turns both
    tesserae            the stage as `tesserae train superres` runs it, on pairs of stored squares
    tesserae-original   the same on the full-size photographs of encoded rows, reduced on the device

Each round runs --steps steps of each method, on a GPU if there is one, after some that use up what
was prefetched while other methods ran. The tables show patches/s as images/s, the CPU time of all
processes, the share of the time that a step waits for its batch, and ratios of rates within a
round.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from training_steps import Method, print_rates, wait_for_idle_processes

from workflows.superres.choices import BICUBIC, NETWORKS, STORED
from workflows.superres.data import PairArrays, pair_loader
from workflows.superres.networks import make_network
from workflows.superres.options import SuperresOptions
from workflows.superres.stage import ADAM_BETAS, Superres
from workflows.training.precision import PRECISIONS, autocast, training_precision
from workflows.training.stage import Data
from workflows.training.world import World

SCALE, PATCH, BATCH, LEARNING_RATE = 4, 32, 16, 5e-4
PREFETCHED_STEPS = 6
"""The number of steps before each measurement, more than a DataLoader prefetches."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STORED_PAIRS = PairArrays(SCALE, STORED, (72, 288))
ORIGINALS = PairArrays(SCALE, BICUBIC, encoded="original")


class Photographs(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Pairs of a random patch of a photograph and the same reduced, (3, h, w) float32 levels."""

    def __init__(self, folder: Path) -> None:
        side = SCALE * PATCH
        files = sorted(folder.rglob("*.JPEG"))
        self._files = [file for file in files if min(_size(file)) >= side]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        side = SCALE * PATCH
        with Image.open(self._files[index]) as file:
            image = file.convert("RGB")
        left, top = random.randint(0, image.width - side), random.randint(0, image.height - side)
        high = image.crop((left, top, left + side, top + side))
        orientation = random.randrange(8)
        for bit, change in (
            (1, Image.Transpose.FLIP_TOP_BOTTOM),
            (2, Image.Transpose.FLIP_LEFT_RIGHT),
            (4, Image.Transpose.TRANSPOSE),
        ):
            if orientation & bit:
                high = high.transpose(change)
        low = high.resize((PATCH, PATCH), Image.Resampling.BICUBIC)
        return _levels(low), _levels(high)


def _size(file: Path) -> tuple[int, int]:
    with Image.open(file) as image:
        return image.size


def _levels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float()


def endless_pairs(folder: Path, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the batches of a DataLoader, epoch after epoch."""
    loader = torch.utils.data.DataLoader(
        Photographs(folder), BATCH, shuffle=True, num_workers=workers, drop_last=True,
        persistent_workers=True, pin_memory=DEVICE.type == "cuda",
    )  # fmt: skip
    while True:
        for low, high in loader:
            yield low.to(DEVICE), high.to(DEVICE)


def plain_loop(folder: Path, workers: int, name: str, precision: str) -> Method:
    """Return the method of a plain training loop."""
    dtype = training_precision(precision, DEVICE)
    torch.manual_seed(0)
    network = make_network(name, SCALE).to(DEVICE)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(network.parameters(), LEARNING_RATE, ADAM_BETAS)
    pairs = endless_pairs(folder, workers)

    def step() -> float:
        requested = time.perf_counter()
        low, high = next(pairs)
        waited = time.perf_counter() - requested
        with autocast(dtype, DEVICE):
            enlarged = network(low)
        loss = (enlarged.float() - high).abs().mean() / 255
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return waited

    return Method(step, BATCH)


def stage_method(store: Path, arrays: PairArrays, name: str, precision: str) -> Method:
    """Return the method that makes steps of Tesserae's stage."""
    options = SuperresOptions(
        network=name, scale=SCALE, degradation=arrays.degradation, encoded=arrays.encoded,
        patch_size=PATCH, batch_size=BATCH, learning_rate=LEARNING_RATE, schedule="constant",
        precision=precision, ema_decay=0,
    )  # fmt: skip
    torch.manual_seed(0)
    loader = pair_loader(str(store), "train", options, arrays, training=True)
    stage = Superres(options, Data(loader, None, ()), World(device=DEVICE))

    def step() -> float:
        before = stage.batches.wait_seconds
        stage.advance()
        return stage.batches.wait_seconds - before

    return Method(step, BATCH)


def main() -> int:
    """Run the rounds and print the tables."""
    names = ["folder", "tesserae", "tesserae-original"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("photographs", type=Path, help="folder of class folders of JPEG files")
    add("store", type=Path, help="store that was prepared from them, with the sizes 72 and 288")
    add("--network", choices=tuple(NETWORKS), default="fsrcnn", help="network (default fsrcnn)")
    add("--precision", choices=PRECISIONS, default="auto", help="number format (default auto)")
    add("--steps", type=int, default=20, metavar="N", help="steps of a round (default 20)")
    add("--rounds", type=int, default=7, metavar="N", help="number of rounds (default 7)")
    add("--workers", type=int, default=2, metavar="N",
        help="processes of the DataLoader (default 2)")  # fmt: skip
    add("--methods", nargs="+", choices=names, default=names, metavar="METHOD",
        help="methods to run (default: all)")  # fmt: skip
    args = parser.parse_args()
    network, precision = args.network, args.precision
    create: dict[str, Callable[[], Method]] = {
        "folder": lambda: plain_loop(args.photographs, args.workers, network, precision),
        "tesserae": lambda: stage_method(args.store, STORED_PAIRS, network, precision),
        "tesserae-original": lambda: stage_method(args.store, ORIGINALS, network, precision),
    }
    methods = {name: create[name]() for name in args.methods}
    for _ in range(args.rounds):
        for method in methods.values():
            method.measure(args.steps, unmeasured=PREFETCHED_STEPS)
            wait_for_idle_processes()
    dtype, threads = training_precision(precision, DEVICE), torch.get_num_threads()
    print(f"{network}, torch {torch.__version__}, {DEVICE}, {dtype}, {threads} threads")
    print_rates(methods, ("tesserae", "tesserae-original"), ("folder",))
    return 0


if __name__ == "__main__":
    with torch.random.fork_rng(devices=[]):
        sys.exit(main())
