"""Does a critic say how good pictures are? The claim of Arjovsky et al. 2017, tried on digits.

Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, a fifth of them held out. While a small
network learns to make such, two figures are taken again and again: what its critic says of rows
that neither has learned from, and how far what is made is from them (sliced Wasserstein distance).
The claim is that the first tracks the second, for a Wasserstein critic and not for the cross
entropy of a discriminator; the rank correlation of the two says how well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from workflows.adversarial.critics import ConvCritic
from workflows.adversarial.game import Game, Rules
from workflows.adversarial.objectives import OBJECTIVES
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.training.world import World
from workflows.wgan.generators import ConvGenerator

SIZE, NOISE, BATCH = 8, 32, 64
STEPS = 2_000
AVERAGED = 0.99
"""Share of what the judged average was a step before."""
LOOKS = 60
MADE = 4_000
"""Rows that are compared with the held-out ones: of few, the distance is that of their chance."""
SETTLING = 0.2
"""Share of a run in which the critic finds its way: left out."""
CRITIC_STEPS = {"wgan": 5, "wgan-gp": 5}


@dataclass(frozen=True)
class Digits:
    """Rows in [-1, 1]."""

    train: Tensor
    """(n, 1, 8, 8) float32."""
    held_out: Tensor
    """(m, 1, 8, 8) float32."""


@dataclass
class Course:
    """What was seen of one run."""

    steps: list[int] = field(default_factory=list)
    says: list[float] = field(default_factory=list)
    """The critic, of held-out rows: its estimate, or less its loss for a discriminator."""
    distance: list[float] = field(default_factory=list)
    """Of what is made to held-out rows."""

    @property
    def correlation(self) -> float:
        """Spearman's, of the two, after it has settled."""
        first = round(SETTLING * len(self.steps))
        return float(stats.spearmanr(self.says[first:], self.distance[first:]).statistic)


def load(seed: int = 0) -> Digits:
    """The digits, dealt out by *seed*."""
    from sklearn.datasets import load_digits

    images = torch.tensor(load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(images)))
    cut = len(images) // 5
    return Digits(images[order[cut:]], images[order[:cut]])


def gaussian(digits: Digits, seed: int = 0) -> float:
    """How far a Gaussian is from the held-out rows: one with the training rows' covariance."""
    rows = digits.train.flatten(1).double()
    mean, covariance = rows.mean(0), torch.cov(rows.T)
    values, vectors = torch.linalg.eigh(covariance)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(MADE, len(mean), generator=generator, dtype=torch.float64)
    made = mean + (drawn * values.clamp_min(0).sqrt()) @ vectors.T
    return sliced_wasserstein(made.float(), digits.held_out)


def run(
    objective: str, digits: Digits, *, steps: int = STEPS, seed: int = 0, width: int = 32,
    rate: float = 2e-4,
) -> Course:  # fmt: skip
    """Train a small network, and look at it now and then."""
    torch.manual_seed(seed)
    world = World()
    generator = ConvGenerator(SIZE, NOISE, 1, width=width)
    norm = "layer" if objective == "wgan-gp" else "none"
    critic = ConvCritic(SIZE, 1, width=width, extra=1, norm=norm)
    chosen = OBJECTIVES[objective]
    rules = Rules(chosen, clip=chosen.clip, penalty=chosen.penalty)

    def optimiser(network: nn.Module) -> torch.optim.Optimizer:
        if objective == "wgan":
            return torch.optim.RMSprop(network.parameters(), rate)
        return torch.optim.Adam(network.parameters(), rate, (0.5, 0.9), fused=True)

    game = Game(generator, critic, optimiser(generator), optimiser(critic), rules, world)
    averaging = get_ema_multi_avg_fn(AVERAGED)  # type: ignore[no-untyped-call]
    average = AveragedModel(generator, multi_avg_fn=averaging, use_buffers=True)
    course = Course()
    for step in range(1, steps + 1):
        for turn in range(CRITIC_STEPS.get(objective, 1)):
            key = (seed, step, turn)
            rows = world.integers(BATCH, len(digits.train), key=(*key, "rows"))
            noise = world.normal(BATCH, NOISE, key=(*key, "noise"))
            share = world.uniform(BATCH, key=(*key, "share"))
            game.critic_update(digits.train[rows], (noise,), share=share)
        game.generator_update((world.normal(BATCH, NOISE, key=(seed, step, "noise")),))
        average.update_parameters(generator)
        if step % max(1, steps // LOOKS) == 0:
            _look(game, average, digits, course, step, objective)
    return course


def _look(
    game: Game, average: nn.Module, digits: Digits, course: Course, step: int, objective: str
) -> None:
    noise = World().normal(MADE, NOISE, key=("look",))
    judged = game.judge(digits.held_out, (noise[: len(digits.held_out)],))
    says = "estimate" if objective.startswith("wgan") else "critic_loss"
    with torch.no_grad():
        made = average.eval()(noise)
    course.steps.append(step)
    course.says.append(float(judged[says]) * (1 if says == "estimate" else -1))
    course.distance.append(sliced_wasserstein(made, digits.held_out))
