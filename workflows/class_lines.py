"""What classes a source has, in a few lines, before its first image is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pipeline.ingest.planning import Listed
from pipeline.sources.class_order import Classes
from pipeline.sources.classes import UNLABELLED, Evidence
from pipeline.store.recipe import Recipe
from workflows.figures import counted

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
        yield from passed_lines(split, one.evidence)


def mapping_lines(
    classes: Sequence[tuple[str, str]], numbers: Sequence[int], shown: int = SHOWN
) -> Iterator[str]:
    """Say label, class and words; of many classes, the first ones and the last."""
    if not classes:
        yield "  no classes: the label of every image is -1"
        return
    others = list(numbers) != list(range(len(classes))) if numbers else False
    yield f"  {counted(len(classes), 'class', 'es')}, label{' <- number' * others} class:"
    for label, (name, words) in enumerate(classes):
        if shown <= label + 1 < len(classes) and len(classes) > shown:
            if label + 1 == shown:
                yield "      ..."
            continue
        number = f" <- {numbers[label]}" if others else ""
        yield f"    {label:>3}{number}  {name}{f'  ({words})' if words else ''}"


def passed_lines(split: str, evidence: Evidence) -> Iterator[str]:
    """Say what was passed over, on each ground."""
    if evidence.passed:
        grounds = (
            f"{seen.count:,} {why} (such as {seen.first!r})"
            for why, seen in sorted(evidence.passed.items())
        )
        yield f"  {split}: passed over {'; '.join(grounds)}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN:,} more" * (len(names) > SHOWN))
