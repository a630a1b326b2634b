"""The task that exports one shard of a store to one file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import StoreMismatchError
from pipeline.export.formats import FORMATS
from pipeline.export.rows import read_exported_rows
from pipeline.filesystem import replacing
from pipeline.store.encoding import is_array_name
from pipeline.store.objects import Objects
from pipeline.store.open import open_objects
from pipeline.store.split import Split, open_split


@dataclass(frozen=True, kw_only=True)
class ExportTask:
    """What all shards of a split are exported with."""

    store: str
    """The folder or URL of the store."""
    split: str
    array: str
    """The name of the array, such as `224` or `jpeg256@90`."""
    format: str
    """The name of the format, of `pipeline.export.formats.FORMATS`."""
    folder: str
    """The folder of the files, which all workers see."""
    digest: str
    """The digest of the split when the export began."""


class ExportedFile(NamedTuple):
    """A file that was written."""

    shard: int
    name: str
    """The name below the folder of the export, with `/`."""
    num_rows: int
    bytes_out: int


def open_exported_split(objects: Objects, split: str, array: str) -> Split:
    """Open a finished split with the array that is exported.

    Args:
        objects: The objects of the store.
        split: The name of the split.
        array: The name of the array, such as `224` or `jpeg256@90`.

    Raises:
        StoreError: There is no such split or array, or it is not finished.
    """
    if is_array_name(array):
        return open_split(objects, split, [], encoded=[array])
    return open_split(objects, split, [int(array)])


def exported_name(format: str, split: Split, shard: int) -> str:
    """Return the name of the file of one shard, below the folder of the export.

    Args:
        format: The name of the format.
        split: The split.
        shard: The number of the shard, from 0.
    """
    name = FORMATS[format].file_name
    return name.format(split=split.plan.split, shard=shard, shards=split.plan.num_shards)


@lru_cache(2)
def _open(task: ExportTask) -> Split:
    """Open the split of a task once in each worker, as its labels may be millions."""
    split = open_exported_split(open_objects(task.store), task.split, task.array)
    if split.digest != task.digest:
        raise StoreMismatchError(
            f"the rows of split {task.split!r} of {task.store} have changed during the export. Run"
            " it again with another --out."
        )
    return split


def export_shard(task: ExportTask, shard: int) -> ExportedFile:
    """Write the file of one shard, which appears whole and durable, or not at all.

    Args:
        task: The store, the split and the format.
        shard: The number of the shard, from 0.

    Raises:
        StoreMismatchError: The rows of the split have changed since the export began.
        StoreDamagedError: The table or the shard is missing or damaged.
        StoreError: The store cannot be read.
        OSError: The file cannot be written.
    """
    split = _open(task)
    name = exported_name(task.format, split, shard)
    file = Path(task.folder, name)
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = read_exported_rows(split, task.array, shard)
    with replacing(file, durable=True) as out:
        num_rows = FORMATS[task.format].write(rows, split.recipe.classes, out)
    return ExportedFile(shard, name, num_rows, file.stat().st_size)
