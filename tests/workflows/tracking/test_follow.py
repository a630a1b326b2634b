"""Each line and each grid of a run folder is handed over once, whatever interrupts."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.store.schema import SchemaError
from workflows.tracking.follow import Follower
from workflows.tracking.tracker import Tracker, flat_options


class Recorder(Tracker):
    """A tracker that keeps what it gets, for all objects together."""

    calls: list[tuple[Any, ...]] = []  # noqa: RUF012 - reset by `new_run`

    def __init__(
        self, folder: Path, record: Mapping[str, Any], run_id: str | None, *, num_calls: int = 0
    ) -> None:
        self.run_id = run_id or "first"
        calls = [call for call in self.calls if call[0] in ("log", "image")]
        assert num_calls == (0 if run_id is None else len(calls))
        self.calls.append(("open", run_id))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.calls.append(("log", step, dict(metrics)))

    def log_image(self, name: str, step: int, file: Path) -> None:
        self.calls.append(("image", name, step, file.read_bytes()))

    def rewind(self, step: int) -> None:
        self.calls.append(("rewind", step))

    def flush(self) -> None:
        pass

    def close(self, *, succeeded: bool) -> None:
        pass


def new_run(folder: Path) -> Path:
    """Return the folder of a run without a step."""
    Recorder.calls = []
    (folder / "samples").mkdir(parents=True)
    record = {"options": {"stage": "wgan", "steps": 9}, "versions": {"torch": "2"}}
    (folder / "options.json").write_text(json.dumps(record))
    return folder


def logged() -> list[tuple[Any, ...]]:
    return [call[1:] for call in Recorder.calls if call[0] == "log"]


def line(step: int, generation: int = 1, **more: Any) -> bytes:
    return json.dumps({"step": step, "generation": generation, **more}).encode() + b"\n"


@settings(max_examples=min(60, settings().max_examples), deadline=None)
@given(
    parts=st.lists(st.tuples(st.integers(0, 200), st.booleans()), max_size=12),
)
def test_each_line_is_handed_over_once(parts: list[tuple[int, bool]]) -> None:
    """The file grows by any number of bytes, and the process is killed at any time in between."""
    text = b"".join(line(step, loss=step / 8) for step in range(1, 21))
    with tempfile.TemporaryDirectory() as temporary:
        folder = new_run(Path(temporary) / "run")
        follower = Follower(folder, "recorder", Recorder)
        done = 0
        for num_bytes, restarts in [*parts, (len(text), True)]:
            with (folder / "metrics.jsonl").open("ab") as file:
                file.write(text[done : done + num_bytes])
            done += num_bytes
            if restarts:
                follower = Follower(folder, "recorder", Recorder)
            follower.hand_over()
            complete = text[:done].count(b"\n")
            assert logged() == [(step, {"train/loss": step / 8}) for step in range(1, complete + 1)]
    opened = [call[1] for call in Recorder.calls if call[0] == "open"]
    assert opened == [None, *["first"] * (len(opened) - 1)]


def test_what_a_tracker_accepted_before_an_error_is_not_handed_over_again(tmp_path: Path) -> None:
    """Nor is a line longer than any buffer an end."""
    folder = new_run(tmp_path / "run")
    long = line(2, what="diverged", why="x" * 2**23)
    (folder / "metrics.jsonl").write_bytes(
        line(1, loss=1) + long + line(3, loss=3) + line(4, loss=4)
    )
    follower = Follower(folder, "recorder", Recorder)

    def fail(step: int, metrics: Mapping[str, float]) -> None:
        if step == 4:
            raise ConnectionError("no network")
        Recorder.calls.append(("log", step, dict(metrics)))

    follower.tracker.log = fail  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        follower.hand_over()
    Follower(folder, "recorder", Recorder).hand_over()

    assert [step for step, _ in logged()] == [1, 3, 4]


def test_kinds_of_lines_have_prefixes(tmp_path: Path) -> None:
    """Null means a value that is not finite; kinds without numbers are left out."""
    folder = new_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_bytes(
        line(1, loss=None)
        + b'{"step": 1, "gener\n'
        + line(1, what="speed", images_per_second=3.5)
        + line(2, what="look", held_out_accuracy=0.25, held_out_loss=2)
        + line(3, what="diverged", why="it is NaN")
    )

    Follower(folder, "recorder", Recorder).hand_over()

    (_, first), *others = logged()
    assert list(first) == ["train/loss"]
    assert math.isnan(first["train/loss"])
    assert others == [
        (1, {"speed/images_per_second": 3.5}),
        (2, {"eval/held_out_accuracy": 0.25, "eval/held_out_loss": 2.0}),
    ]


def test_a_step_that_is_repeated_is_announced(tmp_path: Path) -> None:
    """A newer generation begins after the checkpoint that it resumed."""
    folder = new_run(tmp_path / "run")
    metrics = folder / "metrics.jsonl"
    metrics.write_bytes(line(1, loss=1) + line(2, loss=2) + line(3, loss=3))
    for step in (1, 2, 3):
        (folder / "samples" / f"grid-{step:09d}.png").write_bytes(b"")
    Follower(folder, "recorder", Recorder).hand_over()
    with metrics.open("ab") as file:
        file.write(line(2, 2, loss=4) + line(3, 2, loss=5) + line(4, 3, loss=6))

    Follower(folder, "recorder", Recorder).hand_over()

    assert [call[:2] for call in Recorder.calls if call[0] in ("log", "rewind")] == [
        ("log", 1), ("log", 2), ("log", 3), ("rewind", 2), ("log", 2), ("log", 3), ("log", 4),
    ]  # fmt: skip
    assert [call[2] for call in Recorder.calls if call[0] == "image"] == [1, 2, 3, 2, 3]


def test_grids_are_handed_over_once(tmp_path: Path) -> None:
    """By step, also those of an earlier start; other files are not of the run."""
    folder = new_run(tmp_path / "run")
    for name in ("samples-000000004", "samples-000000002", "other"):
        (folder / "samples" / f"{name}.png").write_bytes(name.encode())
    follower = Follower(folder, "recorder", Recorder)
    follower.hand_over()
    follower.hand_over()
    (folder / "samples" / "samples-000000006.png").write_bytes(b"6")

    Follower(folder, "recorder", Recorder).hand_over()

    images = [
        ("image", "samples", 2, b"samples-000000002"),
        ("image", "samples", 4, b"samples-000000004"),
        ("image", "samples", 6, b"6"),
    ]
    assert [call for call in Recorder.calls if call[0] == "image"] == images
    replaced = folder / "samples" / "samples-000000004.png"
    replaced.write_bytes(b"again")
    os.utime(replaced, ns=(0, 7))
    Follower(folder, "recorder", Recorder).hand_over()
    images.append(("image", "samples", 4, b"again"))
    assert [call for call in Recorder.calls if call[0] == "image"] == images


def test_another_run_in_the_folder_begins_a_new_one(tmp_path: Path) -> None:
    """Its metrics are shorter than what was handed over of the run before."""
    folder = new_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_bytes(line(1, loss=1) + line(2, loss=2))
    Follower(folder, "recorder", Recorder).hand_over()
    (folder / "metrics.jsonl").write_bytes(line(1, loss=7))

    Follower(folder, "recorder", Recorder).hand_over()

    assert [call for call in Recorder.calls if call[0] == "open"] == [("open", None)] * 2
    assert logged()[-1] == (1, {"train/loss": 7.0})


def test_a_damaged_position_begins_a_new_run(tmp_path: Path) -> None:
    """The tracker has all lines twice then, and none is missing."""
    folder = new_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_bytes(line(1, loss=1))
    Follower(folder, "recorder", Recorder).hand_over()
    (folder / "tracking" / "recorder.json").write_text('{"offset": "x"')

    Follower(folder, "recorder", Recorder).hand_over()

    assert logged() == [(1, {"train/loss": 1.0})] * 2


def test_invalid_metrics_are_an_error(tmp_path: Path) -> None:
    """They are never handed over as if they were numbers."""
    folder = new_run(tmp_path / "run")
    (folder / "metrics.jsonl").write_bytes(line(1, loss="low"))
    with pytest.raises(SchemaError, match="loss is"):
        Follower(folder, "recorder", Recorder).hand_over()


def test_options_become_plain_values() -> None:
    """Lists become texts; sections keep their names."""
    record = {
        "options": {"stage": "wgan", "sizes": [72, 224], "held_out": None, "rate": 0.5},
        "data": {"split": "train"},
    }
    assert flat_options(record) == {
        "stage": "wgan", "sizes": "72, 224", "held_out": None, "rate": 0.5, "data.split": "train",
    }  # fmt: skip
