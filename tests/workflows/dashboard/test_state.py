"""The dashboard's state: its sums agree, and its memory is bounded."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.dashboard import state
from workflows.dashboard.state import DashboardState, short_names


def run_message(rows: int = 100, run: str = "train-1", **fields: Any) -> dict[str, Any]:
    """Return the message that announces a run."""
    return {
        "what": "run", "run": run, "split": "train", "store": "/s", "rows": rows,
        "arrays": [["72", 0, rows], ["224", 50, rows + 50]], "before": {"readable": 50}, **fields,
    }  # fmt: skip


def shard_message(shard: int, rows: int, bad: int = 0, run: str = "train-1") -> dict[str, Any]:
    """Return the message that reports a committed shard."""
    return {
        "what": "shard", "run": run, "shard": shard, "rows": rows, "bytes_in": 10 * rows,
        "bytes_out": 20 * rows, "counts": {"readable": rows - bad, "empty": bad},
        "seconds": {"decode": 0.5}, "arrays": ["72", "224"],
    }  # fmt: skip


@given(
    shards=st.lists(
        st.tuples(st.integers(1, 1024), st.integers(0, 5), st.sampled_from("abc")), max_size=60
    )
)
def test_totals_are_the_sums_of_the_messages(shards: list[tuple[int, int, str]]) -> None:
    """Rows, bytes, reasons, sizes and workers are totalled."""
    board = DashboardState()
    total = sum(rows for rows, _, _ in shards)
    board.apply(run_message(total), 0.0)
    bad = 0
    for shard, (rows, spoilt, worker) in enumerate(shards):
        spoilt = min(spoilt, rows)
        bad += spoilt
        board.record_finished_task(f"prepare-train-{shard:06d}-0-train-1", worker)
        board.apply(shard_message(shard, rows, spoilt), 0.1 * (shard + 1))
    board.apply(
        {"what": "end", "run": "train-1", "state": "finished", "why": "", "seconds": 7.0}, 100.0
    )

    [run] = json.loads(json.dumps(board.snapshot(200.0)))["runs"]

    assert (run["rows_done"], run["shards_done"]) == (total, len(shards))
    assert (run["bytes_in"], run["bytes_out"]) == (10 * total, 20 * total)
    assert run["counts"].get("readable", 0) == total - bad + 50
    assert run["counts"].get("empty", 0) == bad
    assert run["arrays"]["72"] == {"done": total, "rows": total}
    assert run["arrays"]["224"] == {"done": total + 50, "rows": total + 50}
    assert run["seconds"] == 7.0
    assert run["images_per_second"]["run"] == pytest.approx(total / 7)
    by = Counter[str]()
    for rows, _, worker in shards:
        by[worker] += rows
    assert {name: worker["rows"] for name, worker in run["workers"].items()} == by


@pytest.mark.parametrize(
    ("key", "counts"),
    [
        ("prepare-train-000003-0-train-1", True),
        ("prepare-train-000003-isolated-2-train-1", True),
        ("prepare-train-000004-0-train-1", False),
        ("prepare-train-000003-0-train-2", False),
        ("sum-1", False),
        (("prepare-train-000003-0-train-1", 0), False),
    ],
)
def test_shards_are_attributed_to_workers_by_task_key(key: object, counts: bool) -> None:
    """Tasks of other runs and other programs are ignored."""
    board = DashboardState()
    board.apply(run_message(), 0.0)
    board.record_finished_task(key, "tls://w")
    board.apply(shard_message(3, 10), 1.0)
    assert bool(board.runs["train-1"].workers) is counts


def test_runs_of_a_disconnected_client_are_marked_lost() -> None:
    """Finished runs and runs of other clients keep their state."""
    board = DashboardState()
    for number, client in enumerate(("a", "a", "b")):
        begin = {"what": "run", "run": str(number), "split": "train", "store": "s", "rows": 9}
        board.apply(begin | {"arrays": [], "before": {}, "client": client}, 1.0)
    board.apply({"what": "end", "run": "0", "state": "finished", "why": "", "seconds": 1.0}, 2.0)
    board.mark_lost("a", 3.0)
    assert [run["state"] for run in board.snapshot(9.0)["runs"]] == ["finished", "lost", "running"]
    assert board.snapshot(9.0)["runs"][1]["seconds"] == 2.0


def test_memory_of_the_state_is_bounded() -> None:
    """Runs, shards, and messages of stages are limited in number."""
    board = DashboardState()
    for i in range(3 * state.MAX_RUNS):
        board.apply(run_message(10**6, f"train-{i}"), float(i))
    last = f"train-{3 * state.MAX_RUNS - 1}"
    for i in range(3 * state.MAX_HISTORY_POINTS):
        board.record_finished_task(f"prepare-train-{i:06d}-0-{last}", f"tls://{i}")
        board.apply(shard_message(i, 1, 1, last), 100.0 + 2 * i)
        board.record_finished_task(f"prepare-train-{i:06d}-0-nobodys", "tls://w")
        row = {"row": i, "key": "k", "status": "empty", "reason": ""}
        board.apply({"what": "quarantined", "run": last, "rows": [row]}, 0.0)
        picture = {"row": i, "caption": "k", "jpeg": b"x"}
        board.apply({"what": "pictures", "run": last, "pictures": [picture]}, 0.0)
        for name in ("loss", f"curve {i}"):
            curve = {"what": "curve", "run": last, "name": name, "step": i, "value": 0.5}
            board.apply(curve, 0.0)
        grid = {"what": "grid", "run": last, "name": f"{i}", "step": i, "jpeg": b"x"}
        board.apply(grid, 0.0)
    run = board.runs[last]
    assert len(board.runs) == state.MAX_RUNS
    assert len(run.history) <= state.MAX_HISTORY_POINTS
    assert run.history[0][0] < 200 < run.history[-1][0]  # thinned, and not cut off
    assert len(run.workers) <= state.MAX_WORKERS
    assert len(run.quarantine) == state.MAX_QUARANTINED_ROWS
    assert len(board.images) == state.MAX_IMAGES
    assert len(board.curves) == state.MAX_CURVES
    assert len(board.grids) == state.MAX_GRIDS
    assert len(board._finishers) <= state.MAX_PENDING_TASKS


def test_oversized_and_unknown_messages_are_ignored() -> None:
    """Examples are a large image, a message of a later version, and a run that was dropped."""
    board = DashboardState()
    large = {"row": 0, "caption": "k", "jpeg": bytes(state.MAX_IMAGE_BYTES + 1)}
    board.apply({"what": "pictures", "run": "r", "pictures": [large]}, 0.0)
    board.apply({"what": "grid", "run": "r", "name": "g", "step": 0, "jpeg": large["jpeg"]}, 0.0)
    board.apply({"what": "hologram", "run": "r"}, 0.0)
    board.apply(shard_message(0, 1, run="gone"), 0.0)
    assert (len(board.images), len(board.grids), len(board.runs)) == (0, 0, 0)


def test_training_progress_is_tracked() -> None:
    """The time left is the command's estimate from updates, not from complete steps."""
    board = DashboardState()
    board.apply({"what": "training", "run": "r", "client": "c", "folder": "f", "steps": 100}, 0.0)
    board.apply({"what": "curve", "run": "r", "name": "loss", "step": 1, "value": 0.5}, 0.0)
    board.apply({"what": "begun", "run": "r", "step": 40, "ranks": 2}, 10.0)
    speed = {"images_per_second": 9.0, "steps_per_second": 2.0, "wait_share": 0.01}
    board.apply({"what": "speed", "run": "r", "step": 60, **speed}, 20.0)
    (now,) = board.snapshot(20.0)["trainings"]
    assert (now["step"], now["ranks"], now["state"]) == (60, 2, "running")
    assert now["seconds_left"] is None
    board.apply({"what": "left", "run": "r", "step": 61, "seconds": 20.0}, 20.5)
    (now,) = board.snapshot(20.5)["trainings"]
    assert (now["step"], now["seconds_left"]) == (61, 20.0)
    assert now["images_per_second"] == 9.0
    board.apply({"what": "end", "run": "r", "state": "finished", "why": "", "seconds": 0.0}, 30.0)
    (now,) = board.snapshot(99.0)["trainings"]
    assert (now["state"], now["seconds"], now["seconds_left"]) == ("finished", 20.0, None)
    board.apply({"what": "training", "run": "r", "client": "c", "folder": "f", "steps": 100}, 0.0)
    assert not board.curves
    board.mark_lost("c", 40.0)
    assert board.trainings["r"].state == "lost"
    for i in range(3 * state.MAX_RUNS):
        board.apply(
            {"what": "training", "run": f"{i}", "client": "", "folder": "", "steps": 1}, 0.0
        )
    assert len(board.trainings) == state.MAX_RUNS


def test_repeated_steps_are_plotted_once() -> None:
    """After the loss of a rank, training repeats steps from a checkpoint."""
    board = DashboardState()
    board.apply({"what": "training", "run": "r", "client": "c", "folder": "f", "steps": 9}, 0.0)
    for step in (1, 2, 3, 4):
        board.apply({"what": "curve", "run": "r", "name": "a", "step": step, "value": 0.0}, 0.0)
    board.apply({"what": "begun", "run": "r", "step": 2, "ranks": 1}, 0.0)
    board.apply({"what": "curve", "run": "r", "name": "a", "step": 3, "value": 1.0}, 0.0)
    assert [step for step, _ in board.curves["r", "a"]] == [1, 2, 3]


@given(st.lists(st.text("ab/", min_size=1), unique=True, max_size=6))
def test_short_names_of_runs_are_unique(names: list[str]) -> None:
    """Each short name is an end of its complete name."""
    names = list({"/" + "/".join(part for part in name.split("/") if part) for name in names})
    shortened = short_names(names)
    assert set(shortened) == set(names)
    assert len(set(shortened.values())) == len(shortened)
    assert all(name.endswith(short) for name, short in shortened.items())


def test_a_unique_last_component_is_the_short_name() -> None:
    """A name that is the end of another one stays complete."""
    assert short_names(["/runs/wgan", "/x/devise"]) == {"/runs/wgan": "wgan", "/x/devise": "devise"}
    assert short_names(["/a/b", "/b"]) == {"/a/b": "/a/b", "/b": "/b"}
    assert short_names(["/a/b", "a/b"]) == {"/a/b": "/a/b", "a/b": "a/b"}


def test_the_rate_of_a_worker_is_that_of_all_its_shards_of_the_last_minute() -> None:
    """However many they are; earlier ones do not count."""
    board = DashboardState()
    board.apply(run_message(12_000), 0.0)
    for shard in range(1_200):
        board.record_finished_task(f"prepare-train-{shard:06d}-0-train-1", "a")
        board.apply(shard_message(shard, 10), 0.1 * (shard + 1))

    [run] = board.snapshot(120.0)["runs"]

    assert run["workers"]["a"]["images_per_second"] == pytest.approx(100, rel=0.01)


def test_features_are_shown_as_a_separate_run() -> None:
    """The run has the name of the features and its workers, and no sizes."""
    board = DashboardState()
    run = "features.net-0.75-224-eb7ff0c52fce.train-1a2b3c4d"
    name = "net-0.75-224-eb7ff0c52fce"
    board.apply(run_message(48, run, arrays=[], before={}, rows_of=f"features {name}"), 0.0)
    for shard in range(3):
        board.record_finished_task(f"features-train-{shard:06d}-0-{run}", "tls://w")
        board.apply(shard_message(shard, 16, run=run) | {"arrays": [], "seconds": {}}, 1.0 + shard)
    [snapshot] = json.loads(json.dumps(board.snapshot(9.0)))["runs"]
    assert (snapshot["rows_of"], snapshot["rows_done"], snapshot["arrays"]) == (
        f"features {name}",
        48,
        {},
    )
    assert snapshot["workers"]["tls://w"]["rows"] == 48
    board.apply(run_message(), 10.0)
    assert board.snapshot(11.0)["runs"][1]["rows_of"] == ""


def test_the_page_names_features_and_escapes_their_name() -> None:
    """A run of images has its arrays, one of features their name."""
    from workflows.dashboard.page import TEMPLATES, values
    from workflows.reports.html import render

    board = DashboardState()
    board.apply(run_message(48, "f", arrays=[], before={}, rows_of="upscaled images <b>net"), 0.0)
    arrays = [["72", 0, 9], ["jpeg256@90", 0, 9]]
    board.apply(run_message(9, "i", arrays=arrays), 0.0)
    page = render(TEMPLATES / "progress.html", **values(board, 1.0))
    assert "Upscaled images &lt;b&gt;net of train, <code>/s</code>: running" in page
    assert page.count("<td>72 px</td>") == page.count("<td>jpeg256@90</td>") == 1
