"""The stage `coarse`: a linear classifier of coarse pixels."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.augment import Augment
from workflows.coarse.options import CoarseOptions
from workflows.training.batches import Batches
from workflows.training.stage import Data
from workflows.training.world import World

HALF = (0.5, 0.5, 0.5)
"""The mean and the standard deviation that normalise pixels 0..255 to -1..1."""


class Coarse:
    """The stage of `tesserae train coarse`, in which each update is a step."""

    def __init__(self, options: CoarseOptions, data: Data, world: World) -> None:
        """Create the network, as `workflows.training.stage.Stage` defines."""
        self.options, self.world, self.step = options, world, 0
        side, classes = options.image_size, len(data.classes)
        layers = nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3 * (side // 8) ** 2, classes)
        self.network = nn.Sequential(*layers).to(world.device)
        self.optimiser = torch.optim.SGD(self.network.parameters(), options.learning_rate)
        augment = Augment(size=side, crop="random", mean=HALF, std=HALF, seed=options.seed)
        self.batches = Batches(data.train, augment, world, ranks_on_host=data.ranks_on_host)

    def advance(self) -> dict[str, Tensor]:
        """Take one step of gradient descent; return the loss of this rank's rows."""
        batch = self.batches.take()
        loss = nn.functional.cross_entropy(self.network(batch.images), batch.labels)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.world.average_gradients(self.network.parameters())
        self.optimiser.step()
        self.step += 1
        return {"loss": loss.detach()}

    def evaluate(self) -> tuple[dict[str, float], dict[str, NDArray[np.uint8]]]:
        """Return no metrics and no images."""
        return {}, {}

    def state_dict(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "batches": self.batches.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned."""
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.batches.load_state_dict(state["batches"])
