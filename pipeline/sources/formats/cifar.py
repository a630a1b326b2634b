"""The Python version of CIFAR-10 and CIFAR-100: a few pickled batches.

They are read from a folder or from the distributed tar, `cifar-10-python.tar.gz`.

A pickle can run any code. These are read by an unpickler that knows arrays of bytes, lists, texts
and numbers, and calls nothing; any other global is refused before it is imported.

Each image becomes a sample in the plain PPM format, with unchanged pixels.
"""

import io
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError
from pipeline.sources.archives.detection import container_of_file
from pipeline.sources.archives.open import open_tar
from pipeline.sources.archives.outline import outline_of
from pipeline.sources.classes.class_table import ClassTable
from pipeline.sources.classes.labeller import Labeller
from pipeline.sources.content import TAR, ZIP
from pipeline.sources.listing import ListedSample
from pipeline.sources.location import Location
from pipeline.sources.read_errors import as_read_error
from pipeline.sources.source import Source
from pipeline.sources.spool import Block, Blocks, WriteBytes

SIDE = 32
FOLDERS = ("cifar-10-batches-py", "cifar-100-python")
"""The folders that the distributed archives unpack to."""
_REAL_BATCHES, _REAL_CASES = 5, 10_000  # of CIFAR-10
_MAX_BATCH_BYTES = 1 << 30  # 154 MB hold 50,000 images
_IMAGE_BYTES = 3 * SIDE * SIDE
_HEADER = b"P6\n%d %d\n255\n" % (SIDE, SIDE)

_LAYOUTS = {
    "batches.meta": ({"train": "data_batch_", "test": "test_batch"}, b"label_names", b"labels"),
    "meta": ({"train": "train", "test": "test"}, b"fine_label_names", b"fine_labels"),
}
"""The table of names -> (split -> prefix of its files, key of the names, key of the labels)."""


class _PickledDtype:
    """A substitute for `numpy.dtype` that stores only its name."""

    def __init__(self, name: object, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Ignore the byte order: bytes have none."""


class _PickledArray:
    """A substitute for `numpy.ndarray` that stores the pickled state, and calls nothing."""

    def __init__(self, *_: object) -> None:
        self.shape: tuple[int, ...] = ()
        self.data = b""

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Store the shape and bytes of a uint8 array in C order; refuse any other array."""
        _, shape, kind, fortran, data = state
        plain = isinstance(kind, _PickledDtype) and kind.name in ("u1", b"u1") and not fortran
        if not plain or not isinstance(data, bytes):
            raise pickle.UnpicklingError("an array that is none of bytes, row by row")
        self.shape, self.data = shape, data


class _PickledLatin1:
    """A substitute for `_codecs.encode`, by which Python 3 writes bytes in old pickles."""

    def __new__(cls, text: object, encoding: object) -> Any:
        if not isinstance(text, str) or encoding not in ("latin1", b"latin1"):
            raise pickle.UnpicklingError("a text that is none of bytes")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a text that is more than bytes")


_ALLOWED_GLOBALS: dict[tuple[str, str], Any] = {
    ("_codecs", "encode"): _PickledLatin1,
    ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
    ("numpy", "ndarray"): _PickledArray,
    ("numpy", "dtype"): _PickledDtype,
}


class _CifarUnpickler(pickle._Unpickler):
    """An unpickler that knows the parts of a batch, and nothing else.

    It is the slow one in Python: the C one allocates memory for what a pickle names.
    """

    def find_class(self, module: str, name: str) -> Any:
        """Return the substitute for a global that a batch may name; refuse any other."""
        if (module, name) not in _ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return _ALLOWED_GLOBALS[module, name]

    def persistent_load(self, pid: object) -> Any:
        """Refuse data outside the pickle."""
        raise pickle.UnpicklingError("it names what lies elsewhere")


def _unpickle_batch(file: BinaryIO, where: str) -> dict[bytes, Any]:
    try:
        batch = _CifarUnpickler(file, encoding="bytes").load()
    except OSError:  # the disk failed, not the pickle
        raise
    except Exception as e:  # a damaged pickle can raise any error
        raise SourceError(
            f"{where} is not a CIFAR batch ({type(e).__name__}: {e}): expected a pickle of arrays"
            " of bytes, lists and texts. Nothing in it was executed. Download it again."
        ) from e
    if not isinstance(batch, dict):
        raise SourceError(
            f"{where} is not a CIFAR batch: expected a table of names. Download it again."
        )
    return batch


@dataclass(frozen=True)
class CifarBatches:
    """The location of the batches: loose in a folder, or packed in the distributed archive."""

    location: Location
    archive: str = ""
    """The path of the tar that holds them; empty: they are loose."""
    folder: str = ""
    """The folder of the batches in the tar."""

    def full_path(self, path: str) -> str:
        """Return the full name of a batch, for messages: its path or URL, and its place in the tar.

        Args:
            path: The file name of the batch, such as `data_batch_1`; '' stands for the folder of
                all.
        """
        if not self.archive:
            return self.location.full_path(path)
        return f"{self.location.full_path(self.archive)}: {self._member(path)}"

    def _member(self, path: str) -> str:
        return f"{self.folder}/{path}" if self.folder else path

    def names(self) -> list[str]:
        """Return the names of the files."""
        if not self.archive:
            return self.location.names().files
        prefix = f"{self.folder}/" if self.folder else ""
        names = outline_of(self.location, self.archive).names
        return sorted(name.removeprefix(prefix) for name in names if name.startswith(prefix))

    def size(self, path: str) -> int:
        """Return the size of a batch in bytes, uncompressed.

        Args:
            path: The file name of the batch, such as `data_batch_1`.

        Raises:
            ReadError: The file or its archive is missing or cannot be read.
            SourceError: The archive is damaged, or holds no such file.
        """
        if not self.archive:
            return self.location.size(path)
        for member in outline_of(self.location, self.archive).members:
            if member.name == self._member(path):
                return member.num_bytes
        raise SourceError(f"{self.full_path(path)} is missing. Download it again.")

    def marks(self, paths: Iterable[str]) -> list[str]:
        """Return texts that change when the batches do, for a fingerprint.

        Args:
            paths: The file names of the batches.

        Returns:
            The name, size and time of each batch, with tabs between them; of batches in an archive,
            those of the archive, then the folder in it, then *paths*, which are not looked up.

        Raises:
            ReadError: A file or the archive is missing or cannot be read.
        """
        if self.archive:
            return [self.location.mark(self.archive), self.folder, *paths]
        return [self.location.mark(path) for path in paths]

    def load(self, path: str) -> dict[bytes, Any]:
        """Read one batch, without running any code of its pickle.

        Args:
            path: The file name of the batch, such as `data_batch_1`.

        Returns:
            The fields of the batch as it has them, as lists, bytes, texts and numbers: `b"labels"`
            or, in CIFAR-100, `b"fine_labels"`, a list of numbers, `b"filenames"`, a list of bytes,
            and others. An array, such as `b"data"`, is an object with the attributes `shape`, (n,
            3072), and `data`, its bytes: of each image the planes of red, green and blue.

        Raises:
            SourceError: The file is no batch, or is missing in the archive or larger than 1 GiB
                there.
            ReadError: The file cannot be read.
        """
        where = self.full_path(path)
        if not self.archive:
            with self.location.open(path) as file, as_read_error(where):
                return _unpickle_batch(file, where)
        with open_tar(self.location, self.archive) as tar:
            for member in tar.members():
                if member.name == self._member(path) and member.num_bytes <= _MAX_BATCH_BYTES:
                    return _unpickle_batch(
                        io.BytesIO(tar.read(member.offset, member.num_bytes)), where
                    )
        raise SourceError(f"{where} is missing, or too large for a batch. Download it again.")


def _texts_in_batch(batch: dict[bytes, Any], name: bytes, where: str) -> list[str]:
    values = batch.get(name)
    if not isinstance(values, list) or not all(isinstance(v, bytes | str) for v in values):
        raise SourceError(f"{where} has no {name.decode()}: expected a list of names.")
    return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values]


def _cifar_class_table(batches: CifarBatches, path: str) -> ClassTable:
    names = _LAYOUTS[path][1]
    where = batches.full_path(path)
    return ClassTable(tuple(_texts_in_batch(batches.load(path), names, where)), where)


@dataclass(frozen=True)
class CifarBlock(Block):
    """A block of a source: one batch of images."""

    batches: CifarBatches
    path: str
    table: str

    @property
    def where(self) -> str:
        """The full name of the batch."""
        return self.batches.full_path(self.path)

    def samples(self, write: WriteBytes) -> Iterator[ListedSample]:
        """Read the batch, and pass each image as a PPM file to *write*.

        Args:
            write: A function of an iterable of bytes, the pieces of one sample, that appends them
                to the spool and returns their offset in bytes there.

        Yields:
            One `ListedSample` (`key`, `num_bytes` of the PPM, `offset`, `same_as` = '', `basis` of
            the class) for each image, in the order of the batch, with a key such as
            `cat/data_batch_1_00042.ppm`, and with what *write* returned as its offset.

        Raises:
            ReadError: The batch could not be read now.
            SourceError: The batch is damaged, or has a label without a class.
        """
        where = self.batches.full_path(self.path)
        labels = _LAYOUTS[self.table][2]
        classes = _cifar_class_table(self.batches, self.table)
        labeller = Labeller(classes, self.batches.location.options)
        batch = self.batches.load(self.path)
        pixels = _pixels_in_batch(batch.get(b"data"), where)
        numbers = batch.get(labels)
        if (
            not isinstance(numbers, list)
            or len(numbers) != len(pixels)
            or any(type(n) is not int or not 0 <= n < len(classes.names) for n in numbers)
        ):
            raise SourceError(
                f"{where} has {len(pixels)} images: expected as many {labels.decode()}, each 0 to"
                f" {len(classes.names) - 1}."
            )
        for number, (image, label) in enumerate(zip(pixels, numbers, strict=True)):
            data = image.tobytes()
            name = f"{self.path}_{number:05d}.ppm"
            key, basis = labeller.key(name, {labels.decode(): label}, f"{where}: image {number}")
            yield ListedSample(key, len(_HEADER) + len(data), write((_HEADER, data)), basis=basis)


def _pixels_in_batch(array: object, where: str) -> NDArray[np.uint8]:
    """Return (n, 32, 32, 3) uint8 RGB, from the planes of red, green and blue in a batch."""
    has_whole_rows = isinstance(array, _PickledArray) and array.shape == (
        len(array.data) // _IMAGE_BYTES,
        _IMAGE_BYTES,
    )
    if not isinstance(array, _PickledArray) or not has_whole_rows or len(array.data) % _IMAGE_BYTES:
        raise SourceError(f"{where} has no data: expected an array of (n, {_IMAGE_BYTES}) bytes.")
    planes = np.frombuffer(array.data, np.uint8).reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))


@dataclass(frozen=True)
class CifarSource(Source):
    """A source of the images in CIFAR's batches."""

    batches: CifarBatches
    table: str
    paths: tuple[str, ...]

    def marks(self) -> Iterable[str]:
        """Return the files' names, sizes and times."""
        return self.batches.marks((self.table, *self.paths))

    def class_table(self) -> ClassTable | None:
        """Return the table of class names, in the order of the labels."""
        return _cifar_class_table(self.batches, self.table)

    def words(self) -> dict[str, str]:
        """Return no words: the names of classes are their words."""
        return {}

    def blocks(self) -> Blocks:
        """Return one block for each batch.

        Raises:
            SourceError: One of the numbered batches is missing.
        """
        self._check_batches()
        return [
            CifarBlock(path, self.batches.size(path), self.batches, path, self.table)
            for path in self.paths
        ]

    def _check_batches(self) -> None:
        numbers = {int(n) for path in self.paths if (n := path.rpartition("_")[2]).isdecimal()}
        if not numbers or self.location.options.rules == 1:
            return
        real = self.batches.load(self.table).get(b"num_cases_per_batch") == _REAL_CASES
        last = max(_REAL_BATCHES if real else 1, *numbers)
        missing = [f"data_batch_{n}" for n in range(1, last + 1) if n not in numbers]
        if missing:
            raise SourceError(
                f"{self.batches.full_path('')} lacks {', '.join(missing)} of its {last} batches."
                " Unpack the archive again."
            )


def find_cifar(location: Location, requested_split: str, explicit: bool) -> dict[str, CifarSource]:
    """Find CIFAR's table of names and batches at *location*, loose or in an archive.

    In a folder, the folders `cifar-10-batches-py` and `cifar-100-python` are examined, too, and
    archives whose names begin with `cifar-10`.

    Args:
        location: The folder or file that the user named, as `Location.at` returns it.
        requested_split: Unused: the files tell `train` and `test`.
        explicit: Unused: the names of the files decide.

    Returns:
        The source of each split, `train` and `test`; empty if there is no CIFAR.

    Raises:
        ReadError: A folder or archive cannot be read.
        SourceError: It is the binary version of CIFAR, an archive is damaged, or a link leads back
            to itself.
    """
    for batches in _possible_batches(location):
        files = batches.names()
        if "data_batch_1.bin" in files or {"train.bin", "fine_label_names.txt"} <= set(files):
            raise SourceError(
                f"{batches.full_path('')} is the binary version of CIFAR: expected the Python"
                " version. Download cifar-10-python.tar.gz or cifar-100-python.tar.gz."
            )
        for table, (splits, _, _) in _LAYOUTS.items():
            paths_of_split = {
                split: tuple(name for name in files if _is_batch_name(name, start))
                for split, start in splits.items()
            }
            if table in files and any(paths_of_split.values()):
                return {
                    split: CifarSource("cifar", batches.location, batches, table, paths)
                    for split, paths in paths_of_split.items()
                    if paths
                }
    return {}


def _possible_batches(location: Location) -> Iterator[CifarBatches]:
    """Yield the possible locations of batches: folders, and archives in *location*."""
    names = location.names()
    if not location.only_file:
        yield CifarBatches(location)
        yield from (CifarBatches(location.child(name)) for name in names.folders if name in FOLDERS)
    for name in names.files:
        may_be = location.only_file or name.lower().startswith("cifar-10")
        if may_be and container_of_file(location, name) in (TAR, ZIP):
            members = outline_of(location, name).names
            folders = {member.rpartition("/")[0] for member in members}
            yield from (CifarBatches(location, name, folder) for folder in sorted(folders))


def _is_batch_name(name: str, start: str) -> bool:
    return name == start or (start.endswith("_") and name.removeprefix(start).isdecimal())
