"""An index on disk: a folder that holds a complete index or none.

    FOLDER/
      index.json             written last: kind, options, facts, the identity of the vectors, and
                             the size and digest of each part
      vectors-<...>.npy      the vectors; mapped when the index is searched
      lengths-<...>.npy      the length of each vector, 0 for those that are never a result
      <part>-<...>.faiss     bits or graph
      axes-<...>.npy         the projection that reduces the vectors of a graph

Each save gives its parts new names, so that the index which is replaced stays complete until
`index.json` is exchanged. A process that holds the old index open goes on using it.
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
from pipeline.neighbours.build import KINDS, assemble
from pipeline.neighbours.exact import ExactDeviceScan, ExactScan
from pipeline.neighbours.index import Index
from pipeline.neighbours.vectors import Vectors
from pipeline.store.local import LocalObjects
from pipeline.store.objects import ObjectWriter
from pipeline.store.schema import (
    Between,
    Digest,
    Format,
    Matching,
    SchemaError,
    describe_value,
    parse,
)

FORMAT = 1
HEADER = "index.json"
Options = TypeVar("Options", LshOptions, HnswOptions)
PART = re.compile(r"[a-z]+-[0-9a-f]{12}\.(npy|faiss)")
MAX_HEADER_BYTES = 2**28
PIECE_BYTES = 8 * 2**20
"""The number of bytes that are read or written at once."""
HUGE_PAGE_BYTES = 2 * 2**20


@dataclass(frozen=True)
class IndexPart:
    """The record of a part in the header."""

    file: Annotated[str, Matching(PART.fullmatch, "the name of a part in the same folder")]
    bytes: Annotated[int, Between(0, 2**48)]
    digest: Digest


@dataclass(frozen=True)
class Header:
    """The fields of `index.json`, without its digest."""

    format: Format
    kind: Annotated[str, Matching(KINDS.__contains__, " or ".join(KINDS))]
    count: Annotated[int, Between(1, 2**40)]
    dim: Annotated[int, Between(1, 2**24)]
    dtype: Annotated[str, Matching(("float32", "float16").__contains__, "float32 or float16")]
    options: dict[str, Any]
    facts: dict[str, float]
    identity: dict[str, Any]
    parts: dict[str, IndexPart]


# --- writing --------------------------------------------------------------------------------------


def save(index: Index, folder: str | os.PathLike[str], identity: dict[str, Any]) -> None:
    """Write an index durably, replacing any index in *folder*.

    Until the new one is complete, the old one stays; a process that has opened the old one goes on
    using it. Other files in the folder stay.

    Args:
        index: The index to write, with its vectors.
        folder: The target folder; created if it is missing.
        identity: JSON values that identify the vectors, such as the model that made them and the
            store. `load` must be given the same.

    Raises:
        TesseraeError: The index cannot be written.
        TypeError, ValueError: *identity* is no JSON; nothing is written.
    """
    _json_text(identity)  # fail before anything is written if it is no JSON
    path = Path(folder).expanduser().absolute()
    objects = LocalObjects(str(path), f"index-{uuid.uuid4().hex}")
    objects.begin()
    try:
        parts: dict[str, Any] = {"vectors": index.vectors.array, "lengths": index.vectors.lengths}
        parts |= index.generator.state()
        fields: dict[str, Any] = {
            "format": FORMAT,
            "kind": index.kind,
            "count": len(index),
            "dim": index.dim,
            "dtype": str(index.vectors.array.dtype),
            "options": index.options,
            "facts": index.facts,
            "identity": identity,
            "parts": {name: _write_part(objects, name, part) for name, part in parts.items()},
        }
        objects.put(HEADER, _encode_header(fields))
        # Only now is the old index replaced: its parts, and those of an interrupted save, go.
        current = {part["file"] for part in fields["parts"].values()}
        for name in objects.names(""):
            if PART.fullmatch(name) and name not in current:
                objects.remove(name)
    finally:
        objects.end()


class _PartWriter:
    """A writer of one part that computes its digest."""

    def __init__(self, writer: ObjectWriter) -> None:
        self._writer = writer
        self._digest = xxhash.xxh3_128()
        self._bytes = 0

    def write(self, data: Any) -> None:
        """Append the bytes of *data*, any contiguous buffer."""
        piece = memoryview(data).cast("B")
        self._writer.write(piece)
        self._digest.update(piece)
        self._bytes += piece.nbytes

    def record(self) -> dict[str, Any]:
        """Finish the part and return its record in the header."""
        self._writer.finish()
        digest = self._digest.hexdigest()
        return {"file": self._writer.name, "bytes": self._bytes, "digest": digest}


def _write_part(objects: LocalObjects, name: str, part: Any) -> dict[str, Any]:
    array = isinstance(part, np.ndarray)
    writer = objects.create(f"{name}-{uuid.uuid4().hex[:12]}.{'npy' if array else 'faiss'}")
    part_writer = _PartWriter(writer)
    try:
        if array:
            _write_npy(part, part_writer)
        else:
            library = faiss()
            library.write_index(part, library.PyCallbackIOWriter(part_writer.write))
        return part_writer.record()
    finally:
        writer.abort()


def _write_npy(array: NDArray[Any], part_writer: _PartWriter) -> None:
    layout = {"shape": array.shape, "fortran_order": False}
    header = {"descr": np.lib.format.dtype_to_descr(array.dtype), **layout}
    np.lib.format.write_array_header_1_0(part_writer, header)
    step = max(1, PIECE_BYTES // max(1, array[:1].nbytes))
    for start in range(0, len(array), step):
        part_writer.write(np.ascontiguousarray(array[start : start + step]))


def _encode_header(fields: dict[str, Any]) -> bytes:
    digest = xxhash.xxh3_128(_json_text(fields)).hexdigest()
    return _json_text({**fields, "digest": digest})


def _json_text(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, sort_keys=True, indent=2, allow_nan=False) + "\n").encode()


# --- reading --------------------------------------------------------------------------------------


def load(
    folder: str | os.PathLike[str],
    identity: dict[str, Any],
    *,
    digests: bool = True,
    device: str | None = None,
) -> Index:
    """Open an index: its vectors are mapped, its bits or its graph are read into memory.

    Args:
        folder: The folder it was saved in.
        identity: The expected identity of its vectors, equal to what was given to `save`. Values
            are compared as they are after JSON, so a tuple equals a list, but 1 differs from 1.0.
        digests: True to compare the vectors with their digest, too (default). They are read once
            for it, at several GB/s where they are in memory already. Sizes and all other parts are
            always compared.
        device: The torch device, such as cuda, that gets a copy of the vectors and searches
            exactly; None: numpy on the processor. Only for an index of kind exact.

    Returns:
        The index, ready for `search`, with the `facts` of its build.

    Raises:
        TesseraeError: The index is missing or of another identity, or one of its parts is missing,
            truncated or changed; faiss, which lsh and hnsw need, is not installed; or the device
            does not exist or has too little memory.
        ValueError: *device* is set for another kind than exact.
        TypeError: *identity* is no JSON.
    """
    path = Path(folder).expanduser()
    fields = _read_header(path)
    _check_identity(path, fields["identity"], identity)
    if device is not None and fields["kind"] != "exact":
        raise ValueError(f"device is {device!r}: only an exact index is searched on one.")
    for name, part in fields["parts"].items():
        if Path(part["file"]).suffix == ".npy":  # parts of faiss are checked when they are read
            _check_part(path, part, digest=digests or name != "vectors")
    try:
        return _assemble_index(path, fields, device)
    except _UNREADABLE as e:
        raise _damaged_index_error(
            path, f"cannot be opened ({str(e).splitlines()[0][:120]})"
        ) from e


_UNREADABLE = (
    *(ValueError, TypeError, KeyError, OSError, RuntimeError),
    *(IndexError, MemoryError, OverflowError, AttributeError),
)
"""Errors that numpy and faiss raise for files that do not match the header."""


def _read_header(folder: Path) -> dict[str, Any]:
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
        intact = _encode_header(fields) == data
    except (ValueError, TypeError, KeyError, RecursionError, AttributeError):
        intact = False
    if not intact:
        raise _damaged_index_error(file, "does not match its own digest")
    if fields.get("format") != FORMAT:
        raise TesseraeError(
            f"{file} has format {describe_value(fields.get('format'))}:"
            f" this version reads {FORMAT}. Build the index again."
        )
    try:
        parse(Header, fields)
    except SchemaError as e:  # the digest is valid, so another program wrote it
        raise _damaged_index_error(file, f"cannot be of an index: {e}") from None
    return fields


def _check_identity(folder: Path, stored: dict[str, Any], expected: dict[str, Any]) -> None:
    # As on disk: tuples become lists, and the keys of each dictionary are sorted.
    expected = json.loads(json.dumps(expected, sort_keys=True))
    for key in sorted({*stored, *expected}):
        stored_value, expected_value = (
            repr(of[key]) if key in of else "nothing" for of in (stored, expected)
        )
        if stored_value != expected_value:
            raise TesseraeError(
                f"the index in {folder} was built from other vectors: its {key} is {stored_value},"
                f" expected {expected_value}. Build it again."
            )


def _check_part(
    folder: Path, part: dict[str, Any], *, digest: bool, target: NDArray[np.uint8] | None = None
) -> None:
    """Compare a part with its record; with *target*, also read all its bytes into it."""
    file = folder / part["file"]
    seen = xxhash.xxh3_128()
    try:
        if not file.is_file():  # opening a pipe would wait forever
            raise _damaged_index_error(file, "is not a file")
        num_bytes = file.stat().st_size
        if num_bytes != part["bytes"]:
            raise _damaged_index_error(file, f"has {num_bytes:,} bytes, not {part['bytes']:,}")
        piece = np.empty(PIECE_BYTES, np.uint8) if target is None else target
        with file.open("rb", buffering=0) as opened:
            while digest and (got := opened.readinto(piece[:PIECE_BYTES])):
                seen.update(piece[:got].data)
                piece = piece if target is None else piece[got:]
    except OSError as e:
        raise _damaged_index_error(file, f"cannot be read ({e.strerror})") from e
    if digest and seen.hexdigest() != part["digest"]:
        raise _damaged_index_error(file, "does not match its digest")


def _damaged_index_error(file: Path, how: str) -> TesseraeError:
    return TesseraeError(f"{file} {how}: build the index again.")


def _assemble_index(folder: Path, fields: dict[str, Any], device: str | None) -> Index:
    kind, parts = fields["kind"], fields["parts"]
    array = _map_array(folder, parts["vectors"])
    expected = (fields["dtype"], (fields["count"], fields["dim"]))
    if (str(array.dtype), array.shape) != expected:
        raise ValueError(f"vectors are {array.dtype} of shape {array.shape}")
    lengths = np.array(_map_array(folder, parts["lengths"]))
    if lengths.dtype != np.float64 or lengths.shape != array.shape[:1]:
        raise ValueError(f"lengths are {lengths.dtype} of shape {lengths.shape}")
    vectors = Vectors(array, lengths)
    generator: Any
    options: LshOptions | HnswOptions | None = None
    if kind == "lsh":
        options = _read_build_options(LshOptions, fields)
        generator = Lsh(_read_faiss_index(folder, parts["codes"], len(vectors), vectors.dim))
    elif kind == "hnsw":
        options = _read_build_options(HnswOptions, fields)
        axes = np.array(_map_array(folder, parts["axes"]))
        rows = np.flatnonzero(vectors.usable)
        graph = _read_faiss_index(folder, parts["graph"], len(rows), axes.shape[1] + 1)
        generator = Hnsw(graph, axes, rows)
    elif device is not None:
        generator = ExactDeviceScan(vectors, device)
    else:
        generator = ExactScan(vectors)
    index = assemble(kind, vectors, generator, options)
    index.facts.update(fields["facts"])
    return index


def _read_build_options(kind: type[Options], fields: dict[str, Any]) -> Options:
    options = parse(kind, fields["options"], "options")
    for name, value in vars(options).items():
        if value is not None and not 0 < value < 2**31:
            raise ValueError(f"options.{name} is {value}")
    return options


def _map_array(folder: Path, part: dict[str, Any]) -> NDArray[Any]:
    return np.load(folder / part["file"], mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _read_faiss_index(folder: Path, part: dict[str, Any], count: int, dim: int) -> Any:
    library = faiss()
    _check_part(folder, part, digest=False)  # the size, before memory of that size is allocated
    memory = _allocate_huge_pages(part["bytes"])
    _check_part(folder, part, digest=True, target=memory)
    reader = library.ZeroCopyIOReader(library.swig_ptr(memory), len(memory))
    index = library.read_index(reader)
    index.referenced_objects = [memory]  # the index is a view of this memory
    if (index.ntotal, index.d) != (count, dim):
        raise ValueError(f"{part['file']} has {index.ntotal} vectors of {index.d}")
    return index


def _allocate_huge_pages(num_bytes: int) -> NDArray[np.uint8]:
    """Allocate memory, in huge pages if possible: they make a graph walk a tenth faster."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory has no huge pages
    mapping = mmap.mmap(-1, num_bytes + HUGE_PAGE_BYTES, private)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # the kernel has no huge pages
            mapping.madvise(mmap.MADV_HUGEPAGE)
    memory = np.frombuffer(mapping, np.uint8)
    start = -memory.ctypes.data % HUGE_PAGE_BYTES
    return memory[start : start + num_bytes]
