"""25 Gaussians on a grid: which of them does a generator find?

The set of Gulrajani et al. 2017, figure 1, and of Lin et al. (PacGAN, NeurIPS 2018), whose measure
this is: a made point is good within three standard deviations of a centre, and a centre is found
when a good point is nearest to it. Vanilla GANs are known to find a part of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from workflows.adversarial.critics import VectorCritic
from workflows.adversarial.game import Game, Rules
from workflows.adversarial.objectives import OBJECTIVES
from workflows.training.world import World
from workflows.wgan.generators import VectorGenerator

CENTRES = torch.cartesian_prod(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0))
SPREAD = 0.05
"""Standard deviation; centres are 1 apart."""
NOISE = 2
JUDGED = 10_000
STEPS = 8_000
PENALTY = 0.1
"""Of the slope, where there is one, as Gulrajani et al. have it for such sets: with 10 the critic
is too smooth for centres so narrow."""
CRITIC_STEPS = {"wgan": 5, "wgan-gp": 5}
AVERAGED = 0.995
"""Share of what the judged average was a step before."""


@dataclass(frozen=True)
class Found:
    """What a generator makes of the grid."""

    modes: int
    """Centres that a good point is nearest to."""
    good: float
    """Share of points within three standard deviations of a centre."""


def draw(rows: int, key: tuple[object, ...]) -> Tensor:
    """(rows, 2) float32 points of the set."""
    world = World()
    which = world.integers(rows, len(CENTRES), key=(*key, "which"))
    return CENTRES[which] + SPREAD * world.normal(rows, 2, key=(*key, "where"))


def judge(points: Tensor) -> Found:
    """Count what (n, 2) points find."""
    distance, nearest = torch.cdist(points, CENTRES).min(1)
    good = distance < 3 * SPREAD
    return Found(len(set(nearest[good].tolist())), float(good.float().mean()))


def run(
    objective: str,
    *,
    steps: int = STEPS,
    batch: int = 256,
    width: int = 128,
    rate: float = 1e-3,
    seed: int = 0,
) -> Found:
    """Train a perceptron of three layers on the grid, and judge its average over the last steps."""
    torch.manual_seed(seed)
    world = World()
    generator = VectorGenerator((2,), NOISE, width=width, bounded=False)
    critic = VectorCritic(2, width=width)
    found = OBJECTIVES[objective]
    optimisers = (
        torch.optim.Adam(generator.parameters(), rate, (0.5, 0.9), fused=True),
        torch.optim.Adam(critic.parameters(), rate, (0.5, 0.9), fused=True),
    )
    rules = Rules(found, clip=found.clip, penalty=PENALTY if found.penalty else 0.0)
    game = Game(generator, critic, *optimisers, rules, world)
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(AVERAGED))  # type: ignore[no-untyped-call]
    for step in range(steps):
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * (1 - step / steps)
        for turn in range(CRITIC_STEPS.get(objective, 1)):
            key = (seed, step, turn)
            game.critic_update(
                draw(batch, key),
                (world.normal(batch, NOISE, key=(*key, "noise")),),
                share=world.uniform(batch, key=(*key, "share")),
            )
        game.generator_update((world.normal(batch, NOISE, key=(seed, step, "noise")),))
        average.update_parameters(generator)
    with torch.no_grad():
        return judge(average(world.normal(JUDGED, NOISE, key=(seed, "judged"))))
