"""A program that holds the lock of the run folder that it is passed, until it is killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

from workflows.training.run_folder import RunFolder
from workflows.training.run_lock import locked_run

if __name__ == "__main__":
    with locked_run(RunFolder(Path(sys.argv[1]))):
        sys.stdout.write("locked\n")
        sys.stdout.flush()
        time.sleep(600)
