"""The stage learns, resumes to the bit, and computes on two ranks what it computes on one."""

from __future__ import annotations

import itertools
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.images import jpeg, prepare_inline
from tests.workflows.training.small import small_store, tensors
from tests.workflows.training.worlds import in_ranks, through_a_file
from workflows.superres.choices import BICUBIC, BLUR_JPEG, STORED
from workflows.superres.data import PairArrays, pair_loader
from workflows.superres.options import SuperresOptions
from workflows.superres.pairs import Pair
from workflows.superres.stage import GRID, MAX_PSNR, Superres, _examples, _grid, _quality
from workflows.training.finite import NonFiniteError
from workflows.training.stage import Data
from workflows.training.world import BatchNorm, World

ENCODED = "jpeg:24@90"
PAIRS = {
    "stored": PairArrays(2, STORED, (12, 24)),
    "bicubic": PairArrays(2, BICUBIC, (24,)),
    "compressed": PairArrays(2, BLUR_JPEG, (24,)),
}
KINDS: dict[str, dict[str, Any]] = {
    "stored": {},
    "bicubic": {"network": "span", "max_gradient_norm": 0.1, "schedule": "step"},
    "compressed": {"ema_decay": 0.0, "micro_batch_size": 3},
    "relativistic": {"adversarial_weight": 0.1, "warmup_steps": 2, "patch_size": 12},
    "wgan-gp": {
        "adversarial_weight": 0.1, "objective": "wgan-gp", "warmup_steps": 0, "patch_size": 12,
    },
    "lesson": {"network": "lesson", "learning_rate": 2e-4},
}  # fmt: skip
"""The stages of these tests by name. Those that name no pairs have stored ones."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store of 36 and 18 images of 12 and 24 px."""
    return small_store(tmp_path_factory.mktemp("small"), sizes=(12, 24), encoded=(ENCODED,))


def make_stage(
    store: Path, kind: str = "stored", world: World | None = None, **choices: Any
) -> Superres:
    """Return a small stage before its first step."""
    arrays = PAIRS.get(kind, PAIRS["stored"])
    options = SuperresOptions(
        **{
            "network": "fsrcnn", "batch_size": 8, "patch_size": 8, "steps": 40,
            "precision": "float32", "learning_rate": 2e-3, "critic_width": 4,
            **KINDS[kind], **choices,
        },
        scale=arrays.scale, degradation=arrays.degradation, encoded=arrays.encoded,
    )  # fmt: skip
    torch.manual_seed(options.seed)
    train, held_out = (
        pair_loader(str(store), split, options, arrays, training=split == "train")
        for split in ("train", "val")
    )
    return Superres(options, Data(train, held_out, ()), world or World())


def advance(stage: Superres, steps: int) -> list[dict[str, float]]:
    """Take steps, and return their metrics."""
    return [{n: float(v) for n, v in stage.advance().items()} for _ in range(steps)]


@pytest.mark.parametrize(
    "kind",
    [
        "stored",
        pytest.param("bicubic", marks=pytest.mark.slow),
        pytest.param("compressed", marks=pytest.mark.slow),
    ],
)
def test_training_approaches_the_originals(store: Path, kind: str) -> None:
    """The error on held-out images falls, and the grid has three pictures for each of eight."""
    stage = make_stage(store, kind, ema_decay=0.0)
    before, _ = stage.evaluate()
    advance(stage, 40)
    after, grids = stage.evaluate()
    assert after["held_out_psnr"] > before["held_out_psnr"] + 0.3
    assert after["bicubic_psnr"] == before["bicubic_psnr"]
    assert 0 < after["held_out_ssim"] <= 1
    assert grids[GRID].shape == (4, 6, 24, 24, 3)
    assert grids[GRID].dtype == np.uint8
    stage.batches.close()


SLOW_KINDS = {"compressed", "wgan-gp"}
"""Kinds that combine what others, or the tests of other stages, have one by one."""


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] if k in SLOW_KINDS else []) for k in KINDS],
)
def test_a_resumed_stage_equals_an_uninterrupted_one(store: Path, kind: str) -> None:
    """A stage that is resumed between any two steps is bit-identical to an uninterrupted one."""
    uninterrupted = make_stage(store, kind)
    states, metrics = [], []
    for _ in range(6):
        states.append(through_a_file(uninterrupted.state_dict()))
        metrics += advance(uninterrupted, 1)
    for start in (1, 5):  # in the warm-up, and in the second epoch
        resumed = make_stage(store, kind)
        advance(resumed, 3)  # loading replaces this state
        resumed.load_state_dict(states[start])
        assert advance(resumed, 6 - start) == metrics[start:]
        pairs = zip(tensors(resumed.state_dict()), tensors(uninterrupted.state_dict()), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        resumed.batches.close()
    uninterrupted.batches.close()


def test_an_evaluation_changes_nothing(store: Path) -> None:
    """Not the running statistics of batch norm either."""
    evaluated, plain = make_stage(store, "lesson"), make_stage(store, "lesson")
    for stage in (evaluated, plain):
        advance(stage, 2)
    evaluated.evaluate()
    for stage in (evaluated, plain):
        advance(stage, 2)
    states = (tensors(stage.state_dict()) for stage in (evaluated, plain))
    assert all(torch.equal(a, b) for a, b in zip(*states, strict=True))


def test_an_image_that_equals_its_original_counts_with_a_finite_psnr() -> None:
    """Interpolation is exact on images of one colour, and a mean over images stays a number."""
    images = torch.zeros(2, 3, 24, 24)
    noisy = images + torch.tensor([0.0, 10.0]).view(2, 1, 1, 1)
    sums = _quality(noisy, images, images, 2).tolist()
    assert sums[2:] == [2 * MAX_PSNR, 2]
    assert MAX_PSNR < sums[0] < MAX_PSNR + 40


def test_an_enlarged_image_with_nan_is_no_evaluation(store: Path) -> None:
    """The run has diverged, though its weights may be finite."""
    stage = make_stage(store)
    stage.network.eval()
    stage.network.details = lambda images: torch.full(  # type: ignore[method-assign]
        (len(images), 3, 24, 24), torch.nan
    )
    with pytest.raises(NonFiniteError, match="an enlarged held-out image contains NaN"):
        stage.evaluate()
    stage.batches.close()


class Silent(World):
    """The first of two ranks, whose peer has nothing to say."""

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        return values


def test_a_rank_without_held_out_images_has_no_grid(tmp_path: Path) -> None:
    """As where there are fewer images than ranks."""
    store = small_store(tmp_path, sizes=(12, 24))
    image = tmp_path / "one" / "test" / "n00000000" / "0.JPEG"
    image.parent.mkdir(parents=True)
    image.write_bytes(jpeg(0, 24, 24))
    prepare_inline(tmp_path / "one", str(store), split="test", sizes=(12, 24), serves=16)
    options = make_stage(store).options
    arrays = PAIRS["stored"]
    train = pair_loader(str(store), "train", options, arrays, training=True)
    held_out = pair_loader(str(store), "test", options, arrays, training=False)
    assert Superres(options, Data(train, held_out, ()), Silent(rank=0, size=2)).evaluate()[1] == {}
    alone = Superres(options, Data(train, held_out, ()), World()).evaluate()[1]
    assert alone[GRID].shape == (1, 3, 24, 24, 3)


def test_an_odd_number_of_images_ends_with_white_cells() -> None:
    """Three pictures of an image stay beside each other."""
    low = torch.arange(3.0).view(3, 1, 1, 1).expand(-1, 3, 4, 4)
    grid = _grid(_examples(Pair(low, low.repeat(1, 1, 2, 2) + 20), low.repeat(1, 1, 2, 2) + 10))
    assert grid.shape == (2, 6, 8, 8, 3)
    assert grid[:, :, 5, 5, 1].tolist() == [[0, 10, 20, 1, 11, 21], [2, 12, 22, 255, 255, 255]]


def test_a_state_without_a_critic_leaves_the_new_one_as_it_is(store: Path) -> None:
    """A run goes back to a step of its own, and goes on with an adversarial loss."""
    plain, adversarial = (
        make_stage(store, patch_size=12, adversarial_weight=weight, warmup_steps=0)
        for weight in (0.0, 0.1)
    )
    advance(plain, 2)
    assert adversarial.trainer.critic is not None
    before = [p.clone() for p in adversarial.trainer.critic.parameters()]
    adversarial.load_state_dict(through_a_file(plain.state_dict()))
    after = adversarial.trainer.critic.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    state = through_a_file(adversarial.state_dict())
    assert advance(adversarial, 1)[0]["critic_loss"] > 0
    plain.load_state_dict(state)
    assert set(advance(plain, 1)[0]) == {"pixel_loss"}
    for stage in (plain, adversarial):
        stage.batches.close()


def test_the_critic_begins_after_the_warm_up(store: Path) -> None:
    """Before, it is not trained, and metrics have the same names."""
    stage = make_stage(store, "relativistic")
    assert stage.trainer.critic is not None
    before = [p.clone() for p in stage.trainer.critic.parameters()]
    metrics = advance(stage, 2)
    assert all(
        torch.equal(a, b) for a, b in zip(before, stage.trainer.critic.parameters(), strict=True)
    )
    assert {metrics[0][name] for name in ("critic_loss", "estimate", "generator_loss")} == {0}
    metrics += advance(stage, 1)
    assert metrics[2]["generator_loss"] > 0
    assert metrics[2].keys() == metrics[0].keys()
    assert not torch.equal(before[0], next(iter(stage.trainer.critic.parameters())))


def run_in_world(world: World, store: Path, kind: str) -> Any:
    """Return the state, the metrics and the evaluation after five steps."""
    stage = make_stage(store, kind, world)
    metrics = advance(stage, 5)
    evaluated = stage.evaluate()[0]
    stage.batches.close()
    if kind == "lesson":
        for network in (stage.trainer.generator, stage.network):
            forget_biases_before_batch_norm(network)
    if kind == "relativistic":  # of two scores the bias is subtracted
        stage.trainer.critic.body[-1].bias.data.zero_()  # type: ignore[union-attr, index]
    return tensors(stage.state_dict()), metrics, evaluated


def forget_biases_before_batch_norm(network: torch.nn.Module) -> None:
    """Zero the biases that batch norm subtracts: their gradients are rounding errors alone."""
    layers = [layer for layer in network.modules() if not list(layer.children())]
    for layer, following in itertools.pairwise(layers):
        if isinstance(layer, torch.nn.Conv2d) and isinstance(following, BatchNorm):
            assert layer.bias is not None
            layer.bias.data.zero_()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["stored", "bicubic", "relativistic", "wgan-gp", "lesson"])
def test_two_ranks_compute_what_one_computes(store: Path, tmp_path: Path, kind: str) -> None:
    """Weights, metrics and the evaluation agree, including means over scores and batch norm."""
    state, metrics, evaluated = run_in_world(World(), store, kind)
    ranks = in_ranks(partial(run_in_world, store=store, kind=kind), 2, tmp_path)
    for of_rank, _, evaluated_together in ranks:
        for actual, expected in zip(of_rank, state, strict=True):
            # Adam makes a step of the rounding errors of a gradient that is nearly 0.
            differs = ~torch.isclose(actual, expected, rtol=1e-3, atol=1e-4)
            assert differs.double().mean() <= 1e-4
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
        assert evaluated_together == pytest.approx(evaluated, rel=1e-3)
    for first, second, expected in zip(ranks[0][1], ranks[1][1], metrics, strict=True):
        mean = {name: (first[name] + second[name]) / 2 for name in first}
        assert mean == pytest.approx(expected, rel=1e-3, abs=1e-4)
