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

    A new run that fails before its first step is removed. The operating system drops the lock of a
    command that is killed.

    Args:
        run: The run folder, which need not exist.

    Raises:
        TesseraeError: Another command trains in it.
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
