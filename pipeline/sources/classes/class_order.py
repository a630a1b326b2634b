"""The classes of a store, in order, from the evidence of all its splits.

The order is that of the source's own numbers if it has them, else that of the classes' names, with
numbers by value before other names. `class_checks` refuses classes without an unambiguous order.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from pipeline.errors import SourceError
from pipeline.sources.classes.class_checks import (
    all_class_names,
    check_number_spellings,
    check_similar_names,
    check_split,
    refuse_partly_numbered,
)
from pipeline.sources.classes.class_names import abbreviate, is_numeral
from pipeline.sources.classes.class_table import ClassTable
from pipeline.sources.classes.split_classes import SplitClasses
from pipeline.sources.options import LISTING_RULES

_DECIMAL = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?", re.ASCII)


@dataclass(frozen=True)
class Classes:
    """The classes of a source, in order."""

    names: tuple[str, ...]
    """The class of label 0, 1, ..., as in keys."""
    words: tuple[str, ...]
    """The words of each class; empty where there are none."""
    numbers: tuple[int, ...] = ()
    """The source's own number of each class; empty where it has no numbers."""
    notes: tuple[str, ...] = ()
    """The remarks for the user, a sentence each."""
    empty: frozenset[str] = frozenset()
    """The classes without a sample."""

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The (class, words) of label 0, 1, ..."""
        return tuple(zip(self.names, self.words, strict=True))

    def non_empty(self) -> "Classes":
        """Return only the classes that have samples."""
        labels = [i for i, name in enumerate(self.names) if name not in self.empty]
        return Classes(
            tuple(self.names[i] for i in labels),
            tuple(self.words[i] for i in labels),
            tuple(self.numbers[i] for i in labels) if self.numbers else (),
        )


def combine_classes(splits: Mapping[str, SplitClasses], rules: int = LISTING_RULES) -> Classes:
    """Put the classes of all *splits* in one order, in which they get the labels 0, 1, ...

    The order is that of the source's own numbers if it has them, else that of the names, with
    numbers by value before other names. Where labels are numbers of a table of the source, or names
    in it, the table contributes classes without samples, too; else it is not used. Samples without
    a class are no class.

    Args:
        splits: A `SplitClasses` by the name of each split: the `Evidence` of its listing, its
            `ClassTable` or None, and the words by class; they are only read.
        rules: The version of the listing rules, 1 or 2; 1 puts classes in the order of their names,
            without regard to numbers, and checks nothing (default: 2, the newest).

    Returns:
        A `Classes`: `names`, the class of label 0, 1, ...; `words` of each ('' without any);
        `numbers`, the source's own ones (empty without any); `notes` for the user; and `empty`, the
        set of the classes without a sample. Under rules 1 only `names` and `words` are filled.

    Raises:
        SourceError: The evidence is ambiguous, or contradicts itself.
    """
    if rules == 1:
        sorted_names = sorted({n for split_classes in splits.values() for n in split_classes.names})
        return Classes(tuple(sorted_names), _words_of_classes(splits, sorted_names, None))
    # Each split must be consistent by itself before its numbers are compared with others.
    for split, split_classes in splits.items():
        check_split(split, split_classes.evidence)
    table = _common_table(splits)
    numbers = _numbers_of_classes(splits)
    check_number_spellings(splits)
    names = all_class_names(splits)
    notes = [*check_similar_names(splits)]
    if numbers and table is not None:
        # The table decides the order, with its classes that have no sample.
        ordered = _names_of_table_entries(table, numbers)
        refuse_partly_numbered([name for name in names if name not in set(ordered)], numbers)
        names = ordered
    elif numbers and set(names) <= set(numbers.values()):
        names = [numbers[number] for number in sorted(numbers)]
    else:
        refuse_partly_numbered(names, numbers)
        numbers = {}
        names = sorted(names, key=sort_key)
    # From here on, numbers are only reported: labels count the names in order.
    number_of = {name: number for number, name in numbers.items()}
    if numbers and table is not None:
        number_of = dict(zip(names, range(len(names)), strict=True))
    notes += _moved_numbers_notes(names, number_of)
    words = _words_of_classes(splits, names, table if numbers else None)
    return Classes(
        tuple(names),
        words,
        tuple(number_of[name] for name in names) if number_of else (),
        tuple(notes),
        frozenset(names) - _classes_with_samples(splits),
    )


def _moved_numbers_notes(names: Sequence[str], number_of: Mapping[str, int]) -> Iterator[str]:
    """Yield a remark if the labels are not the numbers that the source has for its classes."""
    if not number_of and not any(map(is_numeral, names)):
        return
    numbers = [number_of.get(name, int(name) if is_numeral(name) else None) for name in names]
    moved = [(n, label) for label, n in enumerate(numbers) if n is not None and n != label]
    if moved:
        number, label = moved[0]
        yield (
            "labels are positions in the order of the classes, not the numbers of the source:"
            f" number {number} is label {label} (the numbers do not start at 0, have gaps, or are"
            " mixed with names)"
        )


def _classes_with_samples(splits: Mapping[str, SplitClasses]) -> set[str]:
    return {
        name
        for split_classes in splits.values()
        for name, _, seen in split_classes.evidence.labelled_items()
        if seen.count
    }


def sort_key(name: str) -> tuple[int, Fraction, bytes]:
    """Return a sort key of a class: numbers, also `-2` and `0.5`, by value, before other names.

    Args:
        name: The class; names that are no numbers, among them `+5`, `1.` and `1e3`, are sorted by
            their UTF-8 bytes.

    Returns:
        0 for a decimal number and 1 for another name, the value (0 for another name), and the name
        in UTF-8.
    """
    is_number = _DECIMAL.fullmatch(name) is not None
    number = Fraction(name) if is_number else Fraction(0)
    return (0 if is_number else 1), number, name.encode("utf-8", "surrogateescape")


def _common_table(splits: Mapping[str, SplitClasses]) -> ClassTable | None:
    """Return the table of all splits, which must be the same."""
    tables = [
        (split, split_classes.table)
        for split, split_classes in splits.items()
        if _has_number_labels(split_classes)
    ]
    if not tables:
        return None
    first, table = tables[0]
    for split, another in tables[1:]:
        if (another is None) != (table is None) or (
            table is not None and another is not None and table.names != another.names
        ):
            raise SourceError(
                f"the splits {first!r} and {split!r} number their classes differently:"
                f" {_table_text(table)}; {_table_text(another)}. Prepare them into two stores, or"
                " give both one table (classes.txt beside the data)."
            )
    return table


def _has_number_labels(split_classes: SplitClasses) -> bool:
    return any(basis.kind == "number" for _, basis, _ in split_classes.evidence.labelled_items())


def _table_text(table: ClassTable | None) -> str:
    if table is None:
        return "no table of names"
    return f"{table.where} has {len(table.names)} ({abbreviate(map(repr, table.names))})"


def _numbers_of_classes(splits: Mapping[str, SplitClasses]) -> dict[int, str]:
    """Return number -> class, over all splits."""
    numbers: dict[int, tuple[str, str]] = {}
    number_of: dict[str, tuple[int, str]] = {}
    for split, split_classes in splits.items():
        for name, basis, _ in split_classes.evidence.labelled_items():
            if not isinstance(basis.value, int):
                continue
            first_name, first = numbers.setdefault(basis.value, (name, split))
            number, _ = number_of.setdefault(name, (basis.value, split))
            if first_name != name or number != basis.value:
                raise SourceError(
                    f"the number {basis.value} is the class {first_name!r} (number {number}) in"
                    f" split {first!r} and {name!r} in split {split!r}: expected the same numbers"
                    " in all splits. Put a classes.txt beside the data (the class of number 0 on"
                    " its first line, and so on), prepare them into two stores, or correct one of"
                    " them."
                )
    return {number: name for number, (name, _) in numbers.items()}


def _names_of_table_entries(table: ClassTable, numbers: Mapping[int, str]) -> list[str]:
    """Return the class of each entry of the table: that of its samples, else its own name."""
    names = [numbers.get(number, name) for number, name in enumerate(table.ids)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise SourceError(
            f"{table.where}: two numbers are the class {twice!r}. Correct the table or the folders"
            " and file names that indicate another class."
        )
    return names


def _words_of_classes(
    splits: Mapping[str, SplitClasses], names: Sequence[str], table: ClassTable | None
) -> tuple[str, ...]:
    words: dict[str, str] = {}
    for split_classes in splits.values():
        words = {**split_classes.words, **words}
        for name, basis, _ in split_classes.evidence.labelled_items():
            if isinstance(basis.value, str) and basis.value != name:
                words.setdefault(name, basis.value)
    for name, text in zip(names, _words_of_table(table), strict=False):
        if text and text != name:
            words.setdefault(name, text)
    return tuple(words.get(name, "") for name in names)


def _words_of_table(table: ClassTable | None) -> tuple[str, ...]:
    return () if table is None else table.words or table.names
