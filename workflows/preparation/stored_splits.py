"""The splits of a store that a command works on. Nothing imports torch."""

from __future__ import annotations

from pipeline.errors import StoreError
from pipeline.store import records
from pipeline.store.objects import Objects
from workflows.preparation.options import ALL


def requested_splits(objects: Objects, requested: tuple[str, ...]) -> list[str]:
    """Return the splits of a store that a command works on.

    Args:
        objects: The objects of the store.
        requested: Names of splits, or `("all",)` for all finished ones.

    Returns:
        The names, each once.

    Raises:
        StoreError: There is no store, a requested split is missing, or no split is finished.
    """
    records.load_recipe(objects)
    store_splits = records.stored_splits(objects)
    if requested != ALL:
        for split in requested:
            records.load_plan(objects, split)
        return list(dict.fromkeys(requested))
    finished = [
        split for split in store_splits if records.load_finish_record(objects, split) is not None
    ]
    if not finished:
        raise StoreError(
            f"{objects.url} has no finished split. Run `tesserae prepare` again to continue."
        )
    return finished
