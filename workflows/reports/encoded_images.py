"""Encoded rows of a store as images that a page can show."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from pipeline.errors import DecodeError
from pipeline.images.decode import Decoded, decode
from pipeline.images.encode import encode_pixels
from pipeline.images.formats import JPEG
from pipeline.store import layout, records
from pipeline.store.encoded_plan import EncodedPlan
from pipeline.store.encoded_shard import read_rows_of_shard
from pipeline.store.encoding import Encoding, parse_encoding
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.recipe import Recipe

MAX_EMBEDDED_BYTES = 100_000
"""The longest row that a page embeds as it is stored."""
THUMBNAIL_QUALITY = 85
MAX_ASPECT = 4
"""The largest ratio of width to height of a thumbnail; wider images become less high."""

_BROWSER_MODES = ("L", "RGB")
"""The modes of JPEGs that every browser shows with the right colours."""


@dataclass(frozen=True)
class EncodedImages:
    """A reader of the committed rows of one encoded array, whether its split is finished or not."""

    objects: Objects
    recipe: Recipe
    plan: Plan
    """The plan of the split."""
    encoded_plan: EncodedPlan

    @classmethod
    def open(cls, objects: Objects, plan: Plan, array: str) -> EncodedImages:
        """Read the documents that locate the rows of an array.

        Args:
            objects: The objects of the store.
            plan: The plan of the split.
            array: The name of the array, such as `jpeg256@90`.

        Raises:
            StoreError: The split has no such array, or a document is damaged.
        """
        recipe = records.load_recipe(objects)
        return cls(objects, recipe, plan, records.load_encoded_plan(objects, plan, array))

    @property
    def encoding(self) -> Encoding:
        """The encoding of the rows."""
        return parse_encoding(self.encoded_plan.encoding)

    def read(self, start: int, stop: int) -> list[bytes]:
        """Return the bytes of rows *start* to *stop* - 1 of the split, which lie in one shard.

        Args:
            start: The first row.
            stop: The row after the last one.

        Raises:
            FileNotFoundError: The shard is not committed with this array.
            StoreDamagedError: A chunk is missing or damaged.
        """
        array, split = self.encoded_plan.encoding, self.plan.split
        shard = start // self.plan.shard_rows
        commit = records.load_commit(self.objects, split, shard)
        if commit is None or array not in commit.encoded:
            raise FileNotFoundError(layout.encoded_shard(split, array, shard))
        geometry = self.encoded_plan.geometry(self.plan.shard_rows)
        first, last = start - commit.start, stop - commit.start
        rows, _ = read_rows_of_shard(self.objects, commit.encoded[array], geometry, first, last)
        return rows

    def decode(self, data: bytes, side: int) -> Decoded:
        """Decode a row as the store decodes its source.

        Args:
            data: The bytes of the row.
            side: The short side in pixels up to which full detail is needed.

        Raises:
            DecodeError: The bytes are not a readable image.
        """
        arguments = {**self.recipe.decode_arguments, "fit": "crop", "serves": side}
        return decode(data, **arguments)

    def page_image(self, row: int, height: int) -> bytes | None:
        """Return a row as a JPEG file that a page can show.

        A JPEG row is returned as it is stored if it is short. Of a longer one, of a source file
        and of what is stored in place of a JPEG in a foreign store, a thumbnail is made.

        Args:
            row: A readable row of the split.
            height: The largest height of a thumbnail in pixels.

        Returns:
            The bytes of the file; None if the row is not a readable image.

        Raises:
            FileNotFoundError: The shard of the row is not committed with this array.
            StoreDamagedError: A chunk is missing or damaged.
        """
        (data,) = self.read(row, row + 1)
        try:
            decoded = self.decode(data, height)
        except DecodeError:
            return None
        is_shown = decoded.format == JPEG.name and decoded.mode in _BROWSER_MODES
        if is_shown and not self.encoding.is_original and len(data) <= MAX_EMBEDDED_BYTES:
            return data
        thumbnail = decoded.pixels.convert("RGB")
        thumbnail.thumbnail((MAX_ASPECT * height, height), Image.Resampling.BICUBIC)
        return encode_pixels(thumbnail, THUMBNAIL_QUALITY)
