"""The study of 25 Gaussians on a grid: how many modes does a generator cover, and how closely?

The data set is that of Gulrajani et al. 2017, figure 1, and of Lin et al. (PacGAN, NeurIPS 2018),
which defines the first two metrics: a point is good within three standard deviations of a centre,
and a mode is covered if a good point is nearest to its centre. Uniform noise covers all modes too,
since one point of 10,000 suffices. The number of modes is therefore meaningful only together with
the share of good points, and every arm is compared with noise, one Gaussian and the set itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from workflows.adversarial.critics import VectorCritic
from workflows.adversarial.objectives import OBJECTIVES
from workflows.adversarial.trainer import AdversarialConfig, AdversarialTrainer
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.studies.arms import Arm, make_arm
from workflows.training.world import World
from workflows.wgan.generators import VectorGenerator

CENTRES = torch.cartesian_prod(torch.arange(-2.0, 3.0), torch.arange(-2.0, 3.0))
"""The centres of the Gaussians, (25, 2) float32."""
SPREAD = 0.05
"""The standard deviation of each Gaussian; centres are 1 apart."""
NOISE_DIMENSIONS = 2
"""The number of random values from which a point is generated."""
EVALUATION_POINTS = 10_000
"""The number of points in an evaluation."""
BATCH = 256
"""The number of points in a batch."""
WIDTH = 128
"""The number of units in each hidden layer of both networks."""
ALIKE_RATE = 1e-3
"""The learning rate of the arms that are alike."""
PENALTY = 0.1
"""The weight of the gradient penalty, as in Gulrajani et al. for such sets: with 10 the critic is
too smooth for such narrow modes."""
AVERAGE_DECAY = 0.995
"""The decay of the running average of the generator, for each step."""


@dataclass(frozen=True)
class PointMetrics:
    """The metrics of a set of points."""

    modes: int
    """The number of covered modes, 0 to 25."""
    good: float
    """The share of points within three standard deviations of a centre, 0 to 1."""
    distance: float
    """The sliced Wasserstein distance to as many points of the data set."""


def draw_points(rows: int, key: tuple[object, ...]) -> Tensor:
    """Draw points of the 25 Gaussians of this study.

    Their centres are the points of a 5 by 5 grid with the coordinates -2, -1, 0, 1 and 2, each is
    drawn as often on average, and their standard deviation is 0.05.

    Args:
        rows: The number of points.
        key: The values that decide the draw by their `repr`; equal keys and numbers give equal
            points. Torch's global generator is not used.

    Returns:
        (rows, 2) float32, on the CPU.
    """
    world = World()
    centres = world.integers(rows, len(CENTRES), key=(*key, "which"))
    return CENTRES[centres] + SPREAD * world.normal(rows, 2, key=(*key, "where"))


def measure_points(points: Tensor) -> PointMetrics:
    """Return how well a set of points follows the 25 Gaussians that `draw_points` draws from.

    They are compared with as many points of `draw_points`, which are always the same for a number
    of points. A point is good within three standard deviations of a centre, that is, 0.15, and a
    mode, one of the Gaussians, is covered if this centre is the nearest of a good point.

    Args:
        points: (n, 2) float32, on the CPU, n > 0.

    Returns:
        The number of covered `modes`, 0 to 25; the share of `good` points, 0 to 1; and `distance`,
        the sliced Wasserstein distance to the points of `draw_points`.

    Raises:
        NonFiniteError: A point is NaN or infinite.
    """
    distance, nearest = torch.cdist(points, CENTRES).min(1)
    good = distance < 3 * SPREAD
    sliced_distance = sliced_wasserstein(points, draw_points(len(points), ("judge",)))
    modes = len(set(nearest[good].tolist()))
    return PointMetrics(modes, float(good.float().mean()), sliced_distance)


def controls(seed: int = 0) -> dict[str, PointMetrics]:
    """Return the metrics of controls without a network.

    Args:
        seed: The seed that draws their points (default 0).

    Returns:
        The metrics of 10,000 points, as `measure_points` returns them, by the name of the control:
        `uniform noise` in the square from -2.5 to 2.5; `one Gaussian`, with the mean and, in each
        coordinate, the deviation of points of the 25 Gaussians; and `real data`, such points
        themselves.
    """
    world = World()
    low, high = float(CENTRES.min()) - 0.5, float(CENTRES.max()) + 0.5
    noise = world.uniform(2 * EVALUATION_POINTS, key=(seed, "noise")).view(-1, 2)
    points = draw_points(EVALUATION_POINTS, (seed, "fit"))
    fitted = points.mean(0) + points.std(0) * world.normal(EVALUATION_POINTS, 2, key=(seed, "one"))
    return {
        "uniform noise": measure_points(low + (high - low) * noise),
        "one Gaussian": measure_points(fitted),
        "real data": measure_points(draw_points(EVALUATION_POINTS, (seed, "set"))),
    }


def arm_of(objective: str, settings: str) -> Arm:
    """Return the training settings of an objective for the study of 25 Gaussians.

    The critic has no norm, and a gradient penalty has the weight `PENALTY` (0.1).

    Args:
        objective: One of `workflows.adversarial.objectives.OBJECTIVES`, such as `wgan-gp`.
        settings: `paper`, the other defaults of `tesserae train wgan` for the objective, or
            `alike`, the same for all objectives.

    Returns:
        The `objective`; the name of its `settings`; its `optimiser`, `adam` or `rmsprop`; `rate`,
        the learning rate; Adam's `betas`; `critic_steps`, the critic updates in a step; the `norm`;
        `clip`, or None; `penalty`, or 0; `decays`, True if the rate decays to 0; and `averages`,
        True if a running average of the generator is evaluated.

    Raises:
        ValueError: *objective* or *settings* is unknown.
    """
    arm = make_arm(objective, settings, rate=ALIKE_RATE, penalty=PENALTY)
    return replace(arm, norm="none")  # the perceptrons have no norm


def run_arm(arm: Arm, *, steps: int, seed: int = 0) -> PointMetrics:
    """Train a GAN of perceptrons on 25 Gaussians, and return the metrics of its points.

    It trains on the CPU in this process, and sets torch's global seed. 10,000 points of the
    generator at the end, or of its running average if the arm says so, are measured.

    Args:
        arm: The objective and its settings, as `arm_of` returns them; its norm has no effect.
        steps: Number of training steps, each of some critic updates and a generator update, at
            least 1.
        seed: Seed of initial weights, noise and batches (default 0).

    Returns:
        The number of covered `modes`, 0 to 25, the share of `good` points, 0 to 1, and the sliced
        Wasserstein `distance` to as many points of the Gaussians, as `measure_points` returns them.

    Raises:
        NonFiniteError: A point is NaN or infinite: training has diverged.
    """
    torch.manual_seed(seed)
    world = World()
    generator = VectorGenerator((2,), NOISE_DIMENSIONS, width=WIDTH, bounded=False)
    critic = VectorCritic(2, width=WIDTH)
    optimisers = (arm.make_optimiser(generator), arm.make_optimiser(critic))
    config = AdversarialConfig(OBJECTIVES[arm.objective], clip=arm.clip, penalty=arm.penalty)
    trainer = AdversarialTrainer(generator, critic, *optimisers, config, world)
    average = AveragedModel(generator, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_DECAY))  # type: ignore[no-untyped-call]
    for step in range(steps):
        for optimiser in optimisers if arm.decays else ():
            for group in optimiser.param_groups:
                group["lr"] = arm.rate * (1 - step / steps)
        for update in range(arm.critic_steps):
            key = (seed, step, update)
            trainer.critic_update(
                draw_points(BATCH, key),
                (world.normal(BATCH, NOISE_DIMENSIONS, key=(*key, "noise")),),
                alpha=world.uniform(BATCH, key=(*key, "share")),
            )
        noise = world.normal(BATCH, NOISE_DIMENSIONS, key=(seed, step, "noise"))
        trainer.generator_update((noise,))
        average.update_parameters(generator)
    evaluated = average if arm.averages else generator
    with torch.no_grad():
        noise = world.normal(EVALUATION_POINTS, NOISE_DIMENSIONS, key=(seed, "judged"))
        return measure_points(evaluated(noise))
