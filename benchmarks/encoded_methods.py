"""The methods that encoded.py measures: each decodes the same JPEG rows and returns batches.

    python encoded_methods.py write NAME SET OUT
    python encoded_methods.py measure NAME SET NUM_ROWS WARM_UP SECONDS

As loader_methods.py, whose frame it shares. The image set is a folder with `labels.npy`, (N,)
int64, the folders `jpeg224` and `jpeg256`, and the store `store` that `tesserae prepare` has made.
A folder of JPEG rows has `bytes.bin`, the files one after the other; `offset.npy`, (N + 1,) int64,
the first byte of each; `shape.npy`, (N, 2) int32, their heights and widths; and `files`, the same
files in class folders.
"""

from __future__ import annotations

import io
import itertools
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from loader_methods import (
    BATCH,
    SIZE,
    THREADS,
    Batches,
    Method,
    Writer,
    main,
    mds,
    tesserae,
    torch_batches,
    webdataset,
    write_mds,
    write_webdataset,
)

SCALE = (0.08, 1.0)
"""The range of a crop's share of the picture's area."""
RATIO = (3 / 4, 4 / 3)
"""The range of a crop's width over its height."""


class JpegRows:
    """The JPEG rows of an image set, memory-mapped."""

    def __init__(self, folder: Path) -> None:
        import numpy as np

        self.shapes = np.load(folder / "shape.npy")
        self._bytes = np.asarray(np.memmap(folder / "bytes.bin", np.uint8, "r"))
        self._offsets = np.load(folder / "offset.npy")

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, row: int) -> Any:
        """Return the bytes of a row, (n,) uint8."""
        return self._bytes[self._offsets[row] : self._offsets[row + 1]]


def labelled(folder: Path, name: str) -> Iterator[tuple[bytes, int]]:
    """Yield each JPEG row of one of the folders, and its label."""
    import numpy as np

    rows, labels = JpegRows(folder / name), np.load(folder / "labels.npy")
    for row, label in enumerate(labels):
        yield rows[row].tobytes(), int(label)


def rows_of_crops(folder: Path) -> Iterator[tuple[bytes, int]]:
    """Yield each JPEG row of which crops are loaded, and its label."""
    return labelled(folder, "jpeg256")


def row_batches(num_rows: int) -> Iterator[Any]:
    """Yield the row numbers of each batch in random order, epoch after epoch, without end."""
    import numpy as np

    for epoch in itertools.count():
        rows = np.random.default_rng(epoch).permutation(num_rows)
        for start in range(0, num_rows - BATCH + 1, BATCH):
            yield rows[start : start + BATCH]


def random_box(height: int, width: int) -> tuple[int, int, int, int]:
    """Draw the box of a crop as torchvision's RandomResizedCrop does.

    Returns:
        Left, top, right and bottom in pixels.
    """
    for _ in range(10):
        area = height * width * random.uniform(*SCALE)
        ratio = math.exp(random.uniform(*map(math.log, RATIO)))
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            left = random.randint(0, width - box_width)
            top = random.randint(0, height - box_height)
            return left, top, left + box_width, top + box_height
    box_width = min(width, round(height * RATIO[1]))
    box_height = min(height, round(width / RATIO[0]))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def crop_by_pillow(data: bytes | Path) -> Any:
    """Decode a JPEG, and resize a random part of it to a tensor, (224, 224, 3) uint8."""
    import numpy as np
    import torch
    from PIL import Image

    image = Image.open(io.BytesIO(data) if isinstance(data, bytes) else data).convert("RGB")
    box = random_box(image.height, image.width)
    resized = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, box=box)
    return torch.from_numpy(np.array(resized))


# --- By hand --------------------------------------------------------------------------------------


def in_threads(work: Callable[[Any], int], num_rows: int) -> Batches:
    """Call *work* with the row numbers of each batch, in a thread for each core."""
    from collections import deque
    from concurrent.futures import Future, ThreadPoolExecutor

    running: deque[Future[int]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        for rows in row_batches(num_rows):
            running.append(pool.submit(work, rows))
            if len(running) > 2 * THREADS:
                yield running.popleft().result()


def by_hand(**options: Any) -> Method:
    """Return a method that decodes rows with simplejpeg in threads, and does nothing else.

    Args:
        options: Options of `simplejpeg.decode_jpeg`.
    """

    def load(folder: Path) -> Batches:
        import simplejpeg

        data = JpegRows(folder / "jpeg224")

        def decode_rows(rows: Any) -> int:
            for row in rows:
                simplejpeg.decode_jpeg(data[row], "RGB", **options)
            return len(rows)

        yield from in_threads(decode_rows, len(data))

    return load


# --- Tesserae -------------------------------------------------------------------------------------


def decode_crops(folder: Path) -> Batches:
    """Decode random parts of rows in threads with the function that the loader uses."""
    import threading

    import numpy as np

    from pipeline.images import crop_decode

    data = JpegRows(folder / "jpeg256")
    buffers = threading.local()

    def decode_rows(rows: Any) -> int:
        if not hasattr(buffers, "out"):
            buffers.out = np.zeros((BATCH, SIZE, SIZE, 3), np.uint8)
        shapes = data.shapes[rows]
        boxes = [random_box(height, width) for height, width in shapes.tolist()]
        crop_decode.decode_crops(
            [data[row] for row in rows],
            shapes,
            np.array(boxes, np.int32),
            buffers.out,
            exif=False,
            rules=2,
            missing_end="refuse",
        )
        return len(rows)

    yield from in_threads(decode_rows, len(data))


# --- FFCV -----------------------------------------------------------------------------------------


def write_ffcv(name: str) -> Writer:
    """Return a function that writes FFCV's format with the bytes of one folder's JPEG rows.

    FFCV's own `RGBImageField` takes pixels, and encodes them with OpenCV.
    """

    def write(folder: Path, out: Path) -> None:
        import numpy as np
        from ffcv.fields import IntField, RGBImageField
        from ffcv.fields.rgb_image import IMAGE_MODES
        from ffcv.writer import DatasetWriter

        data, labels = JpegRows(folder / name), np.load(folder / "labels.npy")

        class Rows:
            def __len__(self) -> int:
                return len(data)

            def __getitem__(self, row: int) -> tuple[Any, int]:
                return (data[row], data.shapes[row]), int(labels[row])

        def encode(destination: Any, row: tuple[Any, Any], allocate: Callable[..., Any]) -> None:
            jpeg, shape = row
            destination["mode"] = IMAGE_MODES["jpg"]
            destination["height"], destination["width"] = shape
            destination["data_ptr"], storage = allocate(len(jpeg))
            storage[:] = jpeg

        image = RGBImageField(write_mode="jpg")
        image.encode = encode
        fields = {"image": image, "label": IntField()}
        DatasetWriter(str(out), fields, num_workers=THREADS).from_indexed_dataset(Rows())

    return write


def ffcv(file: str, *, crop: bool) -> Method:
    """Return a method that uses FFCV's loader in random order.

    Args:
        file: The name of the file in the image set.
        crop: True to resize a random part of each image; False to cut out the centred square.
    """

    def load(folder: Path) -> Batches:
        from ffcv.fields.decoders import (
            CenterCropRGBImageDecoder,
            IntDecoder,
            RandomResizedCropRGBImageDecoder,
        )
        from ffcv.loader import Loader, OrderOption
        from ffcv.transforms import ToTensor

        size = (SIZE, SIZE)
        decoder = (
            RandomResizedCropRGBImageDecoder(size, scale=SCALE, ratio=RATIO)
            if crop
            else CenterCropRGBImageDecoder(size, ratio=1)
        )
        loader = Loader(
            str(folder / file),
            batch_size=BATCH,
            num_workers=THREADS,
            order=OrderOption.RANDOM,
            os_cache=True,
            drop_last=True,
            pipelines={"image": [decoder, ToTensor()], "label": [IntDecoder(), ToTensor()]},
        )
        while True:
            for images, _labels in loader:
                yield len(images)

    return load


# --- DALI -----------------------------------------------------------------------------------------


def dali_crop(folder: Path) -> Batches:
    """Decode random parts of rows in memory and resize them on the CPU, in a thread per core."""
    from nvidia.dali import fn, pipeline_def, types

    data = JpegRows(folder / "jpeg256")

    @pipeline_def(batch_size=BATCH, num_threads=THREADS, device_id=None)
    def graph() -> Any:
        batches = ([data[row] for row in rows] for rows in row_batches(len(data)))
        jpegs = fn.external_source(source=batches, dtype=types.UINT8, ndim=1, no_copy=True)
        images = fn.decoders.image_random_crop(
            jpegs, device="cpu", random_area=SCALE, random_aspect_ratio=RATIO, num_attempts=10
        )
        return fn.resize(images, size=(SIZE, SIZE), interp_type=types.INTERP_LINEAR)

    pipeline = graph()
    while True:
        (images,) = pipeline.run()
        yield len(images)


# --- torch's own ----------------------------------------------------------------------------------


def torch_folder_crop(folder: Path) -> Batches:
    """Decode and crop files in a `DataLoader`, as torchvision's ImageFolder does."""
    import torch

    files = sorted((folder / "jpeg256/files").glob("*/*"))

    class Rows(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(files)

        def __getitem__(self, row: int) -> Any:
            return crop_by_pillow(files[row]), 0

    yield from torch_batches(Rows())


WRITERS: dict[str, Writer] = {
    "ffcv whole": write_ffcv("jpeg224"),
    "ffcv crop": write_ffcv("jpeg256"),
    "mds crop": write_mds(rows_of_crops),
    "webdataset crop": write_webdataset(rows_of_crops),
}
"""A format has the name of the method that reads it."""

METHODS: dict[str, Method] = {
    "by hand": by_hand(),
    "by hand fast": by_hand(fastdct=True, fastupsample=True),
    "tesserae whole": tesserae("store", encoded="jpeg224@90", crop="centre"),
    "ffcv whole": ffcv("ffcv whole", crop=False),
    "decode crops": decode_crops,
    "tesserae crop": tesserae("store", encoded="jpeg256@90", crop="resized"),
    "ffcv crop": ffcv("ffcv crop", crop=True),
    "dali crop": dali_crop,
    "mds crop": mds("mds crop", crop_by_pillow),
    "webdataset crop": webdataset("webdataset crop", crop_by_pillow),
    "torch folder crop": torch_folder_crop,
}


if __name__ == "__main__":
    main(WRITERS, METHODS)
