"""The images of a store, and their keys, by split and row."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from cachetools import LRUCache
from numpy.typing import NDArray

from pipeline.errors import DecodeError, StoreDamagedError, StoreError
from pipeline.export.rows import encode_png, extension_of
from pipeline.images.formats import JPEG, format_of
from pipeline.images.jpeg_structure import may_be_rotated, plain_jpeg
from pipeline.images.resize import resize_squares
from pipeline.loader.crops import Crop
from pipeline.loader.encoded_reader import open_encoded_reader
from pipeline.loader.image_readers import CropReader, ImageReader, SquareReader
from pipeline.loader.pixel_reader import RowSource, open_reader
from pipeline.store import layout, records
from pipeline.store.arrow_files import open_parquet
from pipeline.store.encoding import fitting_encoding, parse_encoding
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.recipe import Recipe
from pipeline.store.split import Split, open_split
from pipeline.store.table import GROUP_ROWS
from workflows.reports.images import encode_jpeg
from workflows.search.duplicates import SIDE, SmallPicture
from workflows.search.query import QueryError

CACHE_BYTES = 64 * 2**20
"""The bytes of cached chunks for each size of each split of a compressed or remote store."""
MAX_SENT_BYTES = 2**18
"""The largest length in bytes of an encoded row that is sent to a browser as it is."""
END_MARKER = b"\xff\xd9"
"""The last two bytes of a JPEG file."""
MIN_SIDE, MAX_SIDE = 160, 1024
"""The range of the short side, in pixels, of pictures that are encoded for a browser."""
QUALITY = 90
"""Their JPEG quality."""
MAX_CACHED_GROUPS = 64
"""The number of a table's row groups whose keys are cached: 4.2 million keys, about 150 MB."""

MAX_SOURCE_SIDE = 2**31
"""A side in pixels that no image has, for which the largest encoded rows suit best."""
MAX_CACHED_PICTURES = 16_384
"""The number of small pictures that are cached: about 20 MB."""


class Gallery:
    """The images and keys of the finished splits of a store. It is thread-safe."""

    def __init__(
        self,
        store: str,
        size: int,
        encoded: str | None = None,
        crop_share: float = 1.0,
        *,
        stored_size: int | None = None,
    ) -> None:
        """Open all finished splits that have the images that a model takes.

        Args:
            store: The path or URL of the store.
            size: The side in pixels of the squares that the model takes.
            encoded: The name of the encoded rows that a split must have in place of that size, such
                as `jpeg256@90` (default: None, stored squares).
            crop_share: The side of the centre crop that the model takes, as a fraction of the
                short side (default: 1).
            stored_size: The side in pixels of the stored squares that a split must have, from which
                those of the model are made, unless encoded rows are read (default: *size*).

        Raises:
            StoreError: There is no such store, or it has no such split.
        """
        self.objects: Objects = open_objects(store)
        self.recipe: Recipe = records.load_recipe(self.objects)
        self.splits: dict[str, Split] = {}
        stored_size = stored_size or size
        for name in records.stored_splits(self.objects):
            done = records.load_finish_record(self.objects, name)
            if done is not None and (encoded or str(stored_size)) in done.array_names:
                self.splits[name] = open_split(self.objects, name, done.sizes, encoded=done.encoded)
        if not self.splits:
            raise StoreError(_missing_images_text(store, stored_size, encoded))
        self._size = size
        self._stored_size = stored_size
        self._crop_share = crop_share
        self._encoded = encoded
        self._crop = Crop(share=crop_share)
        self._keys = {name: _Keys(self.objects, name) for name in self.splits}
        self._readers: dict[tuple[str, str], RowSource] = {}
        self._small_pictures: LRUCache[tuple[str, int], SmallPicture] = LRUCache(
            MAX_CACHED_PICTURES
        )
        self._lock = threading.Lock()
        self._disk = ThreadPoolExecutor(4, "images")

    def split(self, name: str) -> Split:
        """Return a finished split that has the images of the gallery.

        A split that has finished after the gallery was opened is opened now, but not added to the
        gallery, whose other methods do not know it.

        Args:
            name: The name of the split.

        Returns:
            The split, with its `plan`, `labels`, `sizes` that can be read and mask `readable`.

        Raises:
            StoreError: There is no such split, it is not finished, or it lacks these images.
        """
        if name in self.splits:
            return self.splits[name]
        if self._encoded is None:
            return open_split(self.objects, name, [self._stored_size])
        return open_split(self.objects, name, [], encoded=[self._encoded])

    def check(self, split: str, row: int) -> None:
        """Check that a split and row name a readable image.

        Args:
            split: The name of the split.
            row: The number of the row in the split, from 0.

        Raises:
            QueryError: There is no such split or row, or the row is in quarantine.
        """
        opened = self.splits.get(split)
        if opened is None:
            raise QueryError(f"there is no split {split!r} here: expected {self.names}.")
        if not 0 <= row < opened.plan.num_rows:
            raise QueryError(
                f"{split} has no row {row:,}: expected 0 to {opened.plan.num_rows - 1:,}."
            )
        if not opened.readable[row]:
            raise QueryError(
                f"row {row:,} of {split} is quarantined and has no image. Choose another."
            )

    @property
    def names(self) -> str:
        """The names of the splits, separated by commas."""
        return ", ".join(self.splits)

    def common_size(self, splits: Iterable[str]) -> int:
        """Return the smallest side in pixels at which `rows` reads images of all *splits*.

        Args:
            splits: The names of splits of the gallery, at least one.
        """
        if self._encoded is not None:
            return self._size
        return min(set.intersection(*({*self.splits[split].sizes} for split in splits)))

    def inputs(self, split: str, rows: Iterable[int]) -> NDArray[np.uint8]:
        """Read images as the model takes them.

        Args:
            split: The name of a split of the gallery.
            rows: The n rows to read, in any order, which `check` has accepted; n may be 0.

        Returns:
            The images in the order of *rows*, (n, size, size, 3) uint8 RGB, of the side that the
            model takes.

        Raises:
            StoreDamagedError: A shard is damaged.
            KeyError: The gallery has no such split.
        """
        if self._encoded is not None:
            return self.rows(split, self._size, rows)
        squares = self.rows(split, self._stored_size, rows)
        return resize_squares(
            squares, self._size, filter=self.recipe.filter, crop_share=self._crop_share
        )

    def rows(self, split: str, size: int, rows: Iterable[int]) -> NDArray[np.uint8]:
        """Read images as squares.

        Args:
            split: The name of a split of the gallery.
            size: The side in pixels, one of the stored sizes of the split, or any to which centre
                crops of encoded rows are resized if the model takes these.
            rows: The n rows to read, in any order, which `check` has accepted; n may be 0.

        Returns:
            The images in the order of *rows*, (n, size, size, 3) uint8 RGB.

        Raises:
            StoreDamagedError: A shard is damaged, or the size is not stored.
            KeyError: The gallery has no such split.
        """
        row_numbers = np.fromiter(rows, np.int64)
        out = np.empty((len(row_numbers), size, size, 3), np.uint8)
        reader: ImageReader
        if self._encoded is None:
            reader = SquareReader([self._reader(split, str(size))])
        else:
            source = self._reader(split, self._encoded)
            reader = CropReader(self.splits[split], self._encoded, source, self._crop, seed=0)
        reader.gather(row_numbers, 0, [out], self._disk)
        return out

    def small_pictures(self, split: str, rows: Sequence[int]) -> dict[int, SmallPicture]:
        """Return the means of 16 x 16 fields of images by row; rows that are unreadable are absent.

        The smallest stored squares are read at once, or encoded rows if a split has no squares. The
        pictures are cached.

        Args:
            split: The name of a split of the gallery.
            rows: The numbers of readable rows, each once.

        Raises:
            KeyError: The gallery has no such split.
        """
        with self._lock:
            cached = {row: self._small_pictures.get((split, row)) for row in rows}
        pictures = {row: picture for row, picture in cached.items() if picture is not None}
        missing = [row for row in rows if row not in pictures]
        for read in _read_or_split(missing, lambda part: self._read_small(split, part)):
            pictures.update(read)
        with self._lock:
            for row in missing:
                if row in pictures:
                    self._small_pictures[split, row] = pictures[row]
        return pictures

    def _read_small(self, split: str, rows: Sequence[int]) -> dict[int, SmallPicture]:
        # Squares and crops of encoded rows differ, so all splits are read in one way.
        if all(opened.sizes for opened in self.splits.values()):
            squares = self._squares(split, min(self.splits[split].sizes), rows)
        else:
            squares = self.rows(split, 2 * SIDE, rows)
        return dict(zip(rows, resize_squares(squares, SIDE, filter="box"), strict=True))

    def picture_array(self, split: str, side: int) -> str:
        """Return the name of the array that shows pictures of a split best.

        Encoded rows, which have the aspect of the picture, are preferred to squares.

        Args:
            split: The name of a split of the gallery.
            side: The requested side in pixels, of the short side of encoded rows.

        Returns:
            The name of the smallest encoded rows with that short side, or of the largest. Without
            encoded rows, the stored size nearest to *side*, the larger of two equally near.

        Raises:
            KeyError: The gallery has no such split.
        """
        opened = self.splits[split]
        if opened.encoded:
            return fitting_encoding(opened.encoded, side).array_name
        return str(min(opened.sizes, key=lambda stored: (abs(stored - side), -stored)))

    def picture(self, split: str, row: int, side: int) -> bytes:
        """Return the picture of a row as the bytes of a JPEG file, for a browser.

        An encoded row that is a plain JPEG of a moderate length is returned as it is. Any other is
        decoded, made smaller and encoded.

        Args:
            split: The name of a split of the gallery.
            row: The row, which `check` has accepted.
            side: The requested side in pixels, as for `picture_array`.

        Raises:
            StoreDamagedError: A shard is damaged, or the row is no image.
            KeyError: The gallery has no such split.
        """
        opened, name = self.splits[split], self.picture_array(split, side)
        if name not in opened.encoded:
            return encode_jpeg(self._squares(split, int(name), [row])[0])
        data = self._encoded_row(split, name, row)
        height, width = opened.encoded[name].shape[row].tolist()
        if _may_be_sent(data, width, height):
            return data
        return self._encode_smaller(data, split, row, min(max(side, MIN_SIDE), MAX_SIDE))

    def image_file(self, split: str, row: int) -> tuple[str, bytes]:
        """Return the best image of a row that the store has, as the extension and bytes of a file.

        Args:
            split: The name of a split of the gallery.
            row: The row, which `check` has accepted.

        Returns:
            The largest encoded row, byte for byte; without encoded rows, the largest square as PNG.

        Raises:
            StoreDamagedError: A shard is damaged.
            KeyError: The gallery has no such split.
        """
        opened = self.splits[split]
        if not opened.encoded:
            return "png", encode_png(self._squares(split, max(opened.sizes), [row])[0])
        data = self._encoded_row(
            split, fitting_encoding(opened.encoded, MAX_SOURCE_SIDE).array_name, row
        )
        return extension_of(data), data

    def _squares(self, split: str, size: int, rows: Sequence[int]) -> NDArray[np.uint8]:
        pixels: NDArray[np.uint8] = np.empty((len(rows), size, size, 3), np.uint8)
        self._reader(split, str(size)).gather(np.array(rows), pixels, self._disk)
        return pixels

    def _encoded_row(self, split: str, name: str, row: int) -> bytes:
        encoded = np.empty(1, object)
        self._reader(split, name).gather(np.array([row]), encoded, self._disk)
        return bytes(encoded[0])

    def _encode_smaller(self, data: bytes, split: str, row: int, short_side: int) -> bytes:
        from pipeline.images.decode import decode
        from pipeline.images.encode import encode_resized

        arguments = {**self.recipe.decode_arguments, "fit": "crop", "serves": short_side}
        try:
            decoded = decode(data, **arguments)
        except DecodeError as e:
            raise StoreDamagedError(
                f"row {row:,} of {split} is damaged ({e.reason}). Run `tesserae repair`."
            ) from e
        return encode_resized(
            decoded, short_side=short_side, quality=QUALITY, filter=self.recipe.filter
        ).data

    def _reader(self, split: str, array: str) -> RowSource:
        with self._lock:
            reader = self._readers.get((split, array))
            if reader is None:
                opened = self.splits[split]
                options: dict[str, Any] = {"cache_bytes": CACHE_BYTES, "check": True}
                if array in opened.encoded:
                    reader = open_encoded_reader(opened, array, **options)
                else:
                    reader = open_reader(opened, int(array), **options)
                self._readers[split, array] = reader
            return reader

    def key(self, split: str, row: int) -> str:
        """Return the key of the sample of a row, `<wnid>/<file name>`.

        Args:
            split: The name of a split of the gallery.
            row: The number of a row that exists in the split, quarantined or not, from 0.

        Raises:
            StoreDamagedError: The table is unreadable, or has no such row.
            KeyError: The gallery has no such split.
        """
        return self._keys[split].key(row)

    def read_keys(self) -> None:
        """Read all keys that fit in the cache, so that the first searches need not wait for them.

        Raises:
            StoreDamagedError: A table is unreadable.
        """
        for name, split in self.splits.items():
            groups = -(-split.plan.num_rows // GROUP_ROWS)
            for group in range(min(groups, MAX_CACHED_GROUPS)):
                self.key(name, group * GROUP_ROWS)

    def close(self) -> None:
        """Release threads and files."""
        self._disk.shutdown()
        for keys in self._keys.values():
            keys.close()


def _read_or_split(
    rows: Sequence[int], read: Callable[[Sequence[int]], dict[int, SmallPicture]]
) -> Iterator[dict[int, SmallPicture]]:
    """Yield what is read of rows; some that cannot be read are tried one by one, then left out."""
    if not rows:
        return
    try:
        yield read(rows)
    except StoreError:  # damaged, or a request failed
        if len(rows) > 1:
            for row in rows:
                yield from _read_or_split([row], read)


def _missing_images_text(store: str, size: int, encoded: str | None) -> str:
    if encoded is None:
        return (
            f"{store} has no finished split of {size} px, the input size of the model. Add it with"
            f" `tesserae prepare ... --sizes {size}`."
        )
    text = parse_encoding(encoded).text
    return (
        f"{store} has no finished split of encoded rows {text}, which the model takes. Add them"
        f" with `tesserae prepare ... --encoded {text}`."
    )


def _may_be_sent(data: bytes, width: int, height: int) -> bool:
    """Return True if a browser may get the bytes of an encoded row as they are.

    They must be nothing but a complete JPEG that every decoder reads alike, of the stated size,
    which a browser does not rotate. Bytes after its end could be a page or a script.
    """
    if len(data) > MAX_SENT_BYTES or format_of(data) != JPEG:
        return False
    plain = plain_jpeg(data)
    if plain is None or plain[:2] != (width, height):
        return False
    return data.find(END_MARKER) == len(data) - len(END_MARKER) and not may_be_rotated(data)


class _Keys:
    """The keys of a split, read and cached by row group on demand."""

    def __init__(self, objects: Objects, split: str) -> None:
        self._objects = objects
        self._name = layout.table(split)
        self._file: Any = None
        self._groups: LRUCache[int, Any] = LRUCache(MAX_CACHED_GROUPS)
        self._lock = threading.Lock()  # threads share one file and its position

    def key(self, row: int) -> str:
        """Return the key of a row; raise StoreDamagedError if the table is unreadable."""
        group, position = divmod(row, GROUP_ROWS)
        try:
            with self._lock:
                keys = self._group(group)
            return str(keys[position].as_py())
        except (OSError, pa.ArrowException, IndexError) as e:
            first = (str(e).splitlines() or [type(e).__name__])[0]
            raise StoreDamagedError(
                f"{self._name} cannot be read ({first[:120]}). Run `tesserae repair`."
            ) from e

    def _group(self, group: int) -> Any:
        keys = self._groups.get(group)
        if keys is None:
            if self._file is None:
                self._file = self._open()
            read = self._file.read_row_group(group, columns=["key"], use_threads=False)
            keys = self._groups[group] = read.column("key").combine_chunks()
        return keys

    def _open(self) -> Any:
        file = self._objects.open(self._name)
        try:
            return open_parquet(file)
        except BaseException:
            file.close()
            raise

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close(force=True)
                self._file = None
