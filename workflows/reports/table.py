"""A table of a report, as text."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table whose columns hold figures, aligned to the right, unless they hold text."""

    title: str
    columns: Sequence[str]
    """The headings, one for each column."""
    rows: Sequence[Sequence[str]]
    """The cells of each row, as plain text."""
    text_columns: Collection[str] = ()
    """The headings of the columns of text."""
