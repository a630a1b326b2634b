"""The decision which class a sample is of, for every kind of source.

A source passes the sample's path, and the value of its label, if it has one. `Labeller` derives the
class, or raises an error with the sample and the value. The class is a text without a slash, the
first part of the sample's key:

    the entry in the source's table of classes, if the label is a number and there is a table
    the number itself, if there is no table
    the name, if the label is one
    the folder, or the wnid at the start of the file's name, if there is no label
    `UNLABELLED`, if nothing tells a class, or the label means that there is none (-1, null, NaN)

A WordNet id in a folder or a file's name takes the place of the number beside it. `combine_classes`
checks that both agree in all samples, and puts the classes in order: by the source's own numbers,
else by numeric value, else by name.
"""

import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from pipeline.errors import SourceError
from pipeline.sources.keys import (
    file_name_of,
    folders_of,
    is_wnid,
    key_of,
    known_split,
    leading_wnid,
)
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions

UNLABELLED = "-"
"""The class part of the key of a sample that has no class."""

METADATA = b"tesserae classes"
"""The key of the metadata of a listing's schema that holds the `Evidence`, as JSON."""

MAX_LISTED = 5
"""The maximum number of classes, names or samples in a message; '...' stands for the others."""

_NUMBER = re.compile(r"[+-]?[0-9]+(\.0*)?", re.ASCII)
_MAX_DIGITS = 400
_NUMERAL = re.compile(r"[0-9]+", re.ASCII)
_UNSAFE = re.compile(r"[\x00-\x1f\x7f]")


class ClassBasis(NamedTuple):
    """The basis of a sample's class: what tells it."""

    kind: str
    """The kind: `number`, `name`, `folder`, `file name`, `table`, `none` or `unsaid`."""
    value: int | str | None = None
    """The label as it was read; None where no label tells the class."""
    folder: str = ""
    """The folders of the path, where the last of them is the class."""
    text: str = ""
    """The text of a number that no table counts and that is written unusually: `01`, `1.0`."""


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
        """Return True if a text is one of the names; composed and decomposed characters are equal.

        Args:
            name: The text of a label.
        """
        return clean_name(name) in self._number_of

    def number_of(self, name: str, sample: str) -> int:
        """Return the number of a name, which must occur once in the table.

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
            number: The label, 0 or more.
            sample: A description of the sample with this label, for a message.

        Raises:
            SourceError: The number has no entry.
        """
        if number < len(self.names):
            return
        begins = " (do the labels begin at 1?)" if number == len(self.names) else ""
        raise SourceError(
            f"{sample} has the label {number}, and {self.where} has {len(self.names)} classes, 0"
            f" to {len(self.names) - 1}{begins}. Complete the table, or put a classes.txt with a"
            " line for each number, from 0 on, next to the data."
        )


def clean_name(name: str) -> str:
    """Return a name in the form that is compared: Unicode NFC, no space around it.

    Args:
        name: A name of a class in a table or label.
    """
    return unicodedata.normalize("NFC", name).strip().strip("\ufeff")


def class_id(name: str) -> str:
    """Return a name as the class in a key: no slash, no control character, not '.' or '..'.

    Args:
        name: A name of a class in a table or label; a slash becomes `_`.
    """
    text = _UNSAFE.sub(" ", clean_name(name).replace("/", "_"))
    return f"{text}_" if text in (".", "..") else text


def is_numeral(text: str) -> bool:
    """Return True if a text consists of decimal digits only, such as `07`; not `-1` or `1.0`.

    Args:
        text: Any text.
    """
    return _NUMERAL.fullmatch(text) is not None


def abbreviate(texts: Iterable[str], limit: int = MAX_LISTED) -> str:
    """Return the first of several texts, with commas between them, for a message.

    Args:
        texts: The texts, which are all read.
        limit: The maximum number of texts that are shown; '...' stands for the others (default: 5).
    """
    items = list(texts)
    return ", ".join(items[:limit]) + (", ..." if len(items) > limit else "")


def read_label(value: object, sample: str) -> int | str | None:
    """Return the value of a label: a number from 0 on, a name, or None for no class.

    Args:
        value: The label in a column, a `.cls` or a `.json`.
        sample: A description of the sample, for a message.

    Raises:
        SourceError: The value is none of these.
    """
    # bool before int, of which it is a subclass: true and false are names, not 1 and 0.
    if value is None or isinstance(value, bool):
        return None if value is None else str(value).lower()
    if isinstance(value, bytes):
        value = _decoded(value, sample)
    if isinstance(value, str):
        return _read_text(value, sample)
    if isinstance(value, float):
        return _read_float(value, sample)
    if isinstance(value, int):
        return _checked(value, value, sample)
    kind = "a list" if isinstance(value, list | tuple) else f"of type {type(value).__name__}"
    raise SourceError(
        f"{sample} has the label {_short(value)}, which is {kind}: expected one number or one name"
        " (a label of several classes, or one-hot, must be converted to one number)."
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _decoded(value: bytes, sample: str) -> str:
    try:
        return value.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SourceError(
            f"{sample} has the label {_short(value)}, which is not UTF-8: expected a number or a"
            " name."
        ) from None


def _read_text(value: str, sample: str) -> int | str | None:
    text = clean_name(value)
    if not text:
        return None
    if _NUMBER.fullmatch(text):
        if len(text) > _MAX_DIGITS:  # int() refuses more than 4,300 digits with another error
            raise SourceError(
                f"{sample} has the label {_short(value)}, which is a number of {len(text):,}"
                " characters: expected one of few digits."
            )
        return _checked(int(text.partition(".")[0]), value, sample)
    if "\n" in text or "\r" in text:
        raise SourceError(
            f"{sample} has the label {_short(value)}, which is of several lines: expected one"
            " number or one name."
        )
    return text


def _read_float(value: float, sample: str) -> int | None:
    if math.isnan(value):
        return None
    if math.isinf(value) or not value.is_integer():
        raise SourceError(
            f"{sample} has the label {value!r}: expected a whole number, a name, or -1 for none."
        )
    return _checked(int(value), value, sample)


def _checked(number: int, value: object, sample: str) -> int | None:
    if number == -1:
        return None
    if number < -1:
        raise SourceError(
            f"{sample} has the label {_short(value)}: expected a number from 0 on, or -1 for a"
            " sample that has no class."
        )
    return number


@dataclass(frozen=True)
class Labeller:
    """A maker of keys, from paths and labels; a small picklable value.

    Args:
        table: The numbered classes, where the source has such a table.
        options: The options by which the source is read.
    """

    table: ClassTable | None = None
    options: SourceOptions = DEFAULT_OPTIONS

    def key(self, path: str, labels: Mapping[str, object], sample: str) -> tuple[str, ClassBasis]:
        """Return the key of one sample, and the basis of its class.

        Args:
            path: The name with folders, as in the archive or table.
            labels: The labels by origin (a column, `.cls`, ...); empty: there is none.
                A WordNet id under `wnid` may accompany another label.
            sample: A description of the sample, for a message.

        Raises:
            SourceError: The labels contradict each other, or one is no class.
        """
        if self.options.rules == 1:
            return self._key_of_rules_1(path, labels, sample), ClassBasis("rules 1")
        folders = folders_of(path)
        name, appended = file_name_of(path)
        if not labels:
            wnid = appended or leading_wnid(name)
            class_name, name, basis = self._class_from_path(folders, name, wnid)
            return f"{class_name}/{name}", basis
        # Beside a label, only a wnid in the folder tells a class: other folders may be arbitrary.
        folder = folders[-1] if folders and is_wnid(folders[-1]) else ""
        class_name, basis = self._class_from_labels(labels, folder, sample)
        if class_name != UNLABELLED and not is_wnid(class_name):
            class_name = folder or appended or leading_wnid(name) or class_name
        return f"{class_name}/{name}", basis

    def _class_from_labels(
        self, labels: Mapping[str, object], folder: str, sample: str
    ) -> tuple[str, ClassBasis]:
        """Return the class in *labels*, and its basis: a number, if any label is one."""
        classes = {word: self._class_of(label, sample) for word, label in labels.items()}
        bases = {word: basis.kind for word, (_, basis) in classes.items()}
        if folder and "none" not in bases.values():
            classes["its folder"], bases["its folder"] = (
                (folder, ClassBasis("name", folder)),
                "name",
            )
        wnids = {word: name for word, (name, _) in classes.items() if is_wnid(name)}
        names = {
            w: name for w, (name, _) in classes.items() if bases[w] == "name" and w not in wnids
        }
        numbers = {word: name for word, (name, _) in classes.items() if bases[word] == "number"}
        unlabelled = {word: name for word, (name, _) in classes.items() if bases[word] == "none"}
        # A wnid, a name and a number of one sample may describe one class; two of a kind may not.
        for group in (wnids, names, numbers):
            _check_one(group, labels, sample)
        if unlabelled and len(unlabelled) < len(classes):
            raise _two_classes(labels, sample)
        basis = classes[next(iter(numbers or labels))][1]
        return next(iter((wnids or names or numbers or unlabelled).values())), basis

    def _key_of_rules_1(self, path: str, labels: Mapping[str, object], sample: str) -> str:
        texts = (v.strip() if isinstance(v, str) else v for v in labels.values())
        label = next((v for v in texts if isinstance(v, int | str)), None)
        key = key_of(path, label, self.table.names if self.table else ())
        if not key:
            raise SourceError(
                f"the class of {sample} is unknown: expected a folder, a label, or a name that"
                " begins with n########. The store uses listing rules 1, which do not support"
                " samples without a class: prepare into a new store."
            )
        return key

    def _class_from_path(
        self, folders: Sequence[str], name: str, wnid: str
    ) -> tuple[str, str, ClassBasis]:
        """Return the class, the name in the class, and the basis, for a sample without a label."""
        if self.options.recursive and folders:
            class_name, name = split_nested_path(folders, name, self.options.recursive)
            return class_name, name, ClassBasis("folder")
        folder = folders[-1] if folders and not known_split(folders[-1]) else ""
        path = "/".join(folders)
        if wnid and not is_wnid(folder):
            return wnid, name, ClassBasis("file name", folder=path)
        if folder:
            return folder_class(folder), name, ClassBasis("folder", folder=path)
        return UNLABELLED, name, ClassBasis("unsaid")

    def _class_of(self, label: object, sample: str) -> tuple[str, ClassBasis]:
        """Return the class of one label, and its basis."""
        value = read_label(label, sample)
        table = self.table
        if value is None:
            return UNLABELLED, ClassBasis("none")
        if isinstance(value, int):
            if table is None:
                return str(value), ClassBasis("number", value, text=_unusual_text(label, value))
            table.check(value, sample)
            self._check_text(label, value, sample)
            return table.ids[value], ClassBasis("number", value)
        if is_wnid(value) and (table is None or not table.knows(value)):
            return value, ClassBasis("name", value)
        if table is not None and (table.strict or table.knows(value)):
            number = table.number_of(value, sample)
            return table.ids[number], ClassBasis("number", number)
        name = class_id(value)
        # A class that is really called "-" must differ from the sign for no class.
        return (f"{name}#" if name == UNLABELLED else name), ClassBasis("name", value)

    def _check_text(self, label: object, number: int, sample: str) -> None:
        """Refuse a text of digits that is the name of one entry and the number of another."""
        if self.table is None or isinstance(label, int | float):
            return
        text = _text_of(label)
        if self.table.knows(text) and self.table.number_of(text, sample) != number:
            raise SourceError(
                f"{sample} has the label {text!r}, which is the name of the class"
                f" {self.table.number_of(text, sample)} of {self.table.where} and the number of"
                f" another one, {self.table.names[number]!r}. Save the labels as integers, or"
                " rename the classes."
            )


def _text_of(label: object) -> str:
    return clean_name(label.decode() if isinstance(label, bytes) else str(label))


def _unusual_text(label: object, number: int) -> str:
    """Return the text of a label that is *number*, if it is written in another way; else empty."""
    if isinstance(label, int | float):
        return ""
    text = _text_of(label)
    return "" if text == str(number) else text


def _check_one(names: Mapping[str, str], labels: Mapping[str, object], sample: str) -> None:
    if len(set(names.values())) > 1:
        raise _two_classes({word: labels.get(word, name) for word, name in names.items()}, sample)


def _two_classes(labels: Mapping[str, object], sample: str) -> SourceError:
    claims = " and ".join(f"{word} says {_short(label)}" for word, label in labels.items())
    return SourceError(f"{sample} has two classes: {claims}. Correct what is wrong.")


def split_nested_path(folders: Sequence[str], name: str, recursive: str) -> tuple[str, str]:
    """Return the class, and the name in the class, of a file in nested folders.

    Args:
        folders: The folders from the outermost to the innermost, at least one.
        name: The name of the file.
        recursive: The folder that is the class, `first` or `last`; the others become a part of
            the name, so that files of one name in several folders stay apart.
    """
    first = recursive == "first"
    other_folders = folders[1:] if first else folders[:-1]
    return folder_class(folders[0 if first else -1]), "__".join([*other_folders, name])


def folder_class(folder: str, options: SourceOptions = DEFAULT_OPTIONS) -> str:
    """Return the class of a folder: its name in composed characters, whatever system wrote it.

    Args:
        folder: The name of the folder, without its parents.
        options: The options by which the source is read; rules 1 keep the name as it is.

    Raises:
        SourceError: The name is the sign for samples without a class, `-`.
    """
    if options.rules == 1:  # their keys are those of the disk, in whatever composition
        return folder
    if folder == UNLABELLED:
        raise SourceError(
            f"a class folder is called {folder!r}, which stands for samples without a class."
            " Rename it."
        )
    return unicodedata.normalize("NFC", folder)


def named_class(name: str) -> str:
    """Return the class that `--class-name` names, in composed characters (Unicode NFC).

    Args:
        name: The name; `-`, which is `UNLABELLED`, stands for no class.
    """
    return name if name == UNLABELLED else folder_class(name)


@dataclass
class SampleGroup:
    """A group of samples of one class on one basis."""

    first: str
    """The key of one of the samples."""
    count: int = 0


@dataclass
class Evidence:
    """The evidence of a listing: what its samples tell of their classes, and what is no sample."""

    groups: dict[tuple[str, ClassBasis], SampleGroup] = field(default_factory=dict)
    """The samples of each (class, basis); count 0 for a class that a source only names."""
    skipped: dict[str, SampleGroup] = field(default_factory=dict)
    """The files that are no samples, by reason."""
    notes: list[str] = field(default_factory=list)
    """The further remarks on the listing, a sentence each."""

    def add(self, key: str, basis: ClassBasis) -> None:
        """Count one sample.

        Args:
            key: Its key, `<class>/<file name>`.
            basis: The basis of its class.
        """
        group = (key.partition("/")[0], basis)
        seen = self.groups.get(group)
        if seen is None:
            seen = self.groups[group] = SampleGroup(key)
        seen.count += 1

    def add_class(self, name: str, basis: ClassBasis, count: int, first: str = "") -> None:
        """Count several samples of one class.

        Args:
            name: The class.
            basis: The basis of the class.
            count: The number of samples, which may be 0 for a class that a source only names.
            first: The key of one of the samples (default: none).
        """
        seen = self.groups.setdefault((name, basis), SampleGroup(first))
        seen.first = seen.first or first
        seen.count += count

    def skip(self, reason: str, name: str, count: int = 1) -> None:
        """Count files or folders that are no samples.

        Args:
            reason: Why they are skipped, in words.
            name: The name of one of them.
            count: Their number (default: 1).
        """
        self.skipped.setdefault(reason, SampleGroup(name)).count += count

    def merge(self, evidence: "Evidence") -> None:
        """Add the evidence of another part of the source to this one.

        Args:
            evidence: The evidence to add, which is not changed.
        """
        for (name, basis), seen in evidence.groups.items():
            self.add_class(name, basis, seen.count, seen.first)
        for why, seen in evidence.skipped.items():
            self.skip(why, seen.first, seen.count)
        self.notes += [note for note in evidence.notes if note not in self.notes]

    def encode(self) -> dict[bytes, bytes]:
        """Return the evidence as metadata of a listing's schema."""
        seen = [[name, *basis, s.first, s.count] for (name, basis), s in self.groups.items()]
        passed = {why: [s.first, s.count] for why, s in self.skipped.items()}
        fields = {"seen": seen, "passed": passed, "notes": self.notes}
        return {METADATA: json.dumps(fields).encode()}

    @classmethod
    def decode(cls, metadata: Mapping[bytes, bytes] | None) -> "Evidence":
        """Return the evidence that `encode` wrote; empty evidence for a listing without any.

        Args:
            metadata: The metadata of the schema of a listing's Arrow table.
        """
        text = (metadata or {}).get(METADATA)
        evidence = cls()
        if text is None:
            return evidence
        fields = json.loads(text)
        for name, *basis, first, count in fields["seen"]:
            evidence.groups[name, ClassBasis(*basis)] = SampleGroup(first, count)
        for why, (first, count) in fields["passed"].items():
            evidence.skipped[why] = SampleGroup(first, count)
        evidence.notes = fields["notes"]
        return evidence

    def items(self) -> Iterator[tuple[str, ClassBasis, SampleGroup]]:
        """Yield (class, basis, samples) of all groups."""
        for (name, basis), seen in self.groups.items():
            yield name, basis, seen
