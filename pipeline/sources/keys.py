"""The names of samples: which file may be an image, which split it is in.

A key is `<class>/<file name>`. `pipeline.sources.classes.labeller` decides the class for every kind
of source, so that one set of images always has the same keys.
"""

import re
from collections.abc import Sequence

SPLITS: dict[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test", "testing"),
}
"""The words that folders and files use for each split."""

LABEL_WORDS = (
    *("wnid", "label", "cls", "class", "labels", "class_name", "label_name", "fine_label"),
    *("fine_labels", "target", "category", "coarse_label"),
)
"""The names of a column, or of a key in JSON, that holds the class; the surest first."""

PARTIAL_PREFIX = "partial-"
"""The beginning of a folder's name in which the Hub has only a part of a split."""
_PART = re.compile(r"-part[0-9]+\Z", re.ASCII)
_IMAGES = "jpg jpeg jpe jfif png webp gif bmp tif tiff ppm pgm pbm pnm jp2 avif heic ico mpo"
_NON_IMAGES = (
    "txt xml csv tsv json jsonl md rst html htm log yaml yml toml ini cfg db mat py sh pdf tar gz "
    "tgz bz2 xz zst zip rar 7z parquet arrow npy npz pkl pt h5 lock md5 sha256 sha1"
)
IMAGE_SUFFIXES = frozenset(_IMAGES.split())
_NON_IMAGE_SUFFIXES = frozenset(_NON_IMAGES.split())
_WNID = re.compile(r"n[0-9]{8}")
_WNID_PREFIX = re.compile(r"(n[0-9]{8})(?![0-9])")
# The Hub's copy of ImageNet appends the class: n01440764_10026_n01440764.JPEG.
_HUB_NAME = re.compile(r"(n[0-9]{8}_[0-9]+|ILSVRC2012_val_[0-9]{8})_(n[0-9]{8})(\.\w+)")


def is_wnid(text: str) -> bool:
    """Return True if the whole of a text is a WordNet id: `n` and eight digits, such as n01440764.

    Args:
        text: Any text.
    """
    return _WNID.fullmatch(text) is not None


def _lower_suffix(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return suffix.lower() if dot and stem else ""


def may_be_image(name: str) -> bool:
    """Return True if a file of a class folder counts as a sample: an image may have any name.

    Args:
        name: The file name, without folders. Hidden files do not count, nor do those whose last
            suffix, in any case, is txt, xml, csv, tsv, json, jsonl, md, rst, html, htm, log, yaml,
            yml, toml, ini, cfg, db, mat, py, sh, pdf, tar, gz, tgz, bz2, xz, zst, zip, rar, 7z,
            parquet, arrow, npy, npz, pkl, pt, h5, lock, md5, sha256 or sha1. All others do, also
            without a suffix.
    """
    return name[:1] != "." and _lower_suffix(name) not in _NON_IMAGE_SUFFIXES


def looks_like_image(name: str) -> bool:
    """Return True if a file name is not hidden and ends as the names of images do.

    Args:
        name: The file name, such as `a.jpg` or `A.PNG`, whose last suffix, in any case, is jpg,
            jpeg, jpe, jfif, png, webp, gif, bmp, tif, tiff, ppm, pgm, pbm, pnm, jp2, avif, heic,
            ico or mpo; one with folders is not examined for a hidden last part.
    """
    return name[:1] != "." and _lower_suffix(name) in IMAGE_SUFFIXES


def canonical_split(word: str) -> str:
    """Return the split that a word stands for; else the word itself.

    `training` stands for `train`, `validation` and `valid` for `val`, and `testing` for `test`. The
    beginning `partial-` and the end `-part` with digits, which the Hugging Face Hub gives to the
    folders of a part of a split, do not count: `train-part0` stands for `train`.

    Args:
        word: The name of a folder, or a part of a file name, in any case; only `partial-` and
            `-part` must be in lower case.

    Returns:
        `train`, `val` or `test`; for a word that stands for none of them, *word*, unchanged.
    """
    plain = without_part_number(word).removeprefix(PARTIAL_PREFIX).lower()
    for split, words in SPLITS.items():
        if plain in words:
            return split
    return word


def without_part_number(folder: str) -> str:
    """Return a folder name without the number of the part of a split that it holds.

    Args:
        folder: The name of the folder: `train` is returned for `train-part0`; a name that does not
            end in `-part` and digits is returned as it is.
    """
    return _PART.sub("", folder)


def known_split(word: str, requested_split: str = "") -> str:
    """Return the split that a word names, such as `val` for `validation`, or an empty text.

    `training` stands for `train`, `validation` and `valid` for `val`, and `testing` for `test`. The
    beginning `partial-` and the end `-part` with digits, as in `train-part0`, do not count.

    Args:
        word: The name of a folder, or a part of a file name, in any case.
        requested_split: A further name that counts as a split, in its own case (default: none).

    Returns:
        `train`, `val`, `test` or *requested_split*; empty for any other word.
    """
    split = canonical_split(word)
    if split in SPLITS:
        return split
    return (
        requested_split
        if requested_split in (word, without_part_number(word).removeprefix(PARTIAL_PREFIX))
        else ""
    )


def suggest_split(word: str) -> str:
    """Return the known word for a split that a word may misspell; else an empty text.

    A misspelling has one letter too many, too few, wrong or swapped behind the first, all in lower
    case: `trainA`, `test2`, `eval` and `rest` count as names of their own.

    Args:
        word: The name of a split as a user typed it.

    Returns:
        A word such as `train` or `validation` for `trian` or `validaton`; empty for a correct word.
    """
    known_words = [name for names in SPLITS.values() for name in names]
    if word in known_words or not re.fullmatch(r"[a-z]+", word):
        return ""
    return next((name for name in known_words if _is_one_edit_away(word, name)), "")


def _is_one_edit_away(word: str, correct: str) -> bool:
    """Return True if one edit behind the first letter makes *correct* of *word*."""
    if word[0] != correct[0]:
        return False
    same = next((i for i, (a, b) in enumerate(zip(word, correct, strict=False)) if a != b), None)
    start = min(len(word), len(correct)) if same is None else same
    word_tail, correct_tail = word[start:], correct[start:]
    swapped = word_tail[1:2] + word_tail[:1] + word_tail[2:]
    return (
        correct_tail in (word_tail[1:], swapped)
        or word_tail in (correct_tail[1:],)
        or word_tail[1:] == correct_tail[1:]
    )


def split_in_name(name: str, requested_split: str = "") -> str:
    """Return the first split in a part of a file's name (`train-00000.tar`), or an empty text.

    Args:
        name: The file name without folders, whose parts lie between `-`, `_` and dots.
        requested_split: A further name that counts as a split, in its own case (default: none). One
            with `-`, `_` or a dot is never found.

    Returns:
        `train`, `val`, `test` or *requested_split*; or ''. `training`, `validation`, `valid` and
        `testing` count as the three, in any case, also where *requested_split* is one of them.
    """
    for part in re.split(r"[-_.]", name):
        if known_split(part, requested_split):
            return known_split(part, requested_split)
    return ""


def file_name_of(path: str) -> tuple[str, str]:
    """Return the file name in a path without a wnid that was appended to it, and that wnid.

    The Hugging Face Hub's copy of ImageNet appends the class to each name.

    Args:
        path: The path of an image in its archive or table.

    Returns:
        The file name without folders, and the wnid: `n01440764_10026.JPEG` and `n01440764` for
        `n01440764_10026_n01440764.JPEG`. Only names of this form, and
        `ILSVRC2012_val_########_<wnid>` with a suffix, have one; of any other, the whole file name
        and ''.
    """
    name = path.rpartition("/")[2]
    hub = _HUB_NAME.fullmatch(name)
    return (hub[1] + hub[3], hub[2]) if hub else (name, "")


def folders_of(path: str) -> list[str]:
    """Return the names of the folders in a path, without a last one called `images`.

    Args:
        path: The path of a file, with slashes between its parts; empty parts and `.` do not count.

    Returns:
        The names from the outermost to the innermost; an empty list for a file without folders.
    """
    folders = [part for part in path.split("/")[:-1] if part not in ("", ".")]
    if folders and folders[-1] == "images":
        folders.pop()
    return folders


def leading_wnid(name: str) -> str:
    """Return the wnid that a file's name begins with, or an empty text.

    Args:
        name: The file name, without folders; a ninth digit makes its beginning no wnid.
    """
    prefix = _WNID_PREFIX.match(name)
    return prefix[1] if prefix else ""


def label_name(label: int | str | None, names: Sequence[str]) -> str:
    """Return the name of a label in listings of rules 1: itself, or its entry in a list of names.

    Version 1 of the listing rules (`SourceOptions.rules`) is that of older stores.

    Args:
        label: A name, or a number as a number or as a text of digits; None for no label.
        names: The names of the classes, in the order of their numbers, from 0.

    Returns:
        The name, without white space around it if *label* is one; an empty text if there is no
        label, or if the number has no name.
    """
    if isinstance(label, str):
        number = label.strip()
        if not number.isdecimal():
            return number
        label = int(number)
    if label is None or not 0 <= label < len(names):
        return ""
    return names[label]


def key_of(path: str, label: int | str | None = None, names: Sequence[str] = ()) -> str:
    """Return the key in listings of rules 1; empty: nothing tells the class.

    Version 1 of the listing rules (`SourceOptions.rules`) is that of older stores.

    Args:
        path: The name with folders, as in the archive or table.
        label: The class as a number or a name; None if the source has none (default).
        names: The class names in the order of the numbers, from 0 (default: none).

    Returns:
        `<class>/<file name>`. The class is a wnid that is the innermost folder (the one before a
        last `images`) or the name of the label, or that ends or begins the file name, in this
        order; else the name of the label, else the folder if it is no split, else the number.
    """
    folders = folders_of(path)
    folder = folders[-1] if folders else ""
    name, appended = file_name_of(path)
    label_class = label_name(label, names)
    for candidate in (folder, label_class, appended, leading_wnid(name)):
        if is_wnid(candidate):
            return f"{candidate}/{name}"
    if folder and known_split(folder):
        folder = ""
    number = "" if label is None else str(label).strip()
    candidate = label_class or folder or number
    return f"{candidate}/{name}" if candidate else ""
