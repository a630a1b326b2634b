"""The plain dataset of the study: it decodes the images of a source, and never opens the store.

Its pixels are those that the recipe of the store describes: the same decoder and resizer work on
the same source bytes. Encoded rows are encoded in memory, where the encoding says so, and their
crops decoded from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.errors import DecodeError, SourceError
from pipeline.images.crop_decode import decode_crops
from pipeline.images.encode import EncodedRow
from pipeline.images.rows import RowFormat, make_rows
from pipeline.loader.crops import Crop
from pipeline.sources.reader import SourceReader

Item = tuple[Tensor, int, int]
"""An image, (size, size, 3) uint8 RGB; its label; the row that the store has for it."""


@dataclass(frozen=True)
class SourceSamples:
    """The images of a split in its source, in the order of their keys."""

    root: str
    """The folder or URL that paths are relative to."""
    keys: tuple[str, ...]
    """The keys, `<class>/<file name>`."""
    paths: tuple[str, ...]
    """The files that hold the bytes of the images."""
    offsets: NDArray[np.int64] | None
    """(n,) the offset of each image in its file, in bytes; None: each is a whole file."""
    num_bytes: NDArray[np.int64]
    """(n,) the length of each image in bytes."""
    labels: NDArray[np.int64]
    """(n,) the label of each image, by its class in the source."""
    rows: NDArray[np.int64]
    """(n,) the row of the split that the store has for each image, which decides its random draws
    in augmentation."""

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.keys)

    def of_rows(self, rows: NDArray[np.int64]) -> SourceSamples:
        """Return a copy with some of the images, in the order of their keys.

        Args:
            rows: Their rows in the split, (n,) int64, in any order.
        """
        indices = np.flatnonzero(np.isin(self.rows, rows))
        return SourceSamples(
            self.root,
            tuple(self.keys[i] for i in indices),
            tuple(self.paths[i] for i in indices),
            None if self.offsets is None else self.offsets[indices],
            self.num_bytes[indices],
            self.labels[indices],
            self.rows[indices],
        )

    def indices(self, rows: NDArray[np.int64]) -> list[int]:
        """Return the indices of the images of some rows.

        Args:
            rows: Rows of the split, (n,) int64, each of an image of these samples.
        """
        return [self._index_of_row[row] for row in rows.tolist()]

    @cached_property
    def _index_of_row(self) -> dict[int, int]:
        return {row: index for index, row in enumerate(self.rows.tolist())}


@dataclass(frozen=True)
class Rendering:
    """How an image of the source becomes the square that the loader yields for its row."""

    size: int
    """The side of the square, in pixels."""
    row_format: RowFormat
    """The form of the stored row."""
    filter: str
    """The resampling filter of the recipe."""
    decode_arguments: Mapping[str, Any]
    """The arguments of `pipeline.images.decode.decode` that the recipe names."""
    crop: Crop | None = None
    """The part of an encoded row that is cut out; None for a square."""
    crop_arguments: Mapping[str, Any] | None = None
    """The arguments of `pipeline.images.crop_decode.decode_crops` for an encoded row."""
    seed: int = 0
    """The seed of random crops of encoded rows."""

    def __call__(self, data: bytes, row: int, epoch: int) -> NDArray[np.uint8]:
        """Return the square of an image, (size, size, 3) uint8 RGB.

        Args:
            data: All bytes of the image file.
            row: The row of the image, which decides its random crop.
            epoch: The epoch, which decides it too.

        Raises:
            DecodeError: The bytes are not a readable image.
        """
        arguments = dict(self.decode_arguments)
        formats = [self.row_format]
        _, (stored,) = make_rows(data, formats, filter=self.filter, decode_arguments=arguments)
        square = np.empty((self.size, self.size, 3), np.uint8)
        if not isinstance(stored, EncodedRow):
            square[:] = np.frombuffer(stored, np.uint8).reshape(square.shape)
            return square
        assert self.crop is not None
        assert self.crop_arguments is not None
        shapes = np.array([[stored.height, stored.width]], np.int32)
        boxes = self.crop.boxes(shapes, np.array([row]), seed=self.seed, epoch=epoch)
        decode_crops([stored.data], shapes, boxes, square[None], **self.crop_arguments)
        return square


class SourceImages(Dataset[Item]):
    """A map-style dataset of the images of a source, decoded whenever they are read."""

    def __init__(self, samples: SourceSamples, rendering: Rendering) -> None:
        """Prepare to read; no file is opened.

        Args:
            samples: The images.
            rendering: How an image becomes a square.
        """
        self.samples = samples
        self._render = rendering
        self._reader = SourceReader(samples.root)
        # In shared memory, as worker processes live longer than an epoch.
        self._epoch = torch.zeros(1, dtype=torch.int64)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def epoch(self) -> int:
        """The epoch of random crops, which all processes of a DataLoader see."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of random crops, between two epochs of the DataLoader.

        Args:
            epoch: The number of the epoch, from 0.
        """
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        """Read and decode an image.

        Args:
            index: The index of the image among the samples.

        Raises:
            ReadError: It cannot be read.
            SourceError: It cannot be decoded, although the store has decoded it.
        """
        samples = self.samples
        offset = None if samples.offsets is None else int(samples.offsets[index])
        data = self._reader.read(samples.paths[index], offset, int(samples.num_bytes[index]))
        row = int(samples.rows[index])
        try:
            square = self._render(data, row, self.epoch)
        except DecodeError as e:
            raise SourceError(
                f"{samples.keys[index]!r} cannot be decoded ({e}), and the store has its pixels:"
                " expected the bytes that it was prepared from. Restore the image."
            ) from e
        return torch.from_numpy(square), int(samples.labels[index]), row
