"""Tests of the training loop: what a rank reports, saves and refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.workflows.training.small import small_store, tensors, train_here
from workflows.training import loop
from workflows.training.errors import DivergedError
from workflows.training.finite import first_non_finite
from workflows.training.run_folder import Checkpoint, RunFolder
from workflows.wgan.stage import Wgan

WILD: dict[str, Any] = {
    "objective": "wgan-gp",
    "learning_rate": 1e30,
    "gradient_penalty": 1e30,
    "critic_steps": 1,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 36 and 18 images."""
    return small_store(tmp_path_factory.mktemp("small"))


def states(run: RunFolder) -> dict[str, dict[str, Any]]:
    """Return all checkpoints of a run, by name."""
    files = sorted((run.path / "checkpoints").glob("*.pt"))
    return {file.stem: run.load(Checkpoint.from_name(file.stem)) for file in files}


def test_a_resumed_run_continues_the_count_of_updates(store: Path, tmp_path: Path) -> None:
    """A resumed run continues the count of updates, which names its checkpoints."""
    uninterrupted = train_here(store, tmp_path / "whole", save_every=2)
    interrupted = train_here(store, tmp_path / "broken", steps=3)
    assert interrupted.newest_checkpoint() == Checkpoint(
        1, 9
    )  # two of the critic and one of the generator a step
    train_here(store, tmp_path / "broken")
    assert interrupted.newest_checkpoint() == Checkpoint(2, 18)
    first, second = (list(states(run).values())[-1] for run in (uninterrupted, interrupted))
    assert first["updates"] == second["updates"] == 18
    assert all(map(torch.equal, tensors(first), tensors(second)))


def test_a_loss_that_is_not_finite_ends_the_run(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the step and the option to lower, and no later state is saved."""
    run = train_here(store, tmp_path / "run", steps=2)
    advance = Wgan.advance

    def wild(self: Wgan) -> Any:
        metrics = advance(self)
        if self.step >= 4:
            metrics["estimate"] = torch.tensor(math.inf)
        return metrics

    monkeypatch.setattr(Wgan, "advance", wild)
    with pytest.raises(DivergedError) as caught:
        train_here(store, tmp_path / "run", steps=9, save_every=1, log_every=2)
    text = str(caught.value)
    assert text.startswith(
        "training diverged at step 4: estimate is inf; the last checkpoint is of"
    )
    assert "step 3. Lower --learning-rate (now 0.001) and resume with --from-step 3" in text
    assert run.checkpoint_steps() == [2, 3]
    assert all(first_non_finite(state) is None for state in states(run).values())
    assert str(run.diverged()) == text
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    logged = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [line["estimate"] for line in logged if line["step"] == 4 and "estimate" in line] == [
        None
    ]


def test_weights_that_are_not_finite_are_never_saved(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights are checked too, since the losses of a step precede its update."""
    advance = Wgan.advance

    def spoil(self: Wgan) -> Any:
        metrics = advance(self)
        if self.step == 5:
            next(self.average.module.parameters()).data[0] = math.nan
        return metrics

    monkeypatch.setattr(Wgan, "advance", spoil)
    with pytest.raises(
        DivergedError, match=r"at step 5: average\.module\.\S+ contains NaN or infinity"
    ):
        train_here(store, tmp_path / "run", save_every=1)
    run = RunFolder(tmp_path / "run")
    assert run.checkpoint_steps() == [2, 3, 4]
    assert all(first_non_finite(state) is None for state in states(run).values())


def test_from_step_resumes_with_a_lower_rate(store: Path, tmp_path: Path) -> None:
    """A diverged run goes back to a finite checkpoint, or to the beginning, with a new rate."""
    with pytest.raises(
        DivergedError, match=r"no checkpoint was saved\. Lower --learning-rate .* --from-step 0"
    ):
        train_here(store, tmp_path / "run", **WILD, steps=30, log_every=1)
    run = train_here(
        store,
        tmp_path / "run",
        from_step=0,
        **{**WILD, "learning_rate": 1e-3, "gradient_penalty": 10.0},
        save_every=1,
    )
    assert run.diverged() is None
    assert run.read_options()["changed"] == [
        {"from_step": 0, "were": {"learning_rate": 1e30, "gradient_penalty": 1e30}}
    ]
    lowered = {**WILD, "learning_rate": 1e-4, "gradient_penalty": 10.0}
    train_here(store, tmp_path / "run", from_step=5, **lowered, steps=7)
    groups = states(run)[Checkpoint(3, 14).name]["stage"]["game"]["generator_optimiser"]
    assert [group["lr"] for group in groups["param_groups"]] == [1e-4]
    assert [line["step"] for line in run.metrics() if "what" not in line] == [*range(1, 8)]


def test_a_saved_state_that_is_not_finite_is_not_resumed(store: Path, tmp_path: Path) -> None:
    """A checkpoint of an earlier version that holds infinity is refused; finite ones are named."""
    run = train_here(store, tmp_path / "run", save_every=2)
    newest = run.newest_checkpoint()
    assert newest is not None
    state = run.load(newest)
    next(iter(state["stage"]["game"]["critic"].values()))[:] = math.inf
    run.save(newest, state, step=6)
    with pytest.raises(
        DivergedError, match=r"step 6 .*game\.critic.*--from-step from one of 0, 2, 4"
    ):
        train_here(store, tmp_path / "run", steps=8)
    train_here(store, tmp_path / "run", from_step=4, steps=8)
    assert run.checkpoint_steps() == [4, 8]


def test_states_are_checked_only_when_they_are_saved(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is checked only at checkpoints, since a check synchronises the device."""
    calls: list[int] = []
    check = loop.first_non_finite

    def count(state: Any) -> str | None:
        calls.append(1)
        return check(state)

    monkeypatch.setattr(loop, "first_non_finite", count)
    train_here(store, tmp_path / "run", steps=9, eval_every=100, save_every=3)
    assert len(calls) == 3
