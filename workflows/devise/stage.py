"""The training stage of DeViSE, in which one step is one update.

The head is trained on stored features, or together with the trunk from pixels. The batch norm of a
pretrained trunk keeps its statistics, because a batch of few classes does not represent all of
them. The batch norm of a new trunk is computed over the whole batch, over all ranks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.augment import Augment
from pipeline.backbone.choices import NEW
from pipeline.backbone.load import new_backbone, open_backbone
from pipeline.backbone.network import Backbone
from pipeline.errors import TesseraeError
from pipeline.loader import Loader
from pipeline.loader.crops import Crop
from workflows.devise.class_splits import SEEN, UNSEEN, VALIDATION
from workflows.devise.heads import Head
from workflows.devise.losses import Loss, identical_vector_groups
from workflows.devise.options import SMALL_SIZE, DeviseOptions
from workflows.devise.word_space import WordSpace, l2_normalise, load_word_space
from workflows.evaluation.ranking import hit_rates, true_class_ranks
from workflows.training.batches import AnyLoader, Batches, RankBatch, micro_batches, no_augmentation
from workflows.training.precision import autocast
from workflows.training.run_folder import RunFolder
from workflows.training.schedules import learning_rate_factor
from workflows.training.stage import Data
from workflows.training.world import World, load_optimiser, synchronise_batch_norm

MAX_EVALUATED_ROWS = 5_000
"""The number of rows, at most, that one evaluation uses."""
TRAINING_CROP = Crop("resized", area=(0.5, 1.0))
"""The crops that a trunk is trained on."""
HITS = (1, 5)
"""The values of k for which hit@k is computed during training."""


class Devise:
    """The DeViSE stage, an implementation of `workflows.training.stage.Stage`."""

    def __init__(self, options: DeviseOptions, data: Data, world: World) -> None:
        """Create the head, the optimiser and, with `--learn all`, the trunk.

        Args:
            options: The options of the stage.
            data: The loaders and the run's folder, which holds the word space.
            world: The ranks that train together.
        """
        self.options, self.world, self.step = options, world, 0
        self.space = load_word_space(Path(data.folder))
        self.head = make_head(options, self.space).to(world.device)
        self.trunk: Backbone | None = None
        if options.learn == "all":
            self.trunk = open_trunk(options, world.device, size=data.train.sizes[0])
        if options.init_from is not None:
            load_initial_weights(options.init_from, self.head, self.trunk, self.space)
        self._optimiser = torch.optim.AdamW(
            list(self._parameter_groups()), weight_decay=options.weight_decay, foreach=True
        )
        self._loss = Loss(options.loss, options.margin, options.temperature)
        seen = self.space.labels(SEEN)
        self._targets = torch.from_numpy(self.space.vectors[seen]).to(world.device)
        self._target_groups = (
            identical_vector_groups(self._targets) if options.loss == "hinge" else None
        )
        self._target_indices = torch.full((len(self.space.wnids),), -1)
        self._target_indices[torch.from_numpy(seen)] = torch.arange(len(seen))
        self.batches = Batches(
            data.train, self._augment(data.train), world, ranks_on_host=data.ranks_on_host
        )
        self._data = data

    def _parameter_groups(self) -> Iterator[dict[str, Any]]:
        yield {"params": list(self.head.parameters()), "rate": self.options.learning_rate}
        if self.trunk is not None:
            trainable = [p for p in self.trunk.model.parameters() if p.requires_grad]
            yield {"params": trainable, "rate": self.options.trunk_learning_rate}

    def _augment(self, loader: AnyLoader) -> Any:
        if self.trunk is None:
            return no_augmentation
        mean, std = self.trunk.mean, self.trunk.std
        # The loader has cut the crops of encoded rows, with the aspect of the picture kept.
        is_cropped = isinstance(loader, Loader) and loader.encoded is not None
        return Augment(
            size=self.trunk.size, crop="none" if is_cropped else "resized",
            flip=self.options.mirrored, area=TRAINING_CROP.area,
            mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]),
            seed=self.options.seed,
        )  # fmt: skip

    # --- updates --------------------------------------------------------------------------------

    def advance(self) -> dict[str, Tensor]:
        """Run one update, which is a step.

        Returns:
            `loss`, and `cosine`, the cosine similarity of outputs and class vectors: means over
            this rank's rows, 0-d float32 tensors.
        """
        self._set_rate()
        batch = self.batches.take()
        labels = self._target_indices[batch.labels.cpu()].to(self.world.device)
        order = self._draw("order", len(self._targets))
        self._optimiser.zero_grad(set_to_none=True)
        if self.trunk is not None:
            self.trunk.model.train(self.options.trunk == NEW)
        part_metrics = []
        for part, weight in micro_batches(len(labels), self.options.micro_batch_size):
            outputs = self._forward(batch.images[part], part)
            losses = self._loss(
                outputs, labels[part], self._targets, order[part], self._target_groups
            )
            loss = losses.mean()
            (weight * loss).backward()  # type: ignore[no-untyped-call]
            cosines = nn.functional.cosine_similarity(
                outputs.detach(), self._targets[labels[part]], dim=1
            )
            part_metrics.append(weight * torch.stack([loss.detach(), cosines.mean()]))
        self.world.average_gradients(p for g in self._optimiser.param_groups for p in g["params"])
        self._optimiser.step()
        self.step += 1
        loss, cosine = torch.stack(part_metrics).sum(0)
        return {"loss": loss, "cosine": cosine}

    def _forward(self, images: Tensor, part: slice) -> Tensor:
        """Return the outputs of the head for the rows of *part*, (n, d) float32, with gradients."""
        with self._precision():
            features = images if self.trunk is None else self.trunk.forward(images)
            outputs: Tensor = self.head(
                features.float(), lambda *purpose: self._draw(*purpose)[part]
            )
        return outputs.float()

    def _draw(self, purpose: str, count: int) -> Tensor:
        key = (self.options.seed, self.step, purpose)
        return self.world.uniform(self.options.batch_size, count, key=key)

    def _set_rate(self) -> None:
        options = self.options
        warmup_steps = max(1, round(options.warmup_fraction * options.steps))
        factor = learning_rate_factor(
            options.schedule, self.step, options.steps, warmup_steps=warmup_steps
        )
        for group in self._optimiser.param_groups:
            group["lr"] = group["rate"] * factor

    def _precision(self) -> AbstractContextManager[Any]:
        uses_bfloat16 = self.options.feature_precision == "bfloat16" and self.trunk is not None
        return autocast(torch.bfloat16 if uses_bfloat16 else torch.float32, self.world.device)

    # --- evaluation -----------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> tuple[dict[str, float], dict[str, NDArray[np.uint8]]]:
        """Evaluate the hit rates of held-out rows.

        Images of seen classes are ranked among the seen classes, those of validation classes among
        the validation classes. Unseen classes are not evaluated during training, so that no choice
        can depend on them.

        Returns:
            hit@1 and hit@5, 0 to 1, as `seen_hit1`, `seen_hit5`, `validation_hit1` and
            `validation_hit5`, where there are such images and at least k classes; and no image
            grids. Both are empty without a held-out split.
        """
        if self._data.held_out is None:
            return {}, {}
        vectors, labels = self._evaluated_rows(self._data.held_out)
        metrics: dict[str, float] = {}
        for name, part in (("seen", SEEN), ("validation", VALIDATION)):
            classes = self.space.labels(part)
            selected = np.isin(labels, classes)
            if selected.any():
                scores = vectors[selected] @ self.space.vectors[classes].T
                positions = true_class_ranks(scores, np.searchsorted(classes, labels[selected]))
                rates = hit_rates(positions, [k for k in HITS if k <= len(classes)])
                metrics |= {f"{name}_hit{k}": float(value) for k, value in rates.items()}
        return metrics, {}

    def _evaluated_rows(self, loader: AnyLoader) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        batches = Batches(loader, no_augmentation, World(device=self.world.device))
        # Images stay at their stored size: `embed` resizes them for the trunk.
        count = min(max(1, MAX_EVALUATED_ROWS // loader.batch_size), len(loader))
        try:
            evaluated = list(islice(iter(batches.take, None), count))
        finally:
            batches.close()
        labels = np.concatenate([batch.labels.cpu().numpy() for batch in evaluated])
        return l2_normalise(np.concatenate([self.embed(batch) for batch in evaluated])), labels

    @torch.no_grad()
    def embed(self, batch: RankBatch) -> NDArray[np.float32]:
        """Map an evaluation batch to word space, without dropout and without gradients.

        A trained trunk is put into evaluation mode.

        Args:
            batch: n rows, of which only `images` are used: features, (n, D) float32, not
                standardised; or, with a trained trunk, uint8 images at their stored size, (n, 3, h,
                w), which the trunk resizes and normalises. They are on the device of the stage.

        Returns:
            The outputs of the head, (n, d) float32, in main memory, not normalised.
        """
        features = batch.images
        if self.trunk is not None:
            self.trunk.model.eval()
            with self._precision():
                features = self.trunk.extract(features)
        outputs: NDArray[np.float32] = self.head(features.float()).cpu().numpy()
        return outputs

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next update depends on.

        Returns:
            The states of `head`, `trunk` (None if it is not trained), `optimiser` and `batches`,
            and `step`, the number of complete steps.
        """
        return {
            "head": self.head.state_dict(),
            "trunk": None if self.trunk is None else self.trunk.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "batches": self.batches.state_dict(),
            "step": self.step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state that `state_dict` returned, and keep the optimiser's hyperparameters.

        It changes the head, the trunk, the optimiser, the position of the batches and `step` in
        place, in this order; an error leaves those before it changed.

        Args:
            state: The state of a stage with the same layers and data, with tensors on any device.
                Those of the optimiser are not copied on the same device: later updates change them.

        Raises:
            RuntimeError: The state is of other layers.
            ValueError: The state is of an optimiser with other groups of parameters.
            StoreMismatchError: The state is of other data, another order or other batches.
        """
        self.head.load_state_dict(state["head"])
        if self.trunk is not None:
            self.trunk.model.load_state_dict(state["trunk"])
        load_optimiser(self._optimiser, state["optimiser"])
        self.batches.load_state_dict(state["batches"])
        self.step = state["step"]


def make_head(options: DeviseOptions, space: WordSpace) -> Head:
    """Return a new head on the CPU, with weights that torch's global generator draws.

    Args:
        options: The options of the stage, such as `DeviseOptions(hidden_units=256)`, which select
            the layers and the dropout.
        space: The word space that it maps into, with the mean and deviation of the features, by
            which the head standardises them. They are copied, and *space* is only read.

    Returns:
        A network from features, (n, D) float32, not standardised, to vectors, (n, d) float32, not
        normalised.
    """
    return Head(
        space.feature_mean,
        space.feature_spread,
        space.dim,
        hidden=options.hidden_units if options.head == "mlp" else 0,
        dropout=options.dropout,
    )


def open_trunk(
    options: DeviseOptions, device: torch.device, *, trainable: bool = True, size: int | None = None
) -> Backbone:
    """Open the trunk that *options* name, in evaluation mode and with channels-last memory.

    A new trunk, which the name `new` stands for, gets random weights from torch's global generator,
    and a batch norm over all ranks.

    Args:
        options: The options of the stage, such as `DeviseOptions(trunk="new", learn="all")`, which
            select the trunk, the block and the pooling of its output. A pretrained one may be
            downloaded from the model hub.
        device: The device that holds the trunk.
        trainable: True if the weights receive gradients (default).
        size: The side, in pixels, of the images that a new trunk takes (default: 64). It has no
            effect on a pretrained one.

    Returns:
        The network, whose method `extract` returns the features, (n, D) float32, of uint8 images,
        (n, 3, h, w), on *device*.

    Raises:
        TesseraeError: No trunk is named, or it cannot be opened.
    """
    if options.trunk is None:
        raise TesseraeError(
            "--trunk is required: a vision model of `transformers`, as a folder or a hub name."
        )
    if options.trunk == NEW:
        trunk = new_backbone(
            device, size=size or SMALL_SIZE, width=options.width, cut=options.cut,
            pooling=options.pooling,
        )  # fmt: skip
        trunk.model = synchronise_batch_norm(trunk.model)
    else:
        trunk = open_backbone(options.trunk, device, cut=options.cut, pooling=options.pooling)
    trunk.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    # The model stays in evaluation mode, so that batch norm keeps the statistics of its training.
    trunk.model.requires_grad_(trainable)
    return trunk


def check_initial_run(run: str, held_out: Sequence[str]) -> None:
    """Check that the run that initialises this one was not trained on classes held out here.

    Args:
        run: The folder of the run to start from, in which the word space is read.
        held_out: The wnids of the unseen and validation classes of this run.

    Raises:
        TesseraeError: The run has learned from one of them, or is no run of DeViSE.
    """
    space = load_word_space(Path(run))
    trained = set(space.wnids[space.labels(SEEN)].tolist())
    shared = [wnid for wnid in held_out if wnid in trained]
    if shared:
        raise TesseraeError(
            f"--init-from is {run}, which was trained on {len(shared)} of the {len(held_out)}"
            f" classes that are held out here ({shared[0]}, ...). Hold out the same classes in"
            " both runs: pass the same --unseen-classes, --validation-classes and"
            " --class-split-seed."
        )


def load_initial_weights(run: str, head: Head, trunk: Backbone | None, space: WordSpace) -> None:
    """Load the weights of another run's newest checkpoint into *head* and *trunk*.

    Args:
        run: The folder of the other run.
        head: The head of this run, which is changed in place, with the mean and deviation by which
            it standardises features.
        trunk: The trunk of this run; None if this run trains the head alone. It is changed in
            place, and stays as it is if the other run has trained its head alone.
        space: The word space of this run, which says what classes it holds out.

    Raises:
        TesseraeError: The other run is no run of DeViSE, has no checkpoint, has diverged, has other
            layers, has trained a trunk while this run trains the head alone, or has learned from
            classes that *space* holds out.
    """
    folder = RunFolder(Path(run))
    newest = folder.newest_checkpoint()
    if newest is None:
        raise TesseraeError(f"--init-from is {run}, which has no checkpoint yet. Train it first.")
    check_initial_run(run, space.wnids[space.labels(UNSEEN, VALIDATION)].tolist())
    state = folder.load_trained(newest, "head", "trunk")
    if trunk is None and state["trunk"] is not None:
        raise TesseraeError(
            f"--init-from is {run}, whose head belongs to the trunk that it fine-tuned. Pass"
            f" --learn all to continue both, or run `tesserae export {run}` and pass its folder as"
            " --trunk."
        )
    try:
        head.load_state_dict(state["head"])
        if trunk is not None and state["trunk"] is not None:
            trunk.model.load_state_dict(state["trunk"])
    except (KeyError, RuntimeError) as e:
        first = str(e).strip().splitlines()[0]
        raise TesseraeError(
            f"--init-from is {run}, whose layers differ from those of this run ({first})."
        ) from e
