"""A table of a report, as text."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

COLUMN_GAP = "  "
"""What separates the columns of a table in the terminal."""


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

    def lines(self) -> Iterator[str]:
        """Yield the headings and the rows as aligned lines for the terminal, without the title."""
        cells = [list(self.columns), *map(list, self.rows)]
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        for row in cells:
            aligned = (
                cell.ljust(width) if heading in self.text_columns else cell.rjust(width)
                for heading, cell, width in zip(self.columns, row, widths, strict=True)
            )
            yield COLUMN_GAP.join(aligned).rstrip()
