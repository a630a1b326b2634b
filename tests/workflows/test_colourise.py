"""Tests of a stage with a target, with and without a critic."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.loader import Loader
from tests.workflows.training.small import BATCH, SIZE, small_store, tensors
from workflows.colourise.options import ColouriseOptions
from workflows.colourise.stage import Colourise, saturation, to_grey
from workflows.training.stage import Data
from workflows.training.world import World


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Return loaders of 36 and 18 images of 16 px."""
    store = small_store(tmp_path_factory.mktemp("small"))
    train = Loader(store, size=SIZE, batch_size=BATCH)
    return Data(train, Loader(store, "val", size=SIZE, batch_size=BATCH, order="sequential"), ())


def make_stage(data: Data, **choices: Any) -> Colourise:
    """Return a small stage before its first step."""
    torch.manual_seed(0)
    options = ColouriseOptions(
        image_size=SIZE, batch_size=BATCH, width=8, learning_rate=2e-3, **choices
    )
    return Colourise(options, data, World())


@pytest.mark.parametrize("adversarial", [0.0, 0.05])
def test_training_reduces_the_colour_error(data: Data, adversarial: float) -> None:
    """The error on held-out images falls, and the critic learns only if it has a weight."""
    stage = make_stage(data, adversarial_weight=adversarial)
    before, _ = stage.evaluate()
    critic = [p.clone() for p in stage.trainer.critic.parameters()]
    for _ in range(40):
        metrics = stage.advance()
    after, pictures = stage.evaluate()
    assert after["held_out_error"] < 0.9 * before["held_out_error"]
    assert ("estimate" in metrics) == bool(adversarial)
    changed = any(
        not torch.equal(a, b)
        for a, b in zip(critic, stage.trainer.critic.parameters(), strict=True)
    )
    assert changed == bool(adversarial)
    assert pictures["grey-coloured-original"].shape[1:] == (SIZE, SIZE, 3)


def test_a_resumed_stage_equals_an_uninterrupted_one(data: Data) -> None:
    """A resumed stage is bit-identical to an uninterrupted one."""
    uninterrupted, first, second = make_stage(data), make_stage(data), make_stage(data)
    for _ in range(7):
        uninterrupted.advance()
    for _ in range(3):
        first.advance()
    second.load_state_dict(first.state_dict())
    for _ in range(4):
        second.advance()
    pairs = zip(tensors(uninterrupted.state_dict()), tensors(second.state_dict()), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_grey_follows_rec_601_and_has_no_saturation() -> None:
    """The weights of the channels are those of Rec. 601."""
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert float(to_grey(red)) == pytest.approx(0.299)
    grey = torch.full((1, 3, 2, 2), 0.4)
    torch.testing.assert_close(to_grey(grey), torch.full((1, 1, 2, 2), 0.4))
    assert float(saturation(grey)) == 0
    assert float(saturation(red)) == 1
