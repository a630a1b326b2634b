"""The training stage of image classification, in which one step is one update.

The batch norm of a pretrained trunk keeps its statistics; that of a new network is computed over
the whole batch, of all ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.augment import Augment
from pipeline.loader import Loader
from pipeline.store.encoding import parse_encoding
from workflows.classify.mixing import MixedBatch, Mixing
from workflows.classify.networks import Classifier, make_classifier
from workflows.classify.options import EVALUATION_SHARE, ClassifyOptions
from workflows.training.averaging import average_of
from workflows.training.batches import Batches, RankBatch, micro_batches
from workflows.training.image_rows import decoded_rows
from workflows.training.options import resized_side
from workflows.training.precision import autocast, training_precision
from workflows.training.schedules import learning_rate_factor
from workflows.training.stage import Data
from workflows.training.world import World, load_optimiser, synchronise_batch_norm

TOP = 5
"""The number of best classes among which `held_out_top5` looks for the true one."""
DEFAULT_MILESTONES = (1 / 3, 2 / 3, 8 / 9)
"""The shares of a run after which the schedule `step` lowers the rate: epochs 30, 60, 80 of 90."""


class Classify:
    """The stage of `tesserae train classify`, an implementation of `training.stage.Stage`."""

    def __init__(self, options: ClassifyOptions, data: Data, world: World) -> None:
        """Create the network and its optimiser.

        Torch's global generator draws the random weights.

        Args:
            options: The options of the stage, with what follows from the store.
            data: The loaders of training and held-out rows, and the classes.
            world: The rank that the stage runs in, with its device.

        Raises:
            TesseraeError: The network cannot be created or opened, or does not take images of the
                size.
        """
        self.options = options = options.resolved()
        self.world, self.step = world, 0
        self.classifier = make_classifier(options, data.classes)
        model = self.classifier.model
        self.classifier.freeze(options.frozen_blocks)
        if not self.classifier.pretrained:
            synchronise_batch_norm(model)
        layout = torch.channels_last if options.channels_last else torch.contiguous_format
        model.to(world.device, memory_format=layout)
        self._precision = training_precision(options.precision, world.device)
        self._optimiser = _make_optimiser(options, self.classifier)
        self._mixing = Mixing(options.mixup, options.cutmix, options.seed)
        self.average = average_of(model, options.ema_decay) if options.ema_decay else None
        if options.compile:
            model.compile()
        self._data = data
        self._size = options.image_size_in(0)
        self.batches = Batches(
            self._loader(self._size), self._augment(self._size), world,
            ranks_on_host=data.ranks_on_host,
        )  # fmt: skip
        self._train_mode()

    # --- data -----------------------------------------------------------------------------------

    def _loader(self, size: int) -> Loader:
        """Return the loader of training images for a size, of the smallest that suffice."""
        loader = self._data.train
        assert isinstance(loader, Loader)
        if size == self.options.image_size:
            return loader
        if loader.encoded is not None:
            options = replace(self.options, image_size=size, start_image_size=None)
            return loader.with_size(decoded_rows(parse_encoding(loader.encoded), options).size)
        stored = [side for side in self._data.sizes if side >= size]
        return loader.with_size(min(stored)) if stored else loader

    def _augment(self, size: int) -> Augment:
        options, transform = self.options, self.classifier.transform
        stored = self._loader(size).sizes[0]
        # The loader has cut and resized the random regions of encoded rows.
        crop = "none" if options.encoded is not None and options.crop == "resized" else options.crop
        resize = None if crop == "resized" else resized_side(stored, size, crop=crop)
        return Augment(
            size=size, crop=crop, resize=resize, padding=options.padding, flip=options.flip,
            cutout=options.cutout, area=(options.min_area, 1.0), mean=_three(transform.mean),
            std=_three(transform.std), seed=options.seed,
        )  # fmt: skip

    def _use_size(self, size: int) -> None:
        """Read and augment images of another size from the next batch on."""
        if size == self._size:
            return
        self._size = size
        loader = self._loader(size).for_rank(
            self.world.rank, self.world.size, ranks_on_host=self._data.ranks_on_host
        )
        self.batches.read_from(loader, self._augment(size))

    @property
    def _epoch_steps(self) -> int:
        return len(self.batches.loader)

    # --- updates --------------------------------------------------------------------------------

    def advance(self) -> dict[str, Tensor]:
        """Run one update, which is a step.

        Returns:
            `loss`, the mean cross entropy over this rank's rows, a 0-d float32 tensor; and, if rows
            are not mixed, `accuracy`, the share of them whose class has the highest score.
        """
        options = self.options
        self._use_size(options.image_size_in(self.step // self._epoch_steps))
        self._set_rate()
        batch = self.batches.take()
        mixed = self._mix(batch)
        self.world.seed_dropout((options.seed, self.step, "dropout"))
        self._optimiser.zero_grad(set_to_none=True)
        sums = torch.zeros(2, device=self.world.device)
        for part, weight in micro_batches(len(batch.labels), options.micro_batch_size):
            logits = self._forward(mixed.images[part])
            loss = self._loss(logits, mixed, part)
            (weight * loss).backward()  # type: ignore[no-untyped-call]
            hits = (logits.detach().argmax(1) == batch.labels[part]).float().mean()
            sums += weight * torch.stack([loss.detach(), hits])
        self.world.average_gradients(self.classifier.model.parameters())
        if options.max_gradient_norm is not None:
            nn.utils.clip_grad_norm_(self.classifier.model.parameters(), options.max_gradient_norm)
        self._optimiser.step()
        if self.average is not None:
            self.average.update_parameters(self.classifier.model)
        self.step += 1
        return {"loss": sums[0]} if self._mixing else {"loss": sums[0], "accuracy": sums[1]}

    def _mix(self, batch: RankBatch) -> MixedBatch:
        images = batch.images if self.options.channels_last else batch.images.contiguous()
        if self._mixing:
            return self._mixing(images, batch.labels, batch.rows, self.batches.loader.epoch)
        return MixedBatch(images, batch.labels, batch.labels, images.new_ones(len(images)))

    def _forward(self, images: Tensor) -> Tensor:
        with autocast(self._precision, self.world.device):
            return self.classifier.logits(images)

    def _loss(self, logits: Tensor, mixed: MixedBatch, part: slice) -> Tensor:
        """Return the mean cross entropy of the rows of *part*."""

        def entropy(labels: Tensor) -> Tensor:
            return nn.functional.cross_entropy(
                logits, labels[part], reduction="none", label_smoothing=self.options.label_smoothing
            )

        losses = entropy(mixed.labels)
        if self._mixing:
            losses = torch.lerp(entropy(mixed.partner_labels), losses, mixed.shares[part])
        return losses.mean()

    def _set_rate(self) -> None:
        options, epoch_steps = self.options, self._epoch_steps
        milestones = [epoch * epoch_steps for epoch in options.milestones]
        factor = learning_rate_factor(
            options.schedule,
            self.step,
            options.steps,
            warmup_steps=round(options.warmup_epochs * epoch_steps),
            milestones=milestones or [round(s * options.steps) for s in DEFAULT_MILESTONES],
        )
        for group in self._optimiser.param_groups:
            group["lr"] = group["rate"] * factor

    def _train_mode(self) -> None:
        model = self.classifier.model.train()
        if self.classifier.pretrained:
            for module in model.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()

    # --- evaluation -----------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> tuple[dict[str, float], dict[str, NDArray[np.uint8]]]:
        """Evaluate the network, or the average of its weights, on all held-out rows.

        Returns:
            `held_out_loss`, the mean cross entropy; `held_out_accuracy`, the share of rows whose
            class has the highest score; and, with more than 5 classes, `held_out_top5`, the share
            of those whose class is among the 5 best. Without a held-out split there are none, and
            there are no image grids.
        """
        if self._data.held_out is None:
            return {}, {}
        sums = torch.zeros(4, dtype=torch.float64, device=self.world.device)
        for logits, labels in self.held_out_logits():
            losses = nn.functional.cross_entropy(logits, labels, reduction="sum")
            best = logits.topk(min(TOP, logits.shape[1])).indices == labels[:, None]
            count = torch.tensor(float(len(labels)), device=self.world.device)
            sums += torch.stack([losses, best[:, 0].sum(), best.any(1).sum(), count]).double()
        sums = self.world.mean(sums)
        loss, first, top, _ = (sums / sums[3].clamp_min(1e-9)).tolist()
        metrics = {"held_out_loss": loss, "held_out_accuracy": first}
        if len(self._data.classes) > TOP:
            metrics["held_out_top5"] = top
        return metrics, {}

    @torch.no_grad()
    def held_out_logits(self, loader: Loader | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the scores of classes and the labels of this rank's held-out rows, in batches.

        The network is in evaluation mode meanwhile, and in training mode afterwards.

        Args:
            loader: The loader of the rows (default: that of the held-out split).

        Yields:
            (n, C) float32 and (n,) int64, on the device of the stage.
        """
        if loader is None:
            assert isinstance(self._data.held_out, Loader)
            loader = self._data.held_out
        augment = evaluation_augment(self.options, self.classifier, loader.sizes[0])
        batches = Batches(loader, augment, self.world, ranks_on_host=self._data.ranks_on_host)
        model = self.classifier.model if self.average is None else self.average.module
        evaluated = Classifier(
            model.eval(), self.classifier.transform, pretrained=self.classifier.pretrained
        )
        try:
            for _ in range(len(batches.loader)):
                batch = batches.take()
                if len(batch.labels):  # the last batch may have fewer rows than there are ranks
                    with autocast(self._precision, self.world.device):
                        logits = evaluated_logits(evaluated, batch.images, self.options)
                    yield logits, batch.labels  # outside, or the caller would compute in bfloat16
        finally:
            batches.close()
            self._train_mode()

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on.

        Returns:
            The states of `network`, `average` (None without one), `optimiser` and `batches`, and
            `step`, the number of complete steps.
        """
        return {
            "network": self.classifier.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "batches": self.batches.state_dict(),
            "step": self.step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned, and keep the optimiser's hyperparameters.

        It changes the network, its average, the optimiser, the position of the batches and `step`
        in place, in this order; an error leaves those before it changed.

        Args:
            state: The state of a stage with the same layers and data, with tensors on any device.
                Those of the optimiser are not copied on the same device: later updates change them.

        Raises:
            RuntimeError: The state is of other layers.
            ValueError: The state is of an optimiser with other groups of parameters.
            StoreMismatchError: The state is of other data, another order or other batches.
        """
        self.classifier.model.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        load_optimiser(self._optimiser, state["optimiser"])
        self._use_size(self.options.image_size_in(state["step"] // self._epoch_steps))
        self.batches.load_state_dict(state["batches"])
        self.step = state["step"]


def evaluation_augment(options: ClassifyOptions, classifier: Classifier, stored: int) -> Augment:
    """Return the preprocessing of images that are evaluated, without random choices.

    Args:
        options: The options of the stage, with an image size.
        classifier: The network, with the normalisation of its images.
        stored: Side of the images, in pixels.
    """
    transform, size = classifier.transform, options.evaluated_size
    assert size is not None
    resized = evaluated_side(options, classifier, stored)
    return Augment(
        size=size, crop="none", resize=None if resized == stored else resized, flip=False,
        mean=_three(transform.mean), std=_three(transform.std),
    )  # fmt: skip


def evaluated_side(options: ClassifyOptions, classifier: Classifier, stored: int) -> int:
    """Return the side to which images are resized before their centre is evaluated, in pixels.

    The centre is 7/8 of their side, or the share that a pretrained trunk names; but images are
    never enlarged. Of encoded rows the loader has cut out 7/8 of the short side, and the whole
    image is evaluated.

    Args:
        options: The options of the stage, with an image size.
        classifier: The network.
        stored: Side of the images, in pixels.
    """
    size = options.evaluated_size
    assert size is not None
    share = classifier.transform.crop_share if classifier.pretrained else EVALUATION_SHARE
    return min(stored, round(size / share))


def evaluated_logits(classifier: Classifier, images: Tensor, options: ClassifyOptions) -> Tensor:
    """Return the scores of normalised images, (n, C) float32, averaged over both mirror images.

    Args:
        classifier: The network, in evaluation mode.
        images: (n, 3, size, size) float32, normalised, on its device.
        options: The options of the stage, which say whether mirror images are averaged.
    """
    logits = classifier.logits(images)
    if options.mirrored_evaluation:
        logits = (logits + classifier.logits(images.flip(3))) / 2
    return logits


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _make_optimiser(options: ClassifyOptions, classifier: Classifier) -> torch.optim.Optimizer:
    """Return the optimiser; norms and biases, which have one axis, do not decay.

    It is fused, which takes a third of the time of torch's other implementations on a CPU.
    """
    last = {id(parameter) for parameter in classifier.last_layers()}
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in classifier.model.parameters():
        if parameter.requires_grad:
            kind = (id(parameter) in last, parameter.ndim > 1)
            groups.setdefault(kind, []).append(parameter)
    rate, decay = options.learning_rate, options.weight_decay
    assert rate is not None
    assert decay is not None
    described = [
        {
            "params": parameters,
            "rate": rate if is_last else options.trunk_learning_rate,
            "weight_decay": decay if decays else 0.0,
        }
        for (is_last, decays), parameters in groups.items()
    ]
    if options.optimiser == "adamw":
        return torch.optim.AdamW(described, rate, fused=True)
    return torch.optim.SGD(
        described, rate, momentum=options.momentum,
        nesterov=options.momentum > 0, fused=True,
    )  # fmt: skip
