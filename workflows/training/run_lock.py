"""The exclusive lock of a run folder, and the removal of a run that never took a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from pipeline.errors import TesseraeError
from pipeline.store.lease import lease
from pipeline.store.open import open_objects
from workflows.training.run_folder import LEASE_NAME, RunFolder


@contextmanager
def locked_run(run: RunFolder) -> Iterator[None]:
    """Lock a run folder inside the block, so that no other command trains in it.

    The folder is created if it is missing, with the lock file `.tmp/run.lock`, and the lock ends
    with the block. If the block of a new run raises an error before a checkpoint or a metric has
    been written, the run is removed, with the folders that were created for it; a run that existed
    before is kept. The operating system drops the lock of a command that is killed.

    Args:
        run: The run folder, which need not exist. What `create_or_continue` of this object writes
            in the block is what is removed after an error.

    Yields:
        None.

    Raises:
        TesseraeError: Another command trains in it, which takes up to a second to find, or the lock
            file cannot be written.
    """

    def refuse(holder: str) -> NoReturn:
        raise TesseraeError(
            f"{run.path} is in use by {holder}. Wait for it to end, or pass another --run."
        )

    path = run.path.absolute()
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with lease(open_objects(str(run.path)), LEASE_NAME, wait=True, on_wait=refuse):
        is_new = not run.holds_run()
        try:
            yield
        except BaseException:
            if is_new:  # a run that existed before this command is never removed
                run.discard(missing)
            raise
