"""The names of all objects in a store, relative to its root. Only this module forms names."""

from __future__ import annotations

from collections.abc import Iterable

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
    """Return the rows in a chunk of labels and status: one chunk up to 4 Mi rows.

    A thousand small chunks cost a reader 0.3 s to open.
    """
    return max(1, min(num_rows, SMALL_CHUNK_ROWS))


def is_split(name: str) -> bool:
    """Return True if *name* is a valid name of a split, which becomes a part of paths."""
    return 0 < len(name) <= 100 and all(c.isalnum() or c in "-_" for c in name)


def check_split(split: str) -> str:
    """Return *split* if it is a valid name of a split.

    Raises:
        ValueError: The name is not valid.
    """
    if not is_split(split):
        raise ValueError(f"split is {split!r}: expected letters, digits, '-' and '_'.")
    return split


def plan(split: str) -> str:
    """Return the name of the split's plan."""
    return f"splits/{split}.json"


def done(split: str) -> str:
    """Return the name of the split's finish record."""
    return f"splits/{split}.done.json"


def small_chunk(split: str, name: str, chunk: int) -> str:
    """Return the name of one chunk of the array `label` or `status`."""
    return f"{array(split, name)}/c.{chunk}"


def metadata(split: str, sizes: Iterable[int]) -> list[str]:
    """Return the names of zarr's metadata documents for a split with these sizes."""
    arrays = [array(split, name) for name in ("label", "status", *map(str, sizes))]
    return [f"{folder}/zarr.json" for folder in (IMAGES, f"{IMAGES}/{split}", *arrays)]


def derived(split: str, num_rows: int, sizes: Iterable[int]) -> set[str]:
    """Return the names of all objects in a finish record: table, small arrays and metadata."""
    chunks = range(-(-num_rows // small_chunk_rows(num_rows)))
    small = {small_chunk(split, name, k) for name in ("label", "status") for k in chunks}
    return {table(split), *small, *metadata(split, sizes)}


def copied(split: str, name: str) -> bool:
    """Return True if the ledger of *split* may contain a copy of the document *name*."""
    shard = name.removeprefix(f"{commits(split)}/").removesuffix(".json")
    if shard.isascii() and shard.isdecimal() and len(shard) < 12:
        return name == commit(split, int(shard))
    return name in (RECIPE, plan(split))


def ledger(split: str) -> str:
    """Return the name of the split's ledger, the second copy from which documents are repaired."""
    return f"splits/{split}.ledger.jsonl"


def commits(split: str) -> str:
    """Return the name of the folder of the split's commits."""
    return f"commits/{split}"


def commit(split: str, shard: int) -> str:
    """Return the name of the commit of one shard."""
    return f"{commits(split)}/{shard:06d}.json"


def array(split: str, name: str) -> str:
    """Return the name of a zarr array: an image size in pixels, `label` or `status`."""
    return f"{IMAGES}/{split}/{name}"


def shard(split: str, size: int, shard: int) -> str:
    """Return the name of the object of one shard at one size: zarr's chunk (shard, 0, 0, 0)."""
    return f"{array(split, str(size))}/c.{shard}.0.0.0"


def parts(split: str) -> str:
    """Return the name of the folder of the table's parts."""
    return f"samples/{split}.parts"


def part(split: str, shard: int) -> str:
    """Return the name of the table part of one shard."""
    return f"{parts(split)}/{shard:06d}.parquet"


def table(split: str) -> str:
    """Return the name of the split's complete table."""
    return f"samples/{split}.parquet"


def source_index(split: str) -> str:
    """Return the name of the cached index that locates each row's bytes in the source."""
    return f"{CACHE}/{split}.rows.arrow"


def source_index_record(split: str) -> str:
    """Return the name of the record that holds the size and digest of the source index."""
    return f"{CACHE}/{split}.rows.json"


def spool(split: str) -> str:
    """Return the name of the folder of record files of a source that is streamed."""
    return f"{CACHE}/{split}.spool"


FEATURES = "features"
"""The folder of all features: a folder for each network, cut and transform."""


def features_recipe(name: str) -> str:
    """Return the name of the recipe of the features *name*."""
    return f"{FEATURES}/{name}/recipe.json"


def features_array(name: str, split: str, kind: str) -> str:
    """Return the name of the zarr array of a split's features of kind `plain` or `mirrored`."""
    return f"{FEATURES}/{name}/features.zarr/{split}/{kind}"


def features_shard(name: str, split: str, kind: str, shard: int) -> str:
    """Return the name of the object of one shard of a split's features: chunk (shard, 0)."""
    return f"{features_array(name, split, kind)}/c.{shard}.0"


def features_derived(name: str, split: str, kinds: Iterable[str]) -> set[str]:
    """Return the names of all objects in the record of finished features."""
    root = f"{FEATURES}/{name}/features.zarr"
    arrays = [features_array(name, split, kind) for kind in kinds]
    folders = [root, f"{root}/{split}", *arrays]
    return {features_recipe(name), *(f"{folder}/zarr.json" for folder in folders)}


def features_commits(name: str, split: str) -> str:
    """Return the name of the folder of the commits of a split's features."""
    return f"{FEATURES}/{name}/commits/{split}"


def features_commit(name: str, split: str, shard: int) -> str:
    """Return the name of the commit of one shard's features."""
    return f"{features_commits(name, split)}/{shard:06d}.json"


def features_done(name: str, split: str) -> str:
    """Return the name of the finish record of a split's features."""
    return f"{FEATURES}/{name}/splits/{split}.done.json"
