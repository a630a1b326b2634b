"""A stage outside of Tesserae: it learns the mean of all pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workflows.evaluation.options import EvaluationOptions
from workflows.options.fields import option
from workflows.training.batches import Batches, no_augmentation
from workflows.training.options import TrainingOptions
from workflows.training.run_folder import RunFolder
from workflows.training.stage import Data
from workflows.training.world import World


@dataclass(frozen=True, kw_only=True)
class OwnOptions(TrainingOptions):
    """The flags of the stage."""

    image_size: int = option(16, "side of the images, in pixels", minimum=1)
    rate: float = option(0.5, "share of a batch's mean that is taken over", minimum=0)


class Own:
    """The stage."""

    def __init__(self, options: OwnOptions, data: Data, world: World) -> None:
        self.step = 0
        self.batches = Batches(data.train, no_augmentation, world)
        self._rate = options.rate
        self._mean = torch.zeros(())

    def advance(self) -> dict[str, Tensor]:
        mean = self.batches.take().images.float().mean()
        self._mean += self._rate * (mean - self._mean)
        self.step += 1
        return {"mean": self._mean.clone()}

    def evaluate(self) -> tuple[dict[str, float], dict[str, NDArray[np.uint8]]]:
        return {}, {}

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "mean": self._mean, "batches": self.batches.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step, self._mean = state["step"], state["mean"]
        self.batches.load_state_dict(state["batches"])


@dataclass(frozen=True)
class OwnEvaluation:
    """The evaluation of a run."""

    step: int
    samples: int
    notice: str = ""
    tables: tuple[Any, ...] = ()
    images: tuple[Any, ...] = ()

    def metrics(self) -> Iterator[tuple[str, str]]:
        yield "samples asked for", f"{self.samples}"


def evaluate_own(
    folder: RunFolder, options: EvaluationOptions, device: torch.device
) -> OwnEvaluation:
    """Evaluate nothing, for a report."""
    newest = folder.newest_checkpoint()
    assert newest is not None
    return OwnEvaluation(folder.step_of(newest), options.samples)
