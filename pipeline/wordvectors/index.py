"""Word vectors of a file, kept as one file that is mapped: a few pages are read, not all of it.

    header    8 bytes: length of the header, then JSON: counts, and where each part begins
    vectors   (n, d) float32
    tokens    all of them in UTF-8, one behind the other; (n,) int64: where each ends
    hashes    (hash, place), sorted: of the tokens, and of those with capitals without these

An index belongs to the digest of the file that it was made of, which is its name. Size and time of
the file are noted beside it: while they are the same, the file is not read again to see that it is.
An index that is damaged, or cannot be written, is no error: the file is read.
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
from pipeline.store.objects import write_file
from pipeline.wordvectors.files import read_words
from pipeline.wordvectors.vectors import Words

FORMAT = 1
MAX_HEADER_BYTES = 4096
ALIGNMENT = 64
_PARTS = ("vectors", "ends", "hashes", "places", "folded_hashes", "folded_places", "tokens")
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NAME = re.compile(r"[0-9a-f]{64}\.(words|seen\.json)", re.ASCII)


def open_words(file: Path, digest: str, folder: Path) -> Words:
    """Open the words of a file, by an index in *folder* that is made where there is none.

    Args:
        file: Of word vectors. It may be gone once there is an index of it.
        digest: The SHA-256, in hexadecimal, that the file must have.
        folder: Where indexes are kept; it may be one that cannot be written.

    Raises:
        TesseraeError: The file is another one, or cannot be read.
    """
    if not _DIGEST.fullmatch(digest):  # it is part of names of files
        raise TesseraeError(f"{digest[:80]!r} is no SHA-256 of a file of words.")
    if file.is_file() and not _was_seen(file, digest, folder):
        if file_digest(file) != digest:
            raise TesseraeError(
                f"{file} is not the file that the run learned words from: put that back there."
            )
        _note_seen(file, digest, folder)
    index = folder / f"{digest}.words"
    found = _mapped(index)
    if found is not None:
        return found
    words = read_words(file)
    with contextlib.suppress(OSError):  # read-only, or full: the file is read each time
        _write(words, index)
    return _mapped(index) or words


def file_digest(file: str | Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


# --- whether it is the file -----------------------------------------------------------------------


def _mark(file: Path) -> dict[str, Any]:
    stat = file.stat()
    return {"path": str(file.absolute()), "bytes": stat.st_size, "time": stat.st_mtime_ns}


def _was_seen(file: Path, digest: str, folder: Path) -> bool:
    """Return True if the file had this digest when it was of this size and time."""
    try:
        return bool(json.loads((folder / f"{digest}.seen.json").read_bytes()) == _mark(file))
    except (OSError, ValueError, RecursionError):
        return False


def _note_seen(file: Path, digest: str, folder: Path) -> None:
    data = json.dumps(_mark(file)).encode()
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / f"{digest}.seen.json", [data], folder)


# --- the index ------------------------------------------------------------------------------------


class _Tokens(Sequence[str]):
    """Tokens in a mapped file, decoded when they are asked for."""

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self._text = text
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[one] for one in range(*place.indices(len(self)))]
        if not -len(self) <= place < len(self):
            raise IndexError(place)
        place %= len(self)
        start = int(self._ends[place - 1]) if place else 0
        return self._text[start : int(self._ends[place])].tobytes().decode("utf-8", "replace")


@dataclass(frozen=True)
class _Hashes:
    """Places of tokens, by a hash of their text."""

    hashes: NDArray[np.uint64]
    """(m,) ascending."""
    places: NDArray[np.int64]
    """(m,) of each; of equal hashes the smallest place first."""

    def find(self, text: str, is_it: Callable[[int], bool]) -> int | None:
        """Return the first place with the hash of *text* that *is_it* is true of."""
        wanted = _hash(text)
        at = bisect_left(self.hashes, wanted, key=int)
        while at < len(self.hashes) and int(self.hashes[at]) == wanted:
            if is_it(int(self.places[at])):
                return int(self.places[at])
            at += 1
        return None


def _hash(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


class _MappedWords(Words):
    """Words in a mapped file."""

    def __init__(
        self, tokens: _Tokens, vectors: NDArray[np.float32], exact: _Hashes, folded: _Hashes
    ) -> None:
        self.tokens = tokens
        self.vectors = vectors
        self._by_text = exact
        self._by_folded = folded

    def _place(self, token: str) -> int | None:
        return self._by_text.find(token, lambda place: self._is(place, token))

    def _folded_place(self, folded: str) -> int | None:
        return self._by_folded.find(folded, lambda place: self._token(place).casefold() == folded)

    def _is(self, place: int, token: str) -> bool:
        return self._token(place) == token

    def _token(self, place: int) -> str:
        return self.tokens[place] if 0 <= place < len(self.tokens) else ""


def _mapped(index: Path) -> Words | None:
    """Map an index; None where there is none that is whole."""
    try:
        with index.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= MAX_HEADER_BYTES:
                return None
            header = json.loads(file.read(length))
        if header["format"] != FORMAT or header["bytes"] != index.stat().st_size:
            return None
        count, dim, folded = (int(header[name]) for name in ("count", "dim", "folded"))
        parts = _map_parts(index, header, count, dim, folded)
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
    return _MappedWords(
        _Tokens(parts["tokens"], parts["ends"]),
        parts["vectors"].reshape(count, dim),
        _Hashes(parts["hashes"], parts["places"]),
        _Hashes(parts["folded_hashes"], parts["folded_places"]),
    )


def _map_parts(
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
    whole = np.memmap(index, np.uint8, "r")
    parts = {}
    for name, (dtype, items) in shapes.items():
        start, num_bytes = int(header["starts"][name]), items * np.dtype(dtype).itemsize
        if min(start, items) < 0 or start % ALIGNMENT or start + num_bytes > len(whole):
            raise ValueError(name)
        parts[name] = whole[start : start + num_bytes].view(dtype)
    if count and parts["ends"][-1] != len(parts["tokens"]):
        raise ValueError("tokens")
    return parts


def _write(words: Words, index: Path) -> None:
    """Write an index, whole or not at all; those of other files go."""
    encoded = [token.encode("utf-8", "surrogatepass") for token in words.tokens]
    folded = [(token.casefold(), place) for place, token in enumerate(words.tokens)]
    capitals = [(text, place) for text, place in folded if text != words.tokens[place]]
    hashes, places = _sorted((token, place) for place, token in enumerate(words.tokens))
    folded_hashes, folded_places = _sorted(iter(capitals))
    parts: dict[str, NDArray[Any]] = {
        "vectors": np.ascontiguousarray(words.vectors, "<f4"),
        "ends": np.cumsum([len(token) for token in encoded], dtype="<i8"),
        "hashes": hashes,
        "places": places,
        "folded_hashes": folded_hashes,
        "folded_places": folded_places,
        "tokens": np.frombuffer(b"".join(encoded), np.uint8),
    }
    starts, at = {}, MAX_HEADER_BYTES + ALIGNMENT
    for name in _PARTS:
        at += -at % ALIGNMENT
        starts[name] = at
        at += parts[name].nbytes
    header = {
        "format": FORMAT, "count": len(words), "dim": words.dim, "folded": len(capitals),
        "token_bytes": parts["tokens"].nbytes, "starts": starts, "bytes": at,
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
    write_file(index, pieces, index.parent)
    for other in index.parent.iterdir():
        if _NAME.fullmatch(other.name) and not other.name.startswith(index.stem):
            other.unlink(missing_ok=True)


def _sorted(
    pairs: Iterator[tuple[str, int]],
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    listed = [(_hash(text), place) for text, place in pairs]
    hashes = np.array([value for value, _ in listed], "<u8")
    places = np.array([place for _, place in listed], "<i8")
    order = np.lexsort((places, hashes))
    return hashes[order], places[order]
