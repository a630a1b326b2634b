"""A stage with a target, with and without a critic beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from pipeline.loader import Loader
from tests.workflows.training.small import BATCH, SIZE, small_store, tensors
from workflows.colourise.options import Options
from workflows.colourise.stage import Colourise, saturation, to_grey
from workflows.training.loop import Data
from workflows.training.world import World


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """36 and 18 pictures of 16 px."""
    store = small_store(tmp_path_factory.mktemp("small"))
    train = Loader(store, size=SIZE, batch_size=BATCH)
    return Data(train, Loader(store, "val", size=SIZE, batch_size=BATCH, order="sequential"), ())


def made(data: Data, **choices: Any) -> Colourise:
    torch.manual_seed(0)
    options = Options(image_size=SIZE, batch_size=BATCH, width=8, rate=2e-3, **choices)
    return Colourise(options, data, World())


@pytest.mark.parametrize("adversarial", [0.0, 0.05])
def test_colours_come_nearer_to_the_true_ones(data: Data, adversarial: float) -> None:
    """On pictures that it has not seen; the critic learns only where it has a say."""
    stage = made(data, adversarial=adversarial)
    before, _ = stage.look()
    critic = [p.clone() for p in stage.game.critic.parameters()]
    for _ in range(40):
        told = stage.advance()
    after, pictures = stage.look()
    assert after["held_out_error"] < 0.9 * before["held_out_error"]
    assert ("estimate" in told) == bool(adversarial)
    changed = any(
        not torch.equal(a, b) for a, b in zip(critic, stage.game.critic.parameters(), strict=True)
    )
    assert changed == bool(adversarial)
    assert pictures["grey-made-true"].shape[1:] == (SIZE, SIZE, 3)


def test_it_goes_on_where_it_was(data: Data) -> None:
    """To the bit."""
    whole, first, second = made(data), made(data), made(data)
    for _ in range(7):
        whole.advance()
    for _ in range(3):
        first.advance()
    second.load_state_dict(first.state_dict())
    for _ in range(4):
        second.advance()
    pairs = zip(tensors(whole.state_dict()), tensors(second.state_dict()), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_grey_is_grey() -> None:
    """Of the weights of a television's."""
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
    assert float(to_grey(red)) == pytest.approx(0.299)
    grey = torch.full((1, 3, 2, 2), 0.4)
    torch.testing.assert_close(to_grey(grey), torch.full((1, 1, 2, 2), 0.4))
    assert float(saturation(grey)) == 0
    assert float(saturation(red)) == 1
