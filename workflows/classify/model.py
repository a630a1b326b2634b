"""A trained classifier, which says of images what they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from pipeline.errors import TesseraeError
from pipeline.loader import Loader
from workflows.classify.networks import Classifier, make_classifier
from workflows.classify.options import EVALUATION_SHARE, ClassifyOptions
from workflows.classify.stage import evaluated_logits, evaluated_side, evaluation_augment
from workflows.training.image_rows import finished_arrays
from workflows.training.run_folder import RunFolder

STAGE = "classify"
"""The name of the stage in `options.json`."""
BATCH_ROWS = 64
"""The number of images that are classified at once."""


@dataclass(frozen=True)
class TrainedClassifier:
    """The network of a run at its newest checkpoint."""

    classifier: Classifier
    """The network in evaluation mode, with the average of its weights if the run has one."""
    options: ClassifyOptions
    """The options of the run."""
    wnids: tuple[str, ...]
    """The ids of the classes by label."""
    names: tuple[str, ...]
    """The names of the classes by label."""
    run: RunFolder
    """The run folder."""
    step: int
    """The number of complete steps at the checkpoint."""
    device: torch.device
    """The device that computes."""

    @property
    def size(self) -> int:
        """The side of the images that are evaluated, in pixels."""
        size = self.options.evaluated_size
        assert size is not None
        return size

    @property
    def stored_side(self) -> int:
        """The side of the stored images of which the evaluated ones are cut, in pixels.

        It is that of the evaluations during training; without any, that which they would have read.
        """
        data = self.run.data()
        if self.options.encoded is not None:
            return self.size
        if data["held_out_size"] is not None:
            return int(data["held_out_size"])
        read = int(data["size"])
        if self.size == self.options.image_size:
            return read
        return min((side for side in data["sizes"] if side >= self.size), default=self.size)

    @property
    def crop_share(self) -> float:
        """The side of the evaluated centre as a fraction of the image's."""
        if self.options.encoded is not None:
            return EVALUATION_SHARE
        return self.size / evaluated_side(self.options, self.classifier, self.stored_side)

    def loader(self, store: str, split: str, labels: list[int] | None = None) -> Loader:
        """Return a loader of the images of a split, whole and in the order of their rows.

        Args:
            store: Folder or URL of the store.
            split: Name of a finished split.
            labels: The labels of the rows that are read (default: all rows).

        Raises:
            TesseraeError: The split has no images of the size.
        """
        arguments = self.options.loader_arguments(training=False)
        encoded, size = self.options.encoded, self.size
        if encoded is None:
            sizes = finished_arrays(store, split).sizes
            large_enough = [stored for stored in sizes if stored >= size]
            if not large_enough:
                listed = ", ".join(map(str, sizes)) or "no"
                raise TesseraeError(
                    f"split {split!r} of {store} has images of {listed} px: expected at least"
                    f" {size} px. Add them with `tesserae prepare ... --sizes {size}`."
                )
            size = self.stored_side if self.stored_side in large_enough else large_enough[0]
        return Loader(
            store, split, size=size, encoded=encoded, batch_size=BATCH_ROWS,
            include_labels=labels, rank=0, world=1, **arguments,
        )  # fmt: skip

    @torch.no_grad()
    def scores(self, loader: Loader) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the scores of classes and the labels of all images of a loader, in batches.

        Args:
            loader: The loader, as the method `loader` returns it.

        Yields:
            (n, C) float32 and (n,) int64, on the CPU.
        """
        for batch in loader:
            assert isinstance(batch.images, Tensor)  # of one size
            yield self._scores(batch.images), batch.labels

    @torch.no_grad()
    def probabilities(self, images: Tensor) -> Tensor:
        """Return the probabilities of classes.

        Args:
            images: (n, 3, side, side) uint8 RGB on any device, of the side `stored_side`, n at
                least 1.

        Returns:
            (n, C) float32, on the CPU.
        """
        return self._scores(images).softmax(1)

    def _scores(self, images: Tensor) -> Tensor:
        augment = evaluation_augment(self.options, self.classifier, images.shape[3])
        pixels = augment(images.to(self.device), torch.zeros(len(images), dtype=torch.int64), 0)
        return torch.cat(
            [
                evaluated_logits(self.classifier, part, self.options).cpu()
                for part in torch.split(pixels, BATCH_ROWS)
            ]
        )


def open_classifier(run: Path, device: torch.device | None = None) -> TrainedClassifier:
    """Open the network of a run at its newest checkpoint.

    It draws random weights from torch's global generator before it loads the trained ones.

    Args:
        run: The run folder.
        device: The device that computes (default: the CPU).

    Raises:
        TesseraeError: The folder holds no run of this stage, or one without a checkpoint; the run
            has diverged; or its trunk cannot be opened.
        ValueError: The folder's `options.json` holds a value that an option does not accept.
    """
    folder = RunFolder(run)
    record = folder.read_options()
    if record["options"].get("stage") != STAGE:
        raise TesseraeError(f"{run} is not a run of `tesserae train classify`.")
    newest = folder.newest_checkpoint()
    if newest is None:
        raise TesseraeError(f"{run} has no checkpoint yet: train it first.")
    options = ClassifyOptions.from_dict(record["options"])
    data = folder.data()
    classifier = make_classifier(options, tuple(data["classes"]))
    state = folder.load_trained(newest, "network", "average")
    weights = state["network"]
    if state["average"] is not None:
        weights = {
            name.removeprefix("module."): value
            for name, value in state["average"].items()
            if name.startswith("module.")
        }
    classifier.model.load_state_dict(weights)
    classifier.model.to(device or "cpu").eval().requires_grad_(False)
    return TrainedClassifier(
        classifier=classifier,
        options=options,
        wnids=tuple(data["wnids"]),
        names=tuple(data["classes"]),
        run=folder,
        step=int(state["step"]),
        device=device or torch.device("cpu"),
    )
