"""Own orders: the held-out accuracy of a stage that one of the arms has fed."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from workflows.classify.stage import Classify
from workflows.studies.parity import DATALOADER, WINDOWED
from workflows.studies.parity.data import ParityData
from workflows.studies.parity.feeds import DataLoaderBatches, shuffling_data_loader
from workflows.training.errors import DivergedError
from workflows.training.world import World


@dataclass(frozen=True, kw_only=True)
class ArmRun:
    """A finished run of an arm."""

    seed: int
    """The seed of initial weights, order and augmentation."""
    arm: str
    """The name of the arm, one of `workflows.studies.parity.ARMS`."""
    accuracy: float
    """The share of held-out images whose class has the highest score, 0 to 1."""
    loss: float
    """The mean cross entropy of the held-out images."""
    initial_weights: str
    """A digest of the network before the first step, in hexadecimal."""
    seconds: float
    """How long the run took."""


def train_arm(
    data: ParityData,
    arm: str,
    seed: int,
    *,
    on_step: Callable[[], None] = lambda: None,
) -> ArmRun:
    """Train a stage to its last step, and evaluate it on the held-out split.

    Training images come from the loader or, for the arm `dataloader`, from torch's DataLoader with
    its own shuffle; their augmentation and the evaluation are the same in all arms. It sets torch's
    global seed.

    Args:
        data: The data of the study.
        arm: The arm, one of `workflows.studies.parity.ARMS`.
        seed: Seed of the initial weights, the same in all arms; of the order; and of the
            augmentation, which is that of the same image and epoch in all arms.
        on_step: A function that is called after each step (default: nothing is called).

    Raises:
        DivergedError: The loss is NaN or infinite.
        TesseraeError: An image or the store cannot be read.
    """
    started = time.monotonic()
    form = data.trained_form
    order = "windowed" if arm == WINDOWED else "random"
    loader = data.loader(form, seed=seed, order=order)
    stage = data.stage(form, loader, World(), data.held_out_loader(form))
    initial_weights = _digest(stage.classifier.model)
    if arm == DATALOADER:
        images = data.images(loader)
        data_loader = shuffling_data_loader(
            images, batch_size=data.recipe.batch_size, seed=seed, workers=data.workers
        )
        stage.batches = DataLoaderBatches(stage.batches, data_loader, images, World())
    try:
        while stage.step < stage.options.steps:
            _check_finite(float(stage.advance()["loss"]), arm, seed, stage)
            on_step()
    finally:
        stage.batches.close()
    metrics, _ = stage.evaluate()
    _check_finite(metrics["held_out_loss"], arm, seed, stage)
    return ArmRun(
        seed=seed,
        arm=arm,
        accuracy=metrics["held_out_accuracy"],
        loss=metrics["held_out_loss"],
        initial_weights=initial_weights,
        seconds=time.monotonic() - started,
    )


def _check_finite(loss: float, arm: str, seed: int, stage: Classify) -> None:
    if not math.isfinite(loss):
        raise DivergedError(
            f"training diverged: seed {seed} of the arm {arm} has the loss {loss} at step"
            f" {stage.step:,}. Lower {stage.options.options_to_lower()}, and pass another --out."
        )


def _digest(model: nn.Module) -> str:
    digest = hashlib.blake2b(digest_size=8)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
