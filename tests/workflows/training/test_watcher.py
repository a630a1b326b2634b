"""Tests of the terminal lines of a training command."""

from __future__ import annotations

import math
import re
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cluster.ranks.world import WorldConfig
from workflows.colourise.options import ColouriseOptions
from workflows.terminal.progress import Progress
from workflows.training import loop
from workflows.training.run_folder import RunFolder
from workflows.training.watcher import RunWatcher, cost_line, losses_line, start_lines
from workflows.wgan.options import WganOptions


def begun(**event: object) -> list[str]:
    """Return the lines that describe a start of ranks."""
    return list(start_lines({"world": 1, "step": 0, **event}, WganOptions(batch_size=64)))


def test_the_share_of_each_rank_is_printed() -> None:
    """The lines name the share of each rank, unless there is only one rank."""
    assert begun() == ["training on 1 rank from scratch"]
    assert begun(world=4, step=1_200) == [
        "training on 4 ranks from step 1,200; batch size 64, 16 per rank"
    ]


def test_more_ranks_than_cores_give_a_notice() -> None:
    """The notice names the number of cores; ranks on GPUs get none."""
    (_, notice) = begun(world=8, ranks_on_host=8, cores=2)
    assert notice.startswith("notice: 8 ranks share 2 cores on one machine")
    assert notice.endswith("--ranks 2 is faster")
    assert len(begun(world=2, ranks_on_host=2, cores=2)) == 1
    assert len(begun(world=8, ranks_on_host=8, cores=None)) == 1


@pytest.mark.parametrize(
    ("batch", "ranks", "workers", "message"),
    [
        (
            7,
            2,
            2,
            "a batch of 7 cannot be divided evenly among 2 ranks: using 1. A batch size of 6 or 8",
        ),
        (64, 6, 6, "among 6 ranks: using 4. A batch size of 60 or 66 would use all 6."),
        (3, 8, 8, "among 8 ranks: using 3. A batch size of 8 would use all 8."),
        (64, 6, 4, None),
        (0, 5, 5, None),
    ],
)
def test_ranks_that_a_batch_leaves_out_are_named(
    batch: int, ranks: int, workers: int, message: str | None
) -> None:
    """The notice names batch sizes that would use all ranks."""
    notice = WorldConfig(ranks, batch=batch).unused_workers_notice(workers)
    assert notice is None if message is None else message in str(notice)


@given(batch=st.integers(1, 300), together=st.integers(1, 3), ranks=st.integers(1, 12))
def test_rows_that_belong_together_are_in_one_rank(batch: int, together: int, ranks: int) -> None:
    """Each rank has whole groups, and the sizes that the notice names would use all ranks."""
    rows = batch * together
    config = WorldConfig(ranks, batch=rows, rows_together=together)
    used = config.num_ranks(20)
    assert rows % (used * together) == 0
    assert not any(rows % (n * together) == 0 for n in range(used + 1, ranks + 1))
    notice = config.unused_workers_notice(20)
    assert (notice is None) == (used == ranks)
    if notice is not None:
        assert notice.startswith(f"a batch of {rows} cannot be divided evenly among {ranks} ranks")
        assert (f" in groups of {together} rows: using {used}." in notice) == (together > 1)
        for size in re.findall(r"\d+", notice.partition("A batch size of")[2])[:-1]:
            assert (
                WorldConfig(ranks, batch=int(size), rows_together=together).num_ranks(20) == ranks
            )


def test_the_cost_of_a_step_is_printed_with_faster_options() -> None:
    """The cost of a step is right in a warm-up too, which has more updates."""
    assert cost_line(WganOptions(steps=1_000), 0, 0.5) == (
        "about 3.0 s per step (6 updates of 500 ms); during the warm-up 50 s (101 updates); 1 h 10"
        " min left for 1,000 steps. To speed up: a smaller --image-size (and a store of that"
        " size), --generator-width or --critic-width, fewer --critic-steps, --warmup-critic-steps"
        " 0."
    )
    assert cost_line(ColouriseOptions(steps=100), 40, 0.1).startswith(
        "about 100 ms per step; 6.0 s left for 60 steps. To speed up:"
    )


class FakeCluster:
    """A cluster without a dashboard."""

    def __init__(self) -> None:
        self.client = SimpleNamespace(id="c", run_on_scheduler=lambda _: False)

    def maintain(self) -> None:
        """Do nothing, since there is nothing to check."""


def test_losses_and_time_left_are_shown_within_a_step(tmp_path: Path) -> None:
    """A step of 101 warm-up updates shows progress, and the start counts for no rate."""
    options, now = WganOptions(steps=1_000), 0.0
    out = StringIO()
    progress = Progress("run", rows=options.updates_after(1_000), unit="updates", stream=out,
                        live=False, clock=lambda: now)  # fmt: skip
    cluster: Any = FakeCluster()
    with progress:
        watcher = RunWatcher(cluster, RunFolder(tmp_path), options, progress)
        watcher.events.append({"what": "start", "rank": 0, "world": 1, "step": 0})
        now = 60.0  # workers came, torch was loaded, files were opened
        for updates, loss in ((1, 0.5), (11, 0.25), (21, None)):
            losses = {"critic_loss": loss, "estimate": -0.5}
            watcher.events.append(
                {"what": "update", "step": 0, "updates": updates, "seconds": updates - 1.0,
                 "seconds_an_update": 1.0, "losses": losses}
            )  # fmt: skip
            watcher.tick()
            detail = progress._detail
            assert detail.startswith("step 0 of 1,000, warm-up until step 25: 100 critic updates")
            assert detail.endswith("critic loss 0.5, estimate -0.5") == (loss == 0.5)
            assert "None" not in detail
            now += 10.0
        first, second, *_ = [line for line in out.getvalue().splitlines() if " of 8,470 " in line]
        assert first.endswith("critic updates per step, critic loss 0.5, estimate -0.5")
        assert " left" not in first
        assert "2 h 20 min left, 1.0 updates/s now" in second
        left = options.updates_after(1_000) - 21
        now -= 10.0
        assert progress.seconds_left() == pytest.approx(left)
        line = {"step": 1, "critic_loss": 0.125}
        watcher.events.append({"what": "metrics", "step": 1, "lines": [line]})
        watcher.tick()
        assert progress._detail.endswith("per step, critic loss 0.125")


def test_repeated_updates_count_for_no_rate(tmp_path: Path) -> None:
    """Repeated updates after the loss of a rank do not change the rate."""
    options = WganOptions(steps=10_000, critic_steps=1, warmup_critic_steps=0)
    now = 0.0
    progress = Progress("run", rows=options.updates_after(10_000), unit="updates",
                        stream=StringIO(), live=False, clock=lambda: now)  # fmt: skip
    cluster: Any = FakeCluster()
    with progress:
        watcher = RunWatcher(cluster, RunFolder(tmp_path), options, progress)

        def update(step: int, updates: int) -> None:
            nonlocal now
            now += 1.0
            event = {"what": "update", "step": step, "updates": updates, "losses": {},
                     "seconds": updates - 1.0, "seconds_an_update": 1.0}  # fmt: skip
            watcher.events.append(event)
            watcher.tick()

        watcher.events.append({"what": "start", "rank": 0, "world": 1, "step": 0})
        for updates in range(1, 201):
            update(updates // 2, updates)
        watcher.events.append({"what": "start", "rank": 0, "world": 1, "step": 5})
        now += 100.0
        for updates in range(1, 201):  # 190 of them again
            update(5 + updates // 2, updates)
        left = options.updates_after(10_000) - 210
        assert progress.seconds_left() == pytest.approx(left, rel=0.15)


def test_the_first_update_is_reported_and_then_one_a_second() -> None:
    """Events hold the losses of an update, with null for those that are not finite."""
    seconds = iter([0.0, 5.0, 5.25, 6.25, 7.0])
    events = loop._UpdateEvents(clock=lambda: next(seconds))
    first = events.count({"loss": torch.tensor(0.5)})
    assert first == {
        "updates": 1, "seconds": 0.0, "seconds_an_update": None, "losses": {"loss": 0.5},
    }  # fmt: skip
    assert events.count({"loss": torch.tensor(0.25)}) is None
    third = events.count({"loss": torch.tensor(math.nan)})
    assert third == {
        "updates": 3, "seconds": 2.0, "seconds_an_update": 1.0, "losses": {"loss": None},
    }  # fmt: skip


def test_metrics_of_a_step_are_formatted_as_one_line() -> None:
    """Metrics that are not finite are left out of the line."""
    line = {"step": 3, "critic_loss": -0.123456, "estimate": None}
    assert losses_line(line) == "critic loss -0.1235"
