"""The study of digits: does the critic's Wasserstein estimate track the quality of samples?

It tests the claim of Arjovsky et al. 2017 on scikit-learn's 1,797 handwritten digits of 8 x 8
pixels, a fifth of them held out. While a small generator trains, two metrics are recorded: the
critic's score of held-out rows, and the sliced Wasserstein distance of samples to those rows. The
claim is that the first tracks the second for a Wasserstein critic, but not for the cross entropy of
a discriminator; the rank correlation of the two measures it. The last distance is compared with
those of a Gaussian fitted to the training rows, of the training rows and of uniform noise.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from workflows.adversarial.critics import ConvCritic
from workflows.adversarial.objectives import OBJECTIVES
from workflows.adversarial.trainer import AdversarialConfig, AdversarialTrainer
from workflows.evaluation.sliced import sliced_wasserstein
from workflows.studies.arms import Arm, make_arm
from workflows.training.world import World
from workflows.wgan.generators import ConvGenerator

SIZE, NOISE, BATCH = 8, 32, 64
"""The side of the images in pixels, the length of noise vectors, and the rows in a batch."""
AVERAGE_DECAY = 0.99
"""The decay of the running average of the generator, for each step."""
EVALUATIONS = 60
"""The number of evaluations in a run."""
SAMPLES = 4_000
"""The number of samples in an evaluation; with few, chance dominates the distance."""
SETTLING = 0.2
"""The share of a run at its beginning that the correlation leaves out."""
WIDTH = 32
"""The number of channels of the outermost layers of both networks."""
ALIKE_RATE = 2e-4
"""The learning rate of the arms that are alike."""
ALIKE_NORM = "none"
"""The critic's norm in the arms that are alike: a gradient penalty rules out batch norm."""


@dataclass(frozen=True)
class Digits:
    """The training and the held-out rows, with pixels in [-1, 1]."""

    train: Tensor
    """The training rows, (n, 1, 8, 8) float32."""
    held_out: Tensor
    """The held-out rows, (m, 1, 8, 8) float32."""


@dataclass
class TrainingCurves:
    """The metrics of a run at its evaluations."""

    steps: list[int] = field(default_factory=list)
    """The steps of the evaluations."""
    critic: list[float] = field(default_factory=list)
    """The critic's Wasserstein estimate on held-out rows, the mean score of real minus that of
    generated rows; for objectives without one, the negative loss of the discriminator."""
    distance: list[float] = field(default_factory=list)
    """The sliced Wasserstein distance of samples to held-out rows."""

    @property
    def correlation(self) -> float:
        """The rank correlation (Spearman) of the two metrics after the settling time."""
        first = round(SETTLING * len(self.steps))
        return float(stats.spearmanr(self.critic[first:], self.distance[first:]).statistic)


def load_digits(seed: int = 0) -> Digits:
    """Load scikit-learn's digits, which it brings along, in random order.

    Args:
        seed: The seed that draws the order, and the fifth of them that is held out (default 0).

    Returns:
        `train`, (1438, 1, 8, 8), and `held_out`, (359, 1, 8, 8): float32 on the CPU with pixels in
        [-1, 1].
    """
    from sklearn import datasets

    images = torch.tensor(datasets.load_digits().images, dtype=torch.float32)[:, None] / 8 - 1
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(images)))
    num_held_out = len(images) // 5
    return Digits(images[order[num_held_out:]], images[order[:num_held_out]])


def controls(digits: Digits, seed: int = 0) -> dict[str, float]:
    """Return the distances of controls without a network to the held-out rows.

    Args:
        digits: The training and held-out rows, as `load_digits` returns them.
        seed: The seed that draws the Gaussian and the noise, 4,000 rows of each (default 0).

    Returns:
        The sliced Wasserstein distances by the name of the control: `Gaussian`, with the mean and
        covariance of the training rows; `training rows`; and `uniform noise` in [-1, 1].
    """
    rows = digits.train.flatten(1).double()
    mean, covariance = rows.mean(0), torch.cov(rows.T)
    values, vectors = torch.linalg.eigh(covariance)
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(SAMPLES, len(mean), generator=generator, dtype=torch.float64)
    gaussian = mean + (normal * values.clamp_min(0).sqrt()) @ vectors.T
    noise = torch.rand(SAMPLES, len(mean), generator=generator) * 2 - 1
    samples = {"Gaussian": gaussian.float(), "training rows": rows.float(), "uniform noise": noise}
    return {name: sliced_wasserstein(rows, digits.held_out) for name, rows in samples.items()}


def arm_of(objective: str, settings: str) -> Arm:
    """Return the training settings of an objective for the digits.

    Their learning rate is constant, and a running average of the generator is evaluated.

    Args:
        objective: One of `workflows.adversarial.objectives.OBJECTIVES`, such as `wgan-gp`.
        settings: `paper`, the defaults of `tesserae train wgan` for the objective, or `alike`, the
            same for all objectives.

    Returns:
        The `objective`; the name of its `settings`; its `optimiser`, `adam` or `rmsprop`; `rate`,
        the learning rate; Adam's `betas`; `critic_steps`, the critic updates in a step; the `norm`;
        `clip`, or None; `penalty`, or 0; `decays`, False; and `averages`, True.

    Raises:
        ValueError: *objective* or *settings* is unknown.
    """
    arm = make_arm(objective, settings, rate=ALIKE_RATE, norm=ALIKE_NORM)
    return replace(arm, decays=False, averages=True)


def run_arm(arm: Arm, digits: Digits, *, steps: int, seed: int = 0) -> TrainingCurves:
    """Train a small generator on digits, and return its metrics at evaluations on the way.

    It trains on the CPU in this process, and sets torch's global seed.

    Args:
        arm: The objective and its settings, as `arm_of` returns them.
        digits: The training and held-out rows, as `load_digits` returns them.
        steps: Number of training steps, at least 1, each of some critic updates and a generator
            update.
        seed: Seed of initial weights, noise and batches (default 0).

    Returns:
        Lists of equal length: the `steps` of the evaluations; `critic`, the critic's estimate on
        held-out rows, or its negative loss for objectives other than `wgan` and `wgan-gp`; and
        `distance`, the sliced Wasserstein distance of samples to held-out rows. Evaluations are
        *steps* // 60 steps apart, at least 1: there are 60 to 119, or one for each of fewer steps.

    Raises:
        NonFiniteError: A sample is NaN or infinite: training has diverged.
    """
    torch.manual_seed(seed)
    world = World()
    generator = ConvGenerator(SIZE, NOISE, 1, width=WIDTH)
    critic = ConvCritic(SIZE, 1, width=WIDTH, extra=1, norm=arm.norm)
    config = AdversarialConfig(OBJECTIVES[arm.objective], clip=arm.clip, penalty=arm.penalty)
    optimisers = (arm.make_optimiser(generator), arm.make_optimiser(critic))
    trainer = AdversarialTrainer(generator, critic, *optimisers, config, world)
    averaging = get_ema_multi_avg_fn(AVERAGE_DECAY)  # type: ignore[no-untyped-call]
    average = AveragedModel(generator, multi_avg_fn=averaging, use_buffers=True)
    curves = TrainingCurves()
    for step in range(1, steps + 1):
        for update in range(arm.critic_steps):
            key = (seed, step, update)
            rows = world.integers(BATCH, len(digits.train), key=(*key, "rows"))
            noise = world.normal(BATCH, NOISE, key=(*key, "noise"))
            alpha = world.uniform(BATCH, key=(*key, "share"))
            trainer.critic_update(digits.train[rows], (noise,), alpha=alpha)
        trainer.generator_update((world.normal(BATCH, NOISE, key=(seed, step, "noise")),))
        average.update_parameters(generator)
        if step % max(1, steps // EVALUATIONS) == 0:
            _evaluate_digits(trainer, average, digits, curves, step, arm.objective)
    return curves


def _evaluate_digits(
    trainer: AdversarialTrainer,
    average: nn.Module,
    digits: Digits,
    curves: TrainingCurves,
    step: int,
    objective: str,
) -> None:
    noise = World().normal(SAMPLES, NOISE, key=("look",))
    metrics = trainer.evaluate(digits.held_out, (noise[: len(digits.held_out)],))
    metric = "estimate" if objective.startswith("wgan") else "critic_loss"
    with torch.no_grad():
        samples = average.eval()(noise)
    curves.steps.append(step)
    curves.critic.append(float(metrics[metric]) * (1 if metric == "estimate" else -1))
    curves.distance.append(sliced_wasserstein(samples, digits.held_out))
