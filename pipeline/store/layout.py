"""The name of every object in a store, relative to its root. Nothing else makes names up."""

from __future__ import annotations

from collections.abc import Iterable

FORMAT = 2
"""Version of the stores that are made now. Documents that are added to a store keep its version."""

READABLE_FORMATS = (1, 2)
"""Versions that this code reads, resumes, repairs and grows (`docs/format.md`)."""

RECIPE = "recipe.json"
IMAGES = "images.zarr"
TEMPORARY = ".tmp"
CACHE = ".cache"
REPORT = "report.html"


MAX_SIZE = 4096
"""Side in pixels of the largest pictures that a store can hold."""

MAX_SHARDS = 2**22
"""Shards that a split can have: each has documents of its own, which readers look through."""

SMALL_CHUNK_ROWS = 4 * 2**20


def small_chunk_rows(num_rows: int) -> int:
    """Rows of a chunk of labels and status: one chunk up to 4 Mi rows.

    A thousand small chunks cost a reader 0.3 s to open.
    """
    return max(1, min(num_rows, SMALL_CHUNK_ROWS))


def is_split(name: str) -> bool:
    """Return True if *name* can name a split: it becomes a part of paths."""
    return 0 < len(name) <= 100 and all(c.isalnum() or c in "-_" for c in name)


def check_split(split: str) -> str:
    """Return *split* if it can name a part of a store.

    Raises:
        ValueError: It cannot.
    """
    if not is_split(split):
        raise ValueError(f"split is {split!r}: expected letters, digits, '-' and '_'.")
    return split


def plan(split: str) -> str:
    """The split's plan."""
    return f"splits/{split}.json"


def done(split: str) -> str:
    """The finish step's record that every commit is there."""
    return f"splits/{split}.done.json"


def small_chunk(split: str, name: str, chunk: int) -> str:
    """The object of one chunk of `label` or `status`."""
    return f"{array(split, name)}/c.{chunk}"


def metadata(split: str, sizes: Iterable[int]) -> list[str]:
    """Every metadata document of zarr that a split with these sizes has."""
    arrays = [array(split, name) for name in ("label", "status", *map(str, sizes))]
    return [f"{folder}/zarr.json" for folder in (IMAGES, f"{IMAGES}/{split}", *arrays)]


def derived(split: str, num_rows: int, sizes: Iterable[int]) -> set[str]:
    """Every object that the finish step vouches for: the table, the small arrays, the metadata."""
    chunks = range(-(-num_rows // small_chunk_rows(num_rows)))
    small = {small_chunk(split, name, k) for name in ("label", "status") for k in chunks}
    return {table(split), *small, *metadata(split, sizes)}


def copied(split: str, name: str) -> bool:
    """Return True if the ledger of *split* may hold a copy of the document *name*."""
    shard = name.removeprefix(f"{commits(split)}/").removesuffix(".json")
    if shard.isascii() and shard.isdecimal() and len(shard) < 12:
        return name == commit(split, int(shard))
    return name in (RECIPE, plan(split))


def ledger(split: str) -> str:
    """The finish step's second copy of recipe, plan and commits, from which they are repaired."""
    return f"splits/{split}.ledger.jsonl"


def commits(split: str) -> str:
    """The folder of the split's commits."""
    return f"commits/{split}"


def commit(split: str, shard: int) -> str:
    """The commit of one shard."""
    return f"{commits(split)}/{shard:06d}.json"


def array(split: str, name: str) -> str:
    """A zarr array of the split: an image size in pixels, `label` or `status`."""
    return f"{IMAGES}/{split}/{name}"


def shard(split: str, size: int, shard: int) -> str:
    """The object of one shard at one size: chunk (shard, 0, 0, 0), all in one flat folder."""
    return f"{array(split, str(size))}/c.{shard}.0.0.0"


def parts(split: str) -> str:
    """The folder of the table's parts."""
    return f"samples/{split}.parts"


def part(split: str, shard: int) -> str:
    """The table part of one shard."""
    return f"{parts(split)}/{shard:06d}.parquet"


def table(split: str) -> str:
    """The split's whole table."""
    return f"samples/{split}.parquet"


def rows(split: str) -> str:
    """Where each row's bytes lie in the source. A cache: it can be made again at any time."""
    return f"{CACHE}/{split}.rows.arrow"


def rows_record(split: str) -> str:
    """Size and digest of the rows: a cache that was damaged must not decide anything."""
    return f"{CACHE}/{split}.rows.json"


def spool(split: str) -> str:
    """The folder of record files of a source that can only be streamed."""
    return f"{CACHE}/{split}.spool"


FEATURES = "features"
"""The folder of what networks made of the images: a folder for each network, cut and transform."""


def features_recipe(name: str) -> str:
    """What made the features *name*."""
    return f"{FEATURES}/{name}/recipe.json"


def features_array(name: str, split: str, kind: str) -> str:
    """The zarr array of a split's features: `plain` or `mirrored`."""
    return f"{FEATURES}/{name}/features.zarr/{split}/{kind}"


def features_shard(name: str, split: str, kind: str, shard: int) -> str:
    """The object of one shard of a split's features: chunk (shard, 0)."""
    return f"{features_array(name, split, kind)}/c.{shard}.0"


def features_derived(name: str, split: str, kinds: Iterable[str]) -> set[str]:
    """Every object that the record of finished features vouches for: recipe and metadata."""
    root = f"{FEATURES}/{name}/features.zarr"
    arrays = [features_array(name, split, kind) for kind in kinds]
    folders = [root, f"{root}/{split}", *arrays]
    return {features_recipe(name), *(f"{folder}/zarr.json" for folder in folders)}


def features_commits(name: str, split: str) -> str:
    """The folder of the commits of a split's features."""
    return f"{FEATURES}/{name}/commits/{split}"


def features_commit(name: str, split: str, shard: int) -> str:
    """The commit of one shard's features."""
    return f"{features_commits(name, split)}/{shard:06d}.json"


def features_done(name: str, split: str) -> str:
    """The record that a split's features are all there."""
    return f"{FEATURES}/{name}/splits/{split}.done.json"
