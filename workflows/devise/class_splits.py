"""Which classes are learned from, which are kept back to choose by, and which are never seen.

Whole classes are kept back, with all their pictures and the mirror images of those.
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
"""What a class is: learned from; kept back to choose by; never seen; or left out: one without a
word vector, or that is to be learned from and has no picture. Of that nothing can be said."""


def class_parts(
    wnids: Sequence[str],
    known: NDArray[np.bool_],
    *,
    pictured: NDArray[np.bool_] | None = None,
    seen: str | None = None,
    unseen: str = "0",
    validation: int,
    seed: int,
) -> NDArray[np.int8]:
    """What each class is.

    Args:
        wnids: Of label 0, 1, ...
        known: (C,) bool: which have a word vector.
        pictured: (C,) bool: which have a picture to learn from (all).
        seen: A file of wnids, a line each, or of JSON with a list `seen`: all others are never
            seen.
        unseen: Without *seen*: how many are never seen, drawn by *seed*; or such a file, with a
            list `unseen`.
        validation: How many of the others are kept back, drawn by *seed*.
        seed: Of what is drawn. The same unseen ones are drawn whatever *validation* is.

    Returns:
        (C,) int8: `SEEN`, `VALIDATION`, `UNSEEN` or `LEFT_OUT`.

    Raises:
        TesseraeError: A file names none of the classes, fewer than two classes are left, or both
            files are given.
    """
    if seen is not None and unseen != "0":
        raise TesseraeError(
            "--seen says which classes are learned from, and --unseen which are not: leave one out."
        )
    parts = np.where(known, SEEN, LEFT_OUT).astype(np.int8)
    there = np.flatnonzero(known)
    if seen is not None:
        chosen = np.setdiff1d(there, _named(wnids, seen, "seen"))
    elif unseen.isdecimal():
        chosen = _drawn(there, int(unseen), seed)
    else:
        chosen = _named(wnids, unseen, "unseen")
    parts[[label for label in chosen if known[label]]] = UNSEEN
    if pictured is not None:
        parts[(parts == SEEN) & ~pictured] = LEFT_OUT
    rest = np.flatnonzero(parts == SEEN)
    parts[_drawn(rest, validation, seed + 1)] = VALIDATION
    left = int((parts == SEEN).sum())
    if left < 2:
        raise TesseraeError(
            f"{left} of {len(wnids)} classes are left to learn from, after {len(chosen)} unseen"
            f" and {validation} for validation, of {len(there)} with a word vector:"
            " expected 2 or more."
        )
    return parts


def _drawn(labels: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    order = np.random.Generator(np.random.PCG64(seed)).random(len(labels)).argsort(kind="stable")
    return np.sort(labels[order[:count]])


def _named(wnids: Sequence[str], file: str, what: str) -> NDArray[np.int64]:
    try:
        names = set(parse_list(Path(file).read_bytes(), file, wnids, what))
    except (OSError, SourceError) as e:
        number = "a number of classes, or " if what == "unseen" else ""
        raise TesseraeError(
            f"--{what} is {file!r}, which cannot be read ({e}): expected {number}a file that names"
            " them."
        ) from e
    labels = [label for label, wnid in enumerate(wnids) if wnid in names]
    if not labels:
        raise TesseraeError(f"{file} names none of the store's {len(wnids)} classes.")
    strange = sorted(names.difference(wnids))
    if strange:
        told = f"{len(strange):,} of {counted(len(names), 'name')} in {file} are of no class of the"
        print(printable(f"notice: {told} store: {strange[0]}{', ...' * (len(strange) > 1)}"))
    return np.array(labels, np.int64)
