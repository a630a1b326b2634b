"""Who is who, by what launchers say."""

from __future__ import annotations

import pytest

from pipeline.loader.ranks import place, ranks_here

NAMES = (
    "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_PROCID", "SLURM_NTASKS",
    "SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE", "SLURM_NTASKS_PER_NODE",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _nobody_said_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def _say(monkeypatch: pytest.MonkeyPatch, **said: str) -> None:
    for name, value in said.items():
        monkeypatch.setenv(name, value)


def test_a_process_that_nobody_launched_is_alone() -> None:
    """Rank 0 of 1."""
    assert place(None, None) == (0, 1)
    assert ranks_here(1) == 1


@pytest.mark.parametrize(
    ("rank", "world"), [("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS")]
)
def test_rank_and_world_are_those_of_the_launcher(
    monkeypatch: pytest.MonkeyPatch, rank: str, world: str
) -> None:
    """Torchrun's or srun's, unless they are given."""
    _say(monkeypatch, **{rank: "2", world: "5"})
    assert place(None, None) == (2, 5)
    assert place(0, 1) == (0, 1)


def test_torchrun_within_a_step_of_slurm_is_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    """One task a node, which starts the ranks."""
    _say(monkeypatch, SLURM_PROCID="1", SLURM_STEP_NUM_TASKS="2", RANK="5", WORLD_SIZE="8")
    assert place(None, None) == (5, 8)


def test_a_batch_script_of_slurm_is_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the number of tasks, which it may start; what it runs itself reads every row."""
    _say(monkeypatch, SLURM_PROCID="0", SLURM_NTASKS="8")
    assert place(None, None) == (0, 1)


@pytest.mark.parametrize(
    ("said", "here"),
    [("4", 4), ("4(x2)", 4), ("3,4(x2)", 4), ("2(x3),1", 2), ("16", 8), ("none", 1)],
)
def test_ranks_of_a_machine_are_counted_as_slurm_writes_them(
    monkeypatch: pytest.MonkeyPatch, said: str, here: int
) -> None:
    """At most the world."""
    _say(monkeypatch, SLURM_STEP_TASKS_PER_NODE=said)
    assert ranks_here(8) == here


@pytest.mark.parametrize(("rank", "world"), [(0, None), (None, 2), (2, 2), (-1, 2), (0, 0)])
def test_what_makes_no_sense_is_refused(rank: int | None, world: int | None) -> None:
    """With the values."""
    with pytest.raises(ValueError, match=f"rank is {rank}"):
        place(rank, world)
