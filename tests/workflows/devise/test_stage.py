"""DeViSE's steps: the same for any number of ranks, and however often they were broken off."""

from __future__ import annotations

import io
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.workflows.devise.small import Small, make_small, small_stage
from tests.workflows.training.worlds import in_ranks
from workflows.devise.splits import SEEN, UNSEEN, VALIDATION
from workflows.training.world import World

KINDS: dict[str, dict[str, Any]] = {
    "paper": {"loss": "hinge", "head": "linear", "dropout": 0.0, "mirrored": False},
    "cosine": {"loss": "cosine"},
    "l2": {"loss": "l2", "schedule": "constant"},
    "infonce": {"loss": "infonce", "centre": False},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """48 and 24 pictures of six classes."""
    return make_small(tmp_path_factory.mktemp("devise"))


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint brings it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def weights(stage: Any) -> list[torch.Tensor]:
    """Of the head."""
    return [value.clone() for value in stage.head.state_dict().values()]


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_is_the_same_as_not_having_stopped(
    small: Small, tmp_path: Path, kind: str
) -> None:
    """To the bit, in the midst of an epoch and between two."""
    whole = small_stage(small, tmp_path, **KINDS[kind])
    states = []
    for _ in range(10):
        states.append(through_a_file(whole.state_dict()))
        whole.advance()
    for place in (0, 3, 5, 9):
        other = small_stage(small, tmp_path, **KINDS[kind])
        other.advance()
        other.load_state_dict(states[place])
        for _ in range(10 - place):
            other.advance()
        assert all(map(torch.equal, weights(other), weights(whole)))
        assert other.batches.state_dict() == whole.batches.state_dict()


def some_steps(world: World, small: Small, folder: Path, **choices: Any) -> list[torch.Tensor]:
    """The head after six steps."""
    stage = small_stage(small, folder, world, **choices)
    for _ in range(6):
        stage.advance()
    return weights(stage)


@pytest.mark.parametrize("kind", ["paper", "cosine"])
def test_two_ranks_take_the_steps_of_one(small: Small, tmp_path: Path, kind: str) -> None:
    """What is dropped, which wrong class comes first, which pictures are mirrored."""
    alone = some_steps(World(), small, tmp_path / "space", **KINDS[kind])
    work = partial(some_steps, small=small, folder=tmp_path / "space", **KINDS[kind])
    for found in in_ranks(work, 2, tmp_path / "ranks"):
        for one, other in zip(found, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_nothing_is_learned_from_classes_that_are_kept_back(small: Small, tmp_path: Path) -> None:
    """Not from their pictures, nor from the mirror images of those."""
    stage = small_stage(small, tmp_path, unseen="2", validation=1)
    labels = set()
    for _ in range(12):
        labels |= set(stage.batches.take().labels.tolist())
    assert labels == set(stage.space.labels(SEEN).tolist())
    kept = stage.space.labels(UNSEEN, VALIDATION)
    assert len(kept) == 3
    assert not labels & set(kept.tolist())


def test_a_look_says_nothing_of_unseen_classes(small: Small, tmp_path: Path) -> None:
    """Hits of seen ones and of those to choose by; and it changes nothing."""
    stage = small_stage(small, tmp_path, unseen="2", validation=2)
    before, place = weights(stage), stage.batches.state_dict()
    figures, pictures = stage.look()
    assert set(figures) == {"seen_hit1", "validation_hit1"}
    assert pictures == {}
    assert all(map(torch.equal, before, weights(stage)))
    assert stage.batches.state_dict() == place


def test_it_learns_what_it_is_shown(small: Small, tmp_path: Path) -> None:
    """The loss falls, and pictures come near the vectors of their classes."""
    stage = small_stage(small, tmp_path, dropout=0.0, steps=150, mirrored=False)
    first = float(stage.advance()["cosine"])
    told = {}
    while stage.step < 150:
        told = stage.advance()
    assert first < 0.5
    assert float(told["cosine"]) > 0.8


def test_the_mean_of_words_is_of_seen_classes_alone(small: Small, tmp_path: Path) -> None:
    """What is said of unseen ones must not depend on which they are."""
    space = small_stage(small, tmp_path, unseen="2").space
    seen = space.labels(SEEN)
    words = small_stage(small, tmp_path / "plain", unseen="2", centre=False).space.vectors
    np.testing.assert_allclose(space.centre, words[seen].mean(0), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(space.vectors, axis=1), 1, atol=1e-6)


def test_the_rate_rises_and_falls() -> None:
    """From a small one to all of it, to nothing."""
    from workflows.devise.options import Options
    from workflows.devise.stage import schedule

    options = Options(steps=100, warm_share=0.1)
    shares = [schedule(options, step) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == 1.0
    assert shares[9] == 1.0
    assert shares[-1] < 0.01
    assert shares[10:] == sorted(shares[10:], reverse=True)
    constant = Options(steps=100, schedule="constant")
    assert schedule(constant, 99) == 1.0
