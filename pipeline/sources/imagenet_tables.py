"""The tables of ImageNet: the words of its classes, and the classes of ILSVRC2012's val images."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.errors import SourceError
from pipeline.installation import install_advice
from pipeline.sources.archives.open import open_tar
from pipeline.sources.location import Location
from pipeline.sources.nearby_tables import find_nearest_table, folder_and_parents
from pipeline.sources.read_errors import as_read_error
from pipeline.sources.text_tables import (
    decode_table,
    parse_numbers,
    parse_solution,
    parse_words,
)

TableFile = tuple[str, Callable[[], bytes]]
"""A file's full name, and a function that reads its bytes."""

WORDS = ("LOC_synset_mapping.txt", "words.txt")
GROUND_TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SOLUTION = "LOC_val_solution.csv"


DEVKIT = "ILSVRC2012_devkit_t12"
_META = ("meta.mat", "devkit_t12_meta.mat")


_DEVKIT = {GROUND_TRUTH: (GROUND_TRUTH,), "meta.mat": _META}
"""The possible names of each of the two files of the devkit that tell classes."""


@dataclass(frozen=True)
class GroundTruth:
    """The classes of the images of ILSVRC2012's val split."""

    by_name: dict[str, str]
    """The wnid of each image name without suffix; from Kaggle's table."""
    by_number: tuple[str, ...]
    """The wnid of image 1, 2, ...; from the devkit."""
    where: str
    """The full name of the table, for messages."""

    def wnid(self, name: str) -> str:
        """Return the wnid of a val image.

        Args:
            name: The file name, such as `ILSVRC2012_val_00000001.JPEG`, without folders.

        Raises:
            SourceError: The table has no line for the file.
        """
        wnid = self.find(name)
        if not wnid:
            lines = len(self.by_name) or len(self.by_number)
            raise SourceError(
                f"{self.where} has {lines:,} lines, but none for the image {name!r}. Download that"
                " table again, or, if the image is not of ILSVRC2012's val split, move it away."
            )
        return wnid

    def find(self, name: str) -> str:
        """Return the wnid of a val image; empty where the table has no line for it.

        Args:
            name: The file name, such as `ILSVRC2012_val_00000001.JPEG`, without folders; all behind
                its first dot is ignored. A table of the devkit has the wnids by number, which is
                read from the name.
        """
        stem = name.partition(".")[0]
        number = stem.removeprefix("ILSVRC2012_val_")
        wnid = self.by_name.get(stem, "")
        if not wnid and number.isdecimal() and 1 <= int(number) <= len(self.by_number):
            wnid = self.by_number[int(number) - 1]
        return wnid


class GroundTruthMissingError(SourceError):
    """The error for ILSVRC2012's val images without a table of their classes."""


class PackageMissingError(SourceError):
    """The error for a table that needs a package which is not installed."""


def find_solution(location: Location) -> GroundTruth | None:
    """Return the classes in Kaggle's `LOC_val_solution.csv`; None without the file.

    Args:
        location: The folder of the images; up to four folders above it are searched, too. The
            nearest file counts.

    Returns:
        A `GroundTruth`: `by_name`, the wnid of each image by its name without suffix, an empty
        `by_number`, and `where`, the full name of the table.

    Raises:
        ReadError: The table cannot be read now.
        SourceError: The table cannot be used.
    """
    table = find_nearest_table(location, SOLUTION)
    if not table:
        return None
    where = table[0].full_path(table[1])
    return GroundTruth(parse_solution(table[0].read_text(table[1]), where), (), where)


def find_ground_truth(location: Location) -> GroundTruth:
    """Return the classes of the images of ILSVRC2012's val split.

    Kaggle's `LOC_val_solution.csv` is searched, and the devkit's ground truth and `meta.mat`:
    loose, in `ILSVRC2012_devkit_t12/data/` or in `ILSVRC2012_devkit_t12.tar.gz`.

    Args:
        location: The folder of the images; up to four folders above it are searched, too.

    Returns:
        A `GroundTruth`: the wnid of each image, in `by_name` by its name without suffix (from
        Kaggle's table, which takes precedence) or in `by_number` in the order of the images (from
        the devkit), and `where`, the full name of the table. Its methods `wnid` and `find` look up
        either.

    Raises:
        ReadError: A table cannot be read now.
        GroundTruthMissingError: There is no table.
        PackageMissingError: The devkit's table needs scipy, which is not installed.
        SourceError: The table cannot be used. `GroundTruthMissingError` and `PackageMissingError`
            are kinds of it.
    """
    truth = find_optional_ground_truth(location)
    if truth is not None:
        return truth
    missing = [
        name
        for name in (GROUND_TRUTH, "meta.mat")
        if _devkit_file(location, *_DEVKIT[name]) is None
    ]
    raise GroundTruthMissingError(
        f"the images of {location.display_name} have no classes: {' and '.join(missing)} not"
        f" found. Put {DEVKIT}.tar.gz (from image-net.org), or Kaggle's {SOLUTION}, next to them."
    )


def find_optional_ground_truth(location: Location) -> GroundTruth | None:
    """Return the classes of ILSVRC2012's val split; None without a table of them.

    Kaggle's `LOC_val_solution.csv` is searched, and the devkit's ground truth and `meta.mat`:
    loose, in `ILSVRC2012_devkit_t12/data/` or in `ILSVRC2012_devkit_t12.tar.gz`.

    Args:
        location: The folder of the images; up to four folders above it are searched, too.

    Returns:
        A `GroundTruth`: the wnid of each image, in `by_name` by its name without suffix (from
        Kaggle's table, which takes precedence) or in `by_number` in the order of the images (from
        the devkit), and `where`, the full name of the table. None also if one of the devkit's two
        files is missing.

    Raises:
        ReadError: A table cannot be read now.
        SourceError: A table cannot be used.
        PackageMissingError: The devkit's table needs scipy, which is not installed.
    """
    solution = find_solution(location)
    if solution is not None:
        return solution
    truth, meta = (_devkit_file(location, *names) for names in _DEVKIT.values())
    if truth is None or meta is None:
        return None
    synsets = _read_synsets(meta)
    numbers = parse_numbers(decode_table(truth[1](), truth[0]), truth[0])
    unknown = next((i for i, number in enumerate(numbers) if number not in synsets), None)
    if unknown is not None:
        raise SourceError(
            f"{truth[0]}: line {unknown + 1} is {numbers[unknown]}, which is not a class of"
            f" {meta[0]}. Expected a number from 1 to 1000 on each line; both files must come from"
            " the same devkit."
        )
    return GroundTruth({}, tuple(synsets[number][0] for number in numbers), truth[0])


def _devkit_file(location: Location, *names: str) -> TableFile | None:
    """Return a file of the devkit: loose, in its unpacked folder, or in its archive."""
    for folder in folder_and_parents(Location(location.root)):
        for inside in ("", f"{DEVKIT}/data/"):
            for name in names:
                if folder.is_file(inside + name):
                    return folder.full_path(inside + name), _reader_of_file(folder, inside + name)
        packed = f"{DEVKIT}.tar.gz"
        if folder.is_file(packed):
            name = f"{DEVKIT}/data/{names[0]}"
            return f"{folder.full_path(packed)}:{name}", _reader_of_member(folder, packed, name)
    return None


def _reader_of_file(location: Location, path: str) -> Callable[[], bytes]:
    def read() -> bytes:
        with location.open(path) as file, as_read_error(location.full_path(path)):
            return file.read()

    return read


def _reader_of_member(location: Location, path: str, name: str) -> Callable[[], bytes]:
    def read() -> bytes:
        with open_tar(location, path) as tar:
            for member in tar.members():
                if member.name == name:
                    return tar.read(member.offset, member.num_bytes)
        raise SourceError(
            f"{location.full_path(path)} holds no {name}. Download it again from image-net.org."
        )

    return read


def _read_synsets(meta: TableFile) -> dict[int, tuple[str, str]]:
    """Return the devkit's class id -> (wnid, words), from its `meta.mat`."""
    try:
        from scipy.io import loadmat  # imported here, since only the devkit needs it
    except ImportError as e:
        raise PackageMissingError(
            f"reading {meta[0]} needs scipy, which is not installed: {install_advice('devkit')},"
            f" or put Kaggle's {SOLUTION} next to the images."
        ) from e
    data = meta[1]()
    try:
        synsets: Any = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
        return {
            int(synset["ILSVRC2012_ID"]): (str(synset["WNID"]), str(synset["words"]))
            for synset in synsets
        }
    except Exception as e:  # scipy raises errors of many types for a damaged file
        raise SourceError(
            f"{meta[0]} is not the devkit's table of classes ({e}): expected 'synsets' with"
            " ILSVRC2012_ID, WNID and words. Download the devkit again."
        ) from e


def is_val_image(name: str) -> bool:
    """Return True if a file name is that of an image of ILSVRC2012's val split.

    Args:
        name: The file name without folders: `ILSVRC2012_val_`, anything, and `.JPEG` or `.jpg` in
            any case.
    """
    return name.startswith("ILSVRC2012_val_") and name.lower().endswith((".jpeg", ".jpg"))


def find_words(location: Location) -> dict[str, str]:
    """Return the words of each class, from a table near the images; empty without one.

    Args:
        location: The folder of the images; up to four folders above it are searched, too. The
            nearest `LOC_synset_mapping.txt` or `words.txt` is read; without one, or if it has no
            wnids, ILSVRC2012's devkit.

    Returns:
        The words by wnid, such as 'tench, Tinca tinca'. Empty also where only the devkit has them
        and it is damaged, or the package scipy is missing.

    Raises:
        ReadError: A table cannot be read now.
        SourceError: A table cannot be read as text.
    """
    table = find_nearest_table(location, *WORDS)
    words = parse_words(table[0].read_text(table[1], lenient=True)) if table else {}
    if words:
        return words
    meta = _devkit_file(location, *_META)
    if meta is None:
        return {}
    try:
        return dict(_read_synsets(meta).values())
    except SourceError:
        return {}  # without scipy; words are optional
