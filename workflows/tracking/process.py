"""The process of a tracker: `python -m workflows.tracking.process TRACKER RUN`.

It follows the run until its standard input ends. The last word there says how the training ended:
`finished`, or anything else if it failed or was killed.
"""

from __future__ import annotations

import select
import sys
from pathlib import Path

from workflows.tracking.follow import Follower
from workflows.tracking.tracker import TRACKERS
from workflows.training.stage_registry import import_object

POLL_SECONDS = 2.0
"""The interval at which the run folder is read."""


def main(name: str, folder: Path) -> None:
    """Follow a run to its end.

    Args:
        name: The name of the tracker, one of `TRACKERS`.
        folder: The run folder; what the tracker writes begins when it has an `options.json`.
    """
    follower: Follower | None = None
    last_word = b""
    ended = False
    while not ended:
        ready, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
        if ready:
            data = sys.stdin.buffer.raw.read(64)  # type: ignore[union-attr]
            last_word = data or last_word
            ended = not data
        if follower is None and (folder / "options.json").exists():
            follower = Follower(folder, name, import_object(TRACKERS[name].location))
        if follower is not None:
            follower.hand_over()
    if follower is not None:
        follower.tracker.close(succeeded=last_word.strip() == b"finished")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
