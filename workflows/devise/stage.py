"""The training of DeViSE: an update is a step.

From stored features the head alone learns; from pixels, the trunk with it. The batch norm of one
that was trained stays as it was: the statistics of a batch of few classes are not those of all; of
a new one it is over the whole batch, of all ranks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
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
from workflows.devise.class_space import Space, load_space, unit
from workflows.devise.class_splits import SEEN, UNSEEN, VALIDATION
from workflows.devise.heads import Head
from workflows.devise.losses import Loss, kinds_of
from workflows.devise.options import SMALL_SIZE, Options
from workflows.evaluation.ranking import hit_rates, places
from workflows.training.batches import AnyLoader, Batches, Taken, parts, unchanged
from workflows.training.loop import Data
from workflows.training.run_folder import RunFolder
from workflows.training.world import BatchNorm, World, load_optimiser

JUDGED = 5_000
"""Rows, at most, that a look judges."""
HITS = (1, 5)


class Devise:
    """See `workflows.training.loop.Stage`."""

    def __init__(self, options: Options, data: Data, world: World) -> None:
        """Make head and, where it learns too, trunk."""
        self.options, self.world, self.step = options, world, 0
        self.space = load_space(Path(data.folder))
        self.head = make_head(options, self.space).to(world.device)
        self.trunk: Backbone | None = None
        if options.learn == "all":
            self.trunk = open_trunk(options, world.device, size=data.train.sizes[0])
        if options.start is not None:
            begin_with(options.start, self.head, self.trunk, self.space)
        self._optimiser = torch.optim.AdamW(
            list(self._groups()), weight_decay=options.weight_decay, foreach=True
        )
        self._loss = Loss(options.loss, options.margin, options.temperature)
        seen = self.space.labels(SEEN)
        self._targets = torch.from_numpy(self.space.vectors[seen]).to(world.device)
        self._kinds = kinds_of(self._targets) if options.loss == "hinge" else None
        self._places = torch.full((len(self.space.wnids),), -1)
        self._places[torch.from_numpy(seen)] = torch.arange(len(seen))
        self.batches = Batches(data.train, self._augment(), world, here=data.beside)
        self._data = data

    def _groups(self) -> Iterator[dict[str, Any]]:
        yield {"params": list(self.head.parameters()), "rate": self.options.rate}
        if self.trunk is not None:
            learned = [p for p in self.trunk.model.parameters() if p.requires_grad]
            yield {"params": learned, "rate": self.options.trunk_rate}

    def _augment(self) -> Any:
        if self.trunk is None:
            return unchanged
        mean, std = self.trunk.mean, self.trunk.std
        return Augment(
            size=self.trunk.size, crop="resized", flip=self.options.mirrored, area=(0.5, 1.0),
            mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]),
            seed=self.options.seed,
        )  # fmt: skip

    # --- updates --------------------------------------------------------------------------------

    def advance(self) -> dict[str, Tensor]:
        """An update."""
        self._set_rate()
        taken = self.batches.take()
        truth = self._places[taken.labels.cpu()].to(self.world.device)
        order = self._draw("order", len(self._targets))
        self._optimiser.zero_grad(set_to_none=True)
        if self.trunk is not None:
            self.trunk.model.train(self.options.trunk == NEW)
        told = []
        for part, share in parts(len(truth), self.options.micro_batch):
            made = self._made(taken.images[part], part)
            loss = self._loss(made, truth[part], self._targets, order[part], self._kinds).mean()
            (share * loss).backward()  # type: ignore[no-untyped-call]
            near = nn.functional.cosine_similarity(made.detach(), self._targets[truth[part]], dim=1)
            told.append(share * torch.stack([loss.detach(), near.mean()]))
        self.world.average_gradients(p for g in self._optimiser.param_groups for p in g["params"])
        self._optimiser.step()
        self.step += 1
        loss, cosine = torch.stack(told).sum(0)
        return {"loss": loss, "cosine": cosine}

    def _made(self, images: Tensor, part: slice) -> Tensor:
        """(n, d) float32 of the rows of *part*, with gradients."""
        with self._precision():
            features = images if self.trunk is None else self.trunk.pooled(images)
            made: Tensor = self.head(features.float(), lambda *what: self._draw(*what)[part])
        return made.float()

    def _draw(self, purpose: str, count: int) -> Tensor:
        key = (self.options.seed, self.step, purpose)
        return self.world.uniform(self.options.batch_size, count, key=key)

    def _set_rate(self) -> None:
        share = schedule(self.options, self.step)
        for group in self._optimiser.param_groups:
            group["lr"] = group["rate"] * share

    def _precision(self) -> AbstractContextManager[Any]:
        if self.options.feature_precision == "bfloat16" and self.trunk is not None:
            return torch.autocast(self.world.device.type, torch.bfloat16)
        return nullcontext()

    # --- looking --------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self) -> tuple[dict[str, float], dict[str, NDArray[np.uint8]]]:
        """Hits among the classes that it learned from, and among those kept back to choose by.

        The unseen classes are not looked at while it learns.
        """
        if self._data.held_out is None:
            return {}, {}
        made, labels = self._judged_rows(self._data.held_out)
        figures: dict[str, float] = {}
        for name, part in (("seen", SEEN), ("validation", VALIDATION)):
            classes = self.space.labels(part)
            there = np.isin(labels, classes)
            if there.any():
                scores = made[there] @ self.space.vectors[classes].T
                found = places(scores, np.searchsorted(classes, labels[there]))
                rates = hit_rates(found, [k for k in HITS if k <= len(classes)])
                figures |= {f"{name}_hit{k}": float(value) for k, value in rates.items()}
        return figures, {}

    def _judged_rows(self, loader: AnyLoader) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        batches = Batches(loader, unchanged, World(device=self.world.device))
        # Pictures as they are stored: `embed` brings them to the trunk's size.
        count = min(max(1, JUDGED // loader.batch_size), len(loader))
        try:
            taken = list(islice(iter(batches.take, None), count))
        finally:
            batches.close()
        labels = np.concatenate([one.labels.cpu().numpy() for one in taken])
        return unit(np.concatenate([self.embed(one) for one in taken])), labels

    @torch.no_grad()
    def embed(self, taken: Taken) -> NDArray[np.float32]:
        """(n, d) float32: what it makes of features, or of pictures as they are stored."""
        features = taken.images
        if self.trunk is not None:
            self.trunk.model.eval()
            with self._precision():
                features = self.trunk.features(features)
        made: NDArray[np.float32] = self.head(features.float()).cpu().numpy()
        return made

    # --- state ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """See `workflows.training.loop.Stage`."""
        return {
            "head": self.head.state_dict(),
            "trunk": None if self.trunk is None else self.trunk.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "batches": self.batches.state_dict(),
            "step": self.step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `workflows.training.loop.Stage`."""
        self.head.load_state_dict(state["head"])
        if self.trunk is not None:
            self.trunk.model.load_state_dict(state["trunk"])
        load_optimiser(self._optimiser, state["optimiser"])
        self.batches.load_state_dict(state["batches"])
        self.step = state["step"]


def schedule(options: Options, step: int) -> float:
    """Share of the learning rate at a step: it rises, then falls as half a cosine, or stays."""
    warm = max(1, round(options.warm_share * options.steps))
    if step < warm:
        return (step + 1) / warm
    if options.schedule == "constant":
        return 1.0
    done = (step - warm) / max(1, options.steps - warm)
    return 0.5 + 0.5 * math.cos(math.pi * min(1.0, done))


def make_head(options: Options, space: Space) -> Head:
    """The head that *options* ask for, into *space*."""
    return Head(
        space.feature_mean,
        space.feature_spread,
        space.dim,
        hidden=options.hidden if options.head == "mlp" else 0,
        dropout=options.dropout,
    )


def open_trunk(
    options: Options, device: torch.device, *, learns: bool = True, size: int | None = None
) -> Backbone:
    """The trunk of *options*.

    Args:
        options: Which.
        device: Where it shall be.
        learns: Whether its weights have gradients.
        size: Side of the pictures that a new one takes.

    Raises:
        TesseraeError: There is none.
    """
    if options.trunk is None:
        raise TesseraeError("--trunk is missing: name a vision model, a folder or of the hub.")
    if options.trunk == NEW:
        found = new_backbone(
            device, size=size or SMALL_SIZE, width=options.width, cut=options.cut,
            pooling=options.pooling,
        )  # fmt: skip
        found.model = over_all_ranks(found.model)
    else:
        found = open_backbone(options.trunk, device, cut=options.cut, pooling=options.pooling)
    found.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    found.model.requires_grad_(learns)  # in `eval`: batch norm as it was trained
    return found


def over_all_ranks(model: nn.Module) -> nn.Module:
    """The same, with batch norm over the whole batch."""
    for name, child in model.named_children():
        if isinstance(child, nn.BatchNorm2d):
            norm = BatchNorm(child.num_features, child.eps, child.momentum)
            norm.load_state_dict(child.state_dict())
            setattr(model, name, norm.train(child.training))
        else:
            over_all_ranks(child)
    return model


def check_start(run: str, kept_back: Sequence[str]) -> None:
    """Refuse a run that has learned from classes that this one keeps back.

    Args:
        run: Its folder.
        kept_back: wnids of unseen classes and of those to choose by.

    Raises:
        TesseraeError: It has, or it is no run of DeViSE.
    """
    before = load_space(Path(run))
    learned = set(before.wnids[before.labels(SEEN)].tolist())
    both = [wnid for wnid in kept_back if wnid in learned]
    if both:
        raise TesseraeError(
            f"--start is {run}, which has learned from {len(both)} of the {len(kept_back)} classes"
            f" that are kept back here ({both[0]}, ...): keep back the same in both, by"
            " --unseen, --validation and --class-seed."
        )


def begin_with(run: str, head: Head, trunk: Backbone | None, space: Space) -> None:
    """Take the weights of another run.

    Raises:
        TesseraeError: It is none of DeViSE, has no checkpoint, has other layers, or has learned
            from classes that *space* keeps back.
    """
    folder = RunFolder(Path(run))
    newest = folder.newest()
    if newest is None:
        raise TesseraeError(f"--start is {run}, which has no checkpoint to begin with.")
    check_start(run, space.wnids[space.labels(UNSEEN, VALIDATION)].tolist())
    state = folder.load_trained(newest, "head", "trunk")
    if trunk is None and state["trunk"] is not None:
        raise TesseraeError(
            f"--start is {run}, whose head is for a trunk that it has trained: `tesserae export"
            f" {run}` makes a folder of that, for --trunk; or --learn all goes on with both."
        )
    try:
        head.load_state_dict(state["head"])
        if trunk is not None and state["trunk"] is not None:
            trunk.model.load_state_dict(state["trunk"])
    except (KeyError, RuntimeError) as e:
        first = str(e).strip().splitlines()[0]
        raise TesseraeError(f"--start is {run}, whose layers are others ({first}).") from e
