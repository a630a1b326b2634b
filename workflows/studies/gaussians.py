"""25 Gaussians on a grid: which of them does a generator find, and how near does it come?

The set of Gulrajani et al. 2017, figure 1, and of Lin et al. (PacGAN, NeurIPS 2018), whose measures
the first two are: a point is good within three standard deviations of a centre, and a centre is
found when a good point is nearest to it. Uniform noise finds all centres too, since one point of
10,000 is enough: the number of modes says something only beside the share of good points, so that
noise, one Gaussian and the set itself stand beside every arm.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from workflows.adversarial.critics import VectorCritic
from workflows.adversarial.game import Game, Rules
from workflows.adversarial.objectives import OBJECTIVES
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.studies.arms import Arm, make_arm
from workflows.training.world import World
from workflows.wgan.generators import VectorGenerator

CENTRES = torch.cartesian_prod(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0))
SPREAD = 0.05
"""Standard deviation; centres are 1 apart."""
NOISE_DIMENSIONS = 2
JUDGED_POINTS = 10_000
STEPS = 8_000
BATCH = 256
WIDTH = 128
ALIKE_RATE = 1e-3
PENALTY = 0.1
"""Weight of the gradient penalty, as Gulrajani et al. have it for such sets: with 10 the critic is
too smooth for centres so narrow."""
AVERAGED = 0.995
"""Share of the judged average that each step keeps."""


@dataclass(frozen=True)
class Grid:
    """How points lie on the grid."""

    modes: int
    """Centres that a good point is nearest to."""
    good: float
    """Share of points within three standard deviations of a centre."""
    distance: float
    """Sliced Wasserstein distance to as many points of the set."""


def draw(rows: int, key: tuple[object, ...]) -> Tensor:
    """Return (rows, 2) float32 points of the set."""
    world = World()
    which = world.integers(rows, len(CENTRES), key=(*key, "which"))
    return CENTRES[which] + SPREAD * world.normal(rows, 2, key=(*key, "where"))


def judge(points: Tensor) -> Grid:
    """Measure how (n, 2) float32 points lie on the grid."""
    distance, nearest = torch.cdist(points, CENTRES).min(1)
    good = distance < 3 * SPREAD
    apart = sliced_wasserstein(points, draw(len(points), ("judge",)))
    return Grid(len(set(nearest[good].tolist())), float(good.float().mean()), apart)


def controls(seed: int = 0) -> dict[str, Grid]:
    """Judge what needs no network: uniform noise over the grid, one Gaussian, the set itself."""
    world = World()
    low, high = float(CENTRES.min()) - 0.5, float(CENTRES.max()) + 0.5
    share = world.uniform(2 * JUDGED_POINTS, key=(seed, "noise")).view(-1, 2)
    points = draw(JUDGED_POINTS, (seed, "fit"))
    fitted = points.mean(0) + points.std(0) * world.normal(JUDGED_POINTS, 2, key=(seed, "one"))
    return {
        "uniform noise": judge(low + (high - low) * share),
        "one Gaussian": judge(fitted),
        "the set itself": judge(draw(JUDGED_POINTS, (seed, "set"))),
    }


def arm_of(objective: str, settings: str) -> Arm:
    """Return the arm of *objective* for this set."""
    arm = make_arm(objective, settings, rate=ALIKE_RATE, penalty=PENALTY)
    return replace(arm, norm="none")  # a perceptron has none


def run(arm: Arm, *, steps: int = STEPS, seed: int = 0) -> Grid:
    """Train a perceptron of three layers on the grid, and judge what it draws."""
    torch.manual_seed(seed)
    world = World()
    generator = VectorGenerator((2,), NOISE_DIMENSIONS, width=WIDTH, bounded=False)
    critic = VectorCritic(2, width=WIDTH)
    optimisers = (arm.make_optimiser(generator), arm.make_optimiser(critic))
    rules = Rules(OBJECTIVES[arm.objective], clip=arm.clip, penalty=arm.penalty)
    game = Game(generator, critic, *optimisers, rules, world)
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(AVERAGED))  # type: ignore[no-untyped-call]
    for step in range(steps):
        for optimiser in optimisers if arm.decays else ():
            for group in optimiser.param_groups:
                group["lr"] = arm.rate * (1 - step / steps)
        for turn in range(arm.critic_steps):
            key = (seed, step, turn)
            game.critic_update(
                draw(BATCH, key),
                (world.normal(BATCH, NOISE_DIMENSIONS, key=(*key, "noise")),),
                share=world.uniform(BATCH, key=(*key, "share")),
            )
        noise = world.normal(BATCH, NOISE_DIMENSIONS, key=(seed, step, "noise"))
        game.generator_update((noise,))
        average.update_parameters(generator)
    judged = average if arm.averages else generator
    with torch.no_grad():
        noise = world.normal(JUDGED_POINTS, NOISE_DIMENSIONS, key=(seed, "judged"))
        return judge(judged(noise))
