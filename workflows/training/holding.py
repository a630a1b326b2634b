"""A run's folder while a command trains in it: held alone, and gone if nothing came of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from pipeline.errors import TesseraeError
from pipeline.store.lease import lease
from pipeline.store.objects import open_objects
from workflows.training.run_folder import LEASE, RunFolder


@contextmanager
def held(run: RunFolder) -> Iterator[None]:
    """Hold a run's folder inside the block, and remove it where the run never came to a step.

    A command that is killed lets go of the folder as it ends: the system drops its lock.

    Raises:
        TesseraeError: Another command trains in it.
    """

    def refuse(holder: str) -> NoReturn:
        raise TesseraeError(
            f"{run.path} is being trained in by {holder}: a second command would take the same"
            " steps for nothing. Wait for it to end, or pass another --run."
        )

    path = run.path.absolute()
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    with lease(open_objects(str(run.path)), LEASE, wait=True, waiting=refuse):
        new = not run.begun()
        try:
            yield
        except BaseException:
            if new:
                run.discard(missing)
            raise
