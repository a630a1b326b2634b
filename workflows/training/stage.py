"""The protocol of a training stage, and the data that a stage is created with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from workflows.training.batches import AnyLoader, Batches
from workflows.training.world import World


class Stage(Protocol):
    """The protocol of a training stage. Every rank creates one, from the same seed."""

    step: int
    """The number of complete steps."""
    batches: Batches
    """The stream of training batches."""

    def __init__(self, options: Any, data: Data, world: World) -> None:
        """Create the stage in its state before the first step.

        Args:
            options: The options of the stage, of its options class in
                `workflows.training.stage_registry`.
            data: The loaders of training and held-out rows, the classes and the run folder.
            world: The rank that the stage runs in, with its device.
        """

    def advance(self) -> dict[str, Tensor]:
        """Take the next update; `step` grows by one where it completes a step.

        Returns:
            The metrics of the update by name, each a 0-d tensor over this rank's rows. After the
            update that completes a step, the metrics of the step, with the same names after each
            step, which are averaged over ranks.
        """

    def evaluate(self) -> tuple[dict[str, float], dict[str, NDArray[np.uint8]]]:
        """Evaluate the current state without changing it.

        All ranks call it at the same step.

        Returns:
            Metrics by name, equal in all ranks; and image grids by name, (n, h, w, 3) uint8, or
            (rows, columns, h, w, 3) where images belong beside each other.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on.

        Returns:
            Nested mappings and sequences of tensors and plain values, which `torch.load` reads with
            `weights_only=True`. The entry `step` has the number of complete steps.
        """

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned, of this stage or of one with the same layers.

        It changes the stage in place, with its `step` and the position of `batches`.
        Hyperparameters such as the learning rate stay those of the options.

        Args:
            state: The state, whose tensors are on the CPU after a checkpoint was loaded. The stage
                may keep and change them.
        """


@dataclass(frozen=True)
class Data:
    """The training data of a stage, sent to every rank."""

    train: AnyLoader
    """The loader of training rows, of the whole batch; a stage reads its rank's part."""
    held_out: AnyLoader | None
    """The loader of a held-out split; None = there is none."""
    classes: tuple[str, ...]
    """The names of the classes by label; the wnid of a class without a name."""
    ranks_on_host: int = 1
    """The number of ranks on this machine."""
    folder: str = ""
    """The run folder, which may hold further files of the stage."""
    sizes: tuple[int, ...] = ()
    """The sides of the stored squares of the training split, in pixels; empty if the stage reads
    one array only."""
