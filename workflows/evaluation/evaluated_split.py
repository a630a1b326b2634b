"""The split that a run is evaluated on."""

from __future__ import annotations

from pipeline.store import records
from pipeline.store.open import open_objects
from workflows.evaluation import HELD_OUT
from workflows.training.run_folder import RunFolder


def evaluated_split(folder: RunFolder, store: str, *, is_other: bool) -> str | None:
    """Return the held-out split of a run, or the first of val and test that is finished.

    Args:
        folder: The run folder.
        store: Folder or URL of the store to evaluate on.
        is_other: True if it is not the store that the run was trained on.

    Returns:
        The name of the split; None if the run has none, and the store has neither, or only the
        training split.
    """
    recorded: str | None = None if is_other else folder.data()["held_out"]
    if recorded is not None:
        return recorded
    objects = open_objects(store)
    trained_on = None if is_other else folder.data()["split"]
    finished = [s for s in HELD_OUT if records.load_finish_record(objects, s) is not None]
    return next((split for split in finished if split != trained_on), None)
