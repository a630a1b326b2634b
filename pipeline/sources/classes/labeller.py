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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import SourceError
from pipeline.sources.classes.class_names import (
    UNLABELLED,
    class_id,
    clean_name,
    folder_class,
    split_nested_path,
)
from pipeline.sources.classes.class_table import ClassTable
from pipeline.sources.classes.evidence import ClassBasis
from pipeline.sources.classes.labels import quote_label, read_label
from pipeline.sources.keys import (
    file_name_of,
    folders_of,
    is_wnid,
    key_of,
    known_split,
    leading_wnid,
)
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions


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

        A label that is a number or a name is looked up in the table of the source, if it has one.
        Where a label tells the class, but is no WordNet id, a WordNet id in the innermost folder,
        else in the file name, is the class in its place. Without labels, the class is a WordNet id
        in the innermost folder, else one in the file name, else that folder unless it is named
        after a split; a last folder `images` does not count. Without labels, and with folders and
        the option `recursive`, the class is the folder that this names, the first or the last, and
        the other folders begin the file name in the key, with `__` between them.

        Args:
            path: The name with folders, as in the archive or table, with slashes between them.
            labels: The labels by the name of their origin, such as a column or `cls`, as numbers,
                texts, bytes or None; empty: there is none, so folder or file name tell the class.
                None, NaN, -1 and a blank text mean that the sample has no class. A WordNet id,
                another name and a number may stand beside each other; the first of these that
                exists is the class.
            sample: A description of the sample, for a message.

        Returns:
            The key `<class>/<file name>`, whose class is `-` if nothing tells one, and whose file
            name lacks a wnid that the Hub appended, and a `ClassBasis`, what tells it: `kind`
            (`number`, `name`, `folder`, `file name`, `none`, `unsaid`; `rules 1` under version 1 of
            the listing rules), `value` of the label or None, `folder`, those of the path if there
            is no label and no `recursive`, and `text`, an unusual spelling of a number.

        Raises:
            SourceError: Two labels of one of these sorts differ (a WordNet id in the innermost
                folder counts as a label), a label of no class stands beside another, or one is
                neither number nor name; or a number is not in the table, a name that is no WordNet
                id is not in a table whose `strict` is True, or a text of digits is the name of one
                entry and the number of another; or the class folder is called `-`; or, where the
                options' `rules` is 1, nothing tells the class.
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
            _check_labels_agree(group, labels, sample)
        if unlabelled and len(unlabelled) < len(classes):
            raise _two_classes_error(labels, sample)
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
        text = _label_text(label)
        if self.table.knows(text) and self.table.number_of(text, sample) != number:
            raise SourceError(
                f"{sample} has the label {text!r}, which is the name of the class"
                f" {self.table.number_of(text, sample)} of {self.table.where} and the number of"
                f" another one, {self.table.names[number]!r}. Save the labels as integers, or"
                " rename the classes."
            )


def _label_text(label: object) -> str:
    return clean_name(label.decode() if isinstance(label, bytes) else str(label))


def _unusual_text(label: object, number: int) -> str:
    """Return the text of a label that is *number*, if it is written in another way; else empty."""
    if isinstance(label, int | float):
        return ""
    text = _label_text(label)
    return "" if text == str(number) else text


def _check_labels_agree(
    names: Mapping[str, str], labels: Mapping[str, object], sample: str
) -> None:
    if len(set(names.values())) > 1:
        raise _two_classes_error(
            {word: labels.get(word, name) for word, name in names.items()}, sample
        )


def _two_classes_error(labels: Mapping[str, object], sample: str) -> SourceError:
    claims = " and ".join(f"{word} says {quote_label(label)}" for word, label in labels.items())
    return SourceError(f"{sample} has two classes: {claims}. Correct what is wrong.")
