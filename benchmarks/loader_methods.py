"""The methods that loader.py and cold.py measure: each loads batches of the same images.

    python loader_methods.py write NAME SET OUT
    python loader_methods.py measure NAME SET NUM_ROWS WARM_UP SECONDS

`write` writes the format of a method from the image set; `measure` loads batches for a while and
prints the measurement as JSON. Each method runs in an environment of its own, so this module
imports only the standard library at the top.

An image set is a folder with `pixels.npy`, (N, 224, 224, 3) uint8, `labels.npy`, (N,) int64, the
stores `raw` and `zstd` that `tesserae prepare` has made, and their source, `photographs`.
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
MEMORY_BYTES = 64 * 2**20
"""The limit of a loader's prefetched batches or cached chunks, where memory is short."""

Batches = Iterator[int]
"""The number of rows of each batch, epoch after epoch, without end."""
Method = Callable[[Path], Batches]
"""A function of the folder of an image set."""
Writer = Callable[[Path, Path], None]
"""A function that writes a format: of the folder of an image set and that of the format."""
LabelledRows = Callable[[Path], Iterator[tuple[bytes, int]]]
"""A function of the folder of an image set that yields JPEG files and their labels."""


def arrays(folder: Path) -> tuple[Any, Any]:
    """Return the pixels of an image set, memory-mapped, and its labels."""
    import numpy as np

    return np.load(folder / "pixels.npy", mmap_mode="r"), np.load(folder / "labels.npy")


def jpegs(folder: Path) -> Iterator[tuple[bytes, int]]:
    """Yield each image as a JPEG file, and its label."""
    import io

    from PIL import Image

    pixels, labels = arrays(folder)
    for image, label in zip(pixels, labels, strict=True):
        out = io.BytesIO()
        Image.fromarray(image).save(out, "JPEG", quality=JPEG_QUALITY)
        yield out.getvalue(), int(label)


# --- Tesserae -------------------------------------------------------------------------------------


def tesserae(store: str, *, reading: dict[str, Any] | None = None, **options: Any) -> Method:
    """Return a method that uses `Loader` with *options*, and `Reading` with those of *reading*."""

    def load(folder: Path) -> Batches:
        from pipeline.loader import Loader, Reading

        loader = Loader(
            folder / store,
            size=SIZE,
            batch_size=BATCH,
            reading=Reading(threads=THREADS, **(reading or {})),
            rank=0,
            world=1,
            **options,
        )
        while True:
            for batch in loader:
                yield len(batch.rows)

    return load


def tesserae_augmented(folder: Path) -> Batches:
    """Load with `Loader`, and crop, flip and normalise with `Augment` on the CPU."""
    from pipeline.augment import Augment
    from pipeline.loader import Loader, Reading

    reading = Reading(threads=THREADS)
    loader = Loader(folder / "raw", size=SIZE, batch_size=BATCH, reading=reading, rank=0, world=1)
    augment = Augment(crop="resized", flip=True, size=SIZE)
    while True:
        for batch in loader:
            augment(batch.images, batch.rows, epoch=loader.epoch)
            yield len(batch.rows)


def copy_rows(folder: Path) -> Batches:
    """Copy rows from memory-mapped shards into one buffer for each thread, and nothing else."""
    import mmap
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    shards = sorted((folder / f"raw/images.zarr/train/{SIZE}").glob("c.*"), key=shard_number)
    maps = []
    for shard in shards:
        with shard.open("rb") as file:
            maps.append(np.frombuffer(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ), np.uint8))
    num_rows = len(np.load(folder / "labels.npy"))
    buffers = [np.zeros((BATCH, ROW_BYTES), np.uint8) for _ in range(THREADS)]

    def gather(numbered: tuple[int, Any]) -> int:
        batch, rows = numbered
        out = buffers[batch % THREADS]
        numbers, rows_in_shard = np.divmod(rows, 1024)
        chunks, rows_in_chunk = np.divmod(rows_in_shard, 16)
        offsets = chunks * (16 * ROW_BYTES + 4) + rows_in_chunk * ROW_BYTES
        for index, (shard, offset) in enumerate(
            zip(numbers.tolist(), offsets.tolist(), strict=True)
        ):
            out[index] = maps[shard][offset : offset + ROW_BYTES]
        return len(rows)

    with ThreadPoolExecutor(THREADS) as pool:
        for epoch in itertools.count():
            rows = np.random.default_rng(epoch).permutation(num_rows)
            starts = range(0, num_rows - BATCH + 1, BATCH)
            yield from pool.map(gather, enumerate(rows[at : at + BATCH] for at in starts))


def shard_number(shard: Path) -> int:
    """Return the number of a shard."""
    return int(shard.name.split(".")[1])


# --- FFCV -----------------------------------------------------------------------------------------


def write_ffcv(folder: Path, out: Path) -> None:
    """Write FFCV's format, with raw pixels."""
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


def ffcv(order: str, *, crop: bool = False, os_cache: bool = True) -> Method:
    """Return a method that uses FFCV's loader.

    Args:
        order: The name of an `OrderOption`.
        crop: True to cut a random part of each image, and resize it (default: False).
        os_cache: True to read through the page cache (default); False to read into the memory of
            the process.
    """

    def load(folder: Path) -> Batches:
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

    return load


# --- MosaicML Streaming ---------------------------------------------------------------------------


def write_mds(rows: LabelledRows) -> Writer:
    """Return a function that writes MDS shards of JPEG files."""

    def write(folder: Path, out: Path) -> None:
        from streaming import MDSWriter

        with MDSWriter(out=str(out), columns={"image": "bytes", "label": "int"}) as writer:
            for data, label in rows(folder):
                writer.write({"image": data, "label": label})

    return write


def mds(name: str, decode: Callable[[bytes], Any]) -> Method:
    """Return a function that loads with a `StreamingDataset`, in a process for each core.

    Args:
        name: The folder of the shards in the image set.
        decode: The function that makes a tensor of the bytes of a JPEG file.
    """

    def load(folder: Path) -> Batches:
        import torch
        from streaming import StreamingDataset

        class Rows(StreamingDataset):  # type: ignore[misc, unused-ignore]
            def __getitem__(self, index: Any) -> Any:
                row = super().__getitem__(index)
                return decode(row["image"]), row["label"]

        data = Rows(local=str(folder / name), shuffle=True, batch_size=BATCH)
        loader = torch.utils.data.DataLoader(
            data, batch_size=BATCH, num_workers=THREADS, drop_last=True, persistent_workers=True
        )
        while True:
            for images, _labels in loader:
                yield len(images)

    return load


def decode(data: bytes) -> Any:
    """Decode a JPEG file to a tensor, (height, width, 3) uint8."""
    import io

    import numpy as np
    import torch
    from PIL import Image

    return torch.from_numpy(np.array(Image.open(io.BytesIO(data)).convert("RGB")))


# --- WebDataset -----------------------------------------------------------------------------------


def write_webdataset(rows: LabelledRows) -> Writer:
    """Return a function that writes tar files of 1,000 JPEG files each."""

    def write(folder: Path, out: Path) -> None:
        import webdataset

        out.mkdir()
        with webdataset.ShardWriter(str(out / "%06d.tar"), maxcount=1000, verbose=0) as writer:
            for row, (data, label) in enumerate(rows(folder)):
                writer.write({"__key__": f"{row:08}", "jpg": data, "cls": label})

    return write


def webdataset(name: str, decode: Callable[[bytes], Any]) -> Method:
    """Return a function that loads shards in random order, in a process for each core.

    Images are shuffled in a buffer of 1,000.

    Args:
        name: The folder of the shards in the image set.
        decode: The function that makes a tensor of the bytes of a JPEG file.
    """

    def load(folder: Path) -> Batches:
        import webdataset

        shards = sorted(str(shard) for shard in (folder / name).glob("*.tar"))
        data = (
            webdataset.WebDataset(shards, shardshuffle=len(shards), seed=0)
            .shuffle(1000)
            .to_tuple("jpg", "cls")
            .map_tuple(decode, int)
            .batched(BATCH, partial=False)
        )
        loader = webdataset.WebLoader(
            data, batch_size=None, num_workers=THREADS, persistent_workers=True
        )
        while True:
            for images, _labels in loader:
                yield len(images)

    return load


# --- torch's own ----------------------------------------------------------------------------------


def torch_memmap(folder: Path) -> Batches:
    """Load rows of a memory-mapped array with a `DataLoader`."""
    import torch

    pixels, labels = arrays(folder)

    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(pixels)

        def __getitem__(self, row: int) -> Any:
            return torch.from_numpy(pixels[row].copy()), int(labels[row])

    yield from torch_batches(Rows())


def torch_folder(folder: Path) -> Batches:
    """Decode, crop and resize photographs in a `DataLoader`, as torchvision's ImageFolder does."""
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
    """Load a data set in random order with a `DataLoader`, with a process for each core."""
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


# --- zarr readers ---------------------------------------------------------------------------------


def tensorstore(folder: Path) -> Batches:
    """Read the rows of each batch from Tesserae's store with tensorstore."""
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
    """Read the rows of each batch from Tesserae's store with zarr-python."""
    import numpy as np
    import zarr

    array = zarr.open_array(folder / f"raw/images.zarr/train/{SIZE}", mode="r")
    for epoch in itertools.count():
        rows = np.random.default_rng(epoch).permutation(array.shape[0])
        for at in range(0, len(rows) - BATCH + 1, BATCH):
            yield len(array.oindex[rows[at : at + BATCH]])


WRITERS: dict[str, Writer] = {
    "ffcv": write_ffcv,
    "mds": write_mds(jpegs),
    "webdataset": write_webdataset(jpegs),
}

METHODS: dict[str, Method] = {
    "row copy": copy_rows,
    "tesserae": tesserae("raw"),
    "tesserae windowed": tesserae("raw", order="windowed"),
    "tesserae once": tesserae("raw", reading={"checksum": "once"}),
    "tesserae zstd": tesserae("zstd", reading={"cache_bytes": MEMORY_BYTES}),
    "tesserae augment": tesserae_augmented,
    "tesserae cold": tesserae("raw", reading={"prefetch_bytes": MEMORY_BYTES}),
    "tesserae windowed cold": tesserae(
        "raw",
        reading={"prefetch_bytes": MEMORY_BYTES},
        order="windowed",
        window_bytes=3 * MEMORY_BYTES // 2,
    ),
    "ffcv": ffcv("RANDOM"),
    "ffcv quasi": ffcv("QUASI_RANDOM"),
    "ffcv crop": ffcv("RANDOM", crop=True),
    "ffcv quasi cold": ffcv("QUASI_RANDOM", os_cache=False),
    "mds": mds("mds", decode),
    "webdataset": webdataset("webdataset", decode),
    "torch memmap": torch_memmap,
    "torch folder": torch_folder,
    "tensorstore": tensorstore,
    "zarr": zarr,
}


# --- Measuring ------------------------------------------------------------------------------------


def measure(batches: Batches, num_rows: int, warm_up: float, seconds: float) -> dict[str, float]:
    """Load batches, and measure all but the first epoch.

    Args:
        batches: The batches of a method.
        num_rows: The number of rows of an epoch.
        warm_up: The maximum time of the epoch that is not measured, in seconds.
        seconds: The measured time in seconds.

    Returns:
        The fields of `image_set.LoaderMeasurement`.
    """
    started = time.perf_counter()
    next(batches)
    first = time.perf_counter() - started
    rows = 0
    while warm_up and rows < num_rows and time.perf_counter() - started < warm_up:
        rows += next(batches)
    rows = 0
    cpu, started = cpu_seconds(), time.perf_counter()
    while (wall := time.perf_counter() - started) < seconds:
        rows += next(batches)
    return {"first": first, "rows": rows, "wall": wall, "cpu": cpu_seconds() - cpu, "rss": rss()}


def process_tree() -> list[str]:
    """Return the ids of this process and all its descendants."""
    children: dict[str, list[str]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
        except OSError:
            continue
        children.setdefault(parent, []).append(process.name)
    tree = [str(os.getpid())]
    for process_id in tree:
        tree += children.get(process_id, [])
    return tree


def cpu_seconds() -> float:
    """Return the user and system time of the process tree, of ended children too, in seconds."""
    ticks = 0
    for process in process_tree():
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def rss() -> float:
    """Return the memory of the process tree in MiB, without pages of files."""
    pages = 0
    for process in process_tree():
        try:
            fields = Path(f"/proc/{process}/statm").read_text().split()
        except OSError:
            continue
        pages += int(fields[1]) - int(fields[2])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(writers: dict[str, Writer], methods: dict[str, Method]) -> None:
    """Run `write` with one of the writers, or `measure` with one of the methods."""
    task, name, folder, *arguments = sys.argv[1:]
    if task == "write":
        writers[name](Path(folder), Path(arguments[0]))
        return
    num_rows, warm_up, seconds = map(float, arguments)
    batches = methods[name](Path(folder))
    print(json.dumps(measure(batches, int(num_rows), warm_up, seconds)), flush=True)
    os._exit(0)  # the threads and processes of some loaders would not end


if __name__ == "__main__":
    main(WRITERS, METHODS)
