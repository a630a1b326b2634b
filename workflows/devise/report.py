"""What a run is worth, for its report: beside simpler ways, by distance, and in pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline import neighbours
from pipeline.backbone.choices import NEW
from pipeline.features.reader import finished, open_features
from pipeline.loader.reader import reader_of
from pipeline.store import records
from pipeline.store.objects import open_objects
from pipeline.store.split import open_split
from pipeline.wordvectors.hierarchy import Hierarchy, read_hierarchy
from pipeline.wordvectors.vectors import split_names
from workflows.devise import baselines
from workflows.devise.baselines import Learned
from workflows.devise.class_space import Floats
from workflows.devise.class_splits import SEEN, UNSEEN, VALIDATION
from workflows.devise.clip import Clip
from workflows.devise.evaluation import (
    Judgement,
    Near,
    Pictures,
    alike,
    among,
    by_nearness,
    judge,
    lines,
)
from workflows.devise.model import DeviseModel, open_model
from workflows.evaluation.per_class import bootstrap
from workflows.evaluation.ranking import KS, UNJOINED, hops, same_class, top
from workflows.training.image_grid import grid_png
from workflows.training.run_folder import RunFolder

PENALTY, LIKELY_PENALTY, LIKELIEST = 1.0, 1e-4, 10
"""Of the ways beside it. They were not chosen on this store: `tesserae study devise` does."""
LEARNED = 50_000
"""Rows that they learn from, at most."""
HELD_OUT = ("val", "test")
THUMBNAIL = 64
QUERIES, FOUND = 10, 8
"""Galleries, and pictures in each."""
NEAREST = 10
SHOWN = 50
"""Classes at either end of a long list."""
SEED = 1


@dataclass(frozen=True)
class JudgedDevise:
    """Figures, tables and pictures."""

    step: int
    facts: tuple[tuple[str, str], ...]
    tables: tuple[tuple[str, Sequence[str], Sequence[Sequence[str]]], ...]
    """(title, columns, rows)."""
    pictures: tuple[tuple[str, bytes], ...]
    notice: str

    def figures(self) -> Iterator[tuple[str, str]]:
        """(name, value), for people."""
        return iter(self.facts)


def judge_run(
    folder: RunFolder,
    *,
    samples: int,
    clip: str | None = None,
    device: torch.device | None = None,
    store: str | None = None,
) -> JudgedDevise | None:
    """Judge the newest checkpoint of a run; None if there is no split to judge it by.

    Args:
        folder: Of the run.
        samples: Pictures that are looked for among all others, at most.
        clip: Folder or name of a CLIP model to put beside it.
        device: Where pictures are mapped and searched (a GPU, if there is one).
        store: Where the store of the run is now (where the run says, or beside the run).

    Raises:
        TesseraeError: The run or its store cannot be opened.
    """
    model = open_model(folder.path, device, store=store)
    split = folder.data()["held_out"] or _finished(model)
    if split is None:
        return None
    judged = _read(model, split)
    methods = {"DeViSE": judge(_scores(judged, model), judged.pictures)}
    methods |= _others(model, judged)
    if clip is not None:
        scores = Clip(clip, model.device).scores(model.store, split, model.size, model.classes)
        methods["CLIP"] = judge(scores[judged.places], judged.pictures)
    return JudgedDevise(
        step=model.step,
        facts=tuple(_facts(methods["DeViSE"], judged, split, samples, model.device)),
        tables=tuple(_tables(methods, judged, model)),
        pictures=tuple(_galleries(model, judged, split)),
        notice=_notice(model),
    )


def _finished(model: DeviseModel) -> str | None:
    """A split to judge by that was finished after the run began, or holds other classes alone."""
    objects = open_objects(model.store)
    for split in HELD_OUT:
        done = records.load_done(objects, split)
        if done is None or split == model.split or model.size not in done.sizes:
            continue
        if model.features is None or model.features in finished(objects, split):
            return split
    return None


@dataclass(frozen=True)
class _Judged:
    """The rows of a split, as a model sees them."""

    rows: NDArray[np.int64]
    vectors: Floats
    features: Floats | None
    places: NDArray[np.int64]
    """Of these rows among all that are readable."""
    pictures: Pictures


def _read(model: DeviseModel, split: str) -> _Judged:
    blocks = list(model.rows(split))
    rows = np.concatenate([block for block, _ in blocks])
    vectors = np.concatenate([block for _, block in blocks])
    objects = open_objects(model.store)
    labels = open_split(objects, split, [model.size]).labels[rows].astype(np.int64)
    there = np.flatnonzero(np.isin(labels, model.space.labels(SEEN, VALIDATION, UNSEEN)))
    features = None
    if model.features is not None:
        features = open_features(model.store, model.features, split).rows(rows[there])
    pictures = Pictures(
        labels[there],
        model.space.wnids.tolist(),
        model.space.parts,
        alike(model.class_vectors),
        _hierarchy(model),
    )
    return _Judged(rows[there], vectors[there], features, there, pictures)


def _scores(judged: _Judged, model: DeviseModel) -> Floats:
    """(n, C): pictures with classes."""
    return np.asarray(judged.vectors @ model.class_vectors.T, np.float32)


def _hierarchy(model: DeviseModel) -> Hierarchy | None:
    where = model.options.hierarchy
    return None if where is None else read_hierarchy(where)


def _others(model: DeviseModel, judged: _Judged) -> dict[str, Judgement]:
    """The simpler ways, on the same features; none where it learned from pixels."""
    if model.features is None or judged.features is None:
        return {}
    train = open_features(model.store, model.features, model.split)
    labels = train.split.labels[train.readable].astype(np.int64)
    seen = np.flatnonzero(np.isin(labels, model.space.labels(SEEN)))
    seen = seen[:: -(-len(seen) // LEARNED)]  # rows are in random order: any of them are a sample
    learned = Learned(train.rows(train.readable[seen]), labels[seen])
    classes, vectors = len(model.space.wnids), model.class_vectors
    softmax = baselines.fit_softmax(learned, penalty=LIKELY_PENALTY)
    words = ", centred words" if model.options.centre else ""
    ways = {
        f"ridge{words}": baselines.ridge(learned, vectors, penalty=PENALTY),
        f"ConSE{words}": baselines.conse(softmax, vectors, likeliest=LIKELIEST),
        "softmax": baselines.softmax_scores(softmax, classes),
        "random codes": baselines.random_codes(learned, classes, penalty=PENALTY, seed=SEED),
    }
    return {name: judge(score(judged.features), judged.pictures) for name, score in ways.items()}


def _facts(
    found: Judgement, judged: _Judged, split: str, samples: int, device: torch.device
) -> Iterator[tuple[str, str]]:
    yield "pictures", f"{len(judged.rows):,} of split {split}"
    for k in (1, 5):
        if k in found.seen:
            yield f"hit@{k} of seen classes", f"{found.seen[k].micro:.1%}"
        if k in found.unseen:
            wide = bootstrap([found.unseen[k]], macro=False)
            chance = k / len(judged.pictures.classes(UNSEEN))
            yield (
                f"hit@{k} of unseen classes",
                f"{wide.mean:.1%} (95 % {wide.low:.1%} to {wide.high:.1%}; chance {chance:.1%})",
            )
    if 5 in found.generalised:
        mixed = found.generalised[5]
        yield (
            "hit@5 among all: seen, unseen, harmonic mean",
            f"{mixed.seen:.1%}, {mixed.unseen:.1%}, {mixed.harmonic:.1%}",
        )
    for name, vectors in (("word space", judged.vectors), ("features", judged.features)):
        if vectors is not None and len(vectors) > NEAREST:
            share = _same(vectors, judged.pictures.labels, samples, device)
            yield f"{NEAREST} nearest pictures of the same class, by {name}", f"{share:.1%}"


def _same(vectors: Floats, labels: NDArray[np.int64], samples: int, device: torch.device) -> float:
    own = np.arange(min(samples, len(vectors)))  # rows are in random order
    index = neighbours.build("exact", vectors, device=_searching(device))
    found = index.search(vectors[own], NEAREST + 1)
    return float(same_class(found.rows, labels[own], labels, NEAREST, own=own).mean())


def _searching(device: torch.device) -> str | None:
    """The device on which an index searches; numpy is quicker than torch on the processor."""
    return None if device.type == "cpu" else str(device)


def _tables(
    methods: Mapping[str, Judgement], judged: _Judged, model: DeviseModel
) -> Iterator[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    kind = "unseen" if methods["DeViSE"].unseen else "seen"
    if len(methods) > 1 or kind == "unseen":
        heads, *rows = lines({name: [found] for name, found in methods.items()})
        columns = ["=method", *(f">{head}" for head in heads[1:])]
        title = f"Beside simpler ways, in per cent of pictures of {kind} classes"
        if len(methods) > 1:
            title += f"; those learn from {LEARNED:,} pictures at most"
        yield title, columns, rows
    near = list(by_nearness(_scores(judged, model), judged.pictures))
    if len(near) > 1:
        yield (
            "Unseen classes by hops to the nearest seen one, alone and with the seen ones beside",
            ["=hops", ">classes", ">pictures", *(f">hit@{k}, %" for k in KS)],
            [row for one in near for row in _near(one)],
        )
    if methods["DeViSE"].unseen or methods["DeViSE"].seen:
        yield _one_by_one(methods["DeViSE"], judged, model)
    far = _by_distance(judged, model)
    if far:
        yield (
            "How far first answers are from the truth, unseen pictures among unseen classes",
            ["=hops in the hierarchy", ">pictures, %"],
            far,
        )


def _near(found: Near) -> Iterator[tuple[str, ...]]:
    name = "all" if found.hops is None else f"at most {found.hops}"
    for words, hits in (("", found.alone), (", and seen ones", found.beside_seen)):
        yield (
            name + words,
            f"{found.classes:,}",
            f"{found.pictures:,}",
            *(f"{100 * hits[k].micro:.1f}" if k in hits else "" for k in KS),
        )


def _one_by_one(
    found: Judgement, judged: _Judged, model: DeviseModel
) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    """Each class: how much of it is right, and what it is most often taken for."""
    part, kind = (UNSEEN, "Unseen") if found.unseen else (SEEN, "Seen")
    hits = {k: of for k, of in (found.unseen or found.seen).items() if k in (1, 5)}
    classes = judged.pictures.classes(part)
    scores, columns, groups = among(_scores(judged, model), judged.pictures, classes)
    labels = classes[columns]
    first = classes[top(scores, 1, groups=groups)[:, 0]]
    kinds = np.arange(len(model.classes))
    for group in judged.pictures.groups:  # nothing tells these apart
        kinds[list(group)] = group[0]
    rows = []
    for label in np.unique(labels).tolist():
        taken = np.bincount(first[(labels == label) & (kinds[first] != kinds[label])])
        wrong = f"{_name(model, int(taken.argmax()))} ({taken.max()})" if taken.any() else ""
        rates = [float(of.means[label]) for of in hits.values()]
        shown = (_name(model, label), str(hits[1].counts[label]), *(f"{r:.0%}" for r in rates))
        rows.append((rates, (*shown, wrong)))
    rows.sort(key=lambda row: row[0], reverse=True)
    title = f"{kind} classes one by one, among each other, the best first"
    if len(rows) > 2 * SHOWN:
        title += f": the {SHOWN} best and the {SHOWN} worst of {len(rows):,}"
        rows = rows[:SHOWN] + rows[-SHOWN:]
    heads = ["=class", ">pictures", *(f">hit@{k}" for k in hits), "=most often taken for"]
    return title, heads, [row for _, row in rows]


def _name(model: DeviseModel, label: int) -> str:
    wnid, words = model.classes[label]
    return (split_names(words) or [wnid])[0]


def _by_distance(judged: _Judged, model: DeviseModel) -> list[tuple[str, str]]:
    hierarchy, unseen = judged.pictures.hierarchy, judged.pictures.classes(UNSEEN)
    wnids = [judged.pictures.wnids[label] for label in unseen.tolist()]
    if hierarchy is None or not wnids or any(wnid not in hierarchy for wnid in wnids):
        return []
    scores, columns, groups = among(_scores(judged, model), judged.pictures, unseen)
    if not len(columns):
        return []
    shares = hops(scores, columns, hierarchy.distances(wnids), groups=groups).shares
    return [
        ("no path" if far == UNJOINED else str(far), f"{100 * share:.1f}")
        for far, share in shares.items()
    ]


def _galleries(model: DeviseModel, judged: _Judged, split: str) -> Iterator[tuple[str, bytes]]:
    labels = model.space.labels(UNSEEN)
    kind = "never learned"
    if not len(labels):
        labels, kind = model.space.labels(SEEN), "learned"
    labels = labels[np.isin(labels, judged.pictures.labels)]
    chosen = labels[:: max(1, len(labels) // QUERIES)][:QUERIES]
    index = neighbours.build("exact", judged.vectors, device=_searching(model.device))
    count = min(FOUND, len(judged.rows))
    for label in chosen.tolist():
        found = index.search(model.class_vectors[label][None], count).rows[0]
        right = int((judged.pictures.labels[found] == label).sum())
        png = grid_png(_thumbnails(model, split, judged.rows[found]), columns=count)
        yield f'"{_name(model, label)}" ({kind}): {right} of {count} right', png


def _thumbnails(model: DeviseModel, split: str, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    objects = open_objects(model.store)
    done = records.load_done(objects, split)
    sizes = [model.size] if done is None else done.sizes
    size = min((size for size in sizes if size >= THUMBNAIL), default=max(sizes))
    opened = open_split(objects, split, [size])
    out = np.empty((len(rows), size, size, 3), np.uint8)
    with ThreadPoolExecutor(1) as disk:
        reader_of(opened, size, cache_bytes=2**20).gather(rows, out, disk)
    step = max(1, size // (2 * THUMBNAIL))
    return np.ascontiguousarray(out[:, ::step, ::step])


def _notice(model: DeviseModel) -> str:
    if model.options.trunk == NEW:
        return (
            "Unseen classes are such that neither DeViSE nor its trunk, which began with random"
            " weights, ever learned from: what is right of them is zero-shot recognition."
        )
    return (
        f"Unseen classes are such that DeViSE never learned from. Its trunk, {model.options.trunk},"
        " may have: one that was trained on ImageNet has seen the labels of all of ImageNet's"
        " classes, and what it then makes of them is no zero-shot recognition."
    )
