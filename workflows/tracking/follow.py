"""Reads what is new in a run folder, and hands it to a tracker, each line once.

How far a tracker has come is kept in the run folder, so that a continued run continues there.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path

from workflows.tracking.tracker import Tracker
from workflows.training import writing
from workflows.training.records import TRACKING, parse_metric_line, read_recorded_options

PREFIXES = {"": "train", "look": "eval", "speed": "speed"}
"""The prefix of the names of metrics by the kind of their line; other kinds have no numbers."""
_GRID = re.compile(r".+-[0-9]{9}\.png")


@dataclass(kw_only=True)
class Position:
    """How far a tracker has come: the content of `tracking/<tracker>.json` in the run folder."""

    run_id: str | None = None
    """The name by which the tracker finds the run again; None if there is none yet."""
    num_calls: int = 0
    """The number of steps, evaluations and grids that were handed over."""
    offset: int = 0
    """The bytes of `metrics.jsonl` that were handed over."""
    generation: int = 0
    """The generation of the last line that was handed over."""
    max_step: int = -1
    """The largest step that was handed over."""
    grids: dict[str, int] = field(default_factory=dict)
    """The files in `samples/` that were handed over: by name, the time of change in ns."""


def read_position(file: Path) -> Position:
    """Return the position that a file holds; the start if it is missing or has another content."""
    try:
        return Position(**json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError):
        return Position()


class Follower:
    """A tracker and its position in the run folder."""

    def __init__(self, folder: Path, name: str, open_tracker: Callable[..., Tracker]) -> None:
        """Create or continue the run of the tracker.

        Args:
            folder: The run folder, which has an `options.json`.
            name: The name of the tracker, which its position is kept under.
            open_tracker: The class of the tracker.
        """
        self._folder = folder
        self._file = folder / TRACKING / f"{name}.json"
        self._position = read_position(self._file)
        metrics = folder / "metrics.jsonl"
        if self._position.offset > (metrics.stat().st_size if metrics.exists() else 0):
            self._position = Position()  # of another run, which was in the folder before
        self.tracker = open_tracker(
            folder.absolute(),
            read_recorded_options(folder / "options.json"),
            self._position.run_id,
            num_calls=self._position.num_calls,
        )
        self._position.run_id = self.tracker.run_id
        self._save()

    def hand_over(self) -> None:
        """Hand over what is new: lines that are complete, then grids of images.

        After an error of the tracker, what it had accepted before is not handed over again.
        """
        try:
            for line in self._new_lines():
                self._hand_over_line(line)
                self._position.offset += len(line)
            for name, step, file in list(self._new_grids()):
                changed = file.stat().st_mtime_ns  # before it is read: it may be replaced meanwhile
                self.tracker.log_image(name, step, file)
                self._position.grids[file.name] = changed
                self._position.num_calls += 1
        finally:
            if self._position != self._saved:
                self.tracker.flush()
                self._save()

    def _new_lines(self) -> Iterator[bytes]:
        """Yield the lines that are complete and were not handed over, with their newlines."""
        metrics = self._folder / "metrics.jsonl"
        if not metrics.exists():
            return
        with metrics.open("rb") as file:
            file.seek(self._position.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                yield line

    def _hand_over_line(self, text: bytes) -> None:
        line = parse_metric_line(text)
        prefix = None if line is None else PREFIXES.get(line.pop("what", ""))
        if line is None or prefix is None:
            return
        step, generation = line.pop("step"), line.pop("generation")
        position = self._position
        if generation > position.generation and step <= position.max_step:
            self.tracker.rewind(step)  # the run was continued from an earlier checkpoint
            # What it repeats is written anew; what it does not is handed over once more.
            position.grids = {n: t for n, t in position.grids.items() if _grid_step(n) < step}
        position.generation = max(position.generation, generation)
        position.max_step = max(position.max_step, step)
        self.tracker.log(step, {f"{prefix}/{name}": _number(line[name]) for name in line})
        position.num_calls += 1

    def _new_grids(self) -> Iterator[tuple[str, int, Path]]:
        """Yield the name, the step and the file of grids that were not handed over, by step."""
        files = (f for f in (self._folder / "samples").glob("*.png") if _GRID.fullmatch(f.name))
        for file in sorted(files, key=lambda file: (_grid_step(file.name), file.name)):
            if self._position.grids.get(file.name) != file.stat().st_mtime_ns:
                yield file.stem[:-10], _grid_step(file.name), file

    def _save(self) -> None:
        self._file.parent.mkdir(exist_ok=True)
        writing.write(self._file, json.dumps(asdict(self._position)).encode())
        self._saved = deepcopy(self._position)


def _grid_step(name: str) -> int:
    return int(name[-13:-4])


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
