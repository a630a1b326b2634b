"""The division of classes into seen, validation and unseen ones.

Whole classes are held out, with all of their images and the mirrored copies of those.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError, TesseraeError
from pipeline.sources.classes.name_tables import parse_list
from workflows.terminal.formatting import counted, printable

SEEN, VALIDATION, UNSEEN, LEFT_OUT = range(4)
"""The part of a class. SEEN classes are trained on, VALIDATION classes select options, UNSEEN
classes are only evaluated. A class is LEFT_OUT if it has no word vector, or if it would be seen but
has no image to learn from."""


def class_parts(
    wnids: Sequence[str],
    has_vector: NDArray[np.bool_],
    *,
    has_image: NDArray[np.bool_] | None = None,
    seen: str | None = None,
    unseen: str = "0",
    validation: int,
    seed: int,
) -> NDArray[np.int8]:
    """Draw or read which classes are seen, for validation and unseen.

    A notice is printed for names in a file that match no class.

    Args:
        wnids: The wnids of labels 0, 1, ..., C - 1.
        has_vector: (C,) bool: True for classes that have a word vector; the others are left out.
        has_image: (C,) bool: True for classes that have an image to learn from (default: all).
            Without one, a class that would be seen is left out.
        seen: The path of a file that lists the seen classes: each line begins with a wnid, after
            which a tab, semicolon, comma or space and other text may follow, and lines that begin
            with # are skipped; or the file is JSON, a list of wnids or an object with a list
            `seen`. All other classes are unseen. None (the default): *unseen* decides.
        unseen: The number of unseen classes to draw, in decimal, such as "40" (default "0": none),
            or the path of a file that lists them in the same way (in an object, the list is
            `unseen`).
        validation: The number of validation classes to draw from the remaining seen classes, at
            least 0.
        seed: The seed of the draws, at least 0. The unseen classes do not depend on *validation*.

    Returns:
        The part of each class by label, (C,) int8: `SEEN` (0), `VALIDATION` (1), `UNSEEN` (2) or
        `LEFT_OUT` (3).

    Raises:
        TesseraeError: A file cannot be read or names none of the classes, fewer than two classes
            are left to train on, or both *seen* and *unseen* are given.
    """
    if seen is not None and unseen != "0":
        raise TesseraeError(
            "--seen-classes and --unseen-classes are both given: the one lists the classes to"
            " train on, the other those to exclude. Pass only one of them."
        )
    parts = np.where(has_vector, SEEN, LEFT_OUT).astype(np.int8)
    usable = np.flatnonzero(has_vector)
    if seen is not None:
        unseen_labels = np.setdiff1d(usable, _listed_labels(wnids, seen, "seen"))
    elif unseen.isdecimal():
        unseen_labels = _draw_labels(usable, int(unseen), seed)
    else:
        unseen_labels = _listed_labels(wnids, unseen, "unseen")
    parts[[label for label in unseen_labels if has_vector[label]]] = UNSEEN
    if has_image is not None:
        parts[(parts == SEEN) & ~has_image] = LEFT_OUT
    candidates = np.flatnonzero(parts == SEEN)
    parts[_draw_labels(candidates, validation, seed + 1)] = VALIDATION
    remaining = int((parts == SEEN).sum())
    if remaining < 2:
        raise TesseraeError(
            f"{counted(remaining, 'class', 'es')} left to train on ({len(usable)} of {len(wnids)}"
            f" classes have a vector; {len(unseen_labels)} are unseen, {validation} for"
            " validation): expected 2 or more. Hold out fewer: pass a smaller"
            " --unseen-classes or --validation-classes, or a shorter list."
        )
    return parts


def _draw_labels(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    order = np.random.Generator(np.random.PCG64(seed)).random(len(labels)).argsort(kind="stable")
    return np.sort(labels[order[:count]])


def _listed_labels(wnids: Sequence[str], file: str, option: str) -> NDArray[np.int64]:
    try:
        names = set(parse_list(Path(file).read_bytes(), file, wnids, option))
    except (OSError, SourceError) as e:
        number = "a number of classes, or " if option == "unseen" else ""
        raise TesseraeError(
            f"--{option}-classes is {file!r}, which cannot be read ({e}): expected {number}a file"
            " that names them."
        ) from e
    labels = [label for label, wnid in enumerate(wnids) if wnid in names]
    if not labels:
        raise TesseraeError(
            f"{file} lists none of the store's {counted(len(wnids), 'class', 'es')}"
            + (f", such as {wnids[0]!r}." if len(wnids) else ".")
        )
    unmatched = sorted(names.difference(wnids))
    if unmatched:
        count = f"{len(unmatched):,} of {counted(len(names), 'name')} in {file}"
        listed = f"{unmatched[0]}{', ...' * (len(unmatched) > 1)}"
        print(printable(f"notice: {count} match no class of the store: {listed}"))
    return np.array(labels, np.int64)
