"""What classes a source has, in a few lines, before its first image is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.ingest.planning import Listed
from pipeline.sources.classes.decision import UNLABELLED
from pipeline.sources.classes.order import Classes
from pipeline.store.recipe import Recipe
from workflows.terminal.formatting import counted

SHOWN = 6
"""Classes that are shown of many."""


def class_lines(classes: Classes, recipe: Recipe, listed: Mapping[str, Listed]) -> Iterator[str]:
    """Say which label each class has in the store, and what has none or was passed over.

    Args:
        classes: Of the source.
        recipe: Of the store, whose order of classes decides the labels.
        listed: Split -> what was listed of it.
    """
    yield from mapping_lines(recipe.classes, recipe.class_numbers)
    for note in classes.notes:
        yield f"  note: {note}"
    if classes.empty:
        yield f"  without an image: {_some(sorted(classes.empty))}"
    for split, one in listed.items():
        unlabelled = sum(stop - start for name, start, stop in one.runs if name == UNLABELLED)
        if unlabelled:
            yield f"  {split}: {counted(unlabelled, 'image')} of no class, label -1"
        yield from (f"  {split}: {note}" for note in one.evidence.notes)
        if one.passed:
            yield f"  {split}: {passed_text(one.passed)}"


def mapping_lines(
    classes: Sequence[tuple[str, str]], numbers: Sequence[int], shown: int = SHOWN
) -> Iterator[str]:
    """Say label, class and words; of many classes, the first ones and the last."""
    if not classes:
        yield "  no classes: the label of every image is -1"
        return
    moved = bool(numbers) and list(numbers) != list(range(len(classes)))
    heading = "label, number in the source, class" if moved else "label, class"
    yield f"  {counted(len(classes), 'class', 'es')}: {heading}"
    labels = range(len(classes))
    first = labels if len(classes) <= shown else labels[: shown - 1]
    for label in (*first, *labels[max(len(first), len(classes) - 1) :]):
        if label > len(first):
            yield "      ..."
        name, words = classes[label]
        number = f"  {numbers[label]:>3}" if moved else ""
        yield f"    {label:>3}{number}  {name}{f' ({words})' if words else ''}"


def passed_text(passed: Mapping[str, Sequence[Any]]) -> str:
    """Say what was passed over: why -> (how many, name of the first)."""
    grounds = (f"{n:,} {why} (such as {first!r})" for why, (n, first) in sorted(passed.items()))
    return f"passed over: {'; '.join(grounds)}"


def lost_lines(
    classes: Sequence[tuple[str, str]], labels: NDArray[np.int32], status: NDArray[np.uint8]
) -> Iterator[str]:
    """Say of which classes all images are in quarantine.

    Args:
        classes: (class, words) of label 0, 1, ...
        labels: (rows,) of a split.
        status: (rows,), 0 where a row is readable.
    """
    lost = set(labels[labels >= 0].tolist()) - set(labels[status == 0].tolist())
    if lost:
        names = [classes[label][0] for label in sorted(lost)]
        yield f"no image of {counted(len(lost), 'class', 'es')} could be read: {_some(names)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" * (len(names) > SHOWN))
