"""The classes of a store, in order, from the evidence of all its splits.

The order is that of the source's own numbers if it has them, else that of the classes' names, with
numbers by value before other names. Classes without an unambiguous order are refused here, before
the first image is decoded.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from pipeline.errors import SourceError
from pipeline.sources.classes.class_names import UNLABELLED, abbreviate, is_numeral
from pipeline.sources.classes.class_table import ClassTable
from pipeline.sources.classes.evidence import ClassBasis, Evidence, SampleGroup
from pipeline.sources.keys import is_wnid
from pipeline.sources.options import LISTING_RULES

_LABELS = ("number", "name")
_WRITTEN_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(\.[0-9]{0,400})?", re.ASCII)
_DECIMAL = re.compile(r"-?[0-9]{1,400}(\.[0-9]{1,400})?", re.ASCII)


@dataclass(frozen=True)
class SplitClasses:
    """The classes of one split, as its samples and its source tell them."""

    evidence: Evidence
    """The evidence of its listing: `Evidence.decode` of the metadata of the listing's schema."""
    table: ClassTable | None = None
    """The classes that the source numbers; None: it numbers none."""
    words: Mapping[str, str] = field(default_factory=dict)
    """The words by class, such as {'n01440764': 'tench, Tinca tinca'}."""


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
        sorted_names = sorted(
            {n for split_classes in splits.values() for n in _class_names_of_split(split_classes)}
        )
        return Classes(tuple(sorted_names), _words_of_classes(splits, sorted_names, None))
    # Each split must be consistent by itself before its numbers are compared with others.
    for split, split_classes in splits.items():
        _check_split(split, split_classes.evidence)
    table = _common_table(splits)
    numbers = _numbers_of_classes(splits)
    _check_number_spellings(splits)
    names = _all_names(splits)
    notes = [*_check_similar_names(splits)]
    if numbers and table is not None:
        # The table decides the order, with its classes that have no sample.
        ordered = _names_of_table_entries(table, numbers)
        _refuse_partly_numbered([name for name in names if name not in set(ordered)], numbers)
        names = ordered
    elif numbers and set(names) <= set(numbers.values()):
        names = [numbers[number] for number in sorted(numbers)]
    else:
        _refuse_partly_numbered(names, numbers)
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
        for name, _, seen in _labelled_groups(split_classes.evidence)
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


def _labelled_groups(evidence: Evidence) -> Iterator[tuple[str, ClassBasis, SampleGroup]]:
    return (entry for entry in evidence.items() if entry[0] != UNLABELLED)


def _check_split(split: str, evidence: Evidence) -> None:
    first: dict[str, str] = {}
    for _, basis, seen in _labelled_groups(evidence):
        first.setdefault(basis.kind, seen.first)
    if "number" in first and "name" in first:
        raise SourceError(
            f"split {split!r}: some labels are numbers, as of {first['number']!r}, and some are"
            f" names, as of {first['name']!r}: expected one kind. Make all of them numbers or all"
            " of them names, or put a classes.txt (a name on each line) beside the data."
        )
    from_label = next((first[by] for by in _LABELS if by in first), None)
    from_path = next((first[by] for by in ("folder", "file name") if by in first), None)
    if from_label is not None and from_path is not None:
        raise SourceError(
            f"split {split!r}: {from_label!r} has a label, and {from_path!r} has none, only a"
            " folder or a name: expected labels for all. Add the missing label; -1 stands for"
            " none."
        )
    unclassified = next(
        (seen.first for _, basis, seen in evidence.items() if basis.kind == "unsaid"), None
    )
    if from_label is None and from_path is not None and unclassified is not None:
        raise SourceError(
            f"split {split!r}: {from_path!r} has a class by its folder or name, and"
            f" {unclassified!r} lies in no class folder: expected a class for all. Move it into"
            " one, or out of the source."
        )
    _check_one_label_per_class(split, evidence)
    _check_folder_depths(split, evidence)
    _check_wnids_in_file_names(split, evidence)


def _check_one_label_per_class(split: str, evidence: Evidence) -> None:
    value_of: dict[str, tuple[object, str]] = {}
    name_of: dict[object, tuple[str, str]] = {}
    for name, basis, seen in _labelled_groups(evidence):
        if basis.kind not in _LABELS:
            continue
        value, first = value_of.setdefault(name, (basis.value, seen.first))
        if value != basis.value:
            raise SourceError(
                f"split {split!r}: the class {name!r} has two labels, {value!r} (of {first!r}) and"
                f" {basis.value!r} (of {seen.first!r}): expected one. Correct the labels, or the"
                " folders and file names that indicate another class."
            )
        first_name, first = name_of.setdefault(basis.value, (name, seen.first))
        if first_name != name:
            raise SourceError(
                f"split {split!r}: the label {basis.value!r} stands for two classes,"
                f" {first_name!r} (of {first!r}) and {name!r} (of {seen.first!r}): expected one."
                " Correct the labels, or the folders and file names that indicate another class."
            )


def _check_folder_depths(split: str, evidence: Evidence) -> None:
    """Refuse nested folders where it is unclear which one is the class."""
    parents: dict[str, ClassBasis] = {}
    depths: dict[int, str] = {}
    for name, basis, seen in _labelled_groups(evidence):
        if basis.kind != "folder" or not basis.folder:
            continue
        first_basis = parents.setdefault(name, basis)
        if first_basis.folder != basis.folder and _normalised(first_basis.folder) == _normalised(
            basis.folder
        ):
            raise SourceError(
                f"split {split!r}: the folders {first_basis.folder!a} and {basis.folder!a} differ"
                " only in Unicode normalisation. Rename one of them."
            )
        if first_basis.folder != basis.folder:
            raise SourceError(
                f"split {split!r}: the class {name!r} comes from two folders,"
                f" {first_basis.folder!r} and {basis.folder!r}: expected one. Pass --recursive"
                " first or --recursive last to choose the class folder."
            )
        depths.setdefault(basis.folder.count("/"), f"{basis.folder}/{seen.first.partition('/')[2]}")
    if len(depths) > 1:
        first_path, second_path = (depths[depth] for depth in sorted(depths)[:2])
        raise SourceError(
            f"split {split!r}: images lie at different depths, as {first_path!r} and"
            f" {second_path!r}, so the class folder is ambiguous. Pass --recursive first or"
            " --recursive last."
        )


def _check_wnids_in_file_names(split: str, evidence: Evidence) -> None:
    """Refuse wnids in file names where folders group them: either may be the class."""
    folder_of: dict[str, str] = {}
    for name, basis, _ in _labelled_groups(evidence):
        if basis.kind == "file name" and folder_of.setdefault(name, basis.folder) != basis.folder:
            return  # one class in several folders: they do not group classes
    folders = set(folder_of.values())
    if 1 < len(folders) < len(folder_of):
        raise SourceError(
            f"split {split!r}: {len(folders)} folders ({abbreviate(map(repr, sorted(folders)))})"
            f" hold images whose names begin with {len(folder_of)} wnids"
            f" ({abbreviate(sorted(folder_of))}): which of the two is the class is ambiguous. Add"
            " a label, or pass --recursive last to use the folders."
        )


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
    return any(basis.kind == "number" for _, basis, _ in _labelled_groups(split_classes.evidence))


def _table_text(table: ClassTable | None) -> str:
    if table is None:
        return "no table of names"
    return f"{table.where} has {len(table.names)} ({abbreviate(map(repr, table.names))})"


def _numbers_of_classes(splits: Mapping[str, SplitClasses]) -> dict[int, str]:
    """Return number -> class, over all splits."""
    numbers: dict[int, tuple[str, str]] = {}
    number_of: dict[str, tuple[int, str]] = {}
    for split, split_classes in splits.items():
        for name, basis, _ in _labelled_groups(split_classes.evidence):
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


def _check_number_spellings(splits: Mapping[str, SplitClasses]) -> None:
    """Refuse one number that is written in several ways: these may be codes of several classes."""
    text_of: dict[object, tuple[str, str]] = {}
    for split_classes in splits.values():
        for _, basis, seen in _labelled_groups(split_classes.evidence):
            if basis.kind != "number":
                continue
            text = basis.text or str(basis.value)
            first_text, first = text_of.setdefault(basis.value, (text, seen.first))
            if first_text != text:
                raise SourceError(
                    f"the labels {first_text!r} (of {first!r}) and {text!r} (of {seen.first!r})"
                    f" are the number {basis.value} written in two ways: one class or two? If they"
                    " are one, write the label in one way everywhere, or put a classes.txt (the"
                    " class of number 0 on its first line) beside the data; if they are two, give"
                    " the classes names that are not numbers."
                )


def _all_names(splits: Mapping[str, SplitClasses]) -> list[str]:
    names = {
        name: None
        for split_classes in splits.values()
        for name, _, _ in _labelled_groups(split_classes.evidence)
    }
    if "-1" in names and all(is_numeral(name) for name in names if name != "-1"):
        raise SourceError(
            "a class is called '-1', beside classes that are numbers from 0 on, among which -1"
            " stands for none. Rename its folder if it is a class; otherwise pass --ignore=-1 to"
            " skip it."
        )
    numerals: dict[Fraction, str] = {}
    for name in filter(_WRITTEN_NUMBER.fullmatch, _names_without_table(splits)):
        first_name = numerals.setdefault(Fraction(name), name)
        if first_name != name:
            raise SourceError(
                f"the classes {first_name!r} and {name!r} are one number written in two ways."
                " Rename one of them: the same name if they are one class, names that are not"
                " numbers if they are two."
            )
    return list(names)


def _names_without_table(splits: Mapping[str, SplitClasses]) -> Iterator[str]:
    """Yield the names of classes that no table of the source tells apart by number."""
    for split_classes in splits.values():
        for name, basis, _ in _labelled_groups(split_classes.evidence):
            if basis.kind != "number" or split_classes.table is None:
                yield name


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


def _refuse_partly_numbered(names: Sequence[str], numbers: Mapping[int, str]) -> None:
    """Refuse classes of which some have numbers and others none, unless all are wnids."""
    without = [name for name in names if name not in set(numbers.values())]
    if not numbers or not without or all(map(is_wnid, [*names, *numbers.values()])):
        return
    raise SourceError(
        f"{len(without)} classes have no number ({abbreviate(map(repr, without))}), and"
        f" {len(numbers)} have one ({abbreviate(map(repr, numbers.values()))}): they cannot be"
        " put in one order. Prepare the splits into two stores, or give all of them numbers."
    )


def _check_similar_names(splits: Mapping[str, SplitClasses]) -> Iterator[str]:
    """Refuse classes that differ only in spaces or case, where two classes are implausible."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in _all_names(splits):
        alike[_case_folded(name)].append(name)
    for names in alike.values():
        if len(names) < 2:
            continue
        spaced = len({_normalised(name) for name in names}) < len(names)
        together = any(
            set(names) <= _class_names_of_split(split_classes) for split_classes in splits.values()
        )
        if spaced or not together:
            raise SourceError(
                f"the classes {' and '.join(map(ascii, names))} differ only in"
                f" {'spaces or Unicode normalisation' if spaced else 'case'}: expected one of"
                " them, or names that differ more. Rename one."
            )
        yield f"the classes {' and '.join(map(repr, names))} differ only in case"


def _class_names_of_split(split_classes: SplitClasses) -> set[str]:
    return {name for name, _, _ in _labelled_groups(split_classes.evidence)}


def _normalised(name: str) -> str:
    return unicodedata.normalize("NFKC", " ".join(name.split()))


def _case_folded(name: str) -> str:
    return _normalised(name).casefold()


def _words_of_classes(
    splits: Mapping[str, SplitClasses], names: Sequence[str], table: ClassTable | None
) -> tuple[str, ...]:
    words: dict[str, str] = {}
    for split_classes in splits.values():
        words = {**split_classes.words, **words}
        for name, basis, _ in _labelled_groups(split_classes.evidence):
            if isinstance(basis.value, str) and basis.value != name:
                words.setdefault(name, basis.value)
    for name, text in zip(names, _words_of_table(table), strict=False):
        if text and text != name:
            words.setdefault(name, text)
    return tuple(words.get(name, "") for name in names)


def _words_of_table(table: ClassTable | None) -> tuple[str, ...]:
    return () if table is None else table.words or table.names
