"""The names of all objects in a store, relative to its root. Only this module forms names."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

FORMAT = 2
"""The format version of new stores. A document that is added to a store has the store's version."""

READABLE_FORMATS = (1, 2)
"""The format versions that this code reads, resumes, repairs and grows (`docs/format.md`)."""

RECIPE = "recipe.json"
IMAGES = "images.zarr"
TEMPORARY = ".tmp"
CACHE = ".cache"
REPORT = "report.html"


MAX_SIZE = 4096
"""The side in pixels of the largest images that a store can hold."""

MAX_SHARDS = 2**22
"""The maximum number of shards of a split: readers load the documents of each."""

SMALL_CHUNK_ROWS = 4 * 2**20
"""The maximum number of rows in a chunk of labels or status."""


def small_chunk_rows(num_rows: int) -> int:
    """Return the rows in a chunk of labels and status: all rows, up to 4 Mi in one chunk.

    A thousand small chunks cost a reader 0.3 s to open.

    Args:
        num_rows: The number of rows of the split.

    Returns:
        1 to `SMALL_CHUNK_ROWS` (4,194,304); 1 for a split without rows.
    """
    return max(1, min(num_rows, SMALL_CHUNK_ROWS))


def is_split(name: str) -> bool:
    """Return True if *name* is a valid name of a split, which becomes a part of paths.

    Args:
        name: Any text. Valid are 1 to 100 letters and digits of any script, `-` and `_`.
    """
    return 0 < len(name) <= 100 and all(c.isalnum() or c in "-_" for c in name)


def check_split(split: str) -> str:
    """Return *split* unchanged if it is a valid name of a split.

    Args:
        split: Any text. Valid are 1 to 100 letters and digits of any script, `-` and `_`.

    Raises:
        ValueError: The name is not valid.
    """
    if not is_split(split):
        raise ValueError(f"split is {split!r}: expected letters, digits, '-' and '_'.")
    return split


def plan(split: str) -> str:
    """Return the name of a split's plan, `splits/<split>.json`, relative to the store.

    Args:
        split: The name of the split.
    """
    return f"splits/{split}.json"


def done(split: str) -> str:
    """Return the name of the finish record of a split: the record that the split is complete.

    Args:
        split: The name of the split.

    Returns:
        `splits/<split>.done.json`, relative to the store.
    """
    return f"splits/{split}.done.json"


def small_chunk(split: str, name: str, chunk: int) -> str:
    """Return the name of one chunk of the array of labels or statuses.

    Args:
        split: The name of the split.
        name: `label` or `status`.
        chunk: The number of the chunk, from 0.

    Returns:
        `images.zarr/<split>/<name>/c.<chunk>`, relative to the store.
    """
    return f"{array(split, name)}/c.{chunk}"


def metadata_names(split: str, sizes: Iterable[int]) -> list[str]:
    """Return the names of all zarr metadata documents (`zarr.json`) of a split's images.

    Args:
        split: The name of the split.
        sizes: The sides of the stored squares in pixels.

    Returns:
        Names relative to the store: of the groups `images.zarr/zarr.json` and
        `images.zarr/<split>/zarr.json`, then of the arrays `label`, `status` and each size in the
        given order, such as `images.zarr/<split>/224/zarr.json`.
    """
    arrays = [array(split, name) for name in ("label", "status", *map(str, sizes))]
    return [f"{folder}/zarr.json" for folder in (IMAGES, f"{IMAGES}/{split}", *arrays)]


def derived(split: str, num_rows: int, sizes: Iterable[int]) -> set[str]:
    """Return the names of all objects that the finish record of a split lists.

    Args:
        split: The name of the split.
        num_rows: The number of rows of the split.
        sizes: The sides of the stored squares in pixels.

    Returns:
        Names relative to the store: of the complete table, the chunks of labels and statuses, and
        the zarr metadata of groups and arrays. Shard objects are not among them.
    """
    chunks = range(-(-num_rows // small_chunk_rows(num_rows)))
    small = {small_chunk(split, name, k) for name in ("label", "status") for k in chunks}
    return {table(split), *small, *metadata_names(split, sizes)}


def may_be_in_ledger(split: str, name: str) -> bool:
    """Return True if the ledger of a split may contain a copy of a document.

    The ledger is a file with second copies of the recipe, the plan and the commits.

    Args:
        split: The name of the split.
        name: The name of the document, relative to the store: allowed are `recipe.json`, the plans
            of this split and of its encoded arrays, and the commits of its shards, such as
            `commits/train/000012.json`. Whether the split has such a shard or array is not
            checked.
    """
    shard = name.removeprefix(f"{commits(split)}/").removesuffix(".json")
    if shard.isascii() and shard.isdecimal() and len(shard) < 12:
        return name == commit(split, int(shard))
    return name in (RECIPE, plan(split)) or encoding_of_plan(split, name) is not None


def encoding_of_plan(split: str, name: str) -> str | None:
    """Return the encoded array whose plan a document of the store is; None for other documents.

    Args:
        split: The name of the split.
        name: The name of the document, relative to the store, such as
            `splits/train.jpeg256@90.json`.

    Returns:
        The name between that of the split and the ending, such as `jpeg256@90`; whether a store can
        have an encoded array of that name is not checked.
    """
    prefix, suffix = f"splits/{split}.", ".json"
    encoding = name[len(prefix) : -len(suffix)]
    is_plan = name == f"{prefix}{encoding}{suffix}" and encoding not in ("", "done")
    return encoding if is_plan and "." not in encoding and "/" not in encoding else None


def ledger(split: str) -> str:
    """Return the name of a split's ledger: the second copies of its recipe, plan and commits.

    Args:
        split: The name of the split.

    Returns:
        `splits/<split>.ledger.jsonl`, relative to the store.
    """
    return f"splits/{split}.ledger.jsonl"


def commits(split: str) -> str:
    """Return the folder of a split's commits, `commits/<split>`, relative to the store.

    Args:
        split: The name of the split.
    """
    return f"commits/{split}"


def commit(split: str, shard: int) -> str:
    """Return the name of the commit of one shard, such as `commits/train/000012.json`.

    Args:
        split: The name of the split.
        shard: The number of the shard, from 0, which is written with at least six digits.

    Returns:
        `commits/<split>/<shard>.json`, relative to the store.
    """
    return f"{commits(split)}/{shard:06d}.json"


def array(split: str, name: str) -> str:
    """Return the name of a zarr array, `images.zarr/<split>/<name>`, relative to the store.

    Args:
        split: The name of the split.
        name: An image size in pixels as text, such as `224`; or `label` or `status`.
    """
    return f"{IMAGES}/{split}/{name}"


def shard(split: str, size: int, shard: int) -> str:
    """Return the name of the object with the images of one shard at one size.

    Args:
        split: The name of the split.
        size: The side of the squares in pixels.
        shard: The number of the shard, from 0.

    Returns:
        `images.zarr/<split>/<size>/c.<shard>.0.0.0`, relative to the store: zarr's chunk (shard, 0,
        0, 0).
    """
    return f"{array(split, str(size))}/c.{shard}.0.0.0"


def array_shard(split: str, name: str, number: int) -> str:
    """Return the name of the object of one shard of an image array of either kind.

    Args:
        split: The name of the split.
        name: The name of the array: a size in pixels as text, such as `224`, or that of encoded
            rows, such as `jpeg256@90`.
        number: The number of the shard, from 0.

    Returns:
        The result of `shard` for a size, otherwise that of `encoded_shard`.
    """
    if name.isdecimal():
        return shard(split, int(name), number)
    return encoded_shard(split, name, number)


def encoded_plan(split: str, encoding: str) -> str:
    """Return the name of the plan of an encoded array, relative to the store.

    Args:
        split: The name of the split.
        encoding: The name of the encoded rows, such as `jpeg256@90` or `original`.

    Returns:
        `splits/<split>.<encoding>.json`.
    """
    return f"splits/{split}.{encoding}.json"


def encoded_array(split: str, encoding: str, part: str) -> str:
    """Return the name of one of the zarr arrays of encoded rows, relative to the store.

    Args:
        split: The name of the split.
        encoding: The name of the encoded rows, such as `jpeg256@90` or `original`.
        part: `bytes`, `offset` or `shape`.

    Returns:
        `images.zarr/<split>/<encoding>/<part>`.
    """
    return f"{array(split, encoding)}/{part}"


def encoded_shard(split: str, encoding: str, shard: int) -> str:
    """Return the name of the object with the encoded rows of one shard, relative to the store.

    Args:
        split: The name of the split.
        encoding: The name of the encoded rows, such as `jpeg256@90` or `original`.
        shard: The number of the shard, from 0.

    Returns:
        `images.zarr/<split>/<encoding>/bytes/c.<shard>`: zarr's chunk (shard,).
    """
    return f"{encoded_array(split, encoding, 'bytes')}/c.{shard}"


def encoded_derived(split: str, num_rows: int, encoding: str) -> set[str]:
    """Return the names of the objects of an encoded array that the finish record of a split lists.

    Args:
        split: The name of the split.
        num_rows: The number of rows of the split.
        encoding: The name of the encoded rows, such as `jpeg256@90` or `original`.

    Returns:
        Names relative to the store: of the chunks of `offset` and `shape`, and of the zarr metadata
        of the group and its three arrays. Shard objects are not among them.
    """
    chunks = range(-(-num_rows // small_chunk_rows(num_rows)))
    group = array(split, encoding)
    return {
        f"{group}/zarr.json",
        f"{encoded_array(split, encoding, 'bytes')}/zarr.json",
        *(
            f"{encoded_array(split, encoding, part)}/{name}"
            for part in ("offset", "shape")
            for name in ("zarr.json", *(f"c.{chunk}.0" for chunk in chunks))
        ),
    }


def parts(split: str) -> str:
    """Return the folder of the parts of a split's table, `samples/<split>.parts`.

    Args:
        split: The name of the split.

    Returns:
        `samples/<split>.parts`, relative to the store.
    """
    return f"samples/{split}.parts"


def part(split: str, shard: int) -> str:
    """Return the name of the table part of one shard, such as `samples/train.parts/000012.parquet`.

    Args:
        split: The name of the split.
        shard: The number of the shard, from 0, which is written with at least six digits.

    Returns:
        `samples/<split>.parts/<shard>.parquet`, relative to the store.
    """
    return f"{parts(split)}/{shard:06d}.parquet"


def table(split: str) -> str:
    """Return the name of the complete table of a split, `samples/<split>.parquet`.

    Args:
        split: The name of the split.

    Returns:
        `samples/<split>.parquet`, relative to the store.
    """
    return f"samples/{split}.parquet"


def source_index(split: str) -> str:
    """Return the name of the cached file that locates each row's bytes in the source.

    Args:
        split: The name of the split.

    Returns:
        `.cache/<split>.rows.arrow`, relative to the store.
    """
    return f"{CACHE}/{split}.rows.arrow"


def source_index_record(split: str) -> str:
    """Return the name of the document with the size and digest of a split's source index.

    Args:
        split: The name of the split.

    Returns:
        `.cache/<split>.rows.json`, relative to the store.
    """
    return f"{CACHE}/{split}.rows.json"


def spool(split: str) -> str:
    """Return the folder of the record files of a split whose source is streamed.

    Args:
        split: The name of the split.

    Returns:
        `.cache/<split>.spool`, relative to the store.
    """
    return f"{CACHE}/{split}.spool"


@dataclass(frozen=True)
class DerivedNames:
    """The names of the objects of rows that networks compute of a store's images.

    A set of such rows has a name, and its folder has a recipe, a zarr hierarchy and, of each split,
    commits and a finish record.
    """

    folder: str
    """The folder of all sets, relative to the store."""
    hierarchy: str
    """The name of the zarr hierarchy in the folder of a set."""
    row_axes: int
    """The number of axes of a row: 1 for a vector, 3 for an image."""

    def set_folder(self, name: str) -> str:
        """Return the folder of a set, `<folder>/<name>`, relative to the store.

        Args:
            name: The name of the set.
        """
        return f"{self.folder}/{name}"

    def recipe(self, name: str) -> str:
        """Return the name of the recipe of a set, `<folder>/<name>/recipe.json`.

        Args:
            name: The name of the set.
        """
        return f"{self.set_folder(name)}/recipe.json"

    def array(self, name: str, split: str, kind: str) -> str:
        """Return the name of the zarr array of a split's rows, relative to the store.

        Args:
            name: The name of the set.
            split: The name of the split.
            kind: The kind of rows: of features `plain`, or `mirrored` for those of mirror images;
                of images their side in pixels as text.

        Returns:
            `<folder>/<name>/<hierarchy>/<split>/<kind>`.
        """
        return f"{self.set_folder(name)}/{self.hierarchy}/{split}/{kind}"

    def shard(self, name: str, split: str, kind: str, shard: int) -> str:
        """Return the name of the object of one shard of a split's rows.

        Args:
            name: The name of the set.
            split: The name of the split.
            kind: The kind of rows, as for `array`.
            shard: The number of the shard, from 0.

        Returns:
            That of zarr's chunk (shard, 0, ...) in the array, relative to the store: for vectors
            `<array>/c.<shard>.0`, for images `<array>/c.<shard>.0.0.0`.
        """
        return f"{self.array(name, split, kind)}/c.{shard}{'.0' * self.row_axes}"

    def in_finish_record(self, name: str, split: str, kinds: Iterable[str]) -> set[str]:
        """Return the names of all objects that the finish record of a split's rows lists.

        Args:
            name: The name of the set.
            split: The name of the split.
            kinds: The kinds of rows that are stored.

        Returns:
            Names relative to the store: of the recipe of the set, and of the `zarr.json` of both
            groups and of the array of each kind. Shard objects are not among them.
        """
        root = f"{self.set_folder(name)}/{self.hierarchy}"
        arrays = [self.array(name, split, kind) for kind in kinds]
        folders = [root, f"{root}/{split}", *arrays]
        return {self.recipe(name), *(f"{folder}/zarr.json" for folder in folders)}

    def commits(self, name: str, split: str) -> str:
        """Return the folder of the commits of a split's rows, relative to the store.

        Args:
            name: The name of the set.
            split: The name of the split.

        Returns:
            `<folder>/<name>/commits/<split>`.
        """
        return f"{self.set_folder(name)}/commits/{split}"

    def commit(self, name: str, split: str, shard: int) -> str:
        """Return the name of the commit of the rows of one shard, relative to the store.

        Args:
            name: The name of the set.
            split: The name of the split.
            shard: The number of the shard, from 0, which is written with at least six digits.

        Returns:
            `<folder>/<name>/commits/<split>/<shard>.json`, such as `.../commits/train/000012.json`.
        """
        return f"{self.commits(name, split)}/{shard:06d}.json"

    def done(self, name: str, split: str) -> str:
        """Return the name of the finish record of a split's rows, relative to the store.

        Args:
            name: The name of the set.
            split: The name of the split.

        Returns:
            `<folder>/<name>/splits/<split>.done.json`.
        """
        return f"{self.set_folder(name)}/splits/{split}.done.json"


FEATURES = DerivedNames("features", "features.zarr", 1)
"""The names of features: a set for each network, cut and transform."""

UPSCALED = DerivedNames("upscaled", "images.zarr", 3)
"""The names of upscaled images. The folder of a set has a hierarchy of images as a store has."""
