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
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, TypeVar

from pipeline.errors import StoreDamagedError, StoreError, StoreMismatchError
from pipeline.store import document, layout, records
from pipeline.store.commit import ObjectRecord, without_empty
from pipeline.store.encoding import parse_encoding
from pipeline.store.objects import Objects
from pipeline.store.plan import Plan
from pipeline.store.schema import (
    Between,
    Count,
    Digest,
    EncodingName,
    Format,
    Matching,
    Rows,
    Shard,
    Size,
    Split,
)

KINDS = ("plain", "mirrored")
"""The kinds of features: of the stored image, and of its mirror image."""

RERUN_ADVICE = "Run the same `tesserae features` again: it recomputes what is damaged."

_CROP = re.compile(r"centre (0\.\d+|1(\.0)?) \d+")

DTYPES = ("float32", "float16")
PRECISIONS = ("float32", "bfloat16")

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
    def row_bytes(self) -> int:
        """The bytes of one image's features."""
        return self.dim * (4 if self.dtype == "float32" else 2)

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
class FeatureCommit:
    """The record that the features of one shard of a split are complete and durable."""

    features: Digest
    """The digest of the recipe of the features."""
    split: Split
    shard: Shard
    """The number of the shard, from 0."""
    plan: Digest
    """The digest of the split's plan."""
    pixels: Digest
    """The digest of the shard object of images that they were computed from."""
    arrays: dict[Kind, ObjectRecord]
    """The shard object of each kind."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Seconds, host and versions, for information only."""
    format: Format = layout.FORMAT
    """The format version of the store, as in its recipe."""

    def encode(self) -> bytes:
        """Return the bytes of the commit."""
        return document.encode_document(asdict(self))


@dataclass(frozen=True, kw_only=True)
class FeatureFinishRecord:
    """The record that every commit of a split's features exists."""

    features: Digest
    """The digest of the recipe of the features."""
    split: Split
    plan: Digest
    """The digest of the split's plan."""
    num_rows: Count
    """The number of rows of the split, quarantined ones included."""
    kinds: tuple[Kind, ...]
    """The kinds of features that are stored, of `KINDS`."""
    parts: Digest
    """The digest of the table's parts, as in the images' record: which image each row shows."""
    objects: tuple[ObjectRecord, ...]
    """The recipe of the features and the zarr metadata."""
    format: Format = layout.FORMAT
    """The format version of the store, as in its recipe."""

    def encode(self) -> bytes:
        """Return the bytes of the record."""
        return document.encode_document(asdict(self))


Record = TypeVar("Record", FeatureRecipe, FeatureCommit, FeatureFinishRecord)


def decode_features_document(kind: type[Record], data: bytes, name: str) -> Record:
    """Decode a document of features and check its fields.

    Args:
        kind: The class of the document: `FeatureRecipe`, `FeatureCommit` or `FeatureFinishRecord`.
        data: The bytes of the document.
        name: Its name in the store, for messages.

    Returns:
        An instance of *kind*. Whether it belongs to the feature set, split or shard that *name*
        says is not checked.

    Raises:
        StoreDamagedError: The bytes differ from those written, are a record of another kind, or
            hold an invalid field.
        StoreError: The record has a format that this version does not read.
    """
    absent: dict[str, Any] = {}
    if issubclass(kind, FeatureRecipe):  # squares
        absent = {"encoded": None, "crop": None}
    return document.decode_document_as(
        kind, data, name, lambda read: {**absent, **read}, advice=RERUN_ADVICE
    )


def _read_document(kind: type[Record], objects: Objects, file: str) -> Record:
    return decode_features_document(kind, objects.get(file, document.MAX_BYTES), file)


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
    return sorted(splits_of(objects))


def splits_of(objects: Objects) -> dict[str, list[str]]:
    """Return the splits of which each feature set has any object, finished or not.

    Args:
        objects: The objects of the store.

    Returns:
        The sorted names of splits, by name of the feature set: its folder in `features/`. A feature
        set that has only its recipe has an empty list.

    Raises:
        StoreError: The request to an object store failed.
    """
    splits_by_name: dict[str, set[str]] = {}
    for file in objects.names(layout.FEATURES):
        _, name, *parts = file.split("/")
        if not parts:
            continue  # a stray file beside the folders
        splits = splits_by_name.setdefault(name, set())
        if parts[0] in ("commits", "features.zarr") and len(parts) > 2:
            splits.add(parts[1])
        elif parts[0] == "splits":
            splits.add(parts[1].partition(".")[0])
    return {
        name: sorted(filter(layout.is_split, splits)) for name, splits in splits_by_name.items()
    }


def load_feature_recipe(objects: Objects, name: str) -> FeatureRecipe:
    """Load and check the recipe of a feature set.

    Args:
        objects: The objects of the store.
        name: The name of the feature set: its folder in `features/`.

    Returns:
        The recipe: the name and the digest of the network (`trunk`, `weights`), the block whose
        output is stored and its pooling (`cut`, `pooling`), the sizes in pixels (`stored_size`,
        `input_size`), `encoded` and `crop` of encoded rows, the other preprocessing (`mean` and
        `std` as fractions of 255, `channels`), the `precision` of the computation, the number and
        type of an image's features (`dim`, `dtype`), the digest of the store's recipe (`images`),
        `shard_rows` and `chunk_rows`.

    Raises:
        StoreError: The store has no features of that name, they have a format that this version
            does not read, or the request to an object store failed.
        StoreMismatchError: The folder was renamed: the recipe gives another name.
        StoreDamagedError: The recipe is damaged, or *name* cannot be a part of a name.
        OSError: The disk reports an error.
    """
    file = layout.features_recipe(name)
    try:
        recipe = _read_document(FeatureRecipe, objects, file)
    except (FileNotFoundError, NotADirectoryError):
        existing = ", ".join(names(objects)) or "none"
        raise StoreError(
            f"the store {objects.url} has no features {name!r}: it has {existing}. Compute them"
            " with `tesserae features`."
        ) from None
    if recipe.name != name:
        raise StoreMismatchError(
            f"{file} holds features {recipe.name}: rename its folder back to that."
        )
    return recipe


def load_feature_finish_record(
    objects: Objects, name: str, split: str
) -> FeatureFinishRecord | None:
    """Load the record that a split's features are complete.

    Args:
        objects: The objects of the store.
        name: The name of the feature set: its folder in `features/`.
        split: The name of the split.

    Returns:
        The record: `num_rows`, the kinds of features in `kinds` (`plain`, `mirrored`), in `objects`
        the records of the objects but the shards, and the digests `features` (of the recipe),
        `plan` and `parts` (of the table's parts), which are not compared with the store; None while
        the features are not complete, and if the store has no such feature set or split.

    Raises:
        StoreDamagedError: The record is damaged, is that of another split, or lists other objects
            than the recipe and the zarr metadata.
        StoreError: The record has a format that this version does not read, or the request to an
            object store failed.
        OSError: The disk reports an error.
    """
    file = layout.features_done(name, split)
    try:
        done = _read_document(FeatureFinishRecord, objects, file)
    except FileNotFoundError:
        return None
    document.check_value(file, "split", done.split, split, RERUN_ADVICE)
    expected = layout.names_in_features_finish_record(name, split, done.kinds)
    named = {written.name for written in done.objects}
    document.check_value(
        file, "the names of objects", sorted(named), sorted(expected), RERUN_ADVICE
    )
    return done


def load_feature_commit(
    objects: Objects, recipe: FeatureRecipe, plan: Plan, shard: int
) -> FeatureCommit | None:
    """Load the commit of the features of one shard.

    Args:
        objects: The objects of the store.
        recipe: The recipe of the features.
        plan: The plan of the split.
        shard: The number of the shard, from 0.

    Returns:
        The commit: in `arrays` the record of the shard object of each kind, `plain` or `mirrored`,
        the digests `features` (of the recipe), `plan` and `pixels` (of the shard object of images),
        and `provenance` (seconds, host, versions). None if it does not exist, is damaged, or
        belongs to another recipe, plan or shard, so that the shard must be computed again. The
        objects that it lists are not opened.

    Raises:
        StoreError: The commit has a format that this version does not read, or the request to an
            object store failed.
        OSError: The disk reports an error.
    """
    file = layout.features_commit(recipe.name, plan.split, shard)
    try:
        commit = _read_document(FeatureCommit, objects, file)
        for kind, written in commit.arrays.items():
            expected = layout.features_shard(recipe.name, plan.split, kind, shard)
            document.check_value(file, f"arrays.{kind}.name", written.name, expected, RERUN_ADVICE)
    except (FileNotFoundError, StoreDamagedError):
        return None
    origin = (commit.features, commit.split, commit.shard, commit.plan)
    return commit if origin == (recipe.digest, plan.split, shard, plan.digest) else None


def load_feature_commits(
    objects: Objects, recipe: FeatureRecipe, plan: Plan
) -> dict[int, FeatureCommit]:
    """Load every intact commit of a split's features, with several threads.

    Args:
        objects: The objects of the store.
        recipe: The recipe of the features.
        plan: The plan of the split.

    Returns:
        The commits by number of the shard, ascending; shards without a valid commit are left out.

    Raises:
        StoreError: A commit has a format that this version does not read, or the request to an
            object store failed.
        OSError: The disk reports an error.
    """
    with ThreadPoolExecutor(records.READERS) as pool:
        commits = pool.map(
            lambda shard: load_feature_commit(objects, recipe, plan, shard), range(plan.num_shards)
        )
        return {commit.shard: commit for commit in commits if commit is not None}
