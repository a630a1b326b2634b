"""How good answers are of classes that were learned from, and of those that were never seen.

Three questions of the same scores: unseen pictures among unseen classes; seen among seen; and both
among all, which is the generalised form, where a model that has learned from some classes prefers
them. Zero-shot is a word for a trunk that has not seen the classes either.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from pipeline.wordvectors.hierarchy import Hierarchy
from workflows.devise.class_splits import SEEN, UNSEEN
from workflows.evaluation.per_class import Generalised, PerClass, generalised, per_class
from workflows.evaluation.ranking import KS, chance, hierarchical_precision, places

Floats = NDArray[np.float32]

AT = 5
"""Where lists are cut, at most, in figures of seen and unseen classes together."""


@dataclass(frozen=True)
class Pictures:
    """What is judged, and by which classes."""

    labels: NDArray[np.int64]
    """(n,) the true class of each picture."""
    wnids: Sequence[str]
    """Of all C classes."""
    parts: NDArray[np.int8]
    """(C,) what each is."""
    groups: Sequence[Sequence[int]] = ()
    """Classes that have one and the same vector."""
    hierarchy: Hierarchy | None = None

    def classes(self, *parts: int) -> NDArray[np.int64]:
        """(m,) ascending: the classes that are one of *parts*."""
        return np.flatnonzero(np.isin(self.parts, parts))


@dataclass(frozen=True)
class Judgement:
    """What came out for one method."""

    unseen: Mapping[int, PerClass]
    """k -> hits of pictures of unseen classes, among those."""
    seen: Mapping[int, PerClass]
    generalised: Mapping[int, Generalised]
    precision: Mapping[int, PerClass] = field(default_factory=dict)
    """k -> hierarchical precision, of unseen pictures among unseen classes."""
    candidates: tuple[int, int] = (0, 0)
    """Unseen classes, and seen ones."""


def judge(scores: Floats, pictures: Pictures) -> Judgement:
    """Judge a method.

    Args:
        scores: (n, C), higher is nearer.
        pictures: What they are of.
    """
    unseen, seen = pictures.classes(UNSEEN), pictures.classes(SEEN)
    both = pictures.classes(SEEN, UNSEEN)
    return Judgement(
        unseen=_hits(scores, pictures, unseen) if len(unseen) else {},
        seen=_hits(scores, pictures, seen),
        generalised=_generalised(scores, pictures, both) if len(unseen) else {},
        precision=_precision(scores, pictures, unseen) if len(unseen) else {},
        candidates=(len(unseen), len(seen)),
    )


@dataclass(frozen=True)
class Near:
    """How good answers are of the unseen classes that are near to seen ones."""

    hops: int | None
    """At most so many, by the hierarchy, from the nearest seen class; None = all there are."""
    classes: int
    pictures: int
    alone: Mapping[int, PerClass]
    """k -> hits of their pictures among these classes."""
    beside_seen: Mapping[int, PerClass]
    """The same, with the seen classes as further candidates."""


def by_nearness(scores: Floats, pictures: Pictures) -> Iterator[Near]:
    """Judge unseen classes within 1, 2 and 3 hops of the seen ones, and all of them.

    As in Frome et al. 2013, table 2, where sets are named "2-hop", "3-hop" and all of ImageNet
    2011, each alone and with the 1,000 learned classes ("+1K"). Sets that are empty, or no larger
    than the one before, are left out; without a hierarchy there is the last alone.
    """
    unseen, seen = pictures.classes(UNSEEN), pictures.classes(SEEN)
    before = 0
    for hops in (1, 2, 3, None):
        classes = unseen
        if hops is not None:
            near = _within(pictures, seen, hops)
            classes = unseen[[pictures.wnids[label] in near for label in unseen.tolist()]]
        there = np.isin(pictures.labels, classes)
        if len(classes) == before or not there.any():
            continue
        before = len(classes)
        beside = Pictures(pictures.labels[there], pictures.wnids, pictures.parts, pictures.groups)
        both = np.sort(np.concatenate([seen, classes]))
        yield Near(
            hops=hops,
            classes=len(classes),
            pictures=int(there.sum()),
            alone=_hits(scores, pictures, classes),
            beside_seen=_hits(scores[there], beside, both),
        )


def _within(pictures: Pictures, seen: NDArray[np.int64], hops: int) -> set[str]:
    if pictures.hierarchy is None:
        return set()
    known = [pictures.wnids[label] for label in seen.tolist()]
    return pictures.hierarchy.within([w for w in known if w in pictures.hierarchy], hops)


def hits_among(scores: Floats, pictures: Pictures, part: int, k: int) -> float:
    """Mean over pictures of hit@k of those of one part's classes, among these classes.

    Raises:
        TesseraeError: There are fewer than k of them, or no pictures of them.
    """
    classes = pictures.classes(part)
    found = _hits(scores, pictures, classes, ks=(k,)) if len(classes) >= k else {}
    if not found:
        raise TesseraeError(
            f"{len(classes)} classes to choose by, of which there may be no pictures: expected"
            f" {k} or more, with pictures."
        )
    return found[k].micro


def among(
    scores: Floats, pictures: Pictures, classes: NDArray[np.int64]
) -> tuple[Floats, NDArray[np.int64], list[list[int]]]:
    """Scores of these classes' pictures among these classes; their columns; what is alike."""
    there = np.isin(pictures.labels, classes)
    columns = np.searchsorted(classes, pictures.labels[there])
    place = {label: column for column, label in enumerate(classes.tolist())}
    groups = [[place[label] for label in group if label in place] for group in pictures.groups]
    alike = [group for group in groups if len(group) > 1]
    return scores[np.ix_(np.flatnonzero(there), classes)], columns, alike


def _hits(
    scores: Floats,
    pictures: Pictures,
    classes: NDArray[np.int64],
    ks: Sequence[int] = KS,
) -> dict[int, PerClass]:
    own, columns, groups = among(scores, pictures, classes)
    if not len(columns):
        return {}
    found = places(own, columns, groups=groups)
    labels, count = classes[columns], len(pictures.parts)
    return {k: per_class(found.hits(k), labels, count) for k in ks if k <= len(classes)}


def _generalised(
    scores: Floats, pictures: Pictures, classes: NDArray[np.int64]
) -> dict[int, Generalised]:
    own, columns, groups = among(scores, pictures, classes)
    learned = pictures.parts[classes] == SEEN
    if learned[columns].all() or not learned[columns].any():
        return {}
    found = places(own, columns, groups=groups)
    ks = [k for k in KS if k <= len(classes)]
    return generalised(found, columns, learned, ks=ks, macro=False)


def _precision(
    scores: Floats, pictures: Pictures, classes: NDArray[np.int64]
) -> dict[int, PerClass]:
    hierarchy = pictures.hierarchy
    wnids = [pictures.wnids[label] for label in classes.tolist()]
    if hierarchy is None or any(wnid not in hierarchy for wnid in wnids):
        return {}
    own, columns, groups = among(scores, pictures, classes)
    if not len(columns):
        return {}
    valid, place = set(wnids), {wnid: column for column, wnid in enumerate(wnids)}
    correct = {
        k: {
            column: {place[w] for w in hierarchy.correct_set(wnids[column], k, valid)}
            for column in np.unique(columns).tolist()
        }
        for k in KS
        if k <= len(classes)
    }
    found = hierarchical_precision(own, columns, correct, groups=groups)
    labels, count = classes[columns], len(pictures.parts)
    return {k: per_class(values, labels, count) for k, values in found.items()}


def alike(vectors: Floats) -> list[list[int]]:
    """Classes that have one and the same vector, so that nothing can tell them apart."""
    kinds: dict[bytes, list[int]] = {}
    for label, vector in enumerate(vectors):
        if vector.any():
            kinds.setdefault(vector.tobytes(), []).append(label)
    return [labels for labels in kinds.values() if len(labels) > 1]


def lines(judged: Mapping[str, Sequence[Judgement]]) -> Iterator[tuple[str, ...]]:
    """A table: for each method its means over splits, in per cent of pictures.

    Among unseen classes hit@k and hp@k; then, at 5 or what there are, of seen classes among
    themselves, and of both among all; of seen classes alone where there are no others. Last what
    hit@k is where nothing is known.
    """
    every = [one for some in judged.values() for one in some]
    if not all(one.unseen for one in every):
        yield from _seen_lines(judged)
        return
    ks = [k for k in KS if all(k in one.unseen for one in every)]
    exact = [k for k in KS if k > 1 and all(k in one.precision for one in every)]
    both = [k for k in ks if all(k in one.seen and k in one.generalised for one in every)]
    last = [k for k in both if k <= AT][-1:]
    heads = [(f"seen@{k}", f"all: seen@{k}", f"unseen@{k}", "harmonic") for k in last]
    yield ("method", *(f"hit@{k}" for k in ks), *(f"hp@{k}" for k in exact), *chain(*heads))
    for name, some in judged.items():
        yield (
            name,
            *(_percent(one.unseen[k].micro for one in some) for k in ks),
            *(_percent(one.precision[k].micro for one in some) for k in exact),
            *(cell for k in last for cell in _mixed(some, k)),
        )
    guessed = (_percent(chance(k, one.candidates[0]) for one in every) for k in ks)
    yield ("chance", *guessed, *[""] * (len(exact) + 4 * len(last)))


def _mixed(some: Sequence[Judgement], k: int) -> Iterator[str]:
    yield _percent(one.seen[k].micro for one in some)
    yield _percent(one.generalised[k].seen for one in some)
    yield _percent(one.generalised[k].unseen for one in some)
    yield _percent(one.generalised[k].harmonic for one in some)


def _seen_lines(judged: Mapping[str, Sequence[Judgement]]) -> Iterator[tuple[str, ...]]:
    every = [one for some in judged.values() for one in some]
    ks = [k for k in KS if all(k in one.seen for one in every)]
    yield ("method", *(f"hit@{k}" for k in ks))
    for name, some in judged.items():
        yield (name, *(_percent(one.seen[k].micro for one in some) for k in ks))
    yield ("chance", *(_percent(chance(k, one.candidates[1]) for one in every) for k in ks))


def _percent(values: Iterable[float]) -> str:
    return f"{100 * float(np.mean(list(values))):.1f}"
