"""The name of every object in a store, relative to its root. Nothing else makes names up."""

from __future__ import annotations

FORMAT = 1
"""Version of everything below. A reader refuses a number it does not know."""

RECIPE = "recipe.json"
IMAGES = "images.zarr"
TEMPORARY = ".tmp"
CACHE = ".cache"
REPORT = "report.html"


SMALL_CHUNK_ROWS = 4 * 2**20


def small_chunk_rows(num_rows: int) -> int:
    """Rows of a chunk of labels and status: one chunk up to 4 Mi rows.

    A thousand small chunks cost a reader 0.3 s to open.
    """
    return max(1, min(num_rows, SMALL_CHUNK_ROWS))


def check_split(split: str) -> str:
    """Return *split* if it can name a part of a store.

    Raises:
        ValueError: It cannot.
    """
    if not split or not all(c.isalnum() or c in "-_" for c in split):
        raise ValueError(f"split is {split!r}: expected letters, digits, '-' and '_'.")
    return split


def plan(split: str) -> str:
    """The split's plan."""
    return f"splits/{split}.json"


def done(split: str) -> str:
    """The finish step's record that every commit is there."""
    return f"splits/{split}.done.json"


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
