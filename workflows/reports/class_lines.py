"""Terminal lines about the classes of a source, printed before its first image is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.ingest.planning import Listing
from pipeline.sources.classes.class_names import UNLABELLED
from pipeline.sources.classes.class_order import Classes
from pipeline.store.recipe import Recipe
from workflows.terminal.formatting import counted

MAX_LISTED_CLASSES = 6
"""The number of classes that a line names before it is cut short."""


def class_lines(classes: Classes, recipe: Recipe, listed: Mapping[str, Listing]) -> Iterator[str]:
    """Yield lines on the label of each class, on unlabelled images and on skipped files.

    There are also lines on notes of the source and on classes without images. Of many classes only
    the first ones and the last are listed.

    Args:
        classes: The classes of the source; their `notes` and `empty` (classes without images) are
            shown.
        recipe: The recipe of the store, whose order of classes decides the labels.
        listed: The listing of each split, by name, whose notes and `skipped` files are shown.
    """
    yield from mapping_lines(recipe.classes, recipe.class_numbers)
    for note in classes.notes:
        yield f"  note: {note}"
    if classes.empty:
        yield f"  classes without images: {_listed_names(sorted(classes.empty))}"
    for split, listing in listed.items():
        unlabelled = sum(stop - start for name, start, stop in listing.runs if name == UNLABELLED)
        if unlabelled:
            yield f"  {split}: {counted(unlabelled, 'image')} without a class (label -1)"
        yield from (f"  {split}: {note}" for note in listing.evidence.notes)
        if listing.skipped:
            yield f"  {split}: {skipped_text(listing.skipped)}"


def mapping_lines(
    classes: Sequence[tuple[str, str]], numbers: Sequence[int], limit: int = MAX_LISTED_CLASSES
) -> Iterator[str]:
    """Yield lines with the label, the class and the words of each class, after a heading.

    Of more classes than the limit, the first ones and the last are listed.

    Args:
        classes: The (class, words) of label 0, 1, ...; without any, the one line says so.
        numbers: The number of each class in the source, by label; empty if the source numbers none.
            They are shown only if they differ from the labels.
        limit: The number of classes to list at most, at least 1 (default 6).
    """
    if not classes:
        yield "  no classes: the label of every image is -1"
        return
    renumbered = bool(numbers) and list(numbers) != list(range(len(classes)))
    heading = "label, number in the source, class" if renumbered else "label, class"
    yield f"  {counted(len(classes), 'class', 'es')}: {heading}"
    labels = range(len(classes))
    first = labels if len(classes) <= limit else labels[: limit - 1]
    for label in (*first, *labels[max(len(first), len(classes) - 1) :]):
        if label > len(first):
            yield "      ..."
        name, words = classes[label]
        number = f"  {numbers[label]:>3}" if renumbered else ""
        yield f"    {label:>3}{number}  {name}{f' ({words})' if words else ''}"


def skipped_text(passed: Mapping[str, Sequence[Any]]) -> str:
    """Return a description of skipped files, such as `skipped: 2 not images (such as 'a.txt')`.

    Args:
        passed: The (number of files, name of the first) by reason; at least one reason.
    """
    grounds = (f"{n:,} {why} (such as {first!r})" for why, (n, first) in sorted(passed.items()))
    return f"skipped: {'; '.join(grounds)}"


def unreadable_class_lines(
    classes: Sequence[tuple[str, str]], labels: NDArray[np.int32], status: NDArray[np.uint8]
) -> Iterator[str]:
    """Yield a line that names the classes all of whose images are in quarantine, if any.

    Args:
        classes: The (class, words) of label 0, 1, ...
        labels: The (rows,) int32 labels of a split.
        status: The (rows,) uint8 status of each row; 0 is readable.

    Yields:
        One line, which names six classes and counts the others; none if every class of the labels
        has a readable image.
    """
    lost = set(labels[labels >= 0].tolist()) - set(labels[status == 0].tolist())
    if lost:
        names = _listed_names([classes[label][0] for label in sorted(lost)])
        yield f"no image of {counted(len(lost), 'class', 'es')} could be read: {names}"


def _listed_names(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_LISTED_CLASSES]) + (
        f" and {len(names) - MAX_LISTED_CLASSES:,} more" * (len(names) > MAX_LISTED_CLASSES)
    )
