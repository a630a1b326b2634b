"""An index of a file of word vectors: one mapped file, of which only a few pages are read.

    header    8 bytes: length of the header, then JSON: counts, and the start of each part
    vectors   (n, d) float32
    tokens    all tokens in UTF-8, concatenated; (n,) int64: the end of each
    hashes    (hash, token number), sorted: of all tokens, and of the case-folded tokens that differ

An index is named by the digest of the file that it was made of. Size and time of that file are
recorded beside it: while they are unchanged, the digest of the file is not computed again. A
damaged index, or a folder that cannot be written, is no error: the file is read instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import TesseraeError
from pipeline.filesystem import write_file
from pipeline.wordvectors.files import read_word_vectors
from pipeline.wordvectors.vectors import WordVectors

FORMAT = 1
MAX_HEADER_BYTES = 4096
ALIGNMENT = 64
_PARTS = ("vectors", "ends", "hashes", "places", "folded_hashes", "folded_places", "tokens")
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME = re.compile(r"[0-9a-f]{64}\.(words|seen\.json)", re.ASCII)


def open_word_vectors(file: Path, digest: str, folder: Path) -> WordVectors:
    """Open the words of a file by an index in *folder*, which is written if it is missing.

    The index is `<digest>.words`; beside it `<digest>.seen.json` notes path, size and time of the
    file, so that it is hashed only once. When an index is written, those of other files in *folder*
    are deleted. If *folder* cannot be written, the file is read into memory instead.

    Args:
        file: A file that `read_word_vectors` can read. It may be deleted once there is an index of
            it.
        digest: The SHA-256 of the file, 64 hexadecimal digits in lower case.
        folder: The folder of indexes; it is created if it is missing, and may be read-only.

    Returns:
        A `WordVectors`: its `tokens`, n texts, and their `vectors`, (n, d) float32, both as in the
        file. They are mapped from the index, and must then only be read, or in memory.

    Raises:
        TesseraeError: The file has another digest, also if there is an index, or it cannot be read;
            or *digest* is not of that form.
        OSError: The file cannot be read while its digest is computed.
    """
    if not _DIGEST.fullmatch(digest):  # it becomes part of file names
        raise TesseraeError(f"{digest[:80]!r} is not the SHA-256 of a words file.")
    if file.is_file() and not _was_digest_seen(file, digest, folder):
        if file_digest(file) != digest:
            raise TesseraeError(
                f"{file} is not the file of word vectors that the run was trained with: restore"
                " that file."
            )
        _note_digest_seen(file, digest, folder)
    index = folder / f"{digest}.words"
    mapped_words = _map_word_index(index)
    if mapped_words is not None:
        return mapped_words
    words = read_word_vectors(file)
    with contextlib.suppress(OSError):  # a read-only or full disk: the file is read each time
        _write_word_index(words, index)
    return _map_word_index(index) or words


def file_digest(file: str | Path) -> str:
    """Return the SHA-256 of a file, 64 hexadecimal digits in lower case; all of it is read.

    Args:
        file: The path of the file.

    Raises:
        OSError: The file cannot be read.
    """
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# --- identity of the file -------------------------------------------------------------------------


def _file_mark(file: Path) -> dict[str, Any]:
    stat = file.stat()
    return {"path": str(file.absolute()), "bytes": stat.st_size, "time": stat.st_mtime_ns}


def _was_digest_seen(file: Path, digest: str, folder: Path) -> bool:
    """Return True if a file of this path, size and time was seen to have this digest."""
    try:
        return bool(json.loads((folder / f"{digest}.seen.json").read_bytes()) == _file_mark(file))
    except (OSError, ValueError, RecursionError):
        return False


def _note_digest_seen(file: Path, digest: str, folder: Path) -> None:
    data = json.dumps(_file_mark(file)).encode()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / f"{digest}.seen.json", [data], durable=True)


# --- the index ------------------------------------------------------------------------------------


class _MappedTokens(Sequence[str]):
    """The tokens in a mapped file, each decoded on access."""

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self._text = text
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        start = int(self._ends[index - 1]) if index else 0
        return self._text[start : int(self._ends[index])].tobytes().decode("utf-8", "replace")


@dataclass(frozen=True)
class _TokenHashes:
    """The numbers of tokens, by a hash of their text."""

    hashes: NDArray[np.uint64]
    """(m,) uint64: the hashes, ascending."""
    numbers: NDArray[np.int64]
    """(m,) int64: the token number of each; of equal hashes the smallest first."""

    def find(self, text: str, matches: Callable[[int], bool]) -> int | None:
        """Return the first token number with the hash of *text* for which *matches* is true."""
        target = _hash_token(text)
        # Two tokens may share a hash: compare the text of each.
        at = bisect_left(self.hashes, target, key=int)
        while at < len(self.hashes) and int(self.hashes[at]) == target:
            if matches(int(self.numbers[at])):
                return int(self.numbers[at])
            at += 1
        return None


def _hash_token(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class _MappedWordVectors(WordVectors):
    """The words of a mapped file."""

    def __init__(
        self,
        tokens: _MappedTokens,
        vectors: NDArray[np.float32],
        exact: _TokenHashes,
        folded: _TokenHashes,
    ) -> None:
        self.tokens = tokens
        self.vectors = vectors
        self._by_text = exact
        self._by_folded = folded

    def _number_of(self, token: str) -> int | None:
        return self._by_text.find(token, lambda number: self._has_text(number, token))

    def _folded_number_of(self, folded: str) -> int | None:
        return self._by_folded.find(folded, lambda number: self._token(number).casefold() == folded)

    def _has_text(self, number: int, token: str) -> bool:
        return self._token(number) == token

    def _token(self, number: int) -> str:
        return self.tokens[number] if 0 <= number < len(self.tokens) else ""


def _map_word_index(index: Path) -> WordVectors | None:
    """Map an index; return None if it is missing or damaged."""
    try:
        with index.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= MAX_HEADER_BYTES:
                return None
            header = json.loads(file.read(length))
        if header["format"] != FORMAT or header["bytes"] != index.stat().st_size:
            return None
        count, dim, folded = (int(header[name]) for name in ("count", "dim", "folded"))
        parts = _map_index_parts(index, header, count, dim, folded)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return _MappedWordVectors(
        _MappedTokens(parts["tokens"], parts["ends"]),
        parts["vectors"].reshape(count, dim),
        _TokenHashes(parts["hashes"], parts["places"]),
        _TokenHashes(parts["folded_hashes"], parts["folded_places"]),
    )


def _map_index_parts(
    index: Path, header: dict[str, Any], count: int, dim: int, folded: int
) -> dict[str, NDArray[Any]]:
    shapes: dict[str, tuple[str, int]] = {
        "vectors": ("<f4", count * dim),
        "ends": ("<i8", count),
        "hashes": ("<u8", count),
        "places": ("<i8", count),
        "folded_hashes": ("<u8", folded),
        "folded_places": ("<i8", folded),
        "tokens": ("|u1", int(header["token_bytes"])),
    }
    mapping = np.memmap(index, np.uint8, "r")
    parts = {}
    for name, (dtype, items) in shapes.items():
        start, num_bytes = int(header["starts"][name]), items * np.dtype(dtype).itemsize
        if min(start, items) < 0 or start % ALIGNMENT or start + num_bytes > len(mapping):
            raise ValueError(name)
        parts[name] = mapping[start : start + num_bytes].view(dtype)
    if count and parts["ends"][-1] != len(parts["tokens"]):
        raise ValueError("tokens")
    return parts


def _write_word_index(words: WordVectors, index: Path) -> None:
    """Write an index atomically, and delete the indexes of other files."""
    encoded = [token.encode("utf-8", "surrogatepass") for token in words.tokens]
    folded = [(token.casefold(), number) for number, token in enumerate(words.tokens)]
    capitals = [(text, number) for text, number in folded if text != words.tokens[number]]
    hashes, numbers = _sorted_token_hashes(
        (token, number) for number, token in enumerate(words.tokens)
    )
    folded_hashes, folded_numbers = _sorted_token_hashes(iter(capitals))
    parts: dict[str, NDArray[Any]] = {
        "vectors": np.ascontiguousarray(words.vectors, "<f4"),
        "ends": np.cumsum([len(token) for token in encoded], dtype="<i8"),
        "hashes": hashes,
        "places": numbers,
        "folded_hashes": folded_hashes,
        "folded_places": folded_numbers,
        "tokens": np.frombuffer(b"".join(encoded), np.uint8),
    }
    starts, offset = {}, MAX_HEADER_BYTES + ALIGNMENT
    for name in _PARTS:
        offset += -offset % ALIGNMENT
        starts[name] = offset
        offset += parts[name].nbytes
    header = {
        "format": FORMAT, "count": len(words), "dim": words.dim, "folded": len(capitals),
        "token_bytes": parts["tokens"].nbytes, "starts": starts, "bytes": offset,
    }  # fmt: skip
    text = json.dumps(header).encode()
    pieces: list[bytes | memoryview] = [len(text).to_bytes(8, "little") + text]
    written = len(pieces[0])
    for name in _PARTS:
        pieces.append(bytes(starts[name] - written))
        if parts[name].nbytes:
            pieces.append(parts[name].reshape(-1).view(np.uint8).data)
        written = starts[name] + parts[name].nbytes
    index.parent.mkdir(parents=True, exist_ok=True)
    write_file(index, pieces, durable=True)
    for path in index.parent.iterdir():
        if _NAME.fullmatch(path.name) and not path.name.startswith(index.stem):
            path.unlink(missing_ok=True)


def _sorted_token_hashes(
    pairs: Iterator[tuple[str, int]],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    listed = [(_hash_token(text), number) for text, number in pairs]
    hashes = np.array([value for value, _ in listed], "<u8")
    numbers = np.array([number for _, number in listed], "<i8")
    order = np.lexsort((numbers, hashes))
    return hashes[order], numbers[order]
