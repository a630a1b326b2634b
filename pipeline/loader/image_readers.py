"""Fills the images of a batch: squares as they are stored, or crops of encoded rows."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import StoreDamagedError
from pipeline.loader.crops import Crop
from pipeline.loader.pixel_reader import RowSource
from pipeline.store import layout
from pipeline.store.encoding import ORIGINAL
from pipeline.store.split import Split

if TYPE_CHECKING:
    from typing_extensions import Buffer


MAX_ROWS_AT_ONCE = 64
"""The maximum number of encoded rows that a thread reads and decodes in one call.

Photographs at 256 px take about 25 ms then. More rows would leave cores without work where few
batches fit into memory; fewer cost more of Python's time."""

MAX_BYTES_AT_ONCE = 32 * 2**20
"""The bytes of rows of mean length that a thread holds for one call, so that the files of a camera
fit into the memory of a machine with many cores."""


class Gathered(NamedTuple):
    """A report about the images of some rows that were read."""

    methods: tuple[str, ...]
    """The method by which each array was read."""
    boxes: NDArray[np.int32] | None
    """The left, top, right and bottom edge of the crops, (n, 4) int32; None for stored squares."""


class ImageReader(Protocol):
    """An object that reads the images of rows at all sizes. It is safe for many threads."""

    @property
    def sources(self) -> Sequence[RowSource]:
        """The readers of the arrays, for reading ahead."""

    @property
    def rows_at_once(self) -> int | None:
        """The rows of a batch that one call gathers, on some thread; None for all of them."""

    def gather(
        self,
        rows: NDArray[np.int64],
        epoch: int,
        out: Sequence[NDArray[np.uint8]],
        disk: Executor,
    ) -> Gathered:
        """Put the images of *rows* into *out*.

        Args:
            rows: Readable rows of the split, (n,) int64.
            epoch: The number of the epoch.
            out: For each size (n, size, size, 3) uint8, contiguous.
            disk: The threads that may block on reads from the store.

        Raises:
            StoreDamagedError: A shard is missing or damaged.
            StoreError: A shard cannot be read.
        """


class SquareReader:
    """An `ImageReader` of squares as they are stored."""

    rows_at_once = None

    def __init__(self, sources: Sequence[RowSource]) -> None:
        """Combine readers of pixels.

        Args:
            sources: One for each size, in the order of the sizes.
        """
        self.sources = sources

    def gather(
        self,
        rows: NDArray[np.int64],
        epoch: int,
        out: Sequence[NDArray[np.uint8]],
        disk: Executor,
    ) -> Gathered:
        """Copy the pixels of *rows* to *out*; the epoch has no effect."""
        methods = [
            source.gather(rows, pixels, disk)
            for source, pixels in zip(self.sources, out, strict=True)
        ]
        return Gathered(tuple(methods), None)


class CropDecoder:
    """A decoder of the crops of encoded rows of a split. It is thread-safe."""

    def __init__(self, split: Split, name: str, crop: Crop, seed: int) -> None:
        """Prepare to decode; nothing is read.

        Args:
            split: The split, opened with these encoded rows.
            name: The name of the encoded rows.
            crop: The part of each picture that is cut out.
            seed: The seed of the crops.
        """
        # Imported here: who reads squares needs no decoder.
        from pipeline.images import crop_decode

        self._decode_crops = crop_decode.decode_crops
        self._row_error = crop_decode.RowDecodeError
        self._split = split
        self._name = name
        self._shape = split.encoded[name].shape
        self._crop = crop
        self._seed = seed
        # JPEG rows are upright: without a search for an orientation, they are decoded faster.
        self._exif = split.recipe.exif and name == ORIGINAL

    def decode(
        self,
        rows: NDArray[np.int64],
        encoded: Sequence[Buffer],
        epoch: int,
        out: Sequence[NDArray[np.uint8]],
    ) -> NDArray[np.int32]:
        """Decode the crops of *rows*, the same box at each size.

        Args:
            rows: Readable rows of the split, (n,) int64.
            encoded: The bytes of each row.
            epoch: The number of the epoch, which decides random crops.
            out: For each size (n, size, size, 3) uint8, contiguous, which gets the images.

        Returns:
            The left, top, right and bottom edge of each crop in pixels, (n, 4) int32.

        Raises:
            StoreDamagedError: A row is not an image.
        """
        shapes = self._shape[rows]
        boxes = self._crop.boxes(shapes, rows, seed=self._seed, epoch=epoch)
        recipe = self._split.recipe
        try:
            for pixels in out:
                self._decode_crops(
                    encoded,
                    shapes,
                    boxes,
                    pixels,
                    exif=self._exif,
                    rules=recipe.decode_rules,
                    missing_end=recipe.missing_end,
                )
        except self._row_error as e:
            row = int(rows[e.index])
            shard = layout.encoded_shard(
                self._split.plan.split, self._name, row // recipe.shard_rows
            )
            raise StoreDamagedError(
                f"{shard} is damaged (row {row}: {e.reason}). Run `tesserae repair`."
            ) from None
        return boxes


class CropReader:
    """An `ImageReader` that decodes crops of encoded rows."""

    def __init__(self, split: Split, name: str, source: RowSource, crop: Crop, seed: int) -> None:
        """Prepare to decode; nothing is read yet.

        Args:
            split: The split, opened with these encoded rows.
            name: The name of the encoded rows.
            source: The reader of their bytes.
            crop: The part of each picture that is cut out.
            seed: The seed of the crops.
        """
        self.sources = [source]
        rows = split.encoded[name]
        row_bytes = max(1, rows.num_bytes_of_rows // max(1, rows.num_rows))
        self.rows_at_once = max(1, min(MAX_ROWS_AT_ONCE, MAX_BYTES_AT_ONCE // row_bytes))
        """The rows of a batch that one call gathers."""
        self._decoder = CropDecoder(split, name, crop, seed)

    def gather(
        self,
        rows: NDArray[np.int64],
        epoch: int,
        out: Sequence[NDArray[np.uint8]],
        disk: Executor,
    ) -> Gathered:
        """Decode the crops of *rows*, the same box at each size.

        Args:
            rows: Readable rows of the split, (n,) int64.
            epoch: The number of the epoch, which decides random crops.
            out: For each size (n, size, size, 3) uint8, contiguous.
            disk: The threads that may block on reads from the store.

        Raises:
            StoreDamagedError: A shard is missing or damaged, or a row is not an image.
            StoreError: A shard cannot be read.
        """
        encoded = np.empty(len(rows), object)
        method = self.sources[0].gather(rows, encoded, disk)
        return Gathered((method,), self._decoder.decode(rows, encoded.tolist(), epoch, out))
