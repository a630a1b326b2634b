"""The arms of the study, and a run of one of them."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from pipeline.wordvectors.files import read_word_vectors
from pipeline.wordvectors.vectors import ClassVectors, class_vectors
from workflows.devise.words import names_of_classes
from workflows.studies.cut import END, PIXELS
from workflows.studies.cut.grams import Gram, cut_grams, end_gram, pixel_gram
from workflows.studies.cut.heads import (
    KS,
    DeviseTask,
    ProbeTask,
    devise_task,
    probe_task,
    run_devise,
    run_probe,
)
from workflows.studies.cut.images import ImageSet, open_image_set
from workflows.studies.cut.networks import Cut, Network, open_network
from workflows.studies.cut.options import CutOptions
from workflows.training.writing import write

CACHE = "cache"
"""The folder of the inner products of the present cut, in the folder of the study."""
MIN_REMAINING_CLASSES = 2
"""The number of new classes that must remain when unseen and validation classes are drawn."""
MIN_NEW_CLASSES = 10
"""The number of classes that are new to a network from which on the probe is restricted to them."""


@dataclass(frozen=True)
class CutArm:
    """An arm of the study: features of a network."""

    network: Network
    form: str
    """The form of the features, which `workflows.studies.cut` lists."""
    cut: Cut | None = None
    """The cut; None for the forms `end` and `pixels`."""

    @property
    def label(self) -> str:
        """The name among the arms of the network, such as `layer.23, pooled`."""
        return self.form if self.cut is None else f"{self.cut.block}, {self.form}"

    @property
    def name(self) -> str:
        """The name among all arms."""
        return f"{self.network.name}: {self.label}"


def arms_of(network: Network, *, quick: bool = False) -> list[CutArm]:
    """Return the arms of a network, from the pixels to its end.

    Args:
        network: The network.
        quick: True for few cuts: the first, the last, and those of the lesson (default False).
    """
    cuts = network.cuts
    if quick:
        chosen = (cuts[0], cuts[-1], *network.lesson_cuts.values())
        cuts = tuple(cut for cut in cuts if cut in chosen)
    at_cuts = [CutArm(network, form, cut) for cut in cuts for form in cut.forms]
    return [CutArm(network, PIXELS), *at_cuts, CutArm(network, END)]


@dataclass(frozen=True)
class NetworkData:
    """The images and classes that all runs of a network share."""

    images: ImageSet
    """The images of `--store`."""
    probe_images: ImageSet
    """The images of `--probe-store`; the same if there is no other."""
    classes: ClassVectors
    """The word vectors of the classes of `--store`."""
    trained_classes: NDArray[np.bool_]
    """(C,) bool: True for the classes of `--store` that the network was trained on."""
    probe_trained_classes: NDArray[np.bool_]
    """(C,) bool: True for the classes of `--probe-store` that the network was trained on."""
    unseen_are_new: bool
    """True if unseen and validation classes are new to the network."""
    probe_is_new: bool
    """True if the probe is restricted to classes that are new to the network."""


class CutStudy:
    """The networks, images and classes of the study, and what a run computes."""

    def __init__(self, options: CutOptions) -> None:
        """Open everything, so that what cannot end well is refused before any run.

        Args:
            options: The options of the study.

        Raises:
            TesseraeError: A network, a store or the word vectors cannot be opened, or there are too
                few classes or images.
        """
        self.options = options
        self.folder = options.folder
        self._word_digest = _file_digest(options.word_vectors)
        words = read_word_vectors(options.word_vectors)
        self.networks = [open_network(path) for path in options.trunk]
        names = [network.name for network in self.networks]
        for name in names:
            if names.count(name) > 1:
                raise TesseraeError(
                    f"two of --trunk are named {name!r}, which the tables cannot tell apart: rename"
                    " a folder."
                )
        self._open_images = cache(open_image_set)  # networks of the same size share the images
        self.data = {network.name: self._open_data(network, words) for network in self.networks}
        self.arms = {
            arm.name: arm
            for network in self.networks
            for arm in arms_of(network, quick=options.quick)
        }
        for seed in range(options.seeds):
            for network in self.networks:
                self._tasks(network, seed)
        self._grams: tuple[str, dict[str, dict[str, Gram]]] = ("", {})

    def _open_data(self, network: Network, words: Any) -> NetworkData:
        options, size = self.options, network.backbone.size
        images = self._open_images(options.store, size, options.rows, options.test_rows)
        probe_images = images
        if options.probe_store not in (None, options.store):
            probe_images = self._open_images(
                options.probe_store, size, options.rows, options.test_rows
            )
        named = names_of_classes(images.classes, options.class_names)
        classes = class_vectors(words, named, synonyms=options.synonyms)
        trained_classes, probe_trained_classes = (
            network.knows(images.classes),
            network.knows(probe_images.classes),
        )
        num_new = int((~trained_classes & classes.has_vector).sum())
        num_drawn = options.unseen_classes + options.validation_classes
        return NetworkData(
            images, probe_images, classes, trained_classes, probe_trained_classes,
            unseen_are_new=num_new >= num_drawn + MIN_REMAINING_CLASSES,
            probe_is_new=int((~probe_trained_classes).sum()) >= MIN_NEW_CLASSES,
        )  # fmt: skip

    def _tasks(self, network: Network, seed: int) -> tuple[ProbeTask, DeviseTask]:
        data, options = self.data[network.name], self.options
        everything = np.ones(len(data.probe_trained_classes), bool)
        allowed = ~data.probe_trained_classes if data.probe_is_new else everything
        new = (
            ~data.trained_classes
            if data.unseen_are_new
            else np.ones(len(data.trained_classes), bool)
        )
        return (
            probe_task(data.probe_images, allowed, seed=seed, num_seeds=options.seeds),
            devise_task(
                data.images, data.classes, new,
                unseen=options.unseen_classes, validation=options.validation_classes, seed=seed,
            ),
        )  # fmt: skip

    def chances(self, network: Network) -> dict[str, float]:
        """Return the metrics of guessing, by name.

        Args:
            network: One of the networks.
        """
        seeds, unseen = range(self.options.seeds), self.options.unseen_classes
        probe = float(np.mean([self._tasks(network, seed)[0].chance for seed in seeds]))
        return {"top1": probe, **{f"hit{k}": k / unseen for k in KS if k <= unseen}}

    def settings(self) -> dict[str, Any]:
        """Return the settings that decide the results, as JSON values."""
        options = self.options
        class_names = options.class_names
        if class_names is not None:
            digest = hashlib.sha256(Path(class_names).read_bytes()).hexdigest()
            class_names = f"{Path(class_names).name} {digest[:16]}"
        stores = {
            digest: None
            for data in self.data.values()
            for images in (data.images, data.probe_images)
            for digest in images.digests
        }
        return {
            "store": options.store,
            "probe_store": options.probe_store or options.store,
            "images": [digest[:16] for digest in stores],
            "networks": [f"{n.name} {n.backbone.digest[:16]}" for n in self.networks],
            "word_vectors": f"{Path(options.word_vectors).name} {self._word_digest[:16]}",
            "synonyms": options.synonyms,
            "class_names": class_names,
            "rows": options.rows,
            "test_rows": options.test_rows,
            "unseen_classes": options.unseen_classes,
            "validation_classes": options.validation_classes,
            "seeds": options.seeds,
            "threads": options.threads,
            "quick": options.quick,
            "torch": version("torch"),
        }

    def run(self, arm_name: str, seed: int) -> dict[str, float]:
        """Train and test both heads of an arm.

        The inner products of the features of a cut are computed once for all of its arms and seeds.
        They are in memory and in the folder of the study, until another cut is run.

        Args:
            arm_name: The name of the arm, a key of `arms`.
            seed: The seed.

        Returns:
            The metrics of `run_probe` and `run_devise`, and `row_bytes`, `forward_ms` and
            `head_seconds`, the CPU time of inner products and both heads.
        """
        arm = self.arms[arm_name]
        grams = self._grams_of(arm)
        store_gram, probe_gram = grams["store"][arm.form], grams["probe"][arm.form]
        probe, devise = self._tasks(arm.network, seed)
        metrics = {
            **run_probe(probe_gram.products, probe),
            **run_devise(store_gram.products, devise),
            "row_bytes": store_gram.row_bytes,
            "forward_ms": store_gram.forward_ms,
        }
        seconds = [metrics.pop(name) for name in ("probe_seconds", "devise_seconds")]
        metrics["head_seconds"] = store_gram.gram_seconds + sum(seconds)
        return metrics

    def _grams_of(self, arm: CutArm) -> dict[str, dict[str, Gram]]:
        """Return the inner products of both image sets, by form, at the cut of an arm."""
        block = arm.form if arm.cut is None else arm.cut.block
        key = f"{arm.network.name}: {block}"
        if self._grams[0] != key:
            self._grams = ("", {})  # first, so that two cuts are never in memory
            file = self.folder / CACHE / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npz"
            grams = load_grams(file)
            if grams is None:
                self.clear_cache()
                grams = self._compute_grams(arm)
                file.parent.mkdir(parents=True, exist_ok=True)
                save_grams(file, grams)
            self._grams = (key, grams)
        return self._grams[1]

    def _compute_grams(self, arm: CutArm) -> dict[str, dict[str, Gram]]:
        data = self.data[arm.network.name]

        def compute(images: ImageSet) -> dict[str, Gram]:
            if arm.form == PIXELS:
                return {PIXELS: pixel_gram(images)}
            if arm.cut is None:
                return {END: end_gram(arm.network, images)}
            return cut_grams(arm.network, arm.cut, images)

        of_store = compute(data.images)
        is_same = data.probe_images is data.images
        return {"store": of_store, "probe": of_store if is_same else compute(data.probe_images)}

    def clear_cache(self) -> None:
        """Remove the inner products from the folder of the study."""
        shutil.rmtree(self.folder / CACHE, ignore_errors=True)


def save_grams(file: Path, grams: Mapping[str, Mapping[str, Gram]]) -> None:
    """Write inner products into a file, which appears complete or not at all.

    Args:
        file: The file; its folder exists.
        grams: The inner products by set and form. Those of a set that is the same object as the
            first one are written once.

    Raises:
        DiskFullError: The disk has no room for it.
    """
    arrays: dict[str, NDArray[Any]] = {}
    written: list[Mapping[str, Gram]] = []
    for name, by_form in grams.items():
        if any(by_form is first for first in written):
            continue
        written.append(by_form)
        for form, gram in by_form.items():
            costs = [gram.row_bytes, gram.forward_ms, gram.gram_seconds]
            arrays[f"{name}/{form}/products"] = gram.products
            arrays[f"{name}/{form}/costs"] = np.array(costs, np.float64)
    out = io.BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    write(file, out.getvalue())


def load_grams(file: Path) -> dict[str, dict[str, Gram]] | None:
    """Read the inner products of `save_grams`.

    Args:
        file: The file.

    Returns:
        The inner products by set and form, where a set that was not written is the first one; None
        if the file is missing or damaged, so that they are computed again.
    """
    grams: dict[str, dict[str, Gram]] = {}
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            for key in arrays.files:
                name, form, kind = key.split("/")
                if kind == "products":
                    row_bytes, forward_ms, seconds = arrays[f"{name}/{form}/costs"].tolist()
                    gram = Gram(arrays[key], int(row_bytes), forward_ms, seconds)
                    grams.setdefault(name, {})[form] = gram
        return {"store": grams["store"], "probe": grams.get("probe", grams["store"])}
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None


def _file_digest(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as e:
        raise TesseraeError(
            f"--word-vectors is {path}, which cannot be read ({e.strerror}): expected a file of"
            " word2vec, GloVe or fastText vectors."
        ) from e
