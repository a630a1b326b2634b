"""Does a critic say how good pictures are? The claim of Arjovsky et al. 2017, tried on digits.

Scikit-learn's 1,797 handwritten digits of 8 x 8 pixels, a fifth of them held out. While a small
network learns to make such, two figures are taken again and again: what its critic says of rows
that neither has learned from, and how far what is made is from them (sliced Wasserstein distance).
The claim is that the first tracks the second, for a Wasserstein critic and not for the cross
entropy of a discriminator; the rank correlation of the two says how well. Beside the last distance
stand those of a Gaussian fitted to the training rows, of the training rows and of uniform noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from workflows.adversarial.critics import ConvCritic
from workflows.adversarial.game import Game, Rules
from workflows.adversarial.objectives import OBJECTIVES
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.studies.arms import Arm, make_arm
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
WIDTH = 32
ALIKE_RATE = 2e-4
ALIKE_NORM = "none"
"""Norm of the critic in the arms that are alike: a gradient penalty allows no batch norm."""


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


def controls(digits: Digits, seed: int = 0) -> dict[str, float]:
    """Return how far from the held-out rows things are that no network has made.

    Those are a Gaussian with the training rows' mean and covariance, the training rows, and uniform
    noise in [-1, 1].
    """
    rows = digits.train.flatten(1).double()
    mean, covariance = rows.mean(0), torch.cov(rows.T)
    values, vectors = torch.linalg.eigh(covariance)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(MADE, len(mean), generator=generator, dtype=torch.float64)
    fitted = mean + (drawn * values.clamp_min(0).sqrt()) @ vectors.T
    noise = torch.rand(MADE, len(mean), generator=generator) * 2 - 1
    samples = {"Gaussian": fitted.float(), "training rows": rows.float(), "uniform noise": noise}
    return {name: sliced_wasserstein(some, digits.held_out) for name, some in samples.items()}


def arm_of(objective: str, settings: str) -> Arm:
    """Return the arm of *objective* for these digits."""
    arm = make_arm(objective, settings, rate=ALIKE_RATE, norm=ALIKE_NORM)
    return replace(arm, decays=False, averages=True)


def run(arm: Arm, digits: Digits, *, steps: int = STEPS, seed: int = 0) -> Course:
    """Train a small network, and measure it now and then."""
    torch.manual_seed(seed)
    world = World()
    generator = ConvGenerator(SIZE, NOISE, 1, width=WIDTH)
    critic = ConvCritic(SIZE, 1, width=WIDTH, extra=1, norm=arm.norm)
    rules = Rules(OBJECTIVES[arm.objective], clip=arm.clip, penalty=arm.penalty)
    optimisers = (arm.make_optimiser(generator), arm.make_optimiser(critic))
    game = Game(generator, critic, *optimisers, rules, world)
    averaging = get_ema_multi_avg_fn(AVERAGED)  # type: ignore[no-untyped-call]
    average = AveragedModel(generator, multi_avg_fn=averaging, use_buffers=True)
    course = Course()
    for step in range(1, steps + 1):
        for turn in range(arm.critic_steps):
            key = (seed, step, turn)
            rows = world.integers(BATCH, len(digits.train), key=(*key, "rows"))
            noise = world.normal(BATCH, NOISE, key=(*key, "noise"))
            share = world.uniform(BATCH, key=(*key, "share"))
            game.critic_update(digits.train[rows], (noise,), share=share)
        game.generator_update((world.normal(BATCH, NOISE, key=(seed, step, "noise")),))
        average.update_parameters(generator)
        if step % max(1, steps // LOOKS) == 0:
            _look(game, average, digits, course, step, arm.objective)
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
