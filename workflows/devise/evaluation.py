"""The evaluation of a DeViSE run for its report: metrics, baselines and image galleries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import neighbours
from pipeline.backbone.choices import NEW
from pipeline.features.reader import finished_features, open_features
from pipeline.loader.crops import Crop
from pipeline.loader.encoded_reader import open_encoded_reader
from pipeline.loader.image_readers import CropReader
from pipeline.loader.pixel_reader import open_reader
from pipeline.store import records
from pipeline.store.open import open_objects
from pipeline.store.split import open_split
from pipeline.wordvectors.hierarchy import Hierarchy, read_hierarchy
from pipeline.wordvectors.vectors import split_names
from workflows.devise import baselines
from workflows.devise.accuracy import (
    HopMetrics,
    LabelledImages,
    MethodMetrics,
    by_hops,
    evaluate,
    identical_groups,
    restrict_to_classes,
    table_rows,
)
from workflows.devise.baselines import LabelledFeatures
from workflows.devise.class_splits import SEEN, UNSEEN, VALIDATION
from workflows.devise.clip import Clip
from workflows.devise.model import DeviseModel, open_devise_model
from workflows.devise.word_space import Floats
from workflows.evaluation import HELD_OUT
from workflows.evaluation.class_accuracy import bootstrap
from workflows.evaluation.evaluated_run import EvaluatedRun
from workflows.evaluation.options import EvaluationOptions
from workflows.evaluation.ranking import KS, NO_PATH, hops, same_class_precision, top_k
from workflows.reports.table import Table
from workflows.training.image_grid import grid_png
from workflows.training.run_folder import RunFolder

RIDGE_PENALTY, SOFTMAX_PENALTY, CONSE_CLASSES = 1.0, 1e-4, 10
"""The settings of the baselines. They are not tuned on this store: `tesserae study devise` does
that."""
MAX_BASELINE_ROWS = 50_000
"""The number of rows, at most, that the baselines learn from."""
THUMBNAIL = 64
"""The smallest side, in pixels, of the images of a gallery."""
MAX_GALLERIES, GALLERY_COLUMNS = 10, 8
"""The number of galleries, and of images in each."""
NEAREST_IMAGES = 10
"""The number of nearest images whose classes are compared."""
MAX_LISTED_CLASSES = 50
"""The number of classes that are listed at either end of a long table."""
SEED = 1
"""The seed of the random class vectors."""


def evaluate_devise_run(
    folder: RunFolder,
    *,
    samples: int,
    clip: str | None = None,
    device: torch.device | None = None,
    store: str | None = None,
) -> EvaluatedRun | None:
    """Evaluate the newest checkpoint of a run; return None without a split to evaluate on.

    The split is the held-out one of the run. If it has none, it is the first of `val` and `test`
    that is finished, is not the training split, and has the images or features that the model
    takes.

    Args:
        folder: The folder of the run, such as `RunFolder(Path("runs/devise"))`, which is only read.
        samples: The number of images, at most, whose nearest images are searched, at least 1.
        clip: The folder or model hub name of a CLIP model to compare with (default: none). Opening
            it silences the messages of `transformers` in this process.
        device: The device that computes vectors and searches (default: a GPU if there is one).
        store: The present path or URL of the store (default: as recorded in the run, or a folder
            beside the run).

    Returns:
        The `step` of the checkpoint; `metric_texts`, pairs of the name and the text of a metric,
        which the method `metrics` yields too; `tables`, each with a `title`, `columns` and `rows`
        of text; `images`, pairs of a caption and the bytes of a PNG file; and a `notice`, empty if
        there is none. None without a split to evaluate on.

    Raises:
        TesseraeError: The folder holds no run of DeViSE or one without a checkpoint, the run has
            diverged, or its store, its features, the hierarchy or the CLIP model cannot be opened.
        ValueError: The folder's `options.json` holds a value that an option does not accept.
    """
    model = open_devise_model(folder.path, device, store=store)
    split = folder.data()["held_out"] or _finished_split(model)
    if split is None:
        return None
    evaluated = _read_evaluated_rows(model, split)
    methods = {"DeViSE": evaluate(_scores(evaluated, model), evaluated.images)}
    methods |= _baselines(model, evaluated)
    if clip is not None:
        opened = Clip(clip, model.device)
        scores = opened.scores(model.store, split, model.size, model.classes, model.encoded)
        methods["CLIP"] = evaluate(scores[evaluated.positions], evaluated.images)
    return EvaluatedRun(
        step=model.step,
        metric_texts=tuple(
            _metric_texts(methods["DeViSE"], evaluated, split, samples, model.device)
        ),
        tables=tuple(_tables(methods, evaluated, model)),
        images=tuple(_galleries(model, evaluated, split)),
        notice=_notice(model),
    )


def evaluate_for_report(
    folder: RunFolder, options: EvaluationOptions, device: torch.device
) -> EvaluatedRun | None:
    """Evaluate the newest checkpoint of a run with the options of `tesserae report`.

    It evaluates on the held-out split of the run, otherwise on the first finished split of `val`
    and `test` that has the data; if none has, it prints a notice and returns None.

    Args:
        folder: The folder of the run, such as `RunFolder(Path("runs/devise"))`, which is only read.
        options: The options, such as `EvaluationOptions(samples=100)`. `samples` is the maximum
            number of images whose nearest images are searched, `clip_model` the folder or hub name
            of a CLIP model to compare with (None = no comparison), and `store` the present location
            of the run's store (None = as recorded in the run, or a folder beside the run). The
            other options have no effect.
        device: The device that computes vectors and searches.

    Returns:
        The `step` of the checkpoint; `metric_texts`, pairs of the name and the text of a metric,
        which the method `metrics` yields too; `tables`, each with a `title`, `columns` and `rows`
        of text; `images`, pairs of a caption and the bytes of a PNG file; and a `notice`, empty if
        there is none. None without a split to evaluate on.

    Raises:
        TesseraeError: The folder holds no run of DeViSE or one without a checkpoint, the run has
            diverged, or its store, its features, the hierarchy or the CLIP model cannot be opened.
        ValueError: The folder's `options.json` holds a value that an option does not accept.
    """
    evaluation = evaluate_devise_run(
        folder, samples=options.samples, clip=options.clip_model, device=device, store=options.store
    )
    if evaluation is None:
        print("notice: the run is not evaluated: no split val or test has the data it needs.")
        print("  If such a split has been finished since, run the same `tesserae train` first.")
    return evaluation


def _finished_split(model: DeviseModel) -> str | None:
    """Return a finished split that the run did not name when it began; None if there is none."""
    objects = open_objects(model.store)
    for split in HELD_OUT:
        done = records.load_finish_record(objects, split)
        if done is None or split == model.split or model.array_name not in done.array_names:
            continue
        if model.features is None or model.features in finished_features(objects, split):
            return split
    return None


@dataclass(frozen=True)
class _Evaluated:
    """The rows of a split with their vectors and labels."""

    rows: NDArray[np.int64]
    vectors: Floats
    features: Floats | None
    positions: NDArray[np.int64]
    """The position of each row among all readable rows, (n,) int64."""
    images: LabelledImages


def _read_evaluated_rows(model: DeviseModel, split: str) -> _Evaluated:
    blocks = list(model.embed_split(split))
    rows = np.concatenate([block for block, _ in blocks])
    vectors = np.concatenate([block for _, block in blocks])
    objects = open_objects(model.store)
    labels = open_split(objects, split, []).labels[rows].astype(np.int64)
    selected = np.flatnonzero(np.isin(labels, model.space.labels(SEEN, VALIDATION, UNSEEN)))
    features = None
    if model.features is not None:
        features = open_features(model.store, model.features, split).rows(rows[selected])
    images = LabelledImages(
        labels[selected],
        model.space.wnids.tolist(),
        model.space.parts,
        identical_groups(model.class_vectors),
        _hierarchy(model),
    )
    return _Evaluated(rows[selected], vectors[selected], features, selected, images)


def _scores(evaluated: _Evaluated, model: DeviseModel) -> Floats:
    """Return the cosines of images and classes, (n, C) float32."""
    return np.asarray(evaluated.vectors @ model.class_vectors.T, np.float32)


def _hierarchy(model: DeviseModel) -> Hierarchy | None:
    path = model.options.hierarchy
    return None if path is None else read_hierarchy(path)


def _baselines(model: DeviseModel, evaluated: _Evaluated) -> dict[str, MethodMetrics]:
    """Return the metrics of the baselines on the same features; none for a run from pixels."""
    if model.features is None or evaluated.features is None:
        return {}
    train = open_features(model.store, model.features, model.split)
    labels = train.split.labels[train.readable].astype(np.int64)
    selected = np.flatnonzero(np.isin(labels, model.space.labels(SEEN)))
    # Rows are stored in random order, so that every nth row is a random sample.
    selected = selected[:: -(-len(selected) // MAX_BASELINE_ROWS)]
    training = LabelledFeatures(train.rows(train.readable[selected]), labels[selected])
    classes, vectors = len(model.space.wnids), model.class_vectors
    softmax = baselines.fit_softmax(training, penalty=SOFTMAX_PENALTY)
    centred = ", centred vectors" if model.options.centre else ""
    fitted = {
        f"ridge{centred}": baselines.ridge(training, vectors, penalty=RIDGE_PENALTY),
        f"ConSE{centred}": baselines.conse(softmax, vectors, num_classes=CONSE_CLASSES),
        "softmax": baselines.softmax_scores(softmax, classes),
        "random codes": baselines.random_codes(training, classes, penalty=RIDGE_PENALTY, seed=SEED),
    }
    return {
        name: evaluate(score(evaluated.features), evaluated.images)
        for name, score in fitted.items()
    }


def _metric_texts(
    metrics: MethodMetrics, evaluated: _Evaluated, split: str, samples: int, device: torch.device
) -> Iterator[tuple[str, str]]:
    yield "images", f"{len(evaluated.rows):,} of split {split}"
    for k in (1, 5):
        if k in metrics.seen:
            yield f"hit@{k} of seen classes", f"{metrics.seen[k].micro:.1%}"
        if k in metrics.unseen:
            interval = bootstrap([metrics.unseen[k]], macro=False)
            chance = k / len(evaluated.images.classes(UNSEEN))
            bounds = f"95 % confidence {interval.low:.1%} to {interval.high:.1%}"
            yield (
                f"hit@{k} of unseen classes",
                f"{interval.mean:.1%} ({bounds}; chance {chance:.1%})",
            )
    if 5 in metrics.generalised:
        among_all = metrics.generalised[5]
        yield (
            "hit@5 among all classes: seen, unseen, harmonic mean",
            f"{among_all.seen:.1%}, {among_all.unseen:.1%}, {among_all.harmonic:.1%}",
        )
    for name, vectors in (("word space", evaluated.vectors), ("feature space", evaluated.features)):
        if vectors is not None and len(vectors) > NEAREST_IMAGES:
            share = _same_class_share(vectors, evaluated.images.labels, samples, device)
            yield (
                f"share of the {NEAREST_IMAGES} nearest images with the same class, in {name}",
                f"{share:.1%}",
            )


def _same_class_share(
    vectors: Floats, labels: NDArray[np.int64], samples: int, device: torch.device
) -> float:
    queries = np.arange(min(samples, len(vectors)))  # rows are in random order
    index = neighbours.build("exact", vectors, device=_index_device(device))
    nearest = index.search(vectors[queries], NEAREST_IMAGES + 1)
    return float(
        same_class_precision(
            nearest.rows, labels[queries], labels, NEAREST_IMAGES, query_rows=queries
        ).mean()
    )


def _index_device(device: torch.device) -> str | None:
    """Return the device of an exact index; None selects numpy, faster than torch on a CPU."""
    return None if device.type == "cpu" else str(device)


def _tables(
    methods: Mapping[str, MethodMetrics], evaluated: _Evaluated, model: DeviseModel
) -> Iterator[Table]:
    kind = "unseen" if methods["DeViSE"].unseen else "seen"
    if len(methods) > 1 or kind == "unseen":
        heads, *rows = table_rows({name: [metrics] for name, metrics in methods.items()})
        title = f"Comparison with baselines, in percent of the images of {kind} classes"
        if len(methods) > 1:
            title += f"; baselines learn from at most {MAX_BASELINE_ROWS:,} images"
        yield Table(title, ["Method", *heads[1:]], rows, ("Method",))
    by_distance = list(by_hops(_scores(evaluated, model), evaluated.images))
    if len(by_distance) > 1:
        yield Table(
            "Unseen classes by hops to the nearest seen class, alone and with the seen classes",
            ["Hops", "Classes", "Images", *(f"hit@{k}, %" for k in KS)],
            [row for entry in by_distance for row in _hop_rows(entry)],
            ("Hops",),
        )
    if methods["DeViSE"].unseen or methods["DeViSE"].seen:
        yield _class_table(methods["DeViSE"], evaluated, model)
    distances = _by_distance(evaluated, model)
    if distances:
        yield Table(
            "Distance of the first answer from the true class, unseen classes among themselves",
            ["Hops in the hierarchy", "Images, %"],
            distances,
            ("Hops in the hierarchy",),
        )


def _hop_rows(entry: HopMetrics) -> Iterator[tuple[str, ...]]:
    name = "all" if entry.hops is None else f"at most {entry.hops}"
    for suffix, hits in (("", entry.alone), (", with seen classes", entry.with_seen)):
        yield (
            name + suffix,
            f"{entry.classes:,}",
            f"{entry.images:,}",
            *(f"{100 * hits[k].micro:.1f}" if k in hits else "" for k in KS),
        )


def _class_table(metrics: MethodMetrics, evaluated: _Evaluated, model: DeviseModel) -> Table:
    """Return a table of the hit rate of each class and its most frequent confusion."""
    part, kind = (UNSEEN, "Unseen") if metrics.unseen else (SEEN, "Seen")
    hits = {
        k: per_class_hits
        for k, per_class_hits in (metrics.unseen or metrics.seen).items()
        if k in (1, 5)
    }
    classes = evaluated.images.classes(part)
    scores, columns, groups = restrict_to_classes(
        _scores(evaluated, model), evaluated.images, classes
    )
    labels = classes[columns]
    answers = classes[top_k(scores, 1, groups=groups)[:, 0]]
    group_of = np.arange(len(model.classes))
    for group in evaluated.images.groups:  # nothing tells these apart
        group_of[list(group)] = group[0]
    rows = []
    for label in np.unique(labels).tolist():
        confusions = np.bincount(
            answers[(labels == label) & (group_of[answers] != group_of[label])]
        )
        wrong = (
            f"{_name(model, int(confusions.argmax()))} ({confusions.max()})"
            if confusions.any()
            else ""
        )
        rates = [float(per_class_hits.means[label]) for per_class_hits in hits.values()]
        cells = (_name(model, label), str(hits[1].counts[label]), *(f"{r:.0%}" for r in rates))
        rows.append((rates, (*cells, wrong)))
    rows.sort(key=lambda row: row[0], reverse=True)
    title = f"{kind} classes among themselves, the best first"
    if len(rows) > 2 * MAX_LISTED_CLASSES:
        limit = MAX_LISTED_CLASSES
        title += f": the {limit} best and the {limit} worst of {len(rows):,}"
        rows = rows[:MAX_LISTED_CLASSES] + rows[-MAX_LISTED_CLASSES:]
    heads = ["Class", "Images", *(f"hit@{k}" for k in hits), "Most frequent confusion"]
    return Table(title, heads, [row for _, row in rows], ("Class", "Most frequent confusion"))


def _name(model: DeviseModel, label: int) -> str:
    wnid, words = model.classes[label]
    return (split_names(words) or [wnid])[0]


def _by_distance(evaluated: _Evaluated, model: DeviseModel) -> list[tuple[str, str]]:
    hierarchy, unseen = evaluated.images.hierarchy, evaluated.images.classes(UNSEEN)
    wnids = [evaluated.images.wnids[label] for label in unseen.tolist()]
    if hierarchy is None or not wnids or any(wnid not in hierarchy for wnid in wnids):
        return []
    scores, columns, groups = restrict_to_classes(
        _scores(evaluated, model), evaluated.images, unseen
    )
    if not len(columns):
        return []
    shares = hops(scores, columns, hierarchy.distances(wnids), groups=groups).shares
    return [
        ("no path" if distance == NO_PATH else str(distance), f"{100 * share:.1f}")
        for distance, share in shares.items()
    ]


def _galleries(
    model: DeviseModel, evaluated: _Evaluated, split: str
) -> Iterator[tuple[str, bytes]]:
    labels = model.space.labels(UNSEEN)
    kind = "unseen class"
    if not len(labels):
        labels, kind = model.space.labels(SEEN), "seen class"
    labels = labels[np.isin(labels, evaluated.images.labels)]
    gallery_labels = labels[:: max(1, len(labels) // MAX_GALLERIES)][:MAX_GALLERIES]
    index = neighbours.build("exact", evaluated.vectors, device=_index_device(model.device))
    count = min(GALLERY_COLUMNS, len(evaluated.rows))
    for label in gallery_labels.tolist():
        nearest = index.search(model.class_vectors[label][None], count).rows[0]
        correct = int((evaluated.images.labels[nearest] == label).sum())
        png = grid_png(_thumbnails(model, split, evaluated.rows[nearest]), columns=count)
        yield f"{_name(model, label)} ({kind}): {correct} of {count} nearest images correct", png


def _thumbnails(model: DeviseModel, split: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    if model.encoded is not None:
        return _encoded_thumbnails(model, model.encoded, split, rows)
    objects = open_objects(model.store)
    done = records.load_finish_record(objects, split)
    sizes = [model.size] if done is None else done.sizes
    size = min((size for size in sizes if size >= THUMBNAIL), default=max(sizes))
    opened = open_split(objects, split, [size])
    images = np.empty((len(rows), size, size, 3), np.uint8)
    with ThreadPoolExecutor(1) as disk:
        open_reader(opened, size, cache_bytes=2**20).gather(rows, images, disk)
    step = max(1, size // (2 * THUMBNAIL))
    return np.ascontiguousarray(images[:, ::step, ::step])


def _encoded_thumbnails(
    model: DeviseModel, name: str, split: str, rows: NDArray[np.int64]
) -> NDArray[np.uint8]:
    """Return the centre squares of the encoded rows *name*."""
    opened = open_split(open_objects(model.store), split, [], encoded=[name])
    source = open_encoded_reader(opened, name, cache_bytes=2**24)
    images = np.empty((len(rows), 2 * THUMBNAIL, 2 * THUMBNAIL, 3), np.uint8)
    with ThreadPoolExecutor(1) as disk:
        CropReader(opened, name, source, Crop(), seed=0).gather(rows, 0, [images], disk)
    return images


def _notice(model: DeviseModel) -> str:
    if not len(model.space.labels(UNSEEN)):
        return ""
    if model.options.trunk == NEW:
        return (
            "Neither DeViSE nor its trunk, which started from random weights, has been trained on"
            " unseen classes: hits on them are zero-shot recognition."
        )
    return (
        f"DeViSE has not been trained on unseen classes, but its trunk, {model.options.trunk}, may"
        " have been. A trunk that was trained on ImageNet has seen the labels of all ImageNet"
        " classes, so that hits are not zero-shot recognition."
    )
