"""The recipe: everything that determines the pixels of a store. It never changes."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pipeline.errors import StoreMismatchError
from pipeline.store import document, layout
from pipeline.store.codecs import parse_codec
from pipeline.store.schema import Between, Digest, Format, Rows

DECODE_RULES = 3
"""The newest version of the rules that turn a file's bytes into pixels or a reason for quarantine.

New stores whose fit is not `pad` have version 2, since version 3 changes only where padded images
lie.
"""

LISTING_RULES = 2
"""The version of the rules that select a source's samples and assign their classes."""

MISSING_END = ("refuse", "keep")
"""The possible treatments of a JPEG that lacks nothing but its end marker."""

MAX_IMAGE_BYTES = 256 * 2**20
"""The default limit on the bytes of an image file.

ImageNet's longest JPEG has 15 MB. An image of the maximum number of pixels that are decoded (179
million) has 537 MB uncompressed, and less than this limit in every compressed format.
"""

FITS = ("crop", "pad", "squish")
FILTERS = ("bicubic", "bilinear", "lanczos", "box", "hamming", "nearest")

ClassNumber = Annotated[int, Between(-(2**63), 2**63 - 1)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings that determine the pixels of a store.

    Two stores with equal recipes and equal listings hold equal bytes.
    """

    fit: str
    """The way a rectangle becomes a square: `crop`, `pad` or `squish`."""
    filter: str
    """The resampling filter, one of `FILTERS`."""
    serves: Annotated[int, Between(1, 2**31 - 1)]
    """The largest side in pixels that an image decoded at a reduced DCT scale must suffice for."""
    exif: bool
    """True if images are rotated according to their EXIF orientation."""
    decoder: Digest
    """The digest of the probe images as decoded."""
    resizer: Digest
    """The digest of the probe images as resized with `filter`."""
    software: dict[str, str]
    """The software behind those digests, for people. It is not part of the identity."""
    shard_rows: Rows
    """The rows of an image array that one task writes and one object holds."""
    chunk_rows: Rows
    """The rows that share a checksum; a divisor of `shard_rows`."""
    codec: str
    """The compression of a chunk: `none`, `zstd:<level>`, `blosc-lz4` or `blosc-zstd:<level>`."""
    classes: tuple[tuple[str, str], ...]
    """The wnid and the words of label 0, 1, ..."""
    class_numbers: tuple[ClassNumber, ...] = ()
    """The source's own number of label 0, 1, ...; empty if the source has no numbers."""
    format: Format = layout.FORMAT
    """The format version of the store and of every document in it."""
    decode_rules: Format
    """The version of the rules by which images of this store are decoded."""
    listing_rules: Format = LISTING_RULES
    """The version of the rules by which samples of this store are listed."""
    missing_end: str = "refuse"
    """The treatment of JPEGs that lack nothing but their end marker: `refuse` or `keep`."""
    max_image_bytes: int | None = MAX_IMAGE_BYTES
    """The maximum length of an image file in bytes; a longer file is quarantined.

    None, which only stores of decode rules 1 have, means no limit.
    """

    _document: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """The fields of the document that this was decoded from, if an earlier version wrote others."""

    def __post_init__(self) -> None:
        """Refuse values that no store can have."""
        if self.fit not in FITS:
            raise ValueError(f"fit is {self.fit!r}: expected one of {', '.join(FITS)}.")
        if self.filter not in FILTERS:
            raise ValueError(f"filter is {self.filter!r}: expected one of {', '.join(FILTERS)}.")
        for name in ("serves", "shard_rows", "chunk_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: expected at least 1.")
        if self.shard_rows % self.chunk_rows:
            raise ValueError(
                f"a shard of {self.shard_rows} rows cannot be divided into chunks of"
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
        if limit is None and 1 in (self.format, self.decode_rules):
            return
        if limit is None or limit < 1:
            raise ValueError(f"max_image_bytes is {limit}: expected at least 1.")

    def _check_rules(self) -> None:
        if self.format == 1 and (self.missing_end, self.max_image_bytes) != ("refuse", None):
            raise ValueError(
                "a store of format 1 decodes by rules 1, which refuse JPEGs without their end"
                " marker and read files of any length: omit --missing-end and --max-image-bytes,"
                " or prepare into another folder."
            )
        for name, newest in (("decode_rules", DECODE_RULES), ("listing_rules", LISTING_RULES)):
            highest = 1 if self.format == 1 else newest
            if not 1 <= getattr(self, name) <= highest:
                raise ValueError(
                    f"{name} is {getattr(self, name)}: expected 1 to {highest} in a store of"
                    f" format {self.format}."
                )

    def encode(self) -> bytes:
        """Return the bytes of `recipe.json`."""
        return document.encode_document(self._fields())

    @property
    def digest(self) -> str:
        """The digest by which plans refer to this recipe, SHA-256 in hexadecimal."""
        return document.digest(self._fields())

    @property
    def wnids(self) -> list[str]:
        """The wnid of label 0, 1, ..."""
        return [wnid for wnid, _ in self.classes]

    def _fields(self) -> dict[str, Any]:
        if self._document:  # other fields would change the digest, by which plans refer to it
            return dict(self._document)
        fields = dict(vars(self))
        if self.format == 1:
            for name in _FORMAT_1:
                del fields[name]
        return fields

    @property
    def decode_arguments(self) -> dict[str, Any]:
        """The keyword arguments of `pipeline.images.decode.decode` for images of this store."""
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
"""The fields that a recipe of format 1 does not contain, with the values that they imply."""

_LIMITS = {name: _FORMAT_1[name] for name in ("decode_rules", "missing_end", "max_image_bytes")}

_EARLIER = {
    (1, frozenset(_FORMAT_1)): _FORMAT_1,
    (2, frozenset({"class_numbers", "missing_end", "max_image_bytes"})): _FORMAT_1,
    (2, frozenset({"missing_end", "max_image_bytes"})): _LIMITS,
}
"""The values that hold for a recipe of an earlier version, by its format and the fields it lacks.

The first recipes of format 2 name rules 2, which no code followed yet: those without
`class_numbers` were listed by rules 1, and those without `max_image_bytes` were decoded by rules 1.
"""


def decode_rules_for(fit: str) -> int:
    """Return the version of the decoding rules of a new store.

    Args:
        fit: How a rectangle becomes a square: `crop`, `pad` or `squish`.
    """
    return DECODE_RULES if fit == "pad" else 2


@functools.lru_cache(maxsize=2)
def decode_recipe(data: bytes, name: str = layout.RECIPE) -> Recipe:
    """Decode and check a recipe; the last two are cached, since 21,000 classes take a while.

    Args:
        data: The bytes of the document, of this or of an earlier version.
        name: Its name in the store, for messages (default: `recipe.json`).

    Returns:
        The recipe: the settings of decoding (`fit`, `filter`, `serves`, `exif`, `decode_rules`,
        `missing_end`, `max_image_bytes`), the digests of the pixels that they give (`decoder`,
        `resizer`), `shard_rows`, `chunk_rows` and `codec`, and in `classes` a tuple (wnid, words)
        for label 0, 1, ... Fields that an earlier version did not write have the values that it
        implied; its digest and encoding stay those of *data*.

    Raises:
        StoreDamagedError: The bytes differ from those written, or a field is invalid.
        StoreError: The document has a format that this version does not read.
    """
    earlier: dict[str, Any] = {}

    def complete(fields: dict[str, Any]) -> dict[str, Any]:
        values = _EARLIER.get((fields["format"], frozenset(_FORMAT_1.keys() - fields.keys())))
        if values is None:
            return fields
        earlier.update(fields)
        return {**fields, **values}

    recipe = document.decode_document_as(Recipe, data, name, complete)
    if earlier:
        object.__setattr__(recipe, "_document", earlier)
    return recipe


_CHOSEN = (
    "fit", "filter", "serves", "exif", "shard_rows", "chunk_rows", "codec",
    "missing_end", "max_image_bytes",
)  # fmt: skip


def check_same_recipe(stored: Recipe, requested: Recipe) -> None:
    """Refuse a requested recipe that would give other pixels or labels than the store's.

    Compared are the fields `fit`, `filter`, `serves`, `exif`, `shard_rows`, `chunk_rows`, `codec`,
    `missing_end` and `max_image_bytes`, the digests of the pixels that decoder and resizer produce,
    and the classes with their numbers in the source. The versions of the software may differ if
    their pixels are equal, and the requested classes may be a subset of the store's, in any order,
    because a split need not contain every class.

    Args:
        stored: The recipe of the store.
        requested: The recipe of the new command.

    Raises:
        StoreMismatchError: The recipes differ. The message names each field and digest that does;
            if there is none, up to five classes of each kind of difference.
    """
    differences = [
        f"{name} is {getattr(stored, name)!r} in the store, {getattr(requested, name)!r} was"
        " requested"
        for name in _CHOSEN
        if getattr(stored, name) != getattr(requested, name)
    ]
    differences += [
        f"the {name} produces other pixels here ({_software_text(requested, name)}) than the one"
        f" that created the store ({_software_text(stored, name)})"
        for name in ("decoder", "resizer")
        if getattr(stored, name) != getattr(requested, name)
        # Another filter, which is named above, gives other pixels in any case.
        and (name == "decoder" or stored.filter == requested.filter)
    ]
    if differences:
        raise StoreMismatchError(
            f"the store was created with another recipe: {'; '.join(differences)}. Pass the"
            " options of the store's recipe (see `tesserae info`), or choose another folder."
        )
    differences = _class_differences(stored, requested) + _number_differences(stored, requested)
    if differences:
        raise StoreMismatchError(
            f"the store was prepared from another source: {'; '.join(differences)}. A store's"
            " classes are those of all splits that its first command prepared: choose another"
            " folder for another source, or prepare all splits of this one together into a new"
            " folder."
        )


def _software_text(recipe: Recipe, part: str) -> str:
    return f"{recipe.software.get(part, 'unnamed')}, probe {getattr(recipe, part)[:12]}"


def _number_differences(stored: Recipe, requested: Recipe) -> list[str]:
    """Return the first five classes whose numbers in the source have changed."""
    numbers = dict(zip(stored.wnids, stored.class_numbers, strict=False))
    return [
        f"the class {name!r} has the number {numbers[name]} in the store, {number} in the source"
        for name, number in zip(requested.wnids, requested.class_numbers, strict=False)
        if numbers.get(name, number) != number
    ][:5]


def _class_differences(stored: Recipe, requested: Recipe) -> list[str]:
    unknown = sorted(set(requested.wnids) - set(stored.wnids))
    if not unknown:
        return []
    names = ", ".join(map(repr, unknown[:5])) + (", ..." if len(unknown) > 5 else "")
    number = "1 class is" if len(unknown) == 1 else f"{len(unknown)} classes are"
    by = f" (under its listing rules {stored.listing_rules})" if stored.listing_rules == 1 else ""
    return [f"{number} not among the store's {len(stored.classes)}: {names}{by}"]
