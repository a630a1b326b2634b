"""Files of word vectors as written by word2vec, GloVe and fastText, read by gensim.

Gensim's own format is a pickle, which could run any code, and is refused, as is fastText's .bin.
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
from pipeline.installation import install_advice
from pipeline.wordvectors.vectors import WordVectors

MAX_DIM = 20_000
MAX_LINE_BYTES = 1024 * 1024
"""The number of bytes of a line that are read to detect the format of a file."""
CHUNK_BYTES = 1024 * 1024
"""The number of bytes that are read at a time."""

_GZIP = b"\x1f\x8b"
_MAX_DEFLATE_RATIO = 1032
"""The largest compression ratio of gzip."""
_FOREIGN_FORMATS = {
    b"\x80": "a pickle (gensim's own format), which could run anything",
    b"PK\x03\x04": "a zip archive, to be unpacked first",
    (793712314).to_bytes(4, "little"): "a model of fastText, which has no list of vectors",
}
"""The first bytes of files that are sometimes taken for word vectors, and what they are."""


@dataclass(frozen=True)
class _FileShape:
    """The contents of a file according to its first lines."""

    path: Path
    binary: bool
    count: int
    """The number of vectors."""
    dim: int
    """The number of dimensions."""
    start: int
    """The number of bytes before the first vector: a byte order mark, a header."""
    separator: bytes = b" "
    """The separator of the numbers in a text."""


def read_word_vectors(path: str | os.PathLike[str], *, limit: int | None = None) -> WordVectors:
    """Read a file of word2vec (text or binary), GloVe or fastText (.vec), plain or in gzip.

    The format, and whether it is in gzip, is detected by the content. Tokens are decoded as UTF-8,
    in which U+FFFD replaces invalid bytes. If a token occurs twice, the first one counts.

    Args:
        path: The file. A text has a token and its numbers on each line, all separated by spaces, or
            all by tabs or commas, after an optional line with the numbers of vectors and of
            dimensions; without that line it needs two dimensions or more. A binary file begins with
            that line.
        limit: The number of vectors to read, at least 1: the first ones, which are the most
            frequent (default: all).

    Returns:
        A `WordVectors`: its `tokens`, n texts, and their `vectors`, (n, d) float32 in memory, both
        in the order of the file. The vectors are those of the file: they are not scaled.

    Raises:
        SourceError: The file is missing, of another format, damaged, or does not match its header.
        TesseraeError: gensim is not installed.
        ValueError: *limit* is less than 1.
    """
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}: expected at least 1.")
    try:
        return _load_with_gensim(_detect_shape(Path(path)), limit)
    except SourceError:
        raise
    except (OSError, EOFError, zlib.error, ValueError, MemoryError) as e:
        first = (str(getattr(e, "strerror", None) or e).splitlines() or [type(e).__name__])[0]
        raise SourceError(
            f"{path} cannot be read ({first[:120]}): expected a complete file of word vectors."
        ) from e


def _detect_shape(path: Path) -> _FileShape:
    with _open_plain_or_gzip(path) as file:
        first = file.readline(MAX_LINE_BYTES)
        _refuse_foreign_formats(path, first)
        start = len(codecs.BOM_UTF8) if first.startswith(codecs.BOM_UTF8) else 0
        fields = first[start:].split()
        if len(fields) == 2 and all(field.isdigit() and len(field) < 13 for field in fields):
            count, dim = int(fields[0]), int(fields[1])
            separator = _separator(file.readline(MAX_LINE_BYTES), dim)
            shape = _FileShape(path, separator is None, count, dim, len(first), separator or b" ")
        elif (separator := _separator(first[start:], 2)) is not None:
            shape = _count_glove_vectors(path, file, start, separator)
        else:
            raise SourceError(
                f"{path} is not a file of word vectors: expected one of word2vec, GloVe or"
                " fastText."
            )
        max_ratio = _MAX_DEFLATE_RATIO if isinstance(file, gzip.GzipFile) else 1
    min_bytes = shape.count * shape.dim * (4 if shape.binary else 2)
    num_bytes = path.stat().st_size
    if not 0 < shape.dim <= MAX_DIM or not shape.count or num_bytes * max_ratio < min_bytes:
        raise SourceError(
            f"{path} states {shape.count:,} vectors of {shape.dim:,} dimensions, in {num_bytes:,}"
            " bytes: it is truncated or damaged."
        )
    return shape


def _open_plain_or_gzip(path: Path) -> BufferedIOBase:
    with path.open("rb") as raw:
        zipped = raw.read(2) == _GZIP
    return gzip.open(path) if zipped else path.open("rb")


def _refuse_foreign_formats(path: Path, first: bytes) -> None:
    foreign_format = next(
        (
            foreign_format
            for magic, foreign_format in _FOREIGN_FORMATS.items()
            if first.startswith(magic)
        ),
        "",
    )
    if foreign_format or not first:
        raise SourceError(
            f"{path} is {foreign_format or 'empty'}: expected vectors of word2vec, GloVe or"
            " fastText (.vec). In gensim, save_word2vec_format writes such a file."
        )


def _count_glove_vectors(
    path: Path, file: BufferedIOBase, start: int, separator: bytes
) -> _FileShape:
    """Count the vectors and dimensions of a GloVe file, which has no header."""
    file.seek(start)
    beginning = islice(file, 100)
    sizes = Counter(
        len(_line_fields(line, separator)) - 1 for line in beginning
    )  # tokens with spaces are a minority
    file.seek(start)
    count = sum(1 for line in file if line.strip())
    return _FileShape(path, False, count, sizes.most_common(1)[0][0], start, separator)


def _line_fields(line: bytes, separator: bytes) -> list[bytes]:
    return line.rstrip(b" \r\n" + separator).split(separator)


def _separator(line: bytes, dim: int) -> bytes | None:
    """Return the separator of a line with a token and at least *dim* numbers; None: no such line.

    Tabs and commas are tried only after spaces, since both may be parts of tokens.
    """
    for separator in (b" ", b"\t", b","):
        parts = _line_fields(line, separator)
        if dim and len(parts) > dim:
            try:
                [float(part) for part in parts[-dim:]]
            except ValueError:
                continue
            return separator
    return None


def _load_with_gensim(shape: _FileShape, limit: int | None) -> WordVectors:
    try:
        from gensim.models import KeyedVectors
    except ImportError as e:
        raise TesseraeError(
            f"word vectors need the package gensim ({e}): {install_advice('search')}."
        ) from e
    read = _through_pipe(
        _plain_word2vec(shape, limit),
        lambda name: KeyedVectors.load_word2vec_format(
            name, binary=shape.binary, unicode_errors="replace"
        ),
    )
    count = len(read.key_to_index)  # gensim leaves unused rows for repeated tokens at the end
    tokens = read.index_to_key[:count]
    if not shape.binary:
        tokens = [token.replace("\0", " ") for token in tokens]
    return WordVectors(tokens, np.asarray(read.vectors[:count], np.float32))


def _through_pipe(chunks: Iterator[bytes], load: Callable[[str], Any]) -> Any:
    """Pass *chunks* to a function that needs the name of a file.

    gensim accepts nothing else, and cannot read every file as it is on disk: headers may be missing
    or wrong, tokens may have spaces, and some files begin with a byte order mark.
    """
    read_end, write_end = os.pipe()
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(_write_to_pipe, chunks, write_end)
        try:
            return load(f"/dev/fd/{read_end}")
        finally:
            os.close(read_end)  # a writer without a reader stops, by BrokenPipeError
            written.result()  # its error is more precise than the reader's


def _write_to_pipe(chunks: Iterator[bytes], descriptor: int) -> None:
    try:
        with os.fdopen(descriptor, "wb") as pipe:
            pipe.writelines(chunks)
    except BrokenPipeError:
        return  # the reader has failed, and raises its own error


def _plain_word2vec(shape: _FileShape, limit: int | None) -> Iterator[bytes]:
    """Yield the file in the format that gensim reads, with a correct header.

    Raises:
        SourceError: The file holds fewer or more vectors than its header says.
    """
    count = min(limit or shape.count, shape.count)
    yield b"%d %d\n" % (count, shape.dim)
    with _open_plain_or_gzip(shape.path) as file:
        file.seek(shape.start)
        unread = yield from (_binary_word_records if shape.binary else _text_word_lines)(
            shape, file, count
        )
        if count == shape.count and (unread + file.read(CHUNK_BYTES)).strip():
            raise SourceError(
                f"{shape.path} has more than the {count:,} vectors that its header states."
            )


def _text_word_lines(
    shape: _FileShape, file: BufferedIOBase, count: int
) -> Generator[bytes, None, bytes]:
    """Yield *count* lines of text, in which spaces in tokens are replaced by NUL."""
    num_read = 0
    while num_read < count:
        line = file.readline()
        if not line:
            raise _cut_off_error(shape, num_read)
        parts = line.rstrip(b" \r\n" + shape.separator).rsplit(shape.separator, shape.dim)
        if parts == [b""]:
            continue
        if len(parts) <= shape.dim or b"\0" in line:
            raise _cut_off_error(shape, num_read)
        num_read += 1
        yield b"%s %s\n" % (parts[0].replace(b" ", b"\0"), b" ".join(parts[1:]))
    return b""


def _binary_word_records(
    shape: _FileShape, file: BufferedIOBase, count: int
) -> Generator[bytes, None, bytes]:
    """Yield *count* binary records, and return the bytes that were read beyond them."""
    num_read, next_token = 0, 0  # next_token: its offset in data
    data = b""
    while num_read < count or next_token > len(data):
        next_token = max(0, next_token - len(data))
        data = file.read(CHUNK_BYTES)
        if not data:
            raise _cut_off_error(shape, num_read - (next_token > 0))
        while num_read < count and next_token < len(data):
            space = data.find(b" ", next_token)
            num_read += space >= 0
            next_token = space + 1 + 4 * shape.dim if space >= 0 else len(data)
        yield data[:next_token]
    return data[next_token:]


def _cut_off_error(shape: _FileShape, num_read: int) -> SourceError:
    return SourceError(
        f"{shape.path} states {shape.count:,} vectors of {shape.dim:,} dimensions, and has"
        f" {num_read:,} complete ones: it is truncated or damaged."
    )
