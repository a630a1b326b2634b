"""An index on disk: a folder that holds it whole, or not at all.

    FOLDER/
      index.json             written last: kind, options, facts, of what the vectors are, and size
                             and digest of each part
      vectors-<...>.npy      as they were given, once; mapped when the index is searched
      lengths-<...>.npy      of each vector, 0 of what is never answered
      <part>-<...>.faiss     bits or graph
      axes-<...>.npy         of a graph, what its shorter vectors are made with

A part has a name of its own each time, so that an index which replaces another leaves that one
whole until `index.json` is exchanged. Who holds the old one open goes on with it.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from pipeline.errors import StoreError, TesseraeError
from pipeline.neighbours.approximate import Hnsw, HnswOptions, Lsh, LshOptions, faiss
from pipeline.neighbours.build import KINDS, assembled
from pipeline.neighbours.exact import DeviceScan, Scan
from pipeline.neighbours.index import Index
from pipeline.neighbours.vectors import Vectors
from pipeline.store.objects import LocalObjects, ObjectWriter
from pipeline.store.schema import Between, Digest, Format, Matching, SchemaError, read, shown

FORMAT = 1
HEADER = "index.json"
Options = TypeVar("Options", LshOptions, HnswOptions)
PART = re.compile(r"[a-z]+-[0-9a-f]{12}\.(npy|faiss)")
MAX_HEADER_BYTES = 2**28
PIECE_BYTES = 8 * 2**20
"""That are read or written at once."""
HUGE_PAGE_BYTES = 2 * 2**20


@dataclass(frozen=True)
class Part:
    """A part as the header has it."""

    file: Annotated[str, Matching(PART.fullmatch, "the name of a part in the same folder")]
    bytes: Annotated[int, Between(0, 2**48)]
    digest: Digest


@dataclass(frozen=True)
class Header:
    """What `index.json` says, without its digest."""

    format: Format
    kind: Annotated[str, Matching(KINDS.__contains__, " or ".join(KINDS))]
    count: Annotated[int, Between(1, 2**40)]
    dim: Annotated[int, Between(1, 2**24)]
    dtype: Annotated[str, Matching(("float32", "float16").__contains__, "float32 or float16")]
    options: dict[str, Any]
    facts: dict[str, float]
    identity: dict[str, Any]
    parts: dict[str, Part]


# --- writing --------------------------------------------------------------------------------------


def save(index: Index, folder: str | os.PathLike[str], identity: dict[str, Any]) -> None:
    """Write an index, durable, in place of what was there.

    Args:
        index: Which.
        folder: Where; made if it is not there.
        identity: Plain JSON values that say what the vectors are: which model made them, of which
            store. Who loads it must say the same.

    Raises:
        TesseraeError: It cannot be written.
    """
    _text(identity)  # what cannot be written stops here
    place = Path(folder).expanduser().absolute()
    objects = LocalObjects(str(place), f"index-{uuid.uuid4().hex}")
    objects.begin()
    try:
        parts: dict[str, Any] = {"vectors": index.vectors.array, "lengths": index.vectors.lengths}
        parts |= index.nominator.state()
        fields: dict[str, Any] = {
            "format": FORMAT,
            "kind": index.kind,
            "count": len(index),
            "dim": index.dim,
            "dtype": str(index.vectors.array.dtype),
            "options": index.options,
            "facts": index.facts,
            "identity": identity,
            "parts": {name: _write(objects, name, part) for name, part in parts.items()},
        }
        objects.put(HEADER, _encode(fields))
        named = {part["file"] for part in fields["parts"].values()}
        for name in objects.names(""):
            if PART.fullmatch(name) and name not in named:
                objects.remove(name)
    finally:
        objects.end()


class _Part:
    """A part on its way, and its digest."""

    def __init__(self, writer: ObjectWriter) -> None:
        self._writer = writer
        self._digest = xxhash.xxh3_128()
        self._bytes = 0

    def write(self, data: Any) -> None:
        """Append *data*."""
        piece = memoryview(data).cast("B")
        self._writer.write(piece)
        self._digest.update(piece)
        self._bytes += piece.nbytes

    def record(self) -> dict[str, Any]:
        """What is said of it in the header."""
        self._writer.finish()
        digest = self._digest.hexdigest()
        return {"file": self._writer.name, "bytes": self._bytes, "digest": digest}


def _write(objects: LocalObjects, name: str, part: Any) -> dict[str, Any]:
    array = isinstance(part, np.ndarray)
    writer = objects.create(f"{name}-{uuid.uuid4().hex[:12]}.{'npy' if array else 'faiss'}")
    to = _Part(writer)
    try:
        if array:
            _write_array(part, to)
        else:
            library = faiss()
            library.write_index(part, library.PyCallbackIOWriter(to.write))
        return to.record()
    finally:
        writer.abort()


def _write_array(array: NDArray[Any], to: _Part) -> None:
    row_by_row = {"shape": array.shape, "fortran_order": False}
    described = {"descr": np.lib.format.dtype_to_descr(array.dtype), **row_by_row}
    np.lib.format.write_array_header_1_0(to, described)
    step = max(1, PIECE_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        to.write(np.ascontiguousarray(array[start : start + step]))


def _encode(fields: dict[str, Any]) -> bytes:
    digest = xxhash.xxh3_128(_text(fields)).hexdigest()
    return _text({**fields, "digest": digest})


def _text(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()


# --- reading --------------------------------------------------------------------------------------


def load(
    folder: str | os.PathLike[str],
    identity: dict[str, Any],
    *,
    digests: bool = True,
    device: str | None = None,
) -> Index:
    """Open an index. Its vectors are mapped; its bits or its graph are read.

    Args:
        folder: Where it was saved.
        identity: What its vectors must be, as `save` was told.
        digests: Whether the vectors' bytes are compared with their digest, too: they are read once,
            at several GB/s where they are in memory already. All other parts always are, and sizes.
        device: As of `build`.

    Raises:
        TesseraeError: It is not there, is of something else, or a part of it is missing, cut off or
            changed.
    """
    place = Path(folder)
    fields = _header(place)
    _compare(place, fields["identity"], identity)
    if device is not None and fields["kind"] != "exact":
        raise ValueError(f"device is {device!r}: only an exact index is searched on one.")
    for name, part in fields["parts"].items():
        if Path(part["file"]).suffix == ".npy":  # others are checked as they are read
            _check(place, part, whole=digests or name != "vectors")
    try:
        return _opened(place, fields, device)
    except _UNREADABLE as e:
        raise _damaged(place, f"cannot be opened ({str(e).splitlines()[0][:120]})") from e


_UNREADABLE = (
    *(ValueError, TypeError, KeyError, OSError, RuntimeError),
    *(IndexError, MemoryError, OverflowError, AttributeError),
)
"""Errors of numpy and faiss for files that are not what the header says."""


def _header(folder: Path) -> dict[str, Any]:
    file = folder / HEADER
    try:
        data = LocalObjects(str(folder), "reader").get(HEADER, MAX_HEADER_BYTES)
    except StoreError as e:
        raise TesseraeError(f"{file} cannot be read: {e}") from e
    except OSError as e:
        raise TesseraeError(
            f"{file} cannot be read ({e.strerror}): expected a folder that holds a saved index."
        ) from e
    try:
        fields = dict(json.loads(data))
        fields.pop("digest")
        intact = _encode(fields) == data
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
        intact = False
    if not intact:
        raise _damaged(file, "does not match its own digest")
    if fields.get("format") != FORMAT:
        raise TesseraeError(
            f"{file} has format {shown(fields.get('format'))}: this version reads {FORMAT}. Build"
            " the index again."
        )
    try:
        read(Header, fields)
    except SchemaError as e:  # its digest is right: somebody else wrote it
        raise _damaged(file, f"cannot be of an index: {e}") from None
    return fields


def _compare(folder: Path, there: dict[str, Any], asked: dict[str, Any]) -> None:
    asked = json.loads(json.dumps(asked))  # a tuple is a list there
    for key in sorted({*there, *asked}):
        mine, yours = (repr(of[key]) if key in of else "nothing" for of in (there, asked))
        if mine != yours:
            raise TesseraeError(
                f"the index in {folder} is of something else: its {key} is {mine}, and {yours} was"
                " asked for. Build it again."
            )


def _check(
    folder: Path, part: dict[str, Any], *, whole: bool, to: NDArray[np.uint8] | None = None
) -> None:
    """Compare a part with what is said of it, and with *to* read all its bytes there."""
    file = folder / part["file"]
    seen = xxhash.xxh3_128()
    try:
        if not file.is_file():  # a pipe, say, which nobody may ever write to
            raise _damaged(file, "is no file")
        num_bytes = file.stat().st_size
        if num_bytes != part["bytes"]:
            raise _damaged(file, f"has {num_bytes:,} bytes, not {part['bytes']:,}")
        piece = np.empty(PIECE_BYTES, np.uint8) if to is None else to
        with file.open("rb", buffering=0) as opened:
            while whole and (got := opened.readinto(piece[:PIECE_BYTES])):
                seen.update(piece[:got].data)
                piece = piece if to is None else piece[got:]
    except OSError as e:
        raise _damaged(file, f"cannot be read ({e.strerror})") from e
    if whole and seen.hexdigest() != part["digest"]:
        raise _damaged(file, "does not match its digest")


def _damaged(file: Path, how: str) -> TesseraeError:
    return TesseraeError(f"{file} {how}: build the index again.")


def _opened(folder: Path, fields: dict[str, Any], device: str | None) -> Index:
    kind, parts = fields["kind"], fields["parts"]
    array = _array(folder, parts["vectors"])
    expected = (fields["dtype"], (fields["count"], fields["dim"]))
    if (str(array.dtype), array.shape) != expected:
        raise ValueError(f"vectors are {array.dtype} of shape {array.shape}")
    lengths = np.array(_array(folder, parts["lengths"]))
    if lengths.dtype != np.float64 or lengths.shape != array.shape[:1]:
        raise ValueError(f"lengths are {lengths.dtype} of shape {lengths.shape}")
    vectors = Vectors(array, lengths)
    nominator: Any
    options: LshOptions | HnswOptions | None = None
    if kind == "lsh":
        options = _options(LshOptions, fields)
        nominator = Lsh(_faiss_index(folder, parts["codes"], len(vectors), vectors.dim))
    elif kind == "hnsw":
        options = _options(HnswOptions, fields)
        axes = np.array(_array(folder, parts["axes"]))
        rows = np.flatnonzero(vectors.usable)
        graph = _faiss_index(folder, parts["graph"], len(rows), axes.shape[1] + 1)
        nominator = Hnsw(graph, axes, rows)
    elif device is not None:
        nominator = DeviceScan(vectors, device)
    else:
        nominator = Scan(vectors)
    index = assembled(kind, vectors, nominator, options)
    index.facts.update(fields["facts"])
    return index


def _options(kind: type[Options], fields: dict[str, Any]) -> Options:
    options = read(kind, fields["options"], "options")
    for name, value in vars(options).items():
        if value is not None and not 0 < value < 2**31:
            raise ValueError(f"options.{name} is {value}")
    return options


def _array(folder: Path, part: dict[str, Any]) -> NDArray[Any]:
    return np.load(folder / part["file"], mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _faiss_index(folder: Path, part: dict[str, Any], count: int, dim: int) -> Any:
    library = faiss()
    _check(folder, part, whole=False)  # before there is memory for so many bytes
    memory = _memory(part["bytes"])
    _check(folder, part, whole=True, to=memory)
    reader = library.ZeroCopyIOReader(library.swig_ptr(memory), len(memory))
    index = library.read_index(reader)
    index.referenced_objects = [memory]  # it is a view of it
    if (index.ntotal, index.d) != (count, dim):
        raise ValueError(f"{part['file']} has {index.ntotal} vectors of {index.d}")
    return index


def _memory(num_bytes: int) -> NDArray[np.uint8]:
    """Memory in huge pages, where there are such: a walk through a graph takes a tenth less."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory has no huge pages
    whole = mmap.mmap(-1, num_bytes + HUGE_PAGE_BYTES, private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            whole.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(whole, np.uint8)
    first = -memory.ctypes.data % HUGE_PAGE_BYTES
    return memory[first : first + num_bytes]
