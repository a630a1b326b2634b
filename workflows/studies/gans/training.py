"""A run of a recipe: it trains both networks, and measures the samples of the generator."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workflows.adversarial.trainer import AdversarialConfig, AdversarialTrainer, Condition
from workflows.studies.gans.images import StudyImages, as_floats
from workflows.studies.gans.metrics import DISTANCE, FEATURES, HeldOutComparison
from workflows.studies.gans.networks import NoisyInputCritic, make_networks
from workflows.studies.gans.recipes import GanRecipe
from workflows.training.world import World

SETTLING = 0.2
"""The share of the evaluations, at the beginning, that the correlation leaves out."""
FINAL_EVALUATIONS = 5
"""The number of last evaluations whose metrics are averaged, as those of one are noisy."""
MIN_CORRELATED = 5
"""The smallest number of evaluations that have a rank correlation."""
DIVERGED = "diverged"
"""The name of the metric that is 1 if a sample was NaN or infinite, else 0."""
CORRELATION, FEATURE_CORRELATION = "correlation", "feature correlation"
"""The names of the rank correlations of the critic's estimate with each distance."""


@dataclass(frozen=True, kw_only=True)
class RunSize:
    """The size of networks and training, the same for all arms of a study."""

    image_size: int
    """The side of the images, in pixels."""
    width: int
    """The number of channels of the outermost layers."""
    latent_dim: int
    """The length of the generator's input."""
    batch_size: int
    """The number of rows in a batch."""
    steps: int
    """The number of steps, with an update of the generator each."""
    evaluations: int
    """The number of evaluations, evenly spaced, with the last one after the last step."""


@dataclass
class Curves:
    """The metrics of a run at its evaluations."""

    steps: list[int] = field(default_factory=list)
    """The steps of the evaluations."""
    critic: list[float] = field(default_factory=list)
    """The critic's estimate on held-out rows: the mean score of real minus that of generated rows
    for the loss `mean-score`, the negative loss of the critic for others."""
    distances: dict[str, list[float]] = field(default_factory=dict)
    """The distances of samples to held-out rows, by name."""

    def correlation(self, name: str) -> float:
        """Return the rank correlation (Spearman) of the estimate and a distance.

        Evaluations in the settling time are left out. It is NaN if there are too few others, or one
        of the two is constant or not finite.

        Args:
            name: The name of the distance.
        """
        from scipy import stats

        first = round(SETTLING * len(self.steps))
        critic, distance = self.critic[first:], self.distances[name][first:]
        if len(critic) < MIN_CORRELATED or not all(map(math.isfinite, critic)):
            return math.nan
        if len(set(critic)) == 1 or len(set(distance)) == 1:
            return math.nan
        return float(stats.spearmanr(critic, distance).statistic)


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The result of a run."""

    metrics: dict[str, float]
    """The metrics by name."""
    samples: Tensor | None
    """Images of the last generator, (n, 3, size, size) float32 in [-1, 1]; None after a run that
    has diverged."""
    curves: Curves
    """The metrics at the evaluations, up to the one at which the run has diverged."""


class GanTraining:
    """A run of a recipe, which depends on its seed and settings alone."""

    def __init__(
        self,
        recipe: GanRecipe,
        images: StudyImages,
        comparison: HeldOutComparison,
        size: RunSize,
        *,
        seed: int,
    ) -> None:
        """Create both networks and their optimisers.

        It seeds torch's global generator, which the run then draws dropout from.

        Args:
            recipe: The recipe.
            images: The images. A conditional recipe needs those of `is_labelled`.
            comparison: The comparison with held-out images, whose device trains.
            size: The size of networks and training.
            seed: The seed of weights, batches, noise and dropout.
        """
        self.recipe, self.size, self.seed = recipe, size, seed
        self._held_out = comparison.held_out
        self._world = World(device=comparison.held_out.device)
        self._pixels = images.train.to(self._world.device)
        self._labels = images.labels.to(self._world.device)
        generator, critic = make_networks(
            recipe, size=size.image_size, width=size.width, latent_dim=size.latent_dim,
            classes=images.num_classes, seed=seed,
        )  # fmt: skip
        for network in (generator, critic):
            network.to(self._world.device)
        self._critic = critic
        self._replay = _ReplayBuffer(recipe.replay, seed) if recipe.replay else None
        config = AdversarialConfig(
            recipe.objective(seed), clip=recipe.clip, joint_batches=recipe.joint_batches
        )
        self.trainer = AdversarialTrainer(
            generator,
            critic,
            recipe.generator_optimiser.make(generator),
            recipe.critic_optimiser.make(critic),
            config,
            self._world,
        )

    def step(self, step: int) -> None:
        """Update the critic, as often as the recipe says, and the generator.

        Args:
            step: The number of the step, from 1.
        """
        if isinstance(self._critic, NoisyInputCritic):
            remaining = 1 - (step - 1) / self.size.steps
            self._critic.deviation = self.recipe.input_noise * remaining
        for update in range(self.recipe.critic_steps):
            self._update_critic((self.seed, step, update))
        key = (self.seed, step, "generator")
        condition = self._condition(self._rows(key))
        self.trainer.generator_update(
            (self._noise(self.size.batch_size, key), *condition), condition
        )

    def _update_critic(self, key: tuple[object, ...]) -> None:
        rows = self._rows(key)
        real, condition = self._real(self._pixels[rows]), self._condition(rows)
        inputs = (self._noise(self.size.batch_size, key), *condition)
        limit = self.recipe.balance_below
        if limit is not None:
            loss = float(self.trainer.evaluate(real, inputs, condition)["critic_loss"])
            if loss < limit:
                return
        self.trainer.critic_update(real, inputs, condition, replace_fake=self._replay)

    def _rows(self, key: tuple[object, ...]) -> Tensor:
        return self._world.integers(self.size.batch_size, len(self._pixels), key=(*key, "rows"))

    def _noise(self, rows: int, key: tuple[object, ...]) -> Tensor:
        return self.recipe.noise(rows, self.size.latent_dim, (*key, "noise"), self._world)

    def _condition(self, rows: Tensor) -> Condition:
        return (self._labels[rows],) if self.recipe.conditional else ()

    def _real(self, pixels: Tensor) -> Tensor:
        """Convert uint8 pixels to the range of the generator's output."""
        return pixels.float() / 255 if self.recipe.sigmoid else as_floats(pixels)

    @torch.no_grad()
    def samples(self, count: int, key: tuple[object, ...] = ()) -> Tensor:
        """Generate images with the generator in evaluation mode; labels are those of training rows.

        Args:
            count: The number of images.
            key: The values that, with the seed of the run, decide the draw by their `repr`.

        Returns:
            (count, 3, size, size) float32 in [-1, 1]; NaN if training has diverged.
        """
        key = (self.seed, "samples", *key)
        noise = self._noise(count, key)
        rows = self._world.integers(count, len(self._pixels), key=(*key, "rows"))
        condition = self._condition(rows)
        generator = self.trainer.generator.eval()
        parts = zip(
            *(torch.split(t, self.size.batch_size) for t in (noise, *condition)), strict=True
        )
        images = torch.cat([generator(*part) for part in parts])
        generator.train()
        return images * 2 - 1 if self.recipe.sigmoid else images

    def estimate(self) -> float:
        """Return the critic's estimate on held-out rows, in whole batches, as `Curves` has it."""
        name = "estimate" if self.recipe.loss == "mean-score" else "critic_loss"
        count = self.size.batch_size
        values = []
        for index, rows in enumerate(torch.split(self._held_out, count)):
            # A smaller batch would be normalised differently by batch norm.
            if len(rows) < count and index:
                break
            noise = self._noise(len(rows), (self.seed, "estimate", index))
            real = (rows + 1) / 2 if self.recipe.sigmoid else rows
            values.append(self.trainer.evaluate(real, (noise,))[name])
        estimate = float(torch.stack(values).mean())
        return estimate if name == "estimate" else -estimate


def run_recipe(
    recipe: GanRecipe,
    images: StudyImages,
    comparison: HeldOutComparison,
    size: RunSize,
    *,
    seed: int,
) -> RunResult:
    """Train a recipe, and return the metrics of its samples.

    The last generator is measured: no step is selected. A run whose samples become NaN or infinite
    ends there; that is a result. It seeds torch's global generator.

    Args:
        recipe: The recipe.
        images: The images.
        comparison: The comparison with held-out images, whose device trains.
        size: The size of networks and training.
        seed: The seed of weights, batches, noise and dropout.

    Returns:
        The metrics: `diverged`, 1 or 0; and if it is 0, those of `HeldOutComparison.measure`, each
        the mean over the last evaluations, and `correlation` and `feature correlation`, the rank
        correlations of the critic's estimate with both distances, NaN if undefined, as with labels.
        And the samples of the last evaluation, and the curves.
    """
    training = GanTraining(recipe, images, comparison, size, seed=seed)
    curves = Curves()
    final: list[dict[str, float]] = []
    evaluated = [
        max(1, round(size.steps * (index + 1) / size.evaluations))
        for index in range(size.evaluations)
    ]
    samples = None
    for step in range(1, size.steps + 1):
        training.step(step)
        if step not in evaluated:
            continue
        samples = training.samples(len(comparison.held_out))
        if not bool(samples.isfinite().all()):
            return RunResult(metrics={DIVERGED: 1.0}, samples=None, curves=curves)
        if step in evaluated[-FINAL_EVALUATIONS:]:
            metrics = comparison.measure(samples)
            final.append(metrics)
        else:
            metrics = comparison.distances(samples)
        curves.steps.append(step)
        for name in (DISTANCE, FEATURES):
            curves.distances.setdefault(name, []).append(metrics[name])
        curves.critic.append(math.nan if recipe.conditional else training.estimate())
    means = {name: sum(m[name] for m in final) / len(final) for name in final[0]}
    correlations = {
        CORRELATION: curves.correlation(DISTANCE),
        FEATURE_CORRELATION: curves.correlation(FEATURES),
    }
    metrics = {DIVERGED: 0.0, **means, **correlations}
    return RunResult(metrics=metrics, samples=samples, curves=curves)


class _ReplayBuffer:
    """Fake rows of earlier critic updates, some of which replace new ones."""

    ROWS = 1_024
    """The number of rows that are kept."""

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._generator = torch.Generator().manual_seed(seed)
        self._rows: Tensor | None = None

    def __call__(self, fake: Tensor) -> Tensor:
        """Return fake rows, (m, ...), a share of which are earlier ones, and keep the new ones."""
        count = round(self._share * len(fake))
        mixed = fake.clone()
        if self._rows is not None and count:
            chosen = torch.randint(len(self._rows), (count,), generator=self._generator)
            mixed[:count] = self._rows[chosen.to(fake.device)]
        rows = fake if self._rows is None else torch.cat([fake, self._rows])
        if len(rows) > self.ROWS:
            # Random rows are dropped, so that some of long ago remain.
            chosen = torch.randperm(len(rows), generator=self._generator)[: self.ROWS]
            rows = rows[chosen.to(fake.device)]
        self._rows = rows.detach()
        return mixed
