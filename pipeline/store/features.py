"""The records of features: the outputs of a network for a store's images, row for row.

    features/<name>/recipe.json                 network and settings; the name has its digest
    features/<name>/features.zarr/<split>/plain, mirrored
                                                float (N, d), sharded, one row for each image
    features/<name>/commits/<split>/<shard>.json
                                                written last, as for images
    features/<name>/splits/<split>.done.json    written once every commit exists

Quarantined rows are zeros.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

from pipeline.store import derived, document, layout
from pipeline.store.commit import ObjectRecord, without_empty
from pipeline.store.derived import (
    PRECISIONS,
    DerivedCommit,
    DerivedFinishRecord,
    Family,
)
from pipeline.store.encoding import parse_encoding
from pipeline.store.objects import Objects
from pipeline.store.schema import Between, Digest, EncodingName, Format, Matching, Rows, Size

KINDS = ("plain", "mirrored")
"""The kinds of features: of the stored image, and of its mirror image."""

FAMILY = Family("features", "tesserae features", layout.FEATURES)
"""The family of derived rows that features are."""

_CROP = re.compile(r"centre (0\.\d+|1(\.0)?) \d+")

DTYPES = ("float32", "float16")
PROBE_TOLERANCES = {"float32": 1e-2, "bfloat16": 1e-1}
"""The largest relative distance of the probes of two machines, by precision."""

Kind = Annotated[str, Matching(KINDS.__contains__, " or ".join(KINDS))]
"""One of `KINDS`."""
Share = Annotated[float, Between(-1000, 1000)]
"""A fraction of 255 by which the values of a channel are shifted or divided."""


@dataclass(frozen=True, kw_only=True)
class FeatureOptions:
    """The options of features that a user chooses, beside the network."""

    stored_size: int | None = None
    """The size in pixels; None: the smallest that the network need not enlarge, or the largest."""
    encoded: str | None = None
    """The encoding of the rows to read in place of squares, such as `jpeg:256@90`; None: squares,
    or, of a split that has none, the encoded rows that suit the network best."""
    precision: str = "float32"
    """The number format that the network computes in, one of `PRECISIONS`."""
    dtype: str = "float32"
    """The number format of the stored features, one of `DTYPES`."""

    def __post_init__(self) -> None:
        """Refuse an invalid encoding, and a size of squares beside one."""
        if self.encoded is None:
            return
        parse_encoding(self.encoded)
        if self.stored_size is not None:
            raise ValueError(
                f"size is {self.stored_size}, and encoded rows {self.encoded} are read, which are"
                " resized to the network's input. Omit --size, or omit --encoded to read squares."
            )


@dataclass(frozen=True, kw_only=True)
class FeatureRecipe:
    """The settings that determine features: equal images and recipes give equal features."""

    family: ClassVar[Family] = FAMILY
    OMITTED: ClassVar[Mapping[str, Any]] = MappingProxyType({"encoded": None, "crop": None})
    """The fields that recipes of stored squares lack."""

    trunk: str
    """The name of the network for people. It is not part of the identity."""
    weights: Digest
    """The SHA-256 of the network's kind, settings and weights."""
    cut: str
    """The block whose output is stored; empty for the last one."""
    pooling: str
    """The pooling of the output, one of those in `pipeline.backbone`."""
    stored_size: Size
    """The side in pixels of the images that are given to the network: of stored squares, or that to
    which crops of encoded rows are resized, `input_size`."""
    input_size: Size
    """The side of the network's input in pixels."""
    mean: tuple[Share, ...]
    """The value subtracted from each channel, as a fraction of 255."""
    std: tuple[Share, ...]
    """The value that each channel is divided by afterwards, as a fraction of 255."""
    channels: str
    """The order of the network's input channels: RGB or BGR."""
    precision: str
    """The number format of the computation, one of `PRECISIONS`."""
    dtype: str
    """The dtype of the stored features, one of `DTYPES`."""
    dim: Annotated[int, Between(1, 2**24)]
    """The number of features of an image."""
    images: Digest
    """The digest of the store's recipe."""
    shard_rows: Rows
    """The rows of a shard, a multiple of `chunk_rows`."""
    chunk_rows: Rows
    """The rows of a chunk, which share a checksum."""
    format: Format = layout.FORMAT
    """The format version of the store, as in its recipe."""
    encoded: EncodingName | None = None
    """The name of the encoded rows that are read, such as `jpeg256@90`; None, and not written, for
    stored squares."""
    crop: str | None = None
    """The crop of encoded rows, the kind `centre`, its share of the short side and the version of
    crops, such as `centre 0.875 1`; None, and not written, for stored squares."""

    def __post_init__(self) -> None:
        """Refuse values that no features can have."""
        if self.dtype not in DTYPES or self.precision not in PRECISIONS or self.dim < 1:
            raise ValueError(
                f"features of {self.dim} dimensions, {self.dtype}, computed in {self.precision}:"
                f" expected at least 1, {' or '.join(DTYPES)}, and {' or '.join(PRECISIONS)}."
            )
        if self.shard_rows % self.chunk_rows:
            raise ValueError(
                f"shard_rows is {self.shard_rows}: expected a multiple of chunk_rows,"
                f" {self.chunk_rows}."
            )
        if (self.encoded is None) != (self.crop is None) or not _CROP.fullmatch(
            self.crop or "centre 1 1"
        ):
            raise ValueError(
                f"the crop is {self.crop!r} of encoded rows {self.encoded!r}: expected both or"
                " none, and a crop such as 'centre 0.875 1'."
            )

    @property
    def array_name(self) -> str:
        """The name of the array that the images are read from: `224`, `jpeg256@90`, ..."""
        return self.encoded or str(self.stored_size)

    @property
    def crop_share(self) -> float:
        """The side of the crop of encoded rows as a fraction of the short side; 1 for squares."""
        return 1.0 if self.crop is None else float(self.crop.split()[1])

    @property
    def digest(self) -> str:
        """The digest by which commits refer to this recipe, SHA-256 in hexadecimal."""
        return document.digest({k: v for k, v in self._fields().items() if k != "trunk"})

    @property
    def name(self) -> str:
        """The name of the folder: network, encoded rows if they are read, and start of the digest.

        The digest covers the encoding and the crop.
        """
        word = re.sub(r"[^A-Za-z0-9.]+", "-", self.trunk).strip("-.")[:40] or "trunk"
        return f"{word}-{self.name_ending}"

    @property
    def name_ending(self) -> str:
        """The part of the name that does not depend on the name of the network."""
        ending = self.digest[:12]
        return ending if self.encoded is None else f"{self.encoded}-{ending}"

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of features that a set can have."""
        return KINDS

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one image's features."""
        return (self.dim,)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The names of the axes of a row, for zarr."""
        return ("feature",)

    @property
    def row_bytes(self) -> int:
        """The bytes of one image's features."""
        return self.dim * (4 if self.dtype == "float32" else 2)

    @property
    def row_text(self) -> str:
        """The size of a row in words, such as `256 dimensions`."""
        return f"{self.dim:,} dimensions"

    @property
    def probe_tolerance(self) -> float:
        """The largest relative distance of the probes of two machines."""
        return PROBE_TOLERANCES[self.precision]

    def commit_of(self, **fields: Any) -> FeatureCommit:
        """Return a commit of features of this recipe, with *fields* of `DerivedCommit`."""
        return FeatureCommit(features=self.digest, format=self.format, **fields)

    def finish_record_of(self, **fields: Any) -> FeatureFinishRecord:
        """Return a finish record of such features, with *fields* of `DerivedFinishRecord`."""
        return FeatureFinishRecord(features=self.digest, format=self.format, **fields)

    @staticmethod
    def commit_kind() -> type[FeatureCommit]:
        """Return the class of the commits of features."""
        return FeatureCommit

    @staticmethod
    def finish_record_kind() -> type[FeatureFinishRecord]:
        """Return the class of the finish records of features."""
        return FeatureFinishRecord

    def rerun_command(self, kinds: Iterable[str] = ()) -> str:
        """Return the command that computes these features, without the network and the split.

        Args:
            kinds: The kinds of features, as for `command_line_options` (default: none).
        """
        return f"tesserae features STORE --trunk MODEL {self.command_line_options(kinds)}"

    def command_line_options(self, kinds: Iterable[str] = ()) -> str:
        """Return the options of `tesserae features`, beside the network, that give this recipe.

        Args:
            kinds: The kinds of features, of `KINDS`: `mirrored` among them adds the option
                `--mirrored` (default: none).

        Returns:
            The options joined by spaces, such as `--cut layer3 --size 224 --mirrored`: always
            `--size`, or `--encoded` for encoded rows, and `--cut`, `--pooling`, `--precision` and
            `--dtype` if their value is not the default, which is the last block, `end`, `float32`
            and `float32`.
        """
        images: tuple[str, str | int] = ("--size", self.stored_size)
        if self.encoded is not None:
            images = ("--encoded", parse_encoding(self.encoded).text)
        options = [("--cut", self.cut), ("--pooling", self.pooling), images]
        options += [("--precision", self.precision), ("--dtype", self.dtype)]
        defaults = ("", "end", "float32")
        flags = [f"{flag} {value}" for flag, value in options if value not in defaults]
        return " ".join([*flags, *(["--mirrored"] if "mirrored" in kinds else [])])

    def encode(self) -> bytes:
        """Return the bytes of `recipe.json`."""
        return document.encode_document(self._fields())

    def _fields(self) -> dict[str, Any]:
        # Features of squares have the documents of before there were encoded rows.
        return without_empty(without_empty(asdict(self), "encoded"), "crop")


@dataclass(frozen=True, kw_only=True)
class FeatureCommit(DerivedCommit):
    """The record that the features of one shard of a split are complete and durable."""

    family: ClassVar[Family] = FAMILY

    features: Digest
    """The digest of the recipe of the features."""
    arrays: dict[Kind, ObjectRecord]
    """The shard object of each kind."""

    @property
    def recipe(self) -> str:
        """The digest of the recipe of the features."""
        return self.features


@dataclass(frozen=True, kw_only=True)
class FeatureFinishRecord(DerivedFinishRecord):
    """The record that every commit of a split's features exists."""

    family: ClassVar[Family] = FAMILY

    features: Digest
    """The digest of the recipe of the features."""
    kinds: tuple[Kind, ...]
    """The kinds of features that are stored, of `KINDS`."""

    @property
    def recipe(self) -> str:
        """The digest of the recipe of the features."""
        return self.features


def names(objects: Objects) -> list[str]:
    """Return the names of all feature sets of a store, sorted: the folders in `features/`.

    Args:
        objects: The objects of the store.

    Returns:
        Names such as `resnet50-0123456789ab`; an empty list if the store has no features. A feature
        set is listed as soon as it has one object, finished or not.

    Raises:
        StoreError: The request to an object store failed.
    """
    return list(derived.splits_of(objects, FAMILY))


def load_feature_recipe(objects: Objects, name: str) -> FeatureRecipe:
    """Load and check the recipe of a feature set, as `pipeline.store.derived.load_recipe` does.

    Args:
        objects: The objects of the store.
        name: The name of the feature set: its folder in `features/`.
    """
    return derived.load_recipe(objects, FeatureRecipe, name)
