"""The training stage of super-resolution, in which each update is a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from workflows.adversarial.objectives import OBJECTIVES, RELATIVE_OBJECTIVES
from workflows.adversarial.trainer import AdversarialConfig, AdversarialTrainer
from workflows.evaluation.image_quality import luma, psnr, ssim, without_border
from workflows.superres import bicubic
from workflows.superres.choices import DEFAULT_SCALE, STORED
from workflows.superres.critic import PatchCritic
from workflows.superres.loss import ImageLoss
from workflows.superres.networks import Upscaler, make_network
from workflows.superres.options import SuperresOptions
from workflows.superres.pairs import Pair, PairMaker
from workflows.training.averaging import average_of
from workflows.training.batches import Batches
from workflows.training.finite import NonFiniteError
from workflows.training.precision import autocast, training_precision
from workflows.training.schedules import learning_rate_factor
from workflows.training.stage import Data
from workflows.training.world import World

GRID = "low-enlarged-original"
"""The name of the grid of samples."""
GRID_IMAGES = 8
"""The largest number of held-out images in the grid of samples."""
GRID_IMAGES_IN_ROW = 2
"""The number of them beside each other, each as three pictures."""
MAX_PSNR = 100.0
"""The PSNR in decibels that an image counts with which equals its original; others have less."""
ADAM_BETAS = (0.9, 0.99)
"""The decay rates of Adam's means for the network."""
CRITIC_BETAS = (0.5, 0.99)
"""The decay rates of Adam's means for the critic."""
EVALUATED_ROWS = 4
"""The number of held-out images that are computed at once."""


class Superres:
    """The stage of `tesserae train superres`, an implementation of `training.stage.Stage`."""

    def __init__(self, options: SuperresOptions, data: Data, world: World) -> None:
        """Create the network, the critic if there is one, and their optimisers.

        Torch's global generator draws the random weights.

        Args:
            options: The options of the stage, with a scale and a degradation.
            data: The loaders of training and held-out rows.
            world: The rank that the stage runs in, with its device.

        Raises:
            TesseraeError: The network of the perceptual loss cannot be opened.
        """
        self.options, self.world, self.step = options, world, 0
        network = network_of(options).to(world.device)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._precision = training_precision(options.precision, world.device)
        optimiser = torch.optim.Adam(network.parameters(), options.learning_rate, ADAM_BETAS)
        self.trainer = _make_trainer(options, network, optimiser, world, self._precision)
        self.average = average_of(network, options.ema_decay) if options.ema_decay else None
        self._loss = ImageLoss(options, world.device, self._precision)
        if options.compile:
            network.compile()
        self._make_pairs = pair_maker(options, cut_by_loader=options.encoded is not None)
        self.batches = Batches(data.train, world=world, ranks_on_host=data.ranks_on_host)
        self._held_out = data.held_out
        self._ranks_on_host = data.ranks_on_host

    # --- updates --------------------------------------------------------------------------------

    def advance(self) -> dict[str, Tensor]:
        """Update the network, and first the critic once the adversarial loss has begun.

        Returns:
            0-d float32 tensors over this rank's rows: each loss of `ImageLoss` times its weight;
            and, while there is a critic, `generator_loss`, the adversarial loss times its weight,
            `critic_loss`, `estimate` (the mean score of originals minus that of enlarged images)
            and, with a gradient penalty, `penalty`. In the warm-up those of the critic are 0.
        """
        options = self.options
        self._set_rate()
        batch = self.batches.take_sizes()
        pair = self._make_pairs(batch.images, batch.rows, batch.epoch)
        weight = options.adversarial_weight if self.step >= options.critic_starts else 0.0
        metrics: dict[str, Tensor] = {}
        if weight:
            alpha = self.world.uniform(options.batch_size, key=(options.seed, self.step))
            metrics = self.trainer.critic_update(pair.high, (pair.low,), alpha=alpha)
        losses: list[tuple[float, dict[str, Tensor]]] = []

        def image_loss(enlarged: Tensor, rows: slice) -> Tensor:
            parts = self._loss(enlarged, pair.high[rows])
            share = len(enlarged) / len(pair.low)
            losses.append((share, {name: loss.detach() for name, loss in parts.items()}))
            return torch.stack(list(parts.values())).sum()

        update = self.trainer.generator_update(
            (pair.low,), weight=weight, real=pair.high, extra_loss=image_loss
        )
        if self.average is not None:
            self.average.update_parameters(self.trainer.generator)
        self.step += 1
        for name in losses[0][1]:
            metrics[name] = torch.stack([share * parts[name] for share, parts in losses]).sum()
        if options.adversarial_weight:
            metrics["generator_loss"] = update["generator_loss"]
            zero = torch.zeros((), device=self.world.device)
            metrics = {**dict.fromkeys(self._critic_metrics, zero), **metrics}
        return metrics

    @property
    def _critic_metrics(self) -> tuple[str, ...]:
        penalty = ("penalty",) if self.trainer.config.penalty else ()
        return ("critic_loss", "estimate", *penalty)

    def _set_rate(self) -> None:
        options = self.options
        factor = learning_rate_factor(
            options.schedule, self.step, options.steps, milestones=[options.steps // 2]
        )
        for optimiser, rate in (
            (self.trainer.generator_optimiser, options.learning_rate),
            (self.trainer.critic_optimiser, options.critic_learning_rate),
        ):
            if optimiser is not None:
                for group in optimiser.param_groups:
                    group["lr"] = rate * factor

    # --- evaluation -----------------------------------------------------------------------------

    @property
    def network(self) -> Upscaler:
        """The network that is evaluated: the average of the weights, if there is one."""
        network = self.trainer.generator if self.average is None else self.average.module
        assert isinstance(network, Upscaler)
        return network

    @torch.no_grad()
    def evaluate(self) -> tuple[dict[str, float], dict[str, NDArray[np.uint8]]]:
        """Evaluate the network on held-out images, in whole levels.

        Returns:
            `held_out_psnr` in decibels and `held_out_ssim`, on luma without a border of `scale`
            pixels, averaged over at most `evaluated_images` images; `bicubic_psnr`, that of the
            bicubic enlargement; and, in rank 0, the grid `low-enlarged-original`, (rows, 6, h, w,
            3), of up to 8 of its images, two in a row and three pictures for each. Without a
            held-out split there are none.

        Raises:
            NonFiniteError: An enlarged image contains NaN.
        """
        if self._held_out is None:
            return {}, {}
        options, scale = self.options, self.network.scale
        batches = Batches(self._held_out, world=self.world, ranks_on_host=self._ranks_on_host)
        make_pairs = pair_maker(options, whole=True)
        sums = torch.zeros(4, dtype=torch.float64, device=self.world.device)
        examples: list[Tensor] = []
        network = self.network.eval()
        num_batches = -(-options.evaluated_images // batches.loader.batch_size)
        try:
            for _ in range(min(num_batches, len(batches.loader))):
                batch = batches.take_sizes()
                if not len(batch.rows):  # the last batch may have fewer rows than there are ranks
                    continue
                pair = make_pairs(batch.images, batch.rows, 0)
                parts = (torch.split(each, EVALUATED_ROWS) for each in pair)
                for low, high in zip(*parts, strict=True):
                    with autocast(self._precision, self.world.device):
                        enlarged = bicubic.round_to_levels(network(low))
                    interpolated = bicubic.enlarge(low, scale)
                    sums += _quality(enlarged, interpolated, high, scale)
                    count = GRID_IMAGES - len(examples)
                    if count:
                        examples += _examples(Pair(low[:count], high[:count]), enlarged[:count])
        finally:
            batches.close()
            self.trainer.generator.train()
        sums = self.world.mean(sums)
        if not bool(sums.isfinite().all()):  # in all ranks alike
            raise NonFiniteError("an enlarged held-out image contains NaN")
        values = (sums[:3] / sums[3].clamp_min(1e-9)).tolist()
        metrics = dict(zip(("held_out_psnr", "held_out_ssim", "bicubic_psnr"), values, strict=True))
        if self.world.rank or not examples:  # that of rank 0 is saved
            return metrics, {}
        return metrics, {GRID: _grid(examples)}

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on.

        Returns:
            The states of `networks` (with their optimisers), `average` (None without one) and
            `batches`, and `step`, the number of complete steps.
        """
        return {
            "networks": self.trainer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "batches": self.batches.state_dict(),
            "step": self.step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned, and keep the optimisers' hyperparameters.

        Args:
            state: The state of a stage with the same layers and data, with tensors on any device.
                If it is of a run without a critic, that of this stage stays as it is.

        Raises:
            RuntimeError: The state is of other layers.
            StoreMismatchError: The state is of other data, another order or other batches.
        """
        self.trainer.load_state_dict({**self.trainer.state_dict(), **state["networks"]})
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.batches.load_state_dict(state["batches"])
        self.step = state["step"]


def network_of(options: SuperresOptions) -> Upscaler:
    """Return a new network with random weights, as the options describe it.

    Args:
        options: The options of the stage.
    """
    base = None if options.base is None else options.base != "none"
    return make_network(options.network, options.scale or DEFAULT_SCALE, base=base)


def pair_maker(
    options: SuperresOptions, *, cut_by_loader: bool = False, whole: bool = False
) -> PairMaker:
    """Return what makes the pairs of a batch.

    Args:
        options: The options of the stage, with a scale and a degradation.
        cut_by_loader: True if the loader cuts patches with a margin out of larger pictures.
        whole: True for whole images, as they are evaluated; False for patches (default).
    """
    return PairMaker(
        scale=options.scale or DEFAULT_SCALE,
        degradation=options.degradation or STORED,
        patch=None if whole else options.patch_size,
        turned=options.augment and not whole,
        cut_by_loader=cut_by_loader and not whole,
        blur=(options.blur[0], options.blur[1]),
        quality=(options.jpeg_quality[0], options.jpeg_quality[1]),
        seed=options.seed,
    )


def _make_trainer(
    options: SuperresOptions,
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    world: World,
    precision: torch.dtype,
) -> AdversarialTrainer:
    objective = {**OBJECTIVES, **RELATIVE_OBJECTIVES}[options.objective]
    config = AdversarialConfig(
        objective,
        objective.clip,
        objective.penalty,
        precision=precision,
        micro_batch=options.micro_batch_size,
        max_gradient_norm=options.max_gradient_norm,
    )
    if not options.adversarial_weight:
        return AdversarialTrainer(network, None, optimiser, None, config, world)
    # A penalty of each row, and means that must not depend on the batch's parts, rule out batch
    # norm.
    norm = "layer" if objective.penalty else "spectral"
    critic = PatchCritic(options.critic_width, norm=norm).to(world.device)
    critic_optimiser = torch.optim.Adam(
        critic.parameters(), options.critic_learning_rate, CRITIC_BETAS
    )
    return AdversarialTrainer(network, critic, optimiser, critic_optimiser, config, world)


def _quality(images: Tensor, interpolated: Tensor, originals: Tensor, border: int) -> Tensor:
    """Return the sums of PSNR, SSIM and the interpolation's PSNR, and the number of images."""
    of_images, of_interpolated, of_originals = (
        without_border(luma(each), border) for each in (images, interpolated, originals)
    )
    count = torch.tensor(float(len(images)), dtype=torch.float64, device=images.device)
    return torch.stack(
        [
            psnr(of_images, of_originals).clamp_max(MAX_PSNR).sum(),
            ssim(of_images, of_originals).sum(),
            psnr(of_interpolated, of_originals).clamp_max(MAX_PSNR).sum(),
            count,
        ]
    )


def _examples(pair: Pair, enlarged: Tensor) -> list[Tensor]:
    """Return for each image its enlarged pixels, the network's result and the original."""
    squares = functional.interpolate(pair.low, size=pair.high.shape[2:], mode="nearest")
    return list(torch.stack([squares, enlarged, pair.high], 1).byte())


def _grid(examples: list[Tensor]) -> NDArray[np.uint8]:
    """Return three pictures of each image beside each other, (rows, columns, h, w, 3)."""
    in_row = min(GRID_IMAGES_IN_ROW, len(examples))
    examples = examples + [torch.full_like(examples[0], 255)] * (-len(examples) % in_row)
    pictures = torch.stack(examples)  # (images, 3, channels, h, w)
    pictures = pictures.reshape(-1, 3 * in_row, *pictures.shape[2:])
    grid: NDArray[np.uint8] = pictures.permute(0, 1, 3, 4, 2).cpu().numpy()
    return grid
