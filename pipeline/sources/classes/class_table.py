"""The table of the classes that a source numbers."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from pipeline.errors import SourceError
from pipeline.sources.classes.class_names import UNLABELLED, abbreviate, class_id, clean_name


@dataclass(frozen=True)
class ClassTable:
    """The classes that a source numbers, in its own order."""

    names: tuple[str, ...]
    """The name of number 0, 1, ..."""
    where: str
    """The file or column that holds the table, for a message."""
    words: tuple[str, ...] = ()
    """The words of number 0, 1, ..., where the names are ids; empty: the names are the words."""
    strict: bool = True
    """True if a label that is a name must be one of these names."""

    def __post_init__(self) -> None:
        """Refuse an entry without a name: entries behind it would have wrong numbers."""
        for number, name in enumerate(self.names):
            if not clean_name(name):
                raise SourceError(
                    f"{self.where}: the class of number {number} has no name. Give it one, or"
                    " remove the blank line if it is not a class; numbers count from 0."
                )

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The class in keys of number 0, 1, ...: its name, and its number if the name repeats."""
        plain = [class_id(name) for name in self.names]
        shared = Counter(plain)
        ids = tuple(
            f"{name}#{number}" if shared[name] > 1 or name == UNLABELLED else name
            for number, name in enumerate(plain)
        )
        if len(set(ids)) < len(ids):
            twice = next(name for name, count in Counter(ids).items() if count > 1)
            raise SourceError(f"{self.where}: two classes are called {twice!r}. Rename one.")
        return ids

    @cached_property
    def _number_of(self) -> dict[str, int | None]:
        """The number of each name; None if several numbers share it."""
        numbers: dict[str, int | None] = {}
        for number, name in enumerate(map(clean_name, self.names)):
            numbers[name] = None if name in numbers else number
        return numbers

    def knows(self, name: str) -> bool:
        """Return True if a text is one of the names.

        Composed and decomposed characters are equal, and white space around the text is ignored.

        Args:
            name: The text of a label.
        """
        return clean_name(name) in self._number_of

    def number_of(self, name: str, sample: str) -> int:
        """Return the number of a name, from 0, which must occur once in the table.

        Composed and decomposed characters are equal, and white space around the name is ignored.

        Args:
            name: The text of a label.
            sample: A description of the sample with this label, for a message.

        Raises:
            SourceError: The name does not occur, or several times.
        """
        number = self._number_of.get(clean_name(name))
        if number is not None:
            return number
        why = "occurs more than once among" if self.knows(name) else "is none of"
        class_names = abbreviate(map(repr, self.names))
        raise SourceError(
            f"{sample}: the label {name!r} {why} the {len(self.names)} classes of {self.where}"
            f" ({class_names}). Correct the label or that table, or put a table with the right"
            " names (classes.txt, a name on each line) next to the data."
        )

    def check(self, number: int, sample: str) -> None:
        """Refuse a label that is a number without an entry in the table.

        Args:
            number: The label, 0 or more; a negative number is not refused here.
            sample: A description of the sample with this label, for a message.

        Raises:
            SourceError: The label is not less than the number of entries.
        """
        if number < len(self.names):
            return
        begins = " (do the labels begin at 1?)" if number == len(self.names) else ""
        raise SourceError(
            f"{sample} has the label {number}, and {self.where} has {len(self.names)} classes, 0"
            f" to {len(self.names) - 1}{begins}. Complete the table, or put a classes.txt with a"
            " line for each number, from 0 on, next to the data."
        )
