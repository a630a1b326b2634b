"""Tests that the steps of a GAN do not depend on the number of ranks or on interruptions."""

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

from tests.workflows.training.small import (
    BATCH,
    ENCODED,
    SIZE,
    advance,
    small_stage,
    small_store,
    tensors,
)
from tests.workflows.training.worlds import in_ranks, through_a_file
from workflows.training.world import World
from workflows.wgan.options import WganOptions
from workflows.wgan.stage import Wgan

KINDS: dict[str, dict[str, Any]] = {
    "wgan": {},
    "gp": {"objective": "wgan-gp"},
    "conditional": {"objective": "hinge", "condition": "projection", "critic_norm": "spectral"},
    "concatenated": {"objective": "dcgan", "condition": "concatenation", "flip": True},
    "residual": {"objective": "lsgan", "generator": "residual", "critic": "residual"},
    "perceptron": {
        "generator": "perceptron",
        "critic": "perceptron",
        "learning_rate_decay": True,
        "steps": 9,
    },
    "encoded": {"encoded": ENCODED, "crop": "random", "flip": True},
    "bfloat16": {"precision": "bfloat16", "generator_batches": 2, "warmup_critic_steps": 3},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 36 and 18 images: an epoch is four batches and ends within a step."""
    return small_store(tmp_path_factory.mktemp("small"), encoded=(ENCODED,))


SLOW_KINDS = {"concatenated", "conditional", "perceptron", "bfloat16"}
"""These kinds combine what others have, and each takes seconds."""


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] if k in SLOW_KINDS else []) for k in KINDS],
)
def test_a_resumed_stage_equals_an_uninterrupted_one(store: Path, kind: str) -> None:
    """A stage resumed between any two updates is bit-identical to an uninterrupted one."""
    updates = 11
    uninterrupted = small_stage(store, **KINDS[kind])
    states, metrics = [], []
    for _ in range(updates):
        states.append(through_a_file(uninterrupted.state_dict()))
        metrics.append(advance(uninterrupted, 1))
    expected = tensors(uninterrupted.state_dict())
    assert len(expected) > 20
    for start in (1, 5):  # within the first step of the generator, and in the second epoch
        resumed = small_stage(store, seed=0, **KINDS[kind])
        advance(resumed, 2)  # loading replaces this state
        resumed.load_state_dict(states[start])
        assert [advance(resumed, 1) for _ in range(updates - start)] == metrics[start:]
        actual = tensors(resumed.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
        assert resumed.batches.state_dict() == uninterrupted.batches.state_dict()


def both(world: World, store: Path, **choices: Any) -> Any:
    """Return the results of nine updates, uninterrupted and interrupted."""
    return tuple(in_world(world, store, parts, **choices) for parts in ((9,), (4, 5)))


def in_world(world: World, store: Path, parts: tuple[int, ...], **choices: Any) -> Any:
    """Return the results of some updates, with the state saved and loaded between parts."""
    stage, metrics = small_stage(store, world, **choices), []
    for index, part in enumerate(parts):
        if index:
            state = through_a_file(stage.state_dict())
            stage.batches.close()
            stage = small_stage(store, world, **choices)
            stage.load_state_dict(state)
        metrics += advance(stage, part)
    figures = stage.evaluate()[0]
    stage.batches.close()
    return tensors(stage.state_dict()), metrics, figures, through_a_file(stage.state_dict())


@pytest.mark.parametrize(
    "kind",
    [
        "gp",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("encoded", "conditional", "wgan")
        ),
    ],
)
def test_two_ranks_compute_what_one_computes(store: Path, tmp_path: Path, kind: str) -> None:
    """Two ranks agree with one within 1e-4, including batch norm and penalties.

    Interrupted ranks are bit-identical to uninterrupted ones, and one rank resumes their state.
    """
    choices = KINDS[kind]
    alone, metrics, figures, _ = in_world(World(), store, (9,), **choices)
    together, interrupted = zip(
        *in_ranks(partial(both, store=store, **choices), 2, tmp_path), strict=True
    )
    for state, _, evaluated, _ in together:
        for actual, expected in zip(state, alone, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
        assert evaluated == pytest.approx(figures, rel=1e-3, abs=1e-4)
    first, second = (
        [
            {name: (a[name] + b[name]) / 2 for name in a}
            for a, b in zip(*(result[1] for result in results), strict=True)
        ]
        for results in (together, interrupted)
    )
    for mean, expected in zip(first, metrics, strict=True):
        assert mean == pytest.approx(expected, rel=1e-3, abs=1e-4)
    assert second == first
    for (state, *_), (resumed, *_) in zip(together, interrupted, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(state, resumed, strict=True))
    fewer = small_stage(store, **choices)
    fewer.load_state_dict(together[0][3])
    more = small_stage(store, **choices)
    advance(more, 9)
    assert advance(fewer, 3)[0] == pytest.approx(advance(more, 3)[0], rel=1e-2, abs=1e-3)


def test_an_evaluation_changes_nothing(store: Path) -> None:
    """An evaluation does not change the state."""
    evaluated, plain = (small_stage(store, condition="projection") for _ in range(2))
    for _ in range(4):
        advance(evaluated, 3)
        figures, pictures = evaluated.evaluate()
        advance(plain, 3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(tensors(evaluated.state_dict()), tensors(plain.state_dict()), strict=True)
    )
    assert set(figures) == {"held_out_estimate", "held_out_critic_loss", "held_out_distance"}
    assert pictures["samples"].shape == (64, SIZE, SIZE, 3)
    assert pictures["samples"].dtype == np.uint8


def test_the_critic_warms_up(store: Path) -> None:
    """The critic warms up in each of the first 25 steps and in every 500th."""
    stage = small_stage(store, warmup_critic_steps=4, critic_steps=2)
    counts = []
    for step in (0, 24, 25, 499, 500, 501, 1000):
        stage.step = step
        counts.append(stage._critic_steps())
    assert counts == [4, 4, 2, 2, 4, 2, 4]
    stage = small_stage(store, warmup_critic_steps=4, critic_steps=2)
    advance(stage, 5)
    assert stage.step == 1
    assert stage.batches.rows_taken == 4 * BATCH


@given(
    critic=st.none() | st.integers(1, 7),
    warm=st.none() | st.integers(0, 40),
    step=st.integers(0, 1_600),
)
def test_the_number_of_updates_is_known_in_advance(
    critic: int | None, warm: int | None, step: int
) -> None:
    """The options predict the updates of the stage, from which the time left follows."""
    options = WganOptions(critic_steps=critic, warmup_critic_steps=warm)
    stage = Wgan.__new__(Wgan)
    stage.options = options.resolved()
    updates = 0
    for stage.step in range(step):
        updates += stage._critic_steps() + 1
    assert options.updates_after(step) == updates
    stage.step = step
    assert bool(options.warmup_text(step)) == (
        bool(stage.options.warmup_critic_steps) and (step < 25 or step % 500 == 0)
    )


def test_the_learning_rate_decays(store: Path) -> None:
    """The learning rate decays linearly to 0 at the end."""
    stage = small_stage(store, learning_rate_decay=True, steps=4, learning_rate=0.5)
    rates = []
    for _ in range(4):
        advance(stage, 3)
        rates.append(stage.trainer.generator_optimiser.param_groups[0]["lr"])
    assert rates == [0.5, 0.375, 0.25, 0.125]


def test_the_average_follows_the_generator(store: Path) -> None:
    """The average has a lower decay at first; without decay it is the generator."""
    stage = small_stage(store, ema_decay=0.0)
    advance(stage, 9)
    for averaged, current in zip(
        stage.average.module.state_dict().values(),
        stage.trainer.generator.state_dict().values(),
        strict=True,
    ):
        assert torch.equal(averaged, current)
    stage = small_stage(store, ema_decay=0.9)
    advance(stage, 3)
    before = copy.deepcopy(dict(stage.average.module.named_parameters()))
    advance(stage, 3)
    for name, now in stage.average.module.named_parameters():
        newest = dict(stage.trainer.generator.named_parameters())[name]
        share = min(0.9, 2 / 11)
        torch.testing.assert_close(now, before[name] * share + newest * (1 - share))


@pytest.mark.slow
def test_two_ranks_compute_in_bfloat16(store: Path, tmp_path: Path) -> None:
    """Two ranks in bfloat16 are near one rank in float32."""
    choices = {"learning_rate": 1e-4, "critic_steps": 1}
    _, metrics, *_ = in_world(World(), store, (6,), **choices)
    work = partial(in_world, store=store, parts=(6,), precision="bfloat16", **choices)
    first, second = (result[1] for result in in_ranks(work, 2, tmp_path))
    for first_step, second_step, expected in zip(first, second, metrics, strict=True):
        for name, value in expected.items():
            assert (first_step[name] + second_step[name]) / 2 == pytest.approx(value, abs=0.05)


@pytest.mark.parametrize("encoded", [None, ENCODED])
def test_an_evaluation_uses_held_out_rows(store: Path, encoded: str | None) -> None:
    """An evaluation reads unaugmented rows of the held-out split."""
    stage = small_stage(store, encoded=encoded)
    seen = torch.cat([batch.images for batch in stage._rows(World(), 16)])
    held_out = stage._data.held_out
    assert held_out is not None
    expected = torch.cat([images for images, _, _ in held_out])[:16]
    torch.testing.assert_close(seen, expected.float() / 127.5 - 1)
