"""The recipe of a run: every setting that an arm of the studies may change."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from workflows.adversarial.objectives import OBJECTIVES, Objective
from workflows.studies.gans import LOSSES
from workflows.training.world import World

OBJECTIVE_OF_LOSS = dict(zip(LOSSES, ("dcgan", "lsgan", "wgan"), strict=True))
"""The objective, of `workflows.adversarial.objectives`, whose losses each loss of a study has."""
SOFT_REAL, SOFT_FAKE = (0.7, 1.2), (0.0, 0.3)
"""The ranges of soft labels of real and of fake rows, as in the list of tips."""


@dataclass(frozen=True)
class OptimiserRecipe:
    """An optimiser with its learning rate."""

    name: str
    """The optimiser: `adam`, `rmsprop` or `sgd`."""
    rate: float
    """The learning rate."""

    def make(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return a new optimiser of a network's parameters.

        Adam has the decay rates 0.5 and 0.999 of Radford et al. 2016; RMSprop torch's, 0.99, as in
        the code of Arjovsky et al. 2017; and SGD no momentum.

        Args:
            network: The network, on its final device.
        """
        if self.name == "adam":
            return torch.optim.Adam(network.parameters(), self.rate, (0.5, 0.999), fused=True)
        if self.name == "rmsprop":
            return torch.optim.RMSprop(network.parameters(), self.rate, foreach=True)
        return torch.optim.SGD(network.parameters(), self.rate)


DCGAN_OPTIMISER = OptimiserRecipe("adam", 2e-4)
"""The optimiser of Radford et al. 2016."""
WGAN_OPTIMISER = OptimiserRecipe("rmsprop", 5e-5)
"""The optimiser of Arjovsky et al. 2017."""


@dataclass(frozen=True, kw_only=True)
class GanRecipe:
    """The settings of a run, of which an arm may change any; the defaults are those of DCGAN."""

    loss: str = "cross-entropy"
    """The loss of both networks, one of `workflows.studies.gans.LOSSES`."""
    saturating: bool = False
    """True if the generator minimises the log probability that its rows are told apart, as in the
    minimax game of Goodfellow et al. 2014; cross entropy only."""
    clip: float | None = None
    """The largest absolute value of a critic's parameter; None = no limit."""
    critic_optimiser: OptimiserRecipe = DCGAN_OPTIMISER
    """The critic's optimiser."""
    generator_optimiser: OptimiserRecipe = DCGAN_OPTIMISER
    """The generator's optimiser."""
    critic_steps: int = 1
    """The number of critic updates in a step."""
    balance_below: float | None = None
    """The critic's loss below which its update is skipped; None = never."""
    generator: str = "conv"
    """The generator: `conv`, or `perceptron`."""
    critic: str = "conv"
    """The critic: `conv`, or `pooling`, with ReLU and max pooling."""
    norm: bool = True
    """True for batch norm in both networks."""
    joint_batches: bool = False
    """True if batch norm of the critic normalises real and fake rows together."""
    uniform_noise: bool = False
    """True if the generator's input is uniform in [-1, 1), False if it is normal."""
    sigmoid: bool = False
    """True if pixels are in [0, 1], after a sigmoid; False if they are in [-1, 1], after a tanh."""
    soft_labels: bool = False
    """True if the critic's labels are drawn from `SOFT_REAL` and `SOFT_FAKE`, for cross entropy."""
    flipped_labels: float = 0.0
    """The share of rows whose labels are swapped for the critic; cross entropy only."""
    input_noise: float = 0.0
    """The standard deviation of the noise of the critic's input at the first step, which falls to 0
    at the last one."""
    dropout: float = 0.0
    """The share of the generator's activations that are dropped, in training and in evaluation."""
    layer_noise: float = 0.0
    """The standard deviation of noise that is added after each layer of the generator."""
    conditional: bool = False
    """True if both networks get the labels."""
    replay: float = 0.0
    """The share of fake rows of a critic's update that come from earlier updates."""

    def objective(self, seed: int) -> Objective:
        """Return the losses of both networks.

        Args:
            seed: The seed by which soft and flipped labels are drawn.
        """
        objective = OBJECTIVES[OBJECTIVE_OF_LOSS[self.loss]]
        if not (self.saturating or self.soft_labels or self.flipped_labels):
            return objective
        critic, generator = objective.critic, objective.generator
        if self.saturating:
            generator = _log_probability_of_fake
        if self.soft_labels or self.flipped_labels:
            critic = _NoisyCrossEntropy(self.soft_labels, self.flipped_labels, seed)
        return Objective(critic, generator)

    def noise(self, rows: int, length: int, key: tuple[object, ...], world: World) -> Tensor:
        """Draw inputs of the generator.

        Args:
            rows: The number of inputs.
            length: The number of values in an input.
            key: The values that decide the draw by their `repr`.
            world: The rank, whose device they are on.

        Returns:
            (rows, length) float32.
        """
        if self.uniform_noise:
            return world.uniform(rows, length, key=key) * 2 - 1
        return world.normal(rows, length, key=key)


def _log_probability_of_fake(fake: Tensor) -> Tensor:
    """Return the mean of log(1 - D(G(z))), which the minimax generator minimises."""
    return -softplus(fake).mean()


class _NoisyCrossEntropy:
    """The critic's cross entropy with soft labels, or with some labels swapped."""

    def __init__(self, soft: bool, flipped: float, seed: int) -> None:
        self._soft = soft
        self._flipped = flipped
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, real: Tensor, fake: Tensor) -> Tensor:
        real_labels, fake_labels = self._labels(real, 1), self._labels(fake, 0)
        return _cross_entropy(real, real_labels) + _cross_entropy(fake, fake_labels)

    def _labels(self, scores: Tensor, label: int) -> Tensor:
        """Return the labels of rows of one kind, (n,), on the device of their scores."""
        count = len(scores)
        low, high = SOFT_REAL if label else SOFT_FAKE
        labels = torch.full((count,), float(label))
        if self._soft:
            labels = low + (high - low) * torch.rand(count, generator=self._generator)
        is_flipped = torch.rand(count, generator=self._generator) < self._flipped
        return torch.where(is_flipped, 1 - labels, labels).to(scores.device)


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    return (labels * softplus(-scores) + (1 - labels) * softplus(scores)).mean()
