"""A pretrained network, which is evaluated on the squares of every fit without training."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.backbone.load import load_config
from pipeline.errors import TesseraeError
from pipeline.loader import Loader
from workflows.classify.networks import Classifier, pretrained_classifier
from workflows.classify.stage import TOP
from workflows.studies.fit import CROP, FITS
from workflows.studies.fit.photographs import EVALUATED
from workflows.studies.fit.stores import EvaluatedImages, FitStores
from workflows.studies.fit.training import bits_of, mask_of
from workflows.terminal.progress import Progress

OWN = "network's own"
"""The name of the preprocessing that the network was trained for, a smaller centre crop."""
BATCH_ROWS = 32
"""The number of images that are evaluated at once."""


@dataclass(frozen=True, kw_only=True)
class PolicyHits:
    """The images that a network recognises with one way of making squares."""

    policy: str
    """The fit, or `network's own`."""
    first: str
    """A 1 for each image whose class has the highest score, else a 0, in the order of the rows."""
    among: str
    """A 1 for each image whose class is among the 5 with the highest scores, else a 0."""

    def hits(self, *, top: int = 1) -> NDArray[np.bool_]:
        """Return the mask of recognised images, (n,) bool.

        Args:
            top: 1 for the highest score, 5 for the 5 highest (default 1).
        """
        return mask_of(self.first if top == 1 else self.among)


@dataclass(frozen=True, kw_only=True)
class KnownClasses:
    """The network whose hits a folder has, and the classes of the images that it knows."""

    weights: str
    """The SHA-256 of its weights, in hexadecimal."""
    labels: tuple[tuple[int, int], ...]
    """The label in the stores, and that in the network, of each class that it knows."""


@dataclass(frozen=True)
class PretrainedStudy:
    """A pretrained network and the images of classes that it knows."""

    classifier: Classifier
    """The network with its own last layer, in evaluation mode."""
    model_label: Mapping[int, int]
    """The label in the network of each label of the stores that it knows."""

    @property
    def size(self) -> int:
        """The side of the images that the network takes, in pixels."""
        return self.classifier.transform.size

    @property
    def policies(self) -> tuple[str, ...]:
        """The ways of making squares; the network's own is one if it is none of the fits."""
        return (*FITS, OWN) if self.own_side > self.size else FITS

    @property
    def own_side(self) -> int:
        """The side to which the network's own preprocessing scales the short side, in pixels."""
        return round(self.size / self.classifier.transform.crop_share)

    @property
    def known_classes(self) -> KnownClasses:
        """The network and the classes that it knows: with other ones, hits are of other images."""
        hasher = hashlib.sha256()
        for name, weights in sorted(self.classifier.model.state_dict().items()):
            hasher.update(f"{name} {weights.dtype} {tuple(weights.shape)}\n".encode())
            hasher.update(weights.contiguous().view(-1).view(torch.uint8).numpy().data)
        return KnownClasses(
            weights=hasher.hexdigest(), labels=tuple(sorted(self.model_label.items()))
        )

    def evaluate(self, stores: FitStores, policy: str) -> PolicyHits:
        """Evaluate the network with one way of making squares.

        Args:
            stores: The stores of the study.
            policy: One of `policies`.

        Raises:
            TesseraeError: An image cannot be read.
        """
        is_own = policy == OWN
        loader = Loader(
            stores.path(CROP if is_own else policy),
            EVALUATED,
            size=self.own_side if is_own else self.size,
            batch_size=BATCH_ROWS,
            order="sequential",
            drop_last=False,
            include_labels=sorted(self.model_label),
            rank=0,
            world=1,
        )
        first, among = [], []
        model_labels = torch.full((len(stores.classes),), -1)
        model_labels[list(self.model_label)] = torch.tensor(list(self.model_label.values()))
        with Progress(policy, rows=loader.num_rows) as progress, torch.inference_mode():
            for batch in loader:
                assert isinstance(batch.images, torch.Tensor)
                pixels = batch.images
                if is_own:
                    start = (self.own_side - self.size) // 2
                    pixels = pixels[:, :, start : start + self.size, start : start + self.size]
                logits = self.classifier.logits(self.classifier.transform.apply(pixels))
                best = logits.topk(min(TOP, logits.shape[1])).indices
                right = best == model_labels[batch.labels][:, None]
                first.append(right[:, 0])
                among.append(right.any(1))
                progress.update(rows=len(pixels))
        return PolicyHits(
            policy=policy,
            first=bits_of(torch.cat(first).numpy()),
            among=bits_of(torch.cat(among).numpy()),
        )

    def evaluated(self, images: EvaluatedImages) -> EvaluatedImages:
        """Return the images whose classes the network knows, in the order of their rows.

        Args:
            images: All images that can be read.

        Raises:
            TesseraeError: There is no such image.
        """
        is_known = np.isin(images.labels, list(self.model_label))
        if not is_known.any():
            raise TesseraeError(
                f"none of the {len(images.labels):,} readable images is of a class that --trunk"
                " knows. Pass another --source, or --class-names."
            )
        return EvaluatedImages(
            images.labels[is_known], images.widths[is_known], images.heights[is_known]
        )


def open_pretrained(trunk: str, classes: Sequence[tuple[str, str]]) -> PretrainedStudy:
    """Open a pretrained network, and find the classes of the images among its own.

    Args:
        trunk: The folder or hub name of an image classifier of `transformers`.
        classes: The (id, names) of the classes of the stores by label.

    Raises:
        TesseraeError: The network cannot be opened, has no trained last layer, or knows fewer than
            two of the classes.
    """
    id2label = load_config(trunk).id2label
    names = [str(id2label[label]) for label in sorted(id2label)]
    classifier = pretrained_classifier(trunk, names, new_last_layer=False)
    classifier.model.eval().requires_grad_(False)
    model_label = match_classes(classes, names)
    if len(model_label) < 2:
        raise TesseraeError(
            f"--trunk {trunk} knows {len(model_label)} of the {len(classes)} classes of the images,"
            f" such as {classes[0][1] or classes[0][0]!r}; its own are such as {names[0]!r}. Pass"
            " --class-names, a file with an id and names on each line, such as ImageNet's"
            " LOC_synset_mapping.txt."
        )
    return PretrainedStudy(classifier, model_label)


def match_classes(classes: Sequence[tuple[str, str]], names: Sequence[str]) -> dict[int, int]:
    """Return the label in a network of each class that it knows.

    A class is known if exactly one class of the network has the same set of names, whatever their
    order, case and spacing, or its id as name. Classes with the names of another class are left
    out, as ImageNet's two cranes are.

    Args:
        classes: The (id, names) of the classes by label; names are separated by commas.
        names: The names of the network's classes by label, separated by commas.
    """
    of_network = [_name_set(text) for text in names]
    counts = Counter(of_network)
    label_of = {each: label for label, each in enumerate(of_network) if counts[each] == 1}
    matched = {}
    for label, (wnid, words) in enumerate(classes):
        candidates = {_name_set(text) for text in (words, wnid) if text}
        labels = {label_of[each] for each in candidates if each in label_of}
        if len(labels) == 1:
            matched[label] = labels.pop()
    repeated = {value for value, count in Counter(matched.values()).items() if count > 1}
    return {label: value for label, value in matched.items() if value not in repeated}


def _name_set(text: str) -> frozenset[str]:
    parts = (re.sub(r"[\s_]+", " ", part).strip().casefold() for part in text.split(","))
    return frozenset(part for part in parts if part)
