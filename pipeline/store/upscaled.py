"""The records of upscaled images: a store's images as a network enlarges them, row for row.

    upscaled/<name>/recipe.json                 network and settings
    upscaled/<name>/images.zarr/<split>/<size>  uint8 (N, size, size, 3), sharded as images are
    upscaled/<name>/commits/<split>/<shard>.json
                                                written last, as for images
    upscaled/<name>/splits/<split>.done.json    written once every commit exists

Quarantined rows are zeros.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pipeline.errors import StoreError, StoreMismatchError
from pipeline.store import derived, document, layout, records
from pipeline.store.commit import ObjectRecord
from pipeline.store.derived import PRECISIONS, DerivedCommit, DerivedFinishRecord, Family
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.schema import (
    Between,
    Count,
    Digest,
    Format,
    Matching,
    Rows,
    Size,
    SizeText,
    pattern,
)
from pipeline.store.split import Split, open_split

FAMILY = Family("upscaled images", "tesserae upscale", layout.UPSCALED)
"""The family of derived rows that upscaled images are."""

PROBE_TOLERANCES = {"float32": 4e-3, "bfloat16": 2e-2}
"""The largest relative distance of the probes of two machines, by precision: about half a level,
and two and a half."""

NetworkName = Annotated[str, pattern(r"[a-z0-9_-]{1,40}", "the name of a network")]
SetName = Annotated[str, Matching(layout.is_split, "letters, digits, '-' and '_'")]


@dataclass(frozen=True, kw_only=True)
class UpscaledRecipe:
    """The settings that determine upscaled images: equal images and recipes give equal pixels."""

    family: ClassVar[Family] = FAMILY
    OMITTED: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    encoded: ClassVar[None] = None
    """Stored squares are read, never encoded rows."""
    dtype: ClassVar[str] = "uint8"
    """The dtype of the pixels."""
    dimensions: ClassVar[tuple[str, ...]] = ("height", "width", "channel")
    """The names of the axes of a row, for zarr."""

    name: SetName
    """The name of the set, its folder. It is not part of the identity."""
    network: NetworkName
    """The kind of the network, such as `span`."""
    weights: Digest
    """The SHA-256 of the network's kind, settings and weights."""
    step: Count
    """The number of complete training steps of the network."""
    scale: Annotated[int, Between(2, 64)]
    """The factor of the enlargement."""
    stored_size: Size
    """The side in pixels of the stored squares that are read."""
    self_ensemble: bool
    """True if the results of all eight orientations of an image are averaged."""
    precision: str
    """The number format of the computation, one of `PRECISIONS`."""
    images: Digest
    """The digest of the store's recipe."""
    shard_rows: Rows
    """The rows of a shard, a multiple of `chunk_rows`."""
    chunk_rows: Rows
    """The rows of a chunk, which share a checksum."""
    format: Format = layout.FORMAT
    """The format version of the store, as in its recipe."""

    def __post_init__(self) -> None:
        """Refuse values that no upscaled images can have."""
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision is {self.precision!r}: expected {' or '.join(PRECISIONS)}."
            )
        if self.size > layout.MAX_SIZE:
            raise ValueError(f"size is {self.size}: expected at most {layout.MAX_SIZE}.")
        if self.shard_rows % self.chunk_rows:
            raise ValueError(
                f"shard_rows is {self.shard_rows}: expected a multiple of chunk_rows,"
                f" {self.chunk_rows}."
            )

    @property
    def size(self) -> int:
        """The side in pixels of the upscaled images."""
        return self.stored_size * self.scale

    @property
    def array_name(self) -> str:
        """The name of the array that the images are read from, such as `72`."""
        return str(self.stored_size)

    @property
    def digest(self) -> str:
        """The digest by which commits refer to this recipe, SHA-256 in hexadecimal."""
        return document.digest({k: v for k, v in asdict(self).items() if k != "name"})

    @property
    def kinds(self) -> tuple[str, ...]:
        """The name of the only array of a set, such as `288`."""
        return (str(self.size),)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return (self.size, self.size, 3)

    @property
    def row_bytes(self) -> int:
        """The bytes of one image."""
        return self.size * self.size * 3

    @property
    def row_text(self) -> str:
        """The size of a row in words, such as `288 px`."""
        return f"{self.size} px"

    @property
    def probe_tolerance(self) -> float:
        """The largest relative distance of the probes of two machines."""
        return PROBE_TOLERANCES[self.precision]

    def encode(self) -> bytes:
        """Return the bytes of `recipe.json`."""
        return document.encode_document(asdict(self))

    def commit_of(self, **fields: Any) -> UpscaledCommit:
        """Return a commit of images of this recipe, with *fields* of `DerivedCommit`."""
        return UpscaledCommit(upscaled=self.digest, format=self.format, **fields)

    def finish_record_of(self, **fields: Any) -> UpscaledFinishRecord:
        """Return a finish record of such images, with *fields* of `DerivedFinishRecord`."""
        return UpscaledFinishRecord(upscaled=self.digest, format=self.format, **fields)

    @staticmethod
    def commit_kind() -> type[UpscaledCommit]:
        """Return the class of the commits of upscaled images."""
        return UpscaledCommit

    @staticmethod
    def finish_record_kind() -> type[UpscaledFinishRecord]:
        """Return the class of the finish records of upscaled images."""
        return UpscaledFinishRecord

    def rerun_command(self, kinds: Iterable[str] = ()) -> str:
        """Return the command that computes these images, without the split.

        Args:
            kinds: Ignored: a set has one array.
        """
        flags = [f"--size {self.size}", f"--name {self.name}"]
        flags += ["--self-ensemble"] if self.self_ensemble else []
        flags += [] if self.precision == "float32" else [f"--precision {self.precision}"]
        return f"tesserae upscale RUN --store STORE {' '.join(flags)}"

    def differences(self, requested: UpscaledRecipe) -> list[str]:
        """Return how another recipe differs from this one, in the words of the command line.

        Args:
            requested: The other recipe; its name is not compared.

        Returns:
            Phrases such as `step 500, not 1000`; empty if both give the same pixels.
        """
        phrases = [
            f"{field.name.replace('_', ' ')} {getattr(self, field.name)},"
            f" not {getattr(requested, field.name)}"
            for field in fields(self)
            if field.name not in ("name", "weights", "images")
            and getattr(self, field.name) != getattr(requested, field.name)
        ]
        phrases += ["other weights"] if self.weights != requested.weights else []
        return phrases + (["images of another store"] if self.images != requested.images else [])


@dataclass(frozen=True, kw_only=True)
class UpscaledCommit(DerivedCommit):
    """The record that the upscaled images of one shard of a split are complete and durable."""

    family: ClassVar[Family] = FAMILY

    upscaled: Digest
    """The digest of the recipe of the upscaled images."""
    arrays: dict[SizeText, ObjectRecord]
    """The shard object of the only size, in pixels as text."""

    @property
    def recipe(self) -> str:
        """The digest of the recipe of the upscaled images."""
        return self.upscaled


@dataclass(frozen=True, kw_only=True)
class UpscaledFinishRecord(DerivedFinishRecord):
    """The record that every commit of a split's upscaled images exists."""

    family: ClassVar[Family] = FAMILY

    upscaled: Digest
    """The digest of the recipe of the upscaled images."""
    kinds: tuple[SizeText, ...]
    """The only size, in pixels as text."""

    @property
    def recipe(self) -> str:
        """The digest of the recipe of the upscaled images."""
        return self.upscaled


def open_upscaled_split(objects: Objects, split: str, name: str) -> Split:
    """Open a split to read upscaled images in place of stored ones; none are read yet.

    Args:
        objects: The objects of the store.
        split: The name of the split.
        name: The name of the set of upscaled images: its folder in `upscaled/`.

    Returns:
        The split, whose only size is that of the upscaled images: its labels and excluded rows are
        those of the store, and its `objects` and the codec of its recipe those of the set. Its
        digest is another than the store's.

    Raises:
        StoreError: The store has no such split or set, or one of them is not finished.
        StoreMismatchError: The upscaled images are of other images than the store has now.
        StoreDamagedError: A record is damaged.
    """
    recipe = derived.load_recipe(objects, UpscaledRecipe, name)
    done = derived.load_finish_record(objects, UpscaledRecipe, name, split)
    if done is None:
        raise StoreError(
            f"upscaled images {name} of split {split!r} are not finished. Run the same `tesserae"
            " upscale` again to continue."
        )
    opened = open_split(objects, split, [recipe.stored_size])
    images = records.load_finish_record(objects, split)
    parts = None if images is None else images.parts
    current = (recipe.digest, opened.plan.digest, opened.recipe.digest, parts)
    if current != (done.recipe, done.plan, recipe.images, done.parts):
        raise StoreMismatchError(
            f"upscaled images {name} of split {split!r} belong to images that have changed since."
            " Run the same `tesserae upscale` again: it recomputes them."
        )
    facts = f"{opened.digest} {recipe.digest}"
    return replace(
        opened,
        objects=open_objects(f"{objects.url}/{layout.UPSCALED.set_folder(name)}"),
        recipe=replace(opened.recipe, codec="none"),
        sizes=(recipe.size,),
        digest=hashlib.sha256(facts.encode()).hexdigest(),
    )
