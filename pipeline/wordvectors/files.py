"""Files of word vectors: those that word2vec, GloVe and fastText write, read by gensim.

Its own format is a pickle, which could run anything, and is refused; so is fastText's .bin.
"""

from __future__ import annotations

import codecs
import gzip
import os
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import SourceError, TesseraeError
from pipeline.wordvectors.vectors import Words

MOST_DIM = 20_000
MOST_LINE = 1024 * 1024
"""Bytes of a line that are looked at to say what a file is."""
CHUNK_BYTES = 1024 * 1024
"""Of a file that are read at a time."""

_GZIP = b"\x1f\x8b"
_DEFLATE_MOST = 1032
"""Bytes that one byte of a gzip file can stand for."""
_OTHERS = {
    b"\x80": "a pickle (gensim's own format), which could run anything",
    b"PK\x03\x04": "a zip archive, to be unpacked first",
    (793712314).to_bytes(4, "little"): "a model of fastText, which has no list of vectors",
}
"""How files begin that some take for word vectors."""


@dataclass(frozen=True)
class _Shape:
    """What a file holds, as its beginning says."""

    path: Path
    binary: bool
    count: int
    """Vectors."""
    dim: int
    """Numbers of a vector."""
    start: int
    """Bytes before the first vector: a byte order mark, a header."""
    separator: bytes = b" "
    """What lies between the numbers of a text."""


def read_words(path: str | os.PathLike[str], *, limit: int | None = None) -> Words:
    """Read a file of word2vec (text or binary), GloVe or fastText (.vec), also one in gzip.

    Of a token that is there twice the first counts.

    Args:
        path: The file.
        limit: Only so many vectors, the first: files begin with the most frequent.

    Raises:
        SourceError: It is none of them, is damaged, or holds less or more than it says.
        TesseraeError: gensim is not installed.
        ValueError: *limit* is less than 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: expected at least 1.")
    try:
        return _load(_look(Path(path)), limit)
    except SourceError:
        raise
    except (OSError, EOFError, zlib.error, ValueError, MemoryError) as e:
        first = (str(getattr(e, "strerror", None) or e).splitlines() or [type(e).__name__])[0]
        raise SourceError(
            f"{path} cannot be read ({first[:120]}): expected a whole file of word vectors."
        ) from e


def _look(path: Path) -> _Shape:
    with _open(path) as file:
        first = file.readline(MOST_LINE)
        _refuse_others(path, first)
        start = len(codecs.BOM_UTF8) if first.startswith(codecs.BOM_UTF8) else 0
        fields = first[start:].split()
        if len(fields) == 2 and all(field.isdigit() and len(field) < 13 for field in fields):
            count, dim = int(fields[0]), int(fields[1])
            separator = _separator(file.readline(MOST_LINE), dim)
            shape = _Shape(path, separator is None, count, dim, len(first), separator or b" ")
        elif (separator := _separator(first[start:], 2)) is not None:
            shape = _count(path, file, start, separator)
        else:
            raise SourceError(
                f"{path} is no file of word vectors: expected one of word2vec, GloVe or fastText."
            )
        most = _DEFLATE_MOST if isinstance(file, gzip.GzipFile) else 1
    least = shape.count * shape.dim * (4 if shape.binary else 2)
    num_bytes = path.stat().st_size
    if not 0 < shape.dim <= MOST_DIM or not shape.count or num_bytes * most < least:
        raise SourceError(
            f"{path} says that it has {shape.count:,} vectors of {shape.dim:,} numbers, in"
            f" {num_bytes:,} bytes: it is cut off or damaged."
        )
    return shape


def _open(path: Path) -> BufferedIOBase:
    with path.open("rb") as raw:
        zipped = raw.read(2) == _GZIP
    return gzip.open(path) if zipped else path.open("rb")


def _refuse_others(path: Path, first: bytes) -> None:
    what = next((what for magic, what in _OTHERS.items() if first.startswith(magic)), "")
    if what or not first:
        raise SourceError(
            f"{path} is {what or 'empty'}: expected vectors of word2vec, GloVe or fastText (.vec)."
            " In gensim, save_word2vec_format writes such."
        )


def _count(path: Path, file: BufferedIOBase, start: int, separator: bytes) -> _Shape:
    """GloVe writes no header: what it would say is counted."""
    file.seek(start)
    beginning = islice(file, 100)
    sizes = Counter(len(_fields(line, separator)) - 1 for line in beginning)  # spaces in tokens
    file.seek(start)
    count = sum(1 for line in file if line.strip())
    return _Shape(path, False, count, sizes.most_common(1)[0][0], start, separator)


def _fields(line: bytes, separator: bytes) -> list[bytes]:
    return line.rstrip(b" \r\n" + separator).split(separator)


def _separator(line: bytes, dim: int) -> bytes | None:
    """Return what separates a token and at least *dim* numbers, as text; None: it is no such line.

    Tabs and commas count only where spaces do not do: both may be parts of tokens.
    """
    for separator in (b" ", b"\t", b","):
        parts = _fields(line, separator)
        if dim and len(parts) > dim:
            try:
                [float(part) for part in parts[-dim:]]
            except ValueError:
                continue
            return separator
    return None


def _load(shape: _Shape, limit: int | None) -> Words:
    try:
        from gensim.models import KeyedVectors
    except ImportError as e:
        raise TesseraeError(
            f"word vectors need the package gensim ({e}): run `make setup EXTRAS=devise`."
        ) from e
    read = _through_pipe(
        _plain(shape, limit),
        lambda name: KeyedVectors.load_word2vec_format(
            name, binary=shape.binary, unicode_errors="replace"
        ),
    )
    count = len(read.key_to_index)  # behind them gensim leaves room for tokens that came twice
    tokens = read.index_to_key[:count]
    if not shape.binary:
        tokens = [token.replace("\0", " ") for token in tokens]
    return Words(tokens, np.asarray(read.vectors[:count], np.float32))


def _through_pipe(chunks: Iterator[bytes], load: Callable[[str], Any]) -> Any:
    """Give *chunks* to what wants the name of a file.

    gensim takes nothing else, and what it can read is not always what lies on the disk: headers
    are missing or lie, tokens have spaces, some begin with a byte order mark.
    """
    read_end, write_end = os.pipe()
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(_write, chunks, write_end)
        try:
            return load(f"/dev/fd/{read_end}")
        finally:
            os.close(read_end)  # who writes for nobody stops
            written.result()  # what it met says more than that the stream ended


def _write(chunks: Iterator[bytes], descriptor: int) -> None:
    try:
        with os.fdopen(descriptor, "wb") as pipe:
            pipe.writelines(chunks)
    except BrokenPipeError:
        return  # the reader has failed, and says why


def _plain(shape: _Shape, limit: int | None) -> Iterator[bytes]:
    """The file as gensim reads it, with a header that is true.

    Raises:
        SourceError: It holds less or more than it says.
    """
    count = min(limit or shape.count, shape.count)
    yield b"%d %d\n" % (count, shape.dim)
    with _open(shape.path) as file:
        file.seek(shape.start)
        rest = yield from (_records if shape.binary else _lines)(shape, file, count)
        if count == shape.count and (rest + file.read(CHUNK_BYTES)).strip():
            raise SourceError(f"{shape.path} holds more than the {count:,} vectors that it says.")


def _lines(shape: _Shape, file: BufferedIOBase, count: int) -> Generator[bytes, None, bytes]:
    """*count* lines of text; a space in a token is a NUL in them."""
    found = 0
    while found < count:
        line = file.readline()
        if not line:
            raise _cut_off(shape, found)
        parts = line.rstrip(b" \r\n" + shape.separator).rsplit(shape.separator, shape.dim)
        if parts == [b""]:
            continue
        if len(parts) <= shape.dim or b"\0" in line:
            raise _cut_off(shape, found)
        found += 1
        yield b"%s %s\n" % (parts[0].replace(b" ", b"\0"), b" ".join(parts[1:]))
    return b""


def _records(shape: _Shape, file: BufferedIOBase, count: int) -> Generator[bytes, None, bytes]:
    """*count* times a token, a space and float32 numbers; returns what it has read beyond them."""
    found, at = 0, 0  # at: where the next token begins
    data = b""
    while found < count or at > len(data):
        at = max(0, at - len(data))
        data = file.read(CHUNK_BYTES)
        if not data:
            raise _cut_off(shape, found - (at > 0))
        while found < count and at < len(data):
            space = data.find(b" ", at)
            found += space >= 0
            at = space + 1 + 4 * shape.dim if space >= 0 else len(data)
        yield data[:at]
    return data[at:]


def _cut_off(shape: _Shape, found: int) -> SourceError:
    return SourceError(
        f"{shape.path} says that it has {shape.count:,} vectors of {shape.dim:,} numbers, and has"
        f" {found:,} whole ones: it is cut off or damaged."
    )
