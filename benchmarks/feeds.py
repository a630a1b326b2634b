"""What is measured by loader.py and cold.py: one way each of feeding the same pictures to training.

`make NAME SET OUT` writes a format of one's own from the set; `feed NAME SET` feeds from it for a
while and prints what that took. Each runs in an environment of its own, so nothing but the standard
library is imported up here.

A set is a folder with `pixels.npy`, (N, 224, 224, 3) uint8, `labels.npy`, (N,) int64, the stores
`raw` and `zstd` that `tesserae prepare` made, and `photographs`, what they were made of.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SIZE = 224
ROW_BYTES = SIZE * SIZE * 3
BATCH = 256
THREADS = len(os.sched_getaffinity(0))
JPEG_QUALITY = 95
MEMORY = 64 * 2**20
"""Bytes that a loader may gather ahead, or keep of chunks, where memory is short."""

Batches = Iterator[int]
"""Rows of each batch that was handed out, epoch after epoch."""


def arrays(folder: Path) -> tuple[Any, Any]:
    """Pixels, mapped, and labels."""
    import numpy as np

    return np.load(folder / "pixels.npy", mmap_mode="r"), np.load(folder / "labels.npy")


def jpegs(folder: Path) -> Iterator[tuple[bytes, int]]:
    """The pixels as JPEG files, and their labels."""
    import io

    from PIL import Image

    pixels, labels = arrays(folder)
    for picture, label in zip(pixels, labels, strict=True):
        out = io.BytesIO()
        Image.fromarray(picture).save(out, "JPEG", quality=JPEG_QUALITY)
        yield out.getvalue(), int(label)


# --- Tesserae -------------------------------------------------------------------------------------


def tesserae(
    store: str, *, reading: dict[str, Any] | None = None, **words: Any
) -> Callable[[Path], Batches]:
    """`Loader` with *words*, and `Reading` with the words of *reading*."""

    def feed(folder: Path) -> Batches:
        from pipeline.loader import Loader, Reading

        threads_and_more = Reading(threads=THREADS, **(reading or {}))
        loader = Loader(
            folder / store, size=SIZE, batch_size=BATCH, reading=threads_and_more, rank=0, world=1,
            **words,
        )  # fmt: skip
        while True:
            for batch in loader:
                yield len(batch.rows)

    return feed


def tesserae_augmented(folder: Path) -> Batches:
    """`Loader` and `Augment` on the processor: a crop of each picture, flipped, as floats."""
    from pipeline.augment import Augment
    from pipeline.loader import Loader, Reading

    reading = Reading(threads=THREADS)
    loader = Loader(folder / "raw", size=SIZE, batch_size=BATCH, reading=reading, rank=0, world=1)
    augment = Augment(crop="resized", flip=True, size=SIZE)
    while True:
        for batch in loader:
            augment(batch.images, batch.rows, epoch=loader.epoch)
            yield len(batch.rows)


def by_hand(folder: Path) -> Batches:
    """The same rows copied from mapped shards into one buffer a thread: nothing else at all."""
    import mmap
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    shards = sorted((folder / f"raw/images.zarr/train/{SIZE}").glob("c.*"), key=place_of)
    maps = []
    for shard in shards:
        with shard.open("rb") as file:
            maps.append(np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8))
    num_rows = len(np.load(folder / "labels.npy"))
    buffers = [np.zeros((BATCH, ROW_BYTES), np.uint8) for _ in range(THREADS)]

    def gather(work: tuple[int, Any]) -> int:
        batch, rows = work
        out = buffers[batch % THREADS]
        numbers, inside = np.divmod(rows, 1024)
        chunks, rest = np.divmod(inside, 16)
        offsets = chunks * (16 * ROW_BYTES + 4) + rest * ROW_BYTES
        for place, (shard, offset) in enumerate(
            zip(numbers.tolist(), offsets.tolist(), strict=True)
        ):
            out[place] = maps[shard][offset : offset + ROW_BYTES]
        return len(rows)

    with ThreadPoolExecutor(THREADS) as pool:
        for epoch in itertools.count():
            rows = np.random.default_rng(epoch).permutation(num_rows)
            starts = range(0, num_rows - BATCH + 1, BATCH)
            yield from pool.map(gather, enumerate(rows[at : at + BATCH] for at in starts))


def place_of(shard: Path) -> int:
    """The number of a shard."""
    return int(shard.name.split(".")[1])


# --- FFCV -----------------------------------------------------------------------------------------


def make_ffcv(folder: Path, out: Path) -> None:
    """Raw pixels."""
    from ffcv.fields import IntField, RGBImageField
    from ffcv.writer import DatasetWriter

    pixels, labels = arrays(folder)

    class Rows:
        def __len__(self) -> int:
            return len(pixels)

        def __getitem__(self, row: int) -> tuple[Any, int]:
            import numpy as np

            return np.ascontiguousarray(pixels[row]), int(labels[row])

    fields = {"image": RGBImageField(write_mode="raw"), "label": IntField()}
    DatasetWriter(str(out), fields, num_workers=THREADS).from_indexed_dataset(Rows())


def ffcv(order: str, *, crop: bool = False, os_cache: bool = True) -> Callable[[Path], Batches]:
    """FFCV's loader."""

    def feed(folder: Path) -> Batches:
        from ffcv.fields.decoders import (
            IntDecoder,
            RandomResizedCropRGBImageDecoder,
            SimpleRGBImageDecoder,
        )
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import ToTensor

        decoder = (
            RandomResizedCropRGBImageDecoder((SIZE, SIZE)) if crop else SimpleRGBImageDecoder()
        )
        loader = Loader(
            str(folder / "ffcv"),
            batch_size=BATCH,
            num_workers=THREADS,
            order=OrderOption[order],
            os_cache=os_cache,
            drop_last=True,
            pipelines={"image": [decoder, ToTensor()], "label": [IntDecoder(), ToTensor()]},
        )
        while True:
            for images, _labels in loader:
                yield len(images)

    return feed


# --- MosaicML Streaming ---------------------------------------------------------------------------


def make_mds(folder: Path, out: Path) -> None:
    """JPEG files."""
    from streaming import MDSWriter

    with MDSWriter(out=str(out), columns={"image": "bytes", "label": "int"}) as writer:
        for data, label in jpegs(folder):
            writer.write({"image": data, "label": label})


def mds(folder: Path) -> Batches:
    """`StreamingDataset` in a `DataLoader`, two processes."""
    import torch
    from streaming import StreamingDataset

    class Rows(StreamingDataset):  # type: ignore[misc, unused-ignore]
        def __getitem__(self, at: Any) -> Any:
            row = super().__getitem__(at)
            return decoded(row["image"]), row["label"]

    data = Rows(local=str(folder / "mds"), shuffle=True, batch_size=BATCH)
    loader = torch.utils.data.DataLoader(
        data, batch_size=BATCH, num_workers=THREADS, drop_last=True, persistent_workers=True
    )
    while True:
        for images, _labels in loader:
            yield len(images)


def decoded(data: bytes) -> Any:
    """A JPEG file as a tensor."""
    import io

    import numpy as np
    import torch
    from PIL import Image

    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB")))


# --- WebDataset -----------------------------------------------------------------------------------


def make_webdataset(folder: Path, out: Path) -> None:
    """JPEG files in tar files of 1,000."""
    import webdataset

    out.mkdir()
    with webdataset.ShardWriter(str(out / "%06d.tar"), maxcount=1000, verbose=0) as writer:
        for row, (data, label) in enumerate(jpegs(folder)):
            writer.write({"__key__": f"{row:08}", "jpg": data, "cls": label})


def webdataset(folder: Path) -> Batches:
    """Shards in random order, a buffer of 1,000, two processes."""
    import webdataset

    shards = sorted(str(shard) for shard in (folder / "webdataset").glob("*.tar"))
    data = (
        webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0)
        .shuffle(1000)
        .to_tuple("jpg", "cls")
        .map_tuple(decoded, int)
        .batched(BATCH, partial=False)
    )
    loader = webdataset.WebLoader(
        data, batch_size=None, num_workers=THREADS, persistent_workers=True
    )
    while True:
        for images, _labels in loader:
            yield len(images)


# --- torch's own ----------------------------------------------------------------------------------


def torch_memmap(folder: Path) -> Batches:
    """A `DataLoader` over rows of a mapped array."""
    import torch

    pixels, labels = arrays(folder)

    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(pixels)

        def __getitem__(self, row: int) -> Any:
            return torch.from_numpy(pixels[row].copy()), int(labels[row])

    yield from torch_batches(Rows())


def torch_folder(folder: Path) -> Batches:
    """A `DataLoader` that decodes, crops and resizes, as with torchvision's ImageFolder."""
    import numpy as np
    import torch
    from PIL import Image

    files = sorted((folder / "photographs").glob("*/*"))

    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, row: int) -> Any:
            image = Image.open(files[row]).convert("RGB")
            side = min(image.size)
            left, top = ((length - side) // 2 for length in image.size)
            box = (left, top, left + side, top + side)
            return torch.from_numpy(np.array(image.resize((SIZE, SIZE), 2, box=box))), 0

    yield from torch_batches(Rows())


def torch_batches(rows: Any) -> Batches:
    """Two processes, in random order."""
    import torch

    loader = torch.utils.data.DataLoader(
        rows,
        batch_size=BATCH,
        shuffle=True,
        num_workers=THREADS,
        drop_last=True,
        persistent_workers=True,
    )
    while True:
        for images, _labels in loader:
            yield len(images)


# --- zarr as it comes -----------------------------------------------------------------------------


def tensorstore(folder: Path) -> Batches:
    """Rows of our store by an array of their numbers, one batch after the other."""
    import numpy as np
    import tensorstore

    path = str(folder / f"raw/images.zarr/train/{SIZE}")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": path}}
    array = tensorstore.open(spec, read=True, open=True).result()
    for epoch in itertools.count():
        rows = np.random.default_rng(epoch).permutation(array.shape[0])
        for at in range(0, len(rows) - BATCH + 1, BATCH):
            yield len(array[rows[at : at + BATCH]].read().result())


def zarr(folder: Path) -> Batches:
    """The same with zarr-python."""
    import numpy as np
    import zarr

    array = zarr.open_array(folder / f"raw/images.zarr/train/{SIZE}", mode="r")
    for epoch in itertools.count():
        rows = np.random.default_rng(epoch).permutation(array.shape[0])
        for at in range(0, len(rows) - BATCH + 1, BATCH):
            yield len(array.oindex[rows[at : at + BATCH]])


MAKES: dict[str, Callable[[Path, Path], None]] = {
    "ffcv": make_ffcv,
    "mds": make_mds,
    "webdataset": make_webdataset,
}

FEEDS: dict[str, Callable[[Path], Batches]] = {
    "by hand": by_hand,
    "tesserae": tesserae("raw"),
    "tesserae windowed": tesserae("raw", order="windowed"),
    "tesserae once": tesserae("raw", reading={"checksum": "once"}),
    "tesserae zstd": tesserae("zstd", reading={"cache_bytes": MEMORY}),
    "tesserae augment": tesserae_augmented,
    "tesserae cold": tesserae("raw", reading={"prefetch_bytes": MEMORY}),
    "tesserae windowed cold": tesserae(
        "raw", reading={"prefetch_bytes": MEMORY}, order="windowed", window_bytes=3 * MEMORY // 2
    ),
    "ffcv": ffcv("RANDOM"),
    "ffcv quasi": ffcv("QUASI_RANDOM"),
    "ffcv crop": ffcv("RANDOM", crop=True),
    "ffcv quasi cold": ffcv("QUASI_RANDOM", os_cache=False),
    "mds": mds,
    "webdataset": webdataset,
    "torch memmap": torch_memmap,
    "torch folder": torch_folder,
    "tensorstore": tensorstore,
    "zarr": zarr,
}


# --- Measuring ------------------------------------------------------------------------------------


def measure(batches: Batches, num_rows: int, warm: float, seconds: float) -> dict[str, float]:
    """Feed a whole epoch, or *warm* seconds of it, then *seconds* more, and say what those took.

    The first figure, `first`, is the seconds to the first batch, of everything but imports of the
    standard library.
    """
    started = time.perf_counter()
    next(batches)
    first = time.perf_counter() - started
    rows = 0
    while warm and rows < num_rows and time.perf_counter() - started < warm:
        rows += next(batches)
    rows = 0
    cpu, started = cpu_seconds(), time.perf_counter()
    while (wall := time.perf_counter() - started) < seconds:
        rows += next(batches)
    return {"first": first, "rows": rows, "wall": wall, "cpu": cpu_seconds() - cpu, "rss": rss()}


def family() -> list[str]:
    """This process and all below it."""
    below: dict[str, list[str]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        below.setdefault(parent, []).append(process.name)
    found = [str(os.getpid())]
    for process_id in found:
        found += below.get(process_id, [])
    return found


def cpu_seconds() -> float:
    """User and system time of the family, ended children included."""
    ticks = 0
    for process in family():
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def rss() -> float:
    """MiB that are the family's own: without pages of files, which the page cache holds."""
    pages = 0
    for process in family():
        try:
            fields = Path(f"/proc/{process}/statm").read_text().split()
        except OSError:
            continue
        pages += int(fields[1]) - int(fields[2])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """`make NAME SET OUT`, or `feed NAME SET NUM_ROWS WARM SECONDS`."""
    task, name, folder, *words = sys.argv[1:]
    if task == "make":
        MAKES[name](Path(folder), Path(words[0]))
        return
    num_rows, warm, seconds = map(float, words)
    print(json.dumps(measure(FEEDS[name](Path(folder)), int(num_rows), warm, seconds)), flush=True)
    os._exit(0)  # loaders of others do not always end


if __name__ == "__main__":
    main()
