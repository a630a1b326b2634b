"""The checks that refuse ambiguous classes before the first image is decoded.

Examples are a class with two labels, a number that is written in two ways, and two names that
differ only in spaces.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction

from pipeline.errors import SourceError
from pipeline.sources.classes.class_names import abbreviate, is_numeral
from pipeline.sources.classes.evidence import ClassBasis, Evidence
from pipeline.sources.classes.split_classes import SplitClasses
from pipeline.sources.keys import is_wnid

_LABELS = ("number", "name")
_WRITTEN_NUMBER = re.compile(r"[+-]?[0-9]{1,400}(\.[0-9]{0,400})?", re.ASCII)


def check_split(split: str, evidence: Evidence) -> None:
    """Refuse a split in which it is ambiguous which class a sample has.

    Args:
        split: The name of the split, for messages.
        evidence: The evidence of its listing, which is only read.

    Raises:
        SourceError: Some samples have labels and others only folders, some labels are numbers and
            others names, a class has two labels or a label two classes, or nested folders or wnids
            in file names leave open what the class is. The message names two samples.
    """
    first: dict[str, str] = {}
    for _, basis, seen in evidence.labelled_items():
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
    for name, basis, seen in evidence.labelled_items():
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
    for name, basis, seen in evidence.labelled_items():
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
    for name, basis, _ in evidence.labelled_items():
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


def check_number_spellings(splits: Mapping[str, SplitClasses]) -> None:
    """Refuse one number that is written in several ways: these may be codes of several classes.

    Args:
        splits: The classes of each split by its name, of which the labels that are numbers count.

    Raises:
        SourceError: Two labels are one number, such as `7` and `07`; the message names both.
    """
    text_of: dict[object, tuple[str, str]] = {}
    for split_classes in splits.values():
        for _, basis, seen in split_classes.evidence.labelled_items():
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


def all_class_names(splits: Mapping[str, SplitClasses]) -> list[str]:
    """Return the classes of all splits, each once, in the order in which they first occur.

    Args:
        splits: The classes of each split by its name.

    Raises:
        SourceError: A class is called `-1` beside classes that are numbers, or two classes are one
            number written in two ways, such as `1` and `01`, that no table counts.
    """
    names = {
        name: None
        for split_classes in splits.values()
        for name, _, _ in split_classes.evidence.labelled_items()
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
        for name, basis, _ in split_classes.evidence.labelled_items():
            if basis.kind != "number" or split_classes.table is None:
                yield name


def refuse_partly_numbered(names: Sequence[str], numbers: Mapping[int, str]) -> None:
    """Refuse classes of which some have numbers and others none, unless all are wnids.

    Args:
        names: The classes, with or without a number.
        numbers: The class of each number; if it is empty, nothing is refused.

    Raises:
        SourceError: Some of *names* are not among the classes of *numbers*.
    """
    without = [name for name in names if name not in set(numbers.values())]
    if not numbers or not without or all(map(is_wnid, [*names, *numbers.values()])):
        return
    raise SourceError(
        f"{len(without)} classes have no number ({abbreviate(map(repr, without))}), and"
        f" {len(numbers)} have one ({abbreviate(map(repr, numbers.values()))}): they cannot be"
        " put in one order. Prepare the splits into two stores, or give all of them numbers."
    )


def check_similar_names(splits: Mapping[str, SplitClasses]) -> Iterator[str]:
    """Refuse classes that differ only in spaces or case, where two classes are implausible.

    Args:
        splits: The classes of each split by its name.

    Yields:
        A remark for the user on each set of classes that differ only in case and are accepted,
        since one split has all of them.

    Raises:
        SourceError: Classes differ only in spaces or Unicode normalisation, or only in case
            although no split has all of them.
    """
    alike: dict[str, list[str]] = defaultdict(list)
    for name in all_class_names(splits):
        alike[_case_folded(name)].append(name)
    for names in alike.values():
        if len(names) < 2:
            continue
        spaced = len({_normalised(name) for name in names}) < len(names)
        together = any(set(names) <= split_classes.names for split_classes in splits.values())
        if spaced or not together:
            raise SourceError(
                f"the classes {' and '.join(map(ascii, names))} differ only in"
                f" {'spaces or Unicode normalisation' if spaced else 'case'}: expected one of"
                " them, or names that differ more. Rename one."
            )
        yield f"the classes {' and '.join(map(repr, names))} differ only in case"


def _normalised(name: str) -> str:
    return unicodedata.normalize("NFKC", " ".join(name.split()))


def _case_folded(name: str) -> str:
    return _normalised(name).casefold()
