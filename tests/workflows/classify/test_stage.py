"""Tests that steps depend on no interruption and no number of ranks, and what a step trains."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.augment import Augment
from pipeline.loader import Loader
from pipeline.loader.crops import Crop
from tests.workflows.classify.small import (
    BATCH,
    ENCODED,
    HELD_OUT_ROWS,
    SIZE,
    class_store,
    config_file,
    open_small,
    small_stage,
    small_trunk,
    take_steps,
)
from tests.workflows.training.small import tensors
from tests.workflows.training.worlds import in_ranks, through_a_file
from workflows.classify.mixing import Mixing
from workflows.classify.stage import Classify, evaluated_side, evaluation_augment
from workflows.training.world import World

MIXED = {"mixup": 0.3, "cutmix": 1.0, "ema_decay": 0.9}
GROWING = {"start_image_size": 8, "growth_epochs": (0, 2)}
KINDS: dict[str, dict[str, Any]] = {
    "plain": {"padding": 2, "cutout": 5},
    "growing": {**MIXED, **GROWING, "crop": "resized", "schedule": "linear"},
    "growing in random crops": {**GROWING, "padding": 1, "schedule": "step", "milestones": (1, 2)},
    "windowed": {**GROWING, "order": "windowed", "momentum": 0.0},
    "encoded": {**MIXED, **GROWING, "crop": "resized", "encoded": ENCODED},
    "encoded in random crops": {**GROWING, "encoded": ENCODED, "channels_last": False},
    "dropout": {
        "network": "vit", "width": None, "optimiser": "adamw", "micro_batch_size": 3, "mixup": 0.4,
        "ema_decay": 0.5, "label_smoothing": 0.1, "max_gradient_norm": 0.1,
    },
    "pretrained": {
        "network": None, "width": None, "trunk": "resnet", "frozen_blocks": 1,
        "trunk_learning_rate": 0.01,
    },
    "bfloat16": {"precision": "bfloat16", "crop": "none", "schedule": "constant"},
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a store, a network's configuration and a pretrained trunk."""
    folder = tmp_path_factory.mktemp("classify")
    class_store(folder, encoded=(ENCODED,))
    small_trunk(folder)
    return folder


def choices_of(folder: Path, kind: str) -> dict[str, Any]:
    """Return the options of a kind, with the paths of its files."""
    choices = dict(KINDS[kind])
    if choices.get("network") in ("vit", "convnext", "resnet"):
        choices["network"] = config_file(folder, choices["network"])
    if choices.get("trunk"):
        choices["trunk"] = str(folder / choices["trunk"])
    return choices


SLOW_KINDS = {
    "growing in random crops", "windowed", "encoded", "encoded in random crops", "bfloat16",
}  # fmt: skip
"""Kinds that combine what others have one by one; each takes seconds."""


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] if k in SLOW_KINDS else []) for k in KINDS],
)
def test_a_resumed_stage_equals_an_uninterrupted_one(folder: Path, kind: str) -> None:
    """A stage that is resumed at any step is bit-identical, also across a change of the size."""
    choices, steps = choices_of(folder, kind), 9
    uninterrupted = small_stage(folder / "store", **choices)
    states, metrics = [], []
    for _ in range(steps):
        states.append(through_a_file(uninterrupted.state_dict()))
        metrics += take_steps(uninterrupted, 1)
    expected = tensors(uninterrupted.state_dict())
    assert len(expected) > 20
    for start in (3, 8):  # within an epoch, and at the end of one
        resumed = small_stage(folder / "store", **choices)
        take_steps(resumed, 1)  # loading replaces this state
        resumed.load_state_dict(states[start])
        assert take_steps(resumed, steps - start) == metrics[start:]
        actual = tensors(resumed.state_dict())
        assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))
        assert resumed.batches.state_dict() == uninterrupted.batches.state_dict()
        resumed.batches.close()
    uninterrupted.batches.close()


def in_world(world: World, store: Path, parts: tuple[int, ...], **choices: Any) -> Any:
    """Return weights, metrics and an evaluation, with the state saved between parts."""
    stage, metrics = small_stage(store, world, **choices), []
    for index, part in enumerate(parts):
        if index:
            state = through_a_file(stage.state_dict())
            stage.batches.close()
            stage = small_stage(store, world, **choices)
            stage.load_state_dict(state)
        metrics += take_steps(stage, part)
    evaluated = stage.evaluate()[0]
    stage.batches.close()
    state = through_a_file(stage.state_dict())
    return tensors(state), metrics, evaluated, state


def both(world: World, store: Path, **choices: Any) -> Any:
    """Return the results of nine steps, uninterrupted and interrupted."""
    return tuple(in_world(world, store, parts, **choices) for parts in ((9,), (3, 6)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", ["plain", "growing", "encoded", "encoded in random crops", "pretrained"]
)
def test_two_ranks_compute_what_one_computes(folder: Path, tmp_path: Path, kind: str) -> None:
    """Two ranks agree with one, with batch norm over both; interrupted ones to the bit.

    One rank goes on with their state.
    """
    choices = choices_of(folder, kind)
    work = partial(both, store=folder / "store", **choices)
    alone, metrics, evaluated, _ = in_world(World(), folder / "store", (9,), **choices)
    results = in_ranks(work, 2, tmp_path)
    for (state, _, evaluation, _), (resumed, _, again, _) in results:
        for actual, expected in zip(state, alone, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-4)
        assert evaluation == pytest.approx(evaluated, rel=1e-3, abs=1e-4)
        assert evaluation == again
        assert all(torch.equal(a, b) for a, b in zip(state, resumed, strict=True))
    ranks = [uninterrupted[1] for uninterrupted, _ in results]
    for first, second, expected in zip(*ranks, metrics, strict=True):
        mean = {name: (first[name] + second[name]) / 2 for name in first}
        assert mean == pytest.approx(expected, rel=1e-3, abs=1e-4)
    fewer, alone_again = (small_stage(folder / "store", **choices) for _ in range(2))
    fewer.load_state_dict(results[0][0][3])
    take_steps(alone_again, 9)
    for actual_metrics, expected in zip(
        take_steps(fewer, 2), take_steps(alone_again, 2), strict=True
    ):
        assert actual_metrics == pytest.approx(expected, rel=1e-2, abs=1e-3)


# --- what a step trains ---------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [2, 3, 7])
def test_micro_batches_give_the_step_of_the_whole_batch(folder: Path, rows: int) -> None:
    """Gradients and metrics are those of the batch, mixed rows included, without batch norm."""
    network = config_file(folder, "convnext")
    choices: dict[str, Any] = {"network": network, "width": None, "label_smoothing": 0.1, **MIXED}
    whole = small_stage(folder / "store", **choices)
    parts = small_stage(folder / "store", micro_batch_size=rows, **choices)
    for first, second in zip(take_steps(whole, 3), take_steps(parts, 3), strict=True):
        assert first == pytest.approx(second, rel=1e-4)
    for stage in (whole, parts):
        assert any(p.grad is not None for p in stage.classifier.model.parameters())
    pairs = zip(tensors(whole.state_dict()), tensors(parts.state_dict()), strict=True)
    for actual, expected in pairs:
        torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
def test_steps_equal_a_plain_computation(folder: Path, optimiser: str) -> None:
    """Mixing, smoothing, clipping, rates, decay and average are those of the options."""
    choices: dict[str, Any] = {
        "network": "resnet9", "width": 8, "seed": 3, "cutout": 3, "padding": 2, "mixup": 0.4,
        "cutmix": 0.8, "label_smoothing": 0.2, "max_gradient_norm": 0.3, "ema_decay": 0.2,
        "optimiser": optimiser, "learning_rate": 0.02, "trunk_learning_rate": 0.01,
        "weight_decay": 0.05, "momentum": 0.8, "warmup_epochs": 0.5, "schedule": "cosine",
    }  # fmt: skip
    stage = small_stage(folder / "store", **choices)
    model = copy.deepcopy(stage.classifier.model)
    average = copy.deepcopy(model.state_dict())
    decays = [p for p in model.backbone.parameters() if p.ndim > 1]
    vectors = [p for p in model.backbone.parameters() if p.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": decays, "lr": 0.01, "weight_decay": 0.05},
        {"params": vectors, "lr": 0.01, "weight_decay": 0.0},
        {"params": [model.classifier.weight], "lr": 0.02, "weight_decay": 0.05},
    ]
    plain: torch.optim.Optimizer = (
        torch.optim.AdamW(groups)
        if optimiser == "adamw"
        else torch.optim.SGD(groups, momentum=0.8, nesterov=True)
    )
    rates = [group["lr"] for group in plain.param_groups]
    loader = Loader(
        folder / "store", size=SIZE, batch_size=BATCH, seed=3, include_labels=range(6), rank=0,
        world=1,
    )  # fmt: skip
    augment = Augment(size=SIZE, crop="random", padding=2, cutout=3, seed=3)
    mixing = Mixing(0.4, 0.8, 3)
    batches = iter(loader)
    for step in range(4):
        batch = next(batches)
        assert isinstance(batch.images, Tensor)
        mixed = mixing(augment(batch.images, batch.rows, 0), batch.labels, batch.rows, 0)
        targets = mixed.shares[:, None] * nn.functional.one_hot(mixed.labels, 6)
        targets += (1 - mixed.shares)[:, None] * nn.functional.one_hot(mixed.partner_labels, 6)
        targets = 0.8 * targets + 0.2 / 6
        loss = -(targets * model(mixed.images).logits.log_softmax(1)).sum(1).mean()
        plain.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.grad *= min(1.0, 0.3 / float(norm))
        factor = (step + 1) / 2 if step < 2 else 0.5 + 0.5 * math.cos(math.pi * (step - 2) / 10)
        for group, rate in zip(plain.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        plain.step()
        decay = min(0.2, (1 + step) / (10 + step)) if step else 0.0
        for name, value in model.state_dict().items():
            average[name] = (decay * average[name] + (1 - decay) * value).to(value.dtype)
        assert take_steps(stage, 1)[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    assert stage.average is not None
    for actual, expected in ((stage.classifier.model, model.state_dict()),
                             (stage.average.module, average)):  # fmt: skip
        for name, value in actual.state_dict().items():
            if value.is_floating_point():
                torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


def parameters(stage: Classify) -> dict[str, Tensor]:
    """Return copies of the parameters by name."""
    return {n: p.detach().clone() for n, p in stage.classifier.model.named_parameters()}


@pytest.mark.parametrize(("frozen", "changes"), [(0, 3), (1, 2), (2, 1), (-1, 0)])
def test_frozen_blocks_do_not_change(folder: Path, frozen: int, changes: int) -> None:
    """The first blocks keep their weights, with decay too; later ones and the last layer learn."""
    trunk = str(folder / "resnet")
    choices = {"network": None, "width": None, "trunk": trunk, "frozen_blocks": frozen}
    stage = small_stage(folder / "store", weight_decay=0.1, **choices)
    before = parameters(stage)
    take_steps(stage, 2)
    after = parameters(stage)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    prefixes = ["resnet.embedder.", "resnet.encoder.stages.0.", "resnet.encoder.stages.1."]
    learns = ("classifier.", *prefixes[3 - changes :])
    assert changed == {name for name in before if name.startswith(learns)}


def test_a_pretrained_batch_norm_keeps_its_statistics(folder: Path) -> None:
    """They are used in training too, also after an evaluation; a new network learns its own."""
    choices = {"network": None, "width": None, "trunk": str(folder / "resnet")}
    stage = small_stage(folder / "store", **choices)
    before = {n: b.clone() for n, b in stage.classifier.model.named_buffers()}
    assert before
    take_steps(stage, 2)
    stage.evaluate()
    take_steps(stage, 2)
    for name, buffer in stage.classifier.model.named_buffers():
        assert torch.equal(buffer, before[name])
    new = small_stage(folder / "store")
    before = {n: b.clone() for n, b in new.classifier.model.named_buffers()}
    take_steps(new, 1)
    assert not any(torch.equal(b, before[n]) for n, b in new.classifier.model.named_buffers())


@pytest.mark.parametrize("optimiser", ["sgd", "adamw"])
@pytest.mark.parametrize("network", ["resnet9", "vit"])
def test_norms_and_biases_do_not_decay(folder: Path, optimiser: str, network: str) -> None:
    """Without a gradient, only weights of two and more axes shrink, each at its own rate."""
    rates = {"learning_rate": 0.5, "trunk_learning_rate": 0.25, "warmup_epochs": 0.0}
    choices: dict[str, Any] = {"optimiser": optimiser, "weight_decay": 0.1, **rates}
    if network == "vit":
        choices |= {"network": config_file(folder, "vit"), "width": None}
    stage = small_stage(folder / "store", schedule="constant", momentum=0.0, **choices)
    stage._set_rate()
    model = stage.classifier.model
    last = {id(parameter) for parameter in stage.classifier.last_layers()}
    assert len(last) == (1 if network == "resnet9" else 2)
    for parameter in model.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter)
        parameter.grad = torch.zeros_like(parameter)
    before = parameters(stage)
    stage._optimiser.step()
    for name, parameter in model.named_parameters():
        rate = 0.5 if id(parameter) in last else 0.25
        factor = 1 - rate * 0.1 if parameter.ndim > 1 else 1
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_the_schedule_counts_epochs(folder: Path) -> None:
    """The rate rises in the warm-up, and falls at the milestones; both ends are epochs."""
    choices: dict[str, Any] = {"schedule": "step", "warmup_epochs": 0.5, "learning_rate": 1.0}
    stage = small_stage(folder / "store", milestones=(1, 2), trunk_learning_rate=0.5, **choices)
    rates = []
    for _ in range(12):
        take_steps(stage, 1)
        rates.append(sorted({group["lr"] for group in stage._optimiser.param_groups}))
    expected = [0.5, 1.0, 1.0, 1.0, *[0.1] * 4, *[0.01] * 4]
    assert [rate for _, rate in rates] == pytest.approx(expected)
    assert [rate for rate, _ in rates] == pytest.approx([value / 2 for value in expected])


def test_images_grow_at_the_beginning_of_an_epoch(folder: Path) -> None:
    """Each size is read from the smallest squares that suffice, in the same order of rows."""
    stage = small_stage(folder / "store", **GROWING, epochs=4)
    plain = small_stage(folder / "store", epochs=4)
    read: list[tuple[int, ...]] = []
    take = stage.batches.take

    def record() -> Any:
        batch = take()
        expected = plain.batches.take()
        assert torch.equal(batch.rows, expected.rows)
        assert torch.equal(batch.labels, expected.labels)
        read.append((stage.batches.loader.sizes[0], batch.images.shape[3]))
        return batch

    stage.batches.take = record  # type: ignore[method-assign]
    take_steps(stage, 12)
    assert read == [(8, 8)] * 4 + [(16, 16)] * 8


def test_encoded_rows_are_never_enlarged(folder: Path) -> None:
    """A smaller size has room for random crops as far as the pictures have it."""
    choices: dict[str, Any] = {"encoded": ENCODED, "image_size": 24, "growth_epochs": (1, 1)}
    for start, side in ((16, 18), (22, 24)):
        stage = small_stage(folder / "store", start_image_size=start, **choices)
        assert stage.batches.loader.sizes == (side,)  # type: ignore[union-attr]
        assert stage.batches.take().images.shape[2:] == (start, start)
        stage.batches.close()


def test_training_learns_the_classes(folder: Path) -> None:
    """The held-out accuracy rises, and the average of the weights is what is evaluated."""
    stage = small_stage(folder / "store", epochs=12, ema_decay=0.8, learning_rate=0.1)
    before = stage.evaluate()[0]
    take_steps(stage, 48)
    after = stage.evaluate()[0]
    assert set(after) == {"held_out_loss", "held_out_accuracy", "held_out_top5"}
    assert after["held_out_loss"] < 0.5 * before["held_out_loss"]
    assert after["held_out_accuracy"] > 0.8
    assert after["held_out_top5"] >= after["held_out_accuracy"]
    assert stage.average is not None
    stage.average.module.load_state_dict(
        small_stage(folder / "store").classifier.model.state_dict()
    )
    assert stage.evaluate()[0] == pytest.approx(before)


# --- evaluation -----------------------------------------------------------------------------------


def held_out(stage: Classify) -> Tensor:
    """Return the labels and scores of a rank's held-out rows, (n, 1 + C)."""
    parts = [torch.cat([labels[:, None], logits], 1) for logits, labels in stage.held_out_logits()]
    return torch.cat(parts) if parts else torch.zeros(0, 7)


def in_order(rows: Tensor) -> Tensor:
    """Return rows in an order that depends on their values alone."""
    for column in range(rows.shape[1] - 1, -1, -1):
        rows = rows[rows[:, column].argsort(stable=True)]
    return rows


@pytest.mark.parametrize(
    ("size", "encoded", "evaluation_size"),
    [
        (2, None, None),
        (5, ENCODED, 20),
        pytest.param(5, None, 12, marks=pytest.mark.slow),
        pytest.param(5, None, 20, marks=pytest.mark.slow),
        pytest.param(3, ENCODED, None, marks=pytest.mark.slow),
    ],
)
def test_an_evaluation_covers_every_row_once(
    folder: Path, size: int, encoded: str | None, evaluation_size: int | None
) -> None:
    """The parts of all ranks are all held-out rows, also if the last batch has fewer than ranks."""
    choices: dict[str, Any] = {"encoded": encoded, "evaluation_size": evaluation_size}
    alone = held_out(small_stage(folder / "store", **choices))
    assert len(alone) == HELD_OUT_ROWS
    parts = [
        held_out(small_stage(folder / "store", World(rank, size), **choices))
        for rank in range(size)
    ]
    assert all(len(part) < HELD_OUT_ROWS for part in parts)
    torch.testing.assert_close(in_order(torch.cat(parts)), in_order(alone), rtol=1e-4, atol=1e-5)


def test_an_evaluation_equals_a_plain_one(folder: Path) -> None:
    """Loss, accuracy and top-5 accuracy are those of all rows at once."""
    stage = small_stage(folder / "store")
    take_steps(stage, 2)
    metrics, grids = stage.evaluate()
    rows = held_out(stage)
    labels, logits = rows[:, 0].long(), rows[:, 1:].double()
    losses = -torch.log_softmax(logits, 1)[torch.arange(len(rows)), labels]
    ranks = (logits > logits[torch.arange(len(rows)), labels][:, None]).sum(1)
    assert metrics == pytest.approx(
        {
            "held_out_loss": float(losses.mean()),
            "held_out_accuracy": float((ranks == 0).float().mean()),
            "held_out_top5": float((ranks < 5).float().mean()),
        },
        rel=1e-5,
    )
    assert grids == {}


@pytest.mark.parametrize(
    "kind",
    [
        "pretrained",
        "dropout",
        pytest.param("plain", marks=pytest.mark.slow),
        pytest.param("growing", marks=pytest.mark.slow),
    ],
)
def test_an_evaluation_changes_nothing(folder: Path, kind: str) -> None:
    """Steps and evaluations alternate, and the state is that of steps alone."""
    choices = choices_of(folder, kind)
    evaluated, plain = (small_stage(folder / "store", **choices) for _ in range(2))
    for _ in range(3):
        assert take_steps(evaluated, 2) == take_steps(plain, 2)
        before = copy.deepcopy(evaluated.state_dict())
        first = evaluated.evaluate()[0]
        assert evaluated.evaluate()[0] == first
        pairs = zip(tensors(before), tensors(evaluated.state_dict()), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
        assert evaluated.batches.state_dict() == plain.batches.state_dict()


@pytest.mark.parametrize("crop", ["resized", "random", "none"])
@pytest.mark.parametrize("trunk", [None, "resnet"])
def test_the_centre_is_cut_once(folder: Path, crop: str, trunk: str | None) -> None:
    """The loader cuts 7/8 of encoded rows, which is evaluated as a whole, whatever the training."""
    choices: dict[str, Any] = {"crop": crop, "encoded": ENCODED}
    if trunk is not None:
        choices |= {"trunk": str(folder / trunk), "network": None, "width": None}
    stage = small_stage(folder / "store", **choices)
    loader = stage._data.held_out
    assert isinstance(loader, Loader)
    assert loader.sizes == (SIZE,)
    assert loader.crop == Crop("centre", share=0.875)
    augment = evaluation_augment(stage.options, stage.classifier, loader.sizes[0])
    assert (augment.size, augment.resize, augment.crop) == (SIZE, None, "none")


@pytest.mark.parametrize(
    ("stored", "share", "resized"),
    [(16, None, 16), (17, None, 17), (18, None, 18), (20, None, 18), (224, None, 18),
     (20, 1.0, 16), (20, 0.9, 18), (20, 0.5, 20), (64, 0.5, 32)],
)  # fmt: skip
def test_stored_squares_are_resized_for_the_centre(
    folder: Path, stored: int, share: float | None, resized: int
) -> None:
    """It is 7/8 of their side, or the share of a trunk, and they are never enlarged."""
    choices: dict[str, Any] = {}
    if share is not None:
        choices = {"trunk": str(folder / "resnet"), "network": None, "width": None}
    stage = small_stage(folder / "store", **choices)
    if share is not None:
        stage.classifier.transform = replace(stage.classifier.transform, crop_share=share)
    assert evaluated_side(stage.options, stage.classifier, stored) == resized
    augment = evaluation_augment(stage.options, stage.classifier, stored)
    assert augment.resize == (None if resized == stored else resized)
    images = torch.randint(0, 256, (2, 3, stored, stored), dtype=torch.uint8)
    assert augment(images, torch.arange(2), 0).shape == (2, 3, SIZE, SIZE)


def test_mirrored_scores_are_the_mean_of_both(folder: Path) -> None:
    """The mirror image is that of the network's input."""
    plain = small_stage(folder / "store")
    mirrored = small_stage(folder / "store", mirrored_evaluation=True)
    seen: list[Tensor] = []
    plain.classifier.model.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].clone())
    )
    rows = held_out(plain)
    with torch.no_grad():
        plain.classifier.model.eval()
        reverse = torch.cat([plain.classifier.logits(images.flip(3)) for images in list(seen)])
    expected = (rows[:, 1:] + reverse) / 2
    torch.testing.assert_close(held_out(mirrored)[:, 1:], expected, rtol=1e-4, atol=1e-5)


def test_a_run_without_held_out_rows_is_not_evaluated(folder: Path) -> None:
    """There are neither metrics nor grids."""
    stage = small_stage(folder / "store", held_out="none")
    assert stage.evaluate() == ({}, {})


def test_few_classes_have_no_top5(tmp_path: Path) -> None:
    """Among five classes every true one is among the five best."""
    store = class_store(tmp_path, classes=("a", "b", "c", "d", "e"), sizes=(16,))
    stage = small_stage(store)
    assert set(stage.evaluate()[0]) == {"held_out_loss", "held_out_accuracy"}


def test_mixed_images_have_no_accuracy(folder: Path) -> None:
    """A mixed image has two classes, so that only the loss is a metric of a step."""
    assert set(take_steps(small_stage(folder / "store", mixup=0.2), 1)[0]) == {"loss"}
    assert set(take_steps(small_stage(folder / "store"), 1)[0]) == {"loss", "accuracy"}


def test_the_number_of_steps_follows_from_the_epochs(folder: Path) -> None:
    """Named steps take precedence; an evaluation follows each epoch."""
    options, data = open_small(folder / "store", epochs=5)
    assert (options.steps, options.eval_every, len(data.train)) == (20, 4, 4)
    options, _ = open_small(folder / "store", epochs=5, steps=7, eval_every=3)
    assert (options.steps, options.eval_every) == (7, 3)


def test_the_layout_in_memory_is_that_of_the_option(folder: Path) -> None:
    """Images have the layout of the weights, mixed images too."""
    for mixup in (0.0, 0.3):
        for channels_last in (True, False):
            layout = torch.channels_last if channels_last else torch.contiguous_format
            stage = small_stage(folder / "store", mixup=mixup, channels_last=channels_last)
            images = stage._mix(stage.batches.take()).images
            assert images.shape == (BATCH, 3, SIZE, SIZE)
            assert images.is_contiguous(memory_format=layout)
