"""Measure a training step of a classifier, and compare it with a plain loop over photographs.

    python benchmarks/classify.py PHOTOGRAPHS STORE [--network NAME] [--rounds 7] [--methods ...]

PHOTOGRAPHS is a folder of class folders of JPEG files, and STORE was prepared from it with a size
of 72, and with encoded rows for the method `tesserae-encoded`. All methods train the same network
from the same weights, in the same number format and memory layout, on random resized crops of
64 px, half of them mirrored, with SGD and Nesterov momentum.

    folder              a plain loop: a DataLoader opens photographs in processes, and crops,
                        resizes, mirrors and normalises each as torchvision does
    memmap              the same loop over a memory-mapped array of squares of 72 px, whose batches
                        are gathered by numpy and augmented at once on the device
    tesserae            the stage as `tesserae train classify` runs it, on squares of 72 px
    tesserae-encoded    the same on encoded rows

Each round runs --steps steps of each method, on a GPU if there is one, after some that use up what
was prefetched while other methods ran. The tables show images/s, the CPU time of all processes, the
share of the time that a step waits for its batch, and ratios of rates within a round.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from training_steps import Method, print_rates, wait_for_idle_processes

from pipeline.augment import IMAGENET_MEAN, IMAGENET_STD, Augment
from pipeline.loader import Loader
from workflows.classify.networks import new_classifier
from workflows.classify.options import ClassifyOptions
from workflows.classify.stage import Classify
from workflows.training.precision import PRECISIONS, autocast, training_precision
from workflows.training.stage import Data
from workflows.training.world import World

SIZE, STORED_SIZE, BATCH, LEARNING_RATE = 64, 72, 64, 0.05
PREFETCHED_STEPS = 6
"""The number of steps before each measurement, more than a DataLoader prefetches."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Pairs = Iterator[tuple[Tensor, Tensor]]
"""Batches of normalised images, (n, 3, 64, 64) float32, and labels, (n,) int64."""


class Photographs(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Photographs with torchvision's RandomResizedCrop, flip, ToTensor and Normalize."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.rglob("*.JPEG"))
        names = sorted({file.parent.name for file in self.files})
        self.labels = [names.index(file.parent.name) for file in self.files]
        self.num_classes = len(names)
        self._mean = torch.tensor(IMAGENET_MEAN).view(3, 1, 1)
        self._std = torch.tensor(IMAGENET_STD).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        with Image.open(self.files[index]) as file:
            image = file.convert("RGB")
        image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=_random_box(*image.size))
        if random.random() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        return pixels.sub(self._mean).div(self._std), self.labels[index]


def _random_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Return a box as torchvision draws it: 8 to 100 % of the area, a ratio of 3/4 to 4/3."""
    for _ in range(10):
        area = width * height * random.uniform(0.08, 1.0)
        ratio = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    side = min(width, height)
    return (width - side) // 2, (height - side) // 2, (width + side) // 2, (height + side) // 2


def from_folder(photographs: Photographs, workers: int) -> Pairs:
    """Yield the batches of a DataLoader, epoch after epoch."""
    loader = torch.utils.data.DataLoader(
        photographs, BATCH, shuffle=True, num_workers=workers, drop_last=True,
        persistent_workers=True, pin_memory=DEVICE.type == "cuda",
    )  # fmt: skip
    while True:
        for images, labels in loader:
            yield images.to(DEVICE), labels.to(DEVICE)


def from_memmap(store: Path, file: Path) -> Pairs:
    """Yield random batches of the squares of a store, copied to a plain array in a file."""
    loader = Loader(store, size=STORED_SIZE, batch_size=BATCH, order="sequential", drop_last=False)
    shape = (loader.num_rows, STORED_SIZE, STORED_SIZE, 3)
    pixels = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    all_labels = np.empty(shape[0], np.int64)
    start = 0
    for images, labels, _ in loader:
        assert isinstance(images, Tensor)
        stop = start + len(labels)
        pixels[start:stop] = images.permute(0, 2, 3, 1).numpy()
        all_labels[start:stop] = labels.numpy()
        start = stop
    augment = Augment(size=SIZE)
    generator = np.random.default_rng(0)
    for epoch in range(2**31):
        order = generator.permutation(shape[0])
        for first in range(0, shape[0] - BATCH + 1, BATCH):
            rows = order[first : first + BATCH]
            batch = torch.from_numpy(pixels[rows]).permute(0, 3, 1, 2).to(DEVICE)
            images = augment(batch, torch.from_numpy(rows), epoch)
            yield images, torch.from_numpy(all_labels[rows]).to(DEVICE)


def plain_loop(batches: Pairs, network: str, num_classes: int, precision: str) -> Method:
    """Return the method of a plain training loop."""
    dtype = training_precision(precision, DEVICE)
    torch.manual_seed(0)
    classifier = new_classifier(network, [str(c) for c in range(num_classes)], image_size=SIZE)
    model = classifier.model.to(DEVICE, memory_format=torch.channels_last).train()
    optimiser = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9, nesterov=True)

    def step() -> float:
        requested = time.perf_counter()
        images, labels = next(batches)
        waited = time.perf_counter() - requested
        with autocast(dtype, DEVICE):
            logits = model(images.contiguous(memory_format=torch.channels_last)).logits
        loss = nn.functional.cross_entropy(logits.float(), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        return waited

    return Method(step, BATCH)


def stage_method(store: Path, network: str, encoded: str | None, precision: str) -> Method:
    """Return the method that makes steps of Tesserae's stage."""
    options = ClassifyOptions(
        network=network, image_size=SIZE, batch_size=BATCH, learning_rate=LEARNING_RATE,
        warmup_epochs=0, schedule="constant", encoded=encoded, precision=precision,
    )  # fmt: skip
    torch.manual_seed(0)
    size = STORED_SIZE if encoded is None else SIZE
    arguments: dict[str, Any] = options.loader_arguments()
    loader = Loader(store, size=size, encoded=encoded, batch_size=BATCH, rank=0, world=1,
                    **arguments)  # fmt: skip
    classes = tuple(wnid for wnid, _ in loader.classes)
    options = options.for_rows(loader.num_rows)
    stage = Classify(options, Data(loader, None, classes), World(device=DEVICE))

    def step() -> float:
        before = stage.batches.wait_seconds
        stage.advance()
        return stage.batches.wait_seconds - before

    return Method(step, BATCH)


def main() -> int:
    """Run the rounds and print the tables."""
    names = ["folder", "memmap", "tesserae", "tesserae-encoded"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("photographs", type=Path, help="folder of class folders of JPEG files")
    add("store", type=Path, help="store that was prepared from them, with the size 72")
    add("--network", default="resnet18", metavar="NAME", help="network (default resnet18)")
    add("--encoded", default="jpeg:256@90", metavar="ENCODING",
        help="encoded rows of tesserae-encoded (default jpeg:256@90)")  # fmt: skip
    add("--precision", choices=PRECISIONS, default="auto", help="number format (default auto)")
    add("--steps", type=int, default=20, metavar="N", help="steps of a round (default 20)")
    add("--rounds", type=int, default=7, metavar="N", help="number of rounds (default 7)")
    add("--workers", type=int, default=2, metavar="N",
        help="processes of the DataLoader (default 2)")  # fmt: skip
    add("--memmap", type=Path, default=Path("squares.npy"), metavar="FILE",
        help="file that the method memmap writes (default squares.npy)")  # fmt: skip
    add("--methods", nargs="+", choices=names, default=names, metavar="METHOD",
        help="methods to run (default: all)")  # fmt: skip
    args = parser.parse_args()
    photographs = Photographs(args.photographs)
    num_classes = photographs.num_classes
    create: dict[str, Callable[[], Method]] = {
        "folder": lambda: plain_loop(
            from_folder(photographs, args.workers), args.network, num_classes, args.precision
        ),
        "memmap": lambda: plain_loop(
            from_memmap(args.store, args.memmap), args.network, num_classes, args.precision
        ),
        "tesserae": lambda: stage_method(args.store, args.network, None, args.precision),
        "tesserae-encoded": lambda: stage_method(
            args.store, args.network, args.encoded, args.precision
        ),
    }
    methods = {name: create[name]() for name in args.methods}
    for _ in range(2):
        for method in methods.values():
            method.step()
    for _ in range(args.rounds):
        for method in methods.values():
            method.measure(args.steps, unmeasured=PREFETCHED_STEPS)
            wait_for_idle_processes()
    dtype, threads = training_precision(args.precision, DEVICE), torch.get_num_threads()
    print(f"torch {torch.__version__}, {DEVICE}, {dtype}, {threads} threads, batch {BATCH}")
    print_rates(methods, ("tesserae", "tesserae-encoded"), ("folder", "memmap"))
    args.memmap.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    with torch.random.fork_rng(devices=[]):
        sys.exit(main())
