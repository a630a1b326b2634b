"""A GAN's steps: the same however many ranks take them, and however often they were broken off."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.workflows.training.small import BATCH, SIZE, advance, small_stage, small_store, tensors
from tests.workflows.training.worlds import in_ranks, through_a_file
from workflows.training.world import World
from workflows.wgan.options import Options
from workflows.wgan.stage import Wgan

KINDS: dict[str, dict[str, Any]] = {
    "wgan": {},
    "gp": {"objective": "wgan-gp"},
    "conditional": {"objective": "hinge", "condition": "projection", "critic_norm": "spectral"},
    "concatenated": {"objective": "dcgan", "condition": "concatenation", "flip": True},
    "residual": {"objective": "lsgan", "generator": "residual", "critic": "residual"},
    "perceptron": {"generator": "perceptron", "critic": "perceptron", "decay": True, "steps": 9},
    "bfloat16": {"precision": "bfloat16", "generator_batches": 2, "warm_critic_steps": 3},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 and 18 pictures: an epoch is four batches, and ends between two steps' updates."""
    return small_store(tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_is_the_same_as_not_having_stopped(store: Path, kind: str) -> None:
    """To the bit, wherever it was broken off: between two updates of a step, of an epoch."""
    updates = 11
    whole = small_stage(store, **KINDS[kind])
    states, told = [], []
    for _ in range(updates):
        states.append(through_a_file(whole.state_dict()))
        told.append(advance(whole, 1))
    expected = tensors(whole.state_dict())
    assert len(expected) > 20
    for place in (0, 1, 2, 5, 9):
        other = small_stage(store, seed=0, **KINDS[kind])
        advance(other, 2)  # what was before is gone
        other.load_state_dict(states[place])
        assert [advance(other, 1) for _ in range(updates - place)] == told[place:]
        found = tensors(other.state_dict())
        assert all(torch.equal(one, two) for one, two in zip(found, expected, strict=True))
        assert other.batches.state_dict() == whole.batches.state_dict()


def both(world: World, store: Path, **choices: Any) -> Any:
    """What nine updates made, at once and broken off."""
    return tuple(in_world(world, store, parts, **choices) for parts in ((9,), (4, 5)))


def in_world(world: World, store: Path, parts: tuple[int, ...], **choices: Any) -> Any:
    """What some updates made, with the state saved and loaded between parts of them."""
    stage, told = small_stage(store, world, **choices), []
    for place, part in enumerate(parts):
        if place:
            state = through_a_file(stage.state_dict())
            stage.batches.close()
            stage = small_stage(store, world, **choices)
            stage.load_state_dict(state)
        told += advance(stage, part)
    figures = stage.look()[0]
    stage.batches.close()
    return tensors(stage.state_dict()), told, figures, through_a_file(stage.state_dict())


@pytest.mark.parametrize(
    "kind",
    ["gp", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("conditional", "wgan"))],
)
def test_two_ranks_make_what_one_makes(store: Path, tmp_path: Path, kind: str) -> None:
    """Within 1e-4 after three steps, batch norm and penalties included; and so do those that stop.

    Two that were stopped and went on are the same to the bit as two that were not; what they have
    saved, one goes on from.
    """
    choices = KINDS[kind]
    alone, told, figures, _ = in_world(World(), store, (9,), **choices)
    together, broken = zip(
        *in_ranks(partial(both, store=store, **choices), 2, tmp_path), strict=True
    )
    for state, _, looked, _ in together:
        for one, other in zip(state, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        assert looked == pytest.approx(figures, rel=1e-3, abs=1e-4)
    first, second = (
        [{name: (a[name] + b[name]) / 2 for name in a} for a, b in zip(*two, strict=True)]
        for two in ([one[1] for one in together], [one[1] for one in broken])
    )
    for mean, expected in zip(first, told, strict=True):
        assert mean == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert second == first
    for (state, *_), (other, *_) in zip(together, broken, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(state, other, strict=True))
    fewer = small_stage(store, **choices)
    fewer.load_state_dict(together[0][3])
    more = small_stage(store, **choices)
    advance(more, 9)
    assert advance(fewer, 3)[0] == pytest.approx(advance(more, 3)[0], rel=1e-2, abs=1e-3)


def test_looking_changes_nothing(store: Path) -> None:
    """However often."""
    one, other = (small_stage(store, condition="projection") for _ in range(2))
    for _ in range(4):
        advance(one, 3)
        figures, pictures = one.look()
        advance(other, 3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(tensors(one.state_dict()), tensors(other.state_dict()), strict=True)
    )
    assert set(figures) == {"held_out_estimate", "held_out_critic_loss", "held_out_distance"}
    assert pictures["samples"].shape == (64, SIZE, SIZE, 3)
    assert pictures["samples"].dtype == np.uint8


def test_the_critic_is_brought_near_its_best_at_first_and_now_and_then(store: Path) -> None:
    """100 updates in each of the first 25 steps and of every 500th, else 5, for instance."""
    stage = small_stage(store, warm_critic_steps=4, critic_steps=2)
    counts = []
    for step in (0, 24, 25, 499, 500, 501, 1000):
        stage.step = step
        counts.append(stage._critic_steps())
    assert counts == [4, 4, 2, 2, 4, 2, 4]
    stage = small_stage(store, warm_critic_steps=4, critic_steps=2)
    advance(stage, 5)
    assert stage.step == 1
    assert stage.batches.taken == 4 * BATCH


@given(
    critic=st.none() | st.integers(1, 7),
    warm=st.none() | st.integers(0, 40),
    step=st.integers(0, 1_600),
)
def test_updates_are_counted_before_they_are_taken(
    critic: int | None, warm: int | None, step: int
) -> None:
    """As the stage takes them: for the time that is left."""
    options = Options(critic_steps=critic, warm_critic_steps=warm)
    stage = Wgan.__new__(Wgan)
    stage.options = options.filled()
    taken = 0
    for stage.step in range(step):
        taken += stage._critic_steps() + 1
    assert options.updates_to(step) == taken
    stage.step = step
    assert bool(options.warming(step)) == (
        bool(stage.options.warm_critic_steps) and (step < 25 or step % 500 == 0)
    )


def test_a_learning_rate_that_falls(store: Path) -> None:
    """To zero at the end."""
    stage = small_stage(store, decay=True, steps=4, rate=0.5)
    rates = []
    for _ in range(4):
        advance(stage, 3)
        rates.append(stage.game.generator_optimiser.param_groups[0]["lr"])
    assert rates == [0.5, 0.375, 0.25, 0.125]


def test_the_average_follows_the_generator(store: Path) -> None:
    """It is that of the steps, less of the first; without one it is the generator."""
    stage = small_stage(store, ema=0.0)
    advance(stage, 9)
    for one, other in zip(
        stage.average.module.state_dict().values(),
        stage.game.generator.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(one, other)
    stage = small_stage(store, ema=0.9)
    advance(stage, 3)
    before = copy.deepcopy(dict(stage.average.module.named_parameters()))
    advance(stage, 3)
    for name, now in stage.average.module.named_parameters():
        newest = dict(stage.game.generator.named_parameters())[name]
        share = min(0.9, 2 / 11)
        torch.testing.assert_close(now, before[name] * share + newest * (1 - share))


@pytest.mark.slow
def test_two_ranks_compute_with_less_too(store: Path, tmp_path: Path) -> None:
    """In bfloat16, batch norm over both: near what one makes in float32."""
    choices = {"rate": 1e-4, "critic_steps": 1}
    _, told, *_ = in_world(World(), store, (6,), **choices)
    work = partial(in_world, store=store, parts=(6,), precision="bfloat16", **choices)
    first, second = (made[1] for made in in_ranks(work, 2, tmp_path))
    for one, other, expected in zip(first, second, told, strict=True):
        for name, value in expected.items():
            assert (one[name] + other[name]) / 2 == pytest.approx(value, abs=0.05)


def test_it_is_judged_by_rows_that_nothing_is_learned_from(store: Path) -> None:
    """Those of the other split, as they are."""
    stage = small_stage(store)
    seen = torch.cat([taken.images for taken in stage._rows(World(), 16)])
    held_out = stage._data.held_out
    assert held_out is not None
    expected = torch.cat([images for images, _, _ in held_out])[:16]
    torch.testing.assert_close(seen, expected.float() / 127.5 - 1)
