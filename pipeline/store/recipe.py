"""The recipe: everything that decides the pixels of a store. Written once, never changed."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Annotated, Any

from pipeline.errors import StoreMismatchError
from pipeline.store import document, layout
from pipeline.store.schema import Between, Digest, Format, Rows
from pipeline.store.shard import parse_codec

DECODE_RULES = 2
"""Version of the rules that turn a picture's bytes into pixels or into a reason for quarantine."""

LISTING_RULES = 2
"""Version of the rules that say which files of a source are samples, and of which class."""

MISSING_END = ("refuse", "keep")
"""What may be done with a JPEG that lacks nothing but its end marker."""

MAX_IMAGE_BYTES = 256 * 2**20
"""Bytes of the longest file that is read for an image, unless another limit is chosen.

ImageNet's longest JPEG has 15 MB. An image of as many pixels as are decoded at all (179 million)
has 537 MB where nothing compresses it, and less than this in every format that does.
"""

FITS = ("crop", "pad", "squish")
FILTERS = ("bicubic", "bilinear", "lanczos", "box", "hamming", "nearest")

ClassNumber = Annotated[int, Between(-(2**63), 2**63 - 1)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Two stores with equal recipes and equal listings hold equal bytes."""

    fit: str
    """How a rectangle becomes a square: `crop`, `pad` or `squish`."""
    filter: str
    """The resampling filter."""
    serves: Annotated[int, Between(1, 2**31 - 1)]
    """Side in pixels up to which a picture may be decoded at a reduced DCT scale."""
    exif: bool
    """Whether pictures are turned by their EXIF orientation."""
    decoder: Digest
    """Digest of the probe pictures as decoded."""
    resizer: Digest
    """Digest of the probe pictures as resized with `filter`."""
    software: dict[str, str]
    """What made those digests, in words. Not part of the identity."""
    shard_rows: Rows
    """Rows of every image array that one task writes and one object holds."""
    chunk_rows: Rows
    """Rows that are checksummed together; divides `shard_rows`."""
    codec: str
    """Compression of a chunk: `none`, `zstd:<level>`, `blosc-lz4` or `blosc-zstd:<level>`."""
    classes: tuple[tuple[str, str], ...]
    """(wnid, words) of label 0, 1, ..."""
    class_numbers: tuple[ClassNumber, ...] = ()
    """The source's own number of label 0, 1, ...; empty where it has no numbers."""
    format: Format = layout.FORMAT
    """Version of the store and of every document in it."""
    decode_rules: Format = DECODE_RULES
    """Which version of the rules decoded, and decodes, the pictures of this store."""
    listing_rules: Format = LISTING_RULES
    """Which version of the rules listed, and lists, the samples of this store."""
    missing_end: str = "refuse"
    """What becomes of JPEGs that lack nothing but their end marker: `refuse` or `keep`."""
    max_image_bytes: int | None = MAX_IMAGE_BYTES
    """A longer file is no readable picture, and only its beginning is read.

    None: there is no limit, which only stores of format 1 have.
    """

    def __post_init__(self) -> None:
        """Refuse what no store can be made of."""
        if self.fit not in FITS:
            raise ValueError(f"fit is {self.fit!r}: expected one of {', '.join(FITS)}.")
        if self.filter not in FILTERS:
            raise ValueError(f"filter is {self.filter!r}: expected one of {', '.join(FILTERS)}.")
        for name in ("serves", "shard_rows", "chunk_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least 1.")
        if self.shard_rows % self.chunk_rows:
            raise ValueError(
                f"a shard of {self.shard_rows} rows cannot be cut into chunks of"
                f" {self.chunk_rows}: choose --shard-rows as a multiple of --chunk-rows."
            )
        parse_codec(self.codec)
        self._check_limits()
        self._check_rules()

    def _check_limits(self) -> None:
        if self.missing_end not in MISSING_END:
            raise ValueError(
                f"missing_end is {self.missing_end!r}: expected one of {', '.join(MISSING_END)}."
            )
        limit = self.max_image_bytes
        if self.format != 1 and (limit is None or limit < 1):
            raise ValueError(f"max_image_bytes is {limit}: expected at least 1.")

    def _check_rules(self) -> None:
        if self.format == 1 and (self.missing_end, self.max_image_bytes) != ("refuse", None):
            raise ValueError(
                "a store of format 1 decodes by rules 1, which refuse JPEGs without their end"
                " marker and read files of any length: leave --missing-end and --max-image-bytes"
                " away, or prepare into another folder."
            )
        for name, newest in (("decode_rules", DECODE_RULES), ("listing_rules", LISTING_RULES)):
            highest = 1 if self.format == 1 else newest
            if not 1 <= getattr(self, name) <= highest:
                raise ValueError(
                    f"{name} is {getattr(self, name)}: expected 1 to {highest} in a store of"
                    f" format {self.format}."
                )

    def encode(self) -> bytes:
        """The text of `recipe.json`."""
        return document.encode(self._fields())

    @property
    def digest(self) -> str:
        """By which plans refer to this recipe."""
        return document.digest(self._fields())

    @property
    def wnids(self) -> list[str]:
        """The class of label 0, 1, ..."""
        return [wnid for wnid, _ in self.classes]

    def _fields(self) -> dict[str, Any]:
        fields = dict(vars(self))
        if self.format == 1:  # before there were rules to choose between
            for name in _FORMAT_1:
                del fields[name]
        return fields

    @property
    def decoding(self) -> dict[str, Any]:
        """Keyword arguments of `pipeline.images.decode.decode` for the pictures of this store."""
        return {
            "fit": self.fit,
            "serves": self.serves,
            "exif": self.exif,
            "rules": self.decode_rules,
            "missing_end": self.missing_end,
        }


_FORMAT_1: dict[str, Any] = {
    "decode_rules": 1,
    "listing_rules": 1,
    "class_numbers": [],
    "missing_end": "refuse",
    "max_image_bytes": None,
}
"""Fields that a recipe of format 1 does not write down, and what they are in its store."""


@functools.lru_cache(maxsize=2)
def decode(data: bytes, name: str = layout.RECIPE) -> Recipe:
    """Read a recipe back. With 21,000 classes that takes a while: the last ones are kept.

    Raises:
        StoreDamagedError: The text is not what was written.
    """
    return document.decode_as(Recipe, data, name, _complete)


def _complete(fields: dict[str, Any]) -> dict[str, Any]:
    if fields["format"] == 1 and not fields.keys() & _FORMAT_1.keys():
        return {**fields, **_FORMAT_1}
    return fields


_CHOSEN = (
    "fit", "filter", "serves", "exif", "shard_rows", "chunk_rows", "codec",
    "missing_end", "max_image_bytes",
)  # fmt: skip


def check_same(kept: Recipe, asked: Recipe) -> None:
    """Compare what decides pixels; which machine's software made them may differ.

    Classes may be a part of the store's: a split need not show every class.

    Raises:
        StoreMismatchError: Naming each difference.
    """
    found = [
        f"{name} is {getattr(kept, name)!r} in the store, {getattr(asked, name)!r} was asked for"
        for name in _CHOSEN
        if getattr(kept, name) != getattr(asked, name)
    ]
    found += [
        f"the {name} makes other pixels here ({_named(asked, name)}) than the one that made the"
        f" store ({_named(kept, name)})"
        for name in ("decoder", "resizer")
        if getattr(kept, name) != getattr(asked, name)
        and (name == "decoder" or kept.filter == asked.filter)  # another filter, other pixels
    ]
    if found:
        raise StoreMismatchError(
            f"the store was made with another recipe: {'; '.join(found)}."
            " Ask for the store's own recipe (`tesserae info`), or choose another folder."
        )
    found = _class_differences(kept, asked) + _number_differences(kept, asked)
    if found:
        raise StoreMismatchError(
            f"the store was made from another source: {'; '.join(found)}. A store's classes are"
            " those of all splits that its first command prepared: choose another folder for"
            " another source, or prepare all splits of this one together into a new folder."
        )


def _named(recipe: Recipe, part: str) -> str:
    return f"{recipe.software.get(part, 'unnamed')}, probe {getattr(recipe, part)[:12]}"


def _number_differences(kept: Recipe, asked: Recipe) -> list[str]:
    """Classes that the source numbers differently now."""
    numbers = dict(zip(kept.wnids, kept.class_numbers, strict=False))
    return [
        f"the class {name!r} has the number {numbers[name]} in the store, {number} in the source"
        for name, number in zip(asked.wnids, asked.class_numbers, strict=False)
        if numbers.get(name, number) != number
    ][:5]


def _class_differences(kept: Recipe, asked: Recipe) -> list[str]:
    unknown = sorted(set(asked.wnids) - set(kept.wnids))
    if not unknown:
        return []
    shown = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
    number = "1 class is" if len(unknown) == 1 else f"{len(unknown)} classes are"
    by = f", as its listing rules {kept.listing_rules} have them" if kept.listing_rules == 1 else ""
    return [f"{number} not among the store's {len(kept.classes)}: {shown}{by}"]
