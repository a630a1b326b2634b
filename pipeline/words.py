"""Words as vectors, and which vector a class has.

Vectors are read from the files that word2vec, GloVe and fastText write, by gensim. Its own format
is a pickle, which could run anything, and is refused; so is fastText's .bin.

A class has several names, and a name may be of several words: "great white shark, man-eater". What
is looked for, in this order:

    a name as one token     great_white_shark, as it is written, then in any case
    its words               great + white + shark, all of which must be there; their mean

and which of the names count is `synonyms`: the `first`, or the `mean` of all that are found, those
that are one token before those that are made of words. Words are taken as they are: no endings are
cut off, and nothing is guessed. A token whose vector has no direction (all zero, or with a NaN) is
no token.
"""

from __future__ import annotations

import codecs
import difflib
import gzip
import os
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from io import BufferedIOBase
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SourceError, TesseraeError
from pipeline.hierarchy import Hierarchy

SYNONYMS = ("first", "mean")
HOW = ("token", "words", "taxonomy", "none")
"""Ways a class comes to its vector."""

MOST_DIM = 20_000
MOST_LINE = 1024 * 1024
"""Bytes of a line that are looked at to say what a file is."""
SPELLINGS_OF = 100_000
"""Tokens, the most frequent, among which those are looked for that are spelled alike."""

CHUNK_BYTES = 1024 * 1024
"""Of a file that are read at a time."""

_Key = TypeVar("_Key")
_GZIP = b"\x1f\x8b"
_DEFLATE_MOST = 1032
"""Bytes that one byte of a gzip file can stand for."""
_OTHERS = {
    b"\x80": "a pickle (gensim's own format), which could run anything",
    b"PK\x03\x04": "a zip archive, to be unpacked first",
    (793712314).to_bytes(4, "little"): "a model of fastText, which has no list of vectors",
}
"""How files begin that some take for word vectors."""
_BETWEEN = re.compile(r"[\s_\-]+")


class Words:
    """Tokens and their vectors, the most frequent first."""

    def __init__(self, tokens: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Take them.

        Args:
            tokens: n of them, none twice.
            vectors: (n, d) float32; not copied.

        Raises:
            ValueError: There are more of one than of the other.
        """
        if vectors.ndim != 2 or len(tokens) != len(vectors):
            raise ValueError(f"{len(tokens)} tokens and vectors of {vectors.shape}.")
        self.tokens = tuple(tokens)
        self.vectors = vectors

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def dim(self) -> int:
        """Numbers of a vector."""
        return int(self.vectors.shape[1])

    @cached_property
    def _exact(self) -> dict[str, int]:
        return {token: place for place, token in enumerate(self.tokens)}

    @cached_property
    def _folded(self) -> dict[str, int]:
        # Only of tokens with capitals: the others are found as they are, and need no second entry.
        found: dict[str, int] = {}
        for place, token in enumerate(self.tokens):
            folded = token.casefold()
            if folded != token:
                found.setdefault(folded, place)
        return found

    def find(self, token: str) -> int | None:
        """Where *token* is: as it is written, or else in the most frequent of other cases."""
        place = self._exact.get(token)
        if place is not None:
            return place
        folded = token.casefold()
        others = (self._exact.get(folded), self._folded.get(folded))
        return min((place for place in others if place is not None), default=None)

    def unit(self, place: int) -> NDArray[np.float32] | None:
        """The vector of one token, of length 1; None where it has no direction."""
        vector = self.vectors[place].astype(np.float64)
        length = np.linalg.norm(vector)
        if not np.isfinite(length) or not length:
            return None
        return np.asarray(vector / length, np.float32)

    def token(self, name: str) -> NDArray[np.float32] | None:
        """(d,) float32 of length 1: *name* as one token; None where there is none."""
        for joined in _spellings(name):
            place = self.find(joined)
            if place is not None and (vector := self.unit(place)) is not None:
                return vector
        return None

    def mean_of_words(self, name: str) -> NDArray[np.float32] | None:
        """(d,) float32 of length 1: the mean of its words' vectors; None where one is missing."""
        parts = _parts(name)
        found = [vector for part in parts if (vector := self.token(part)) is not None]
        return unit_mean(found) if len(found) == len(parts) else None

    def phrase(self, name: str) -> NDArray[np.float32] | None:
        """(d,) float32 of length 1: *name* as one token or else by its words; None: neither."""
        found = self.token(name)
        return found if found is not None else self.mean_of_words(name)

    def query(self, text: str) -> NDArray[np.float32]:
        """(d,) float32 of length 1: the `phrase` that a person typed.

        Raises:
            TesseraeError: There is no vector for it; names what is spelled nearly so.
        """
        found = self.phrase(text)
        if found is not None:
            return found
        unknown = next((part for part in _parts(text) if self.token(part) is None), text)
        which = "" if unknown == text else f" in {text!r}"
        near = ", ".join(map(repr, self.nearest_spellings(unknown))) or "none"
        raise TesseraeError(
            f"no vector for {unknown!r}{which}: nearest spellings: {near}. Choose other words."
        )

    def nearest_spellings(self, word: str, count: int = 3) -> list[str]:
        """Up to *count* of the more frequent tokens that are spelled nearly as *word*."""
        joined, size = "_".join(_parts(word)).casefold(), len(word)
        near: dict[str, str] = {}
        for token in islice(self.tokens, SPELLINGS_OF):
            if abs(len(token) - size) <= 2:
                near.setdefault(token.casefold(), token)
        alike = difflib.get_close_matches(joined, near, count)
        return [near[folded] for folded in alike]


def unit_mean(vectors: Sequence[NDArray[np.float32]]) -> NDArray[np.float32] | None:
    """(d,) float32: the direction of the mean of vectors of length 1; None where it has none."""
    if not vectors:
        return None
    mean = np.mean(np.asarray(vectors, np.float64), 0)
    length = np.linalg.norm(mean)
    return np.asarray(mean / length, np.float32) if length > 1e-6 else None


def _parts(name: str) -> list[str]:
    return [part for part in _BETWEEN.split(name) if part]


def _spellings(name: str) -> list[str]:
    """What *name* may be as one token; the likeliest first."""
    parts = _parts(name)
    joined = ("_".join(name.split()), "_".join(parts), "-".join(parts), " ".join(parts))
    return [one for one in dict.fromkeys(joined) if one]


# --- files ----------------------------------------------------------------------------------------


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
            binary = not _is_line(file.readline(MOST_LINE), dim)
            shape = _Shape(path, binary, count, dim, len(first))
        elif _is_line(first[start:], 2):
            shape = _count(path, file, start)
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


def _count(path: Path, file: BufferedIOBase, start: int) -> _Shape:
    """GloVe writes no header: what it would say is counted."""
    file.seek(start)
    sizes = Counter(len(_fields(line)) - 1 for line in islice(file, 100))  # tokens may have spaces
    file.seek(start)
    count = sum(1 for line in file if line.strip())
    return _Shape(path, False, count, sizes.most_common(1)[0][0], start)


def _fields(line: bytes) -> list[bytes]:
    return line.rstrip(b" \r\n").split(b" ")


def _is_line(line: bytes, dim: int) -> bool:
    """Whether it is a token and at least *dim* numbers, as text."""
    parts = _fields(line)
    if not dim or len(parts) < dim + 1:
        return False
    try:
        [float(part) for part in parts[-dim:]]
    except ValueError:
        return False
    return True


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
        parts = line.rstrip(b" \r\n").rsplit(b" ", shape.dim)
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


# --- classes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ClassVectors:
    """The vector of each class, as far as words go."""

    wnids: tuple[str, ...]
    names: tuple[str, ...]
    """Of each class, its synonyms with commas between them."""
    vectors: NDArray[np.float32]
    """(C, d) float32 of length 1; zeros where there is none."""
    how: tuple[str, ...]
    """One of `HOW`."""
    used: tuple[tuple[str, ...], ...]
    """The names that each vector is made of."""

    @property
    def known(self) -> NDArray[np.bool_]:
        """(C,) bool: which have a vector."""
        return np.array([how != "none" for how in self.how], bool)

    @property
    def missing(self) -> list[str]:
        """The wnids without."""
        return [w for w, how in zip(self.wnids, self.how, strict=True) if how == "none"]

    @property
    def homonyms(self) -> dict[str, list[str]]:
        """Names that stand for several classes, and are part of their vectors -> wnids."""
        pairs = (
            (name, wnid)
            for wnid, used in zip(self.wnids, self.used, strict=True)
            for name in dict.fromkeys(" ".join(_parts(name)).casefold() for name in used)
        )
        return dict(sorted(_groups(pairs).items()))

    @property
    def alike(self) -> list[list[str]]:
        """Wnids that share one and the same vector: no answer can tell them apart."""
        known = np.flatnonzero(self.known)
        pairs = ((self.vectors[place].tobytes(), self.wnids[place]) for place in known)
        return list(_groups(pairs).values())

    def coverage(self) -> dict[str, int]:
        """Classes by `how`."""
        return {how: self.how.count(how) for how in HOW}


def _groups(pairs: Iterable[tuple[_Key, str]]) -> dict[_Key, list[str]]:
    """What several wnids have in common -> those."""
    found: dict[_Key, list[str]] = defaultdict(list)
    for common, wnid in pairs:
        found[common].append(wnid)
    return {common: wnids for common, wnids in found.items() if len(wnids) > 1}


def class_vectors(
    words: Words, classes: Iterable[tuple[str, str]], *, synonyms: str = "mean"
) -> ClassVectors:
    """Look for the vector of each class.

    Args:
        words: Where.
        classes: (wnid, names), names with commas between them; without any, the wnid is the name.
        synonyms: `first`: the first name alone. `mean`: of the names that are one token, or else
            of those that are made of words.

    Raises:
        ValueError: *synonyms* is neither.
    """
    if synonyms not in SYNONYMS:
        raise ValueError(f"synonyms is {synonyms!r}: expected {' or '.join(SYNONYMS)}.")
    wnids, names = _columns(classes)
    vectors = np.zeros((len(wnids), words.dim), np.float32)
    hows, useds = [], []
    for place, listed in enumerate(names):
        every = split_names(listed)
        how, found = _look_up(words, every[:1] if synonyms == "first" else every)
        mean = unit_mean(list(found.values()))
        if mean is not None:
            vectors[place] = mean
        hows.append(how if mean is not None else "none")
        useds.append(tuple(found) if mean is not None else ())
    return ClassVectors(wnids, names, vectors, tuple(hows), tuple(useds))


def taxonomy_vectors(
    hierarchy: Hierarchy, classes: Iterable[tuple[str, str]], dim: int = 64
) -> ClassVectors:
    """Vectors from what the classes are kinds of, where there are no words.

    Args:
        hierarchy: Where they stand; a class that is not in it has no vector.
        classes: As for `class_vectors`.
        dim: Numbers of a vector.
    """
    wnids, names = _columns(classes)
    known = np.array([wnid in hierarchy for wnid in wnids], bool)
    vectors = np.where(known[:, None], hierarchy.vectors(wnids, dim), np.float32(0))
    hows = tuple("taxonomy" if each else "none" for each in known)
    return ClassVectors(wnids, names, vectors, hows, ((),) * len(wnids))


def _columns(classes: Iterable[tuple[str, str]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    listed = [(wnid, names.strip() or wnid) for wnid, names in classes]
    return tuple(wnid for wnid, _ in listed), tuple(names for _, names in listed)


def split_names(names: str) -> list[str]:
    """The synonyms of "tench, Tinca tinca"; none twice."""
    return list(dict.fromkeys(part.strip() for part in names.split(",") if part.strip()))


def _look_up(words: Words, names: Sequence[str]) -> tuple[str, Mapping[str, NDArray[np.float32]]]:
    for how, look in (("token", words.token), ("words", words.mean_of_words)):
        found = {name: vector for name in names if (vector := look(name)) is not None}
        if found:
            return how, found
    return "none", {}
