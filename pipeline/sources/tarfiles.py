"""Walks the headers of a tar without unpacking it: names, sizes, and where the bytes lie.

A tar is a row of members, each a header of 512 bytes and its data padded to 512, closed by two
blocks of zeros. The walk seeks from header to header, so a plain tar costs one small read a
member, and a compressed or remote one is read once from front to back. Understood are the
formats ustar, GNU (long names, sizes over 8 GiB) and pax; sparse members are refused. A tar that
stops before its end is refused, with the last member's name: half an archive never passes for a
whole one.
"""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, NamedTuple, cast

from pipeline.errors import SourceError
from pipeline.sources.place import Place
from pipeline.sources.remote import STREAM_BYTES, reading
from pipeline.sources.tarheader import (
    name_of,
    number_of,
    pax_records,
    size_of,
    sum_is_right,
    target_of,
)

BLOCK = 512
PIECE_BYTES = 1 << 20
_MAX_EXTENDED_BYTES = 1 << 20  # a long name or a pax header; more is no header
_REGULAR = frozenset(b"0\x007")
_LINKS = frozenset(b"12")
_EMPTY = frozenset(b"123456V")  # also devices, folders, pipes, a volume's label: no data behind
_EXTENDING = frozenset(b"LKxg")
_CUT = "The archive was cut off or damaged: fetch it again."

PLAIN = ".tar"
COMPRESSED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")


class Member(NamedTuple):
    """A regular file in a tar, or a link to one."""

    name: str
    """Path inside the tar, without a leading './'."""
    offset: int
    """Where its data begin, counted from the start of the (decompressed) file."""
    num_bytes: int
    target: str | None
    """For a link: the member it stands for. It has no data of its own."""


def is_tar(name: str) -> bool:
    """Say whether a file's name is that of a tar, compressed or not."""
    return name.lower().endswith((PLAIN, *COMPRESSED))


def is_compressed(name: str) -> bool:
    """Say whether a file's name is that of a compressed tar."""
    return name.lower().endswith(COMPRESSED)


def stem_of(name: str) -> str:
    """Name of a tar without folder and suffixes."""
    name = name.rpartition("/")[2]
    for suffix in (PLAIN, *COMPRESSED):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


class Tar:
    """One tar being read, at random (a plain local file) or from front to back.

    Args:
        file: Positioned anywhere if it can seek, at its start if not.
        name: Whole name, for messages.
        num_bytes: Length of the file; None when only its end tells.
        seeks: Whether *file* can seek; otherwise what is skipped is read.
    """

    def __init__(
        self, file: BinaryIO, name: str, num_bytes: int | None = None, *, seeks: bool = False
    ) -> None:
        self._file = file
        self.name = name
        self._end = num_bytes
        self.seeks = seeks
        self._at = 0
        self._last = ""

    def __enter__(self) -> "Tar":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def starting_at(self, offset: int) -> "Tar":
        """Say that the file stands at *offset* of the archive that positions are counted in."""
        self._at = offset
        return self

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Exactly these bytes. Without seeking, *offset* must not lie behind what was read.

        Raises:
            ReadError: The system or a server failed.
            SourceError: The archive ends before, or its compression is damaged.
        """
        self._move(offset)
        data = self._take(num_bytes)
        if len(data) != num_bytes:
            raise self._cut(f"it ends at byte {self._at}")
        return data

    def pieces(self, offset: int, num_bytes: int) -> Iterator[bytes]:
        """The same bytes as `read`, a mebibyte at a time."""
        for done in range(0, num_bytes, PIECE_BYTES):
            yield self.read(offset + done, min(PIECE_BYTES, num_bytes - done))

    def _move(self, offset: int) -> None:
        if offset == self._at:
            return
        if self.seeks:
            with reading(self.name):
                self._file.seek(offset)
            self._at = offset
            return
        if offset < self._at:
            raise ValueError(f"{self.name}: cannot go back from {self._at} to {offset}")
        while self._at < offset:
            if not self._take(min(PIECE_BYTES, offset - self._at)):
                raise self._cut(f"it ends at byte {self._at}")

    def _take(self, num_bytes: int) -> bytes:
        """Read up to *num_bytes*; fewer only at the end of the file."""
        try:
            data = self._file.read(num_bytes)
            while len(data) < num_bytes:
                more = self._file.read(num_bytes - len(data))
                if not more:
                    break
                data += more
        except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as e:
            raise self._cut(f"its compression is broken near byte {self._at}: {e}") from e
        except OSError as e:
            with reading(self.name):
                raise _as_damage(self, e) from e
        self._at += len(data)
        return data

    def _cut(self, what: str) -> SourceError:
        after = f", after the member {self._last!r}" if self._last else ""
        return SourceError(f"{self.name} is not a whole tar: {what}{after}. {_CUT}")

    def members(self, start: int = 0, stop: int | None = None) -> Iterator[Member]:
        """Every file and link of the tar that lies in bytes [start, stop).

        Args:
            start: Where the first header is.
            stop: End of a tar that is itself a member of another. Such a one may end without its
                blocks of zeros, since the outer header vouches for its length.

        Raises:
            SourceError: What is there is no whole tar.
        """
        end = self._end if stop is None else stop
        at = start
        every: dict[str, str] = {}  # what extended headers say of all members, and of the next
        pax: dict[str, str] = {}
        while stop is None or at < stop:
            header = self._header(at)
            if header is None:
                return
            num_bytes = self._num_bytes(header, at, end, pax)
            if header[156] in _EXTENDING:
                self._extend(header, at, num_bytes, pax, every)
            else:
                member = self._member(header, at, num_bytes, pax)
                if member is not None:
                    yield member
                pax = dict(every) if every else {}
            at += BLOCK + -(-num_bytes // BLOCK) * BLOCK

    def _num_bytes(self, header: bytes, at: int, end: int | None, pax: dict[str, str]) -> int:
        """Size in bytes of the data behind a header; they must lie before *end*."""
        if header[156] in _EMPTY:
            return 0
        num_bytes = (
            number_of(pax["size"].encode(), 10) if "size" in pax else size_of(header[124:136])
        )
        if num_bytes < 0 or (end is not None and at + BLOCK + num_bytes > end):
            raise SourceError(
                f"{self.name} is not a whole tar: its member {name_of(header, pax)!r} at byte {at} "
                f"needs {num_bytes} bytes, and the archive ends at byte {end}. {_CUT}"
            )
        return num_bytes

    def _member(self, header: bytes, at: int, num_bytes: int, pax: dict[str, str]) -> Member | None:
        """What a header stands for; None: nothing that could be a sample."""
        kind = header[156]
        name = self._last = name_of(header, pax)
        if pax and any(word.startswith("GNU.sparse") for word in pax):
            raise self._refused(name, "sparse")
        if kind in _REGULAR:  # the oldest tars mark folders by a slash
            return None if name.endswith("/") else Member(name, at + BLOCK, num_bytes, None)
        if kind in _LINKS:
            return Member(name, at + BLOCK, 0, target_of(header, pax, name))
        if kind in _EMPTY:
            return None
        raise self._refused(name, f"of the kind {chr(kind)!r}")

    def _header(self, at: int) -> bytes | None:
        """The header at *at*; None at the end of the archive."""
        self._move(at)
        header = self._take(BLOCK)
        if len(header) < BLOCK:
            raise self._cut(f"it ends at byte {self._at} without the blocks of zeros that close it")
        if header[0] == 0 and not header.strip(b"\0"):
            return None
        if not sum_is_right(header):
            raise self._cut(f"no header of a member is at byte {at}")
        return header

    def _refused(self, name: str, what: str) -> SourceError:
        return SourceError(
            f"{self.name}: the member {name!r} is {what}, which cannot be read in place. "
            "Unpack the archive and pass the folder."
        )

    def _extend(
        self, header: bytes, at: int, size: int, pax: dict[str, str], outer_pax: dict[str, str]
    ) -> None:
        """Take in a header that says more about the next member (or, for `g`, about all)."""
        if size > _MAX_EXTENDED_BYTES:
            raise self._cut(f"a header of {size} bytes is at byte {at}")
        data = self.read(at + BLOCK, size)
        kind = header[156:157]
        if kind in b"LK":
            text = data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            pax["path" if kind == b"L" else "linkpath"] = text
            return
        try:
            records = dict(pax_records(data))
        except ValueError as e:
            raise self._cut(f"the extended header at byte {at} cannot be read") from e
        pax.update(records)
        if kind == b"g":
            outer_pax.update(records)


def _as_damage(tar: Tar, error: OSError) -> Exception:
    """bz2 and zstd report broken data as an OSError without a number; a disk's have one."""
    if error.errno is None and type(error) is OSError:
        return tar._cut(f"its compression is broken near byte {tar._at}: {error}")
    return error


def open_tar(place: Place, path: str, *, start: int = 0, stop: int | None = None) -> Tar:
    """Open a tar for walking: at random if it is plain and local, else as a stream.

    Args:
        place: Folder it lies in.
        path: Its name in there.
        start: First byte that will be asked for.
        stop: Nothing behind this byte is fetched from afar.
    """
    name = place.full(path)
    raw = place.open(path, start=start, stop=stop)
    if is_compressed(path):
        return Tar(_decompressed(raw, path), name)
    if place.remote:
        stream = io.BufferedReader(cast("io.RawIOBase", raw), STREAM_BYTES)
        return Tar(cast("BinaryIO", stream), name).starting_at(start)
    return Tar(raw, name, place.size(path), seeks=True)


def _decompressed(raw: BinaryIO, path: str) -> BinaryIO:
    suffix = path.lower().rpartition(".")[2]
    packed: Any = io.BufferedReader(cast("io.RawIOBase", raw), STREAM_BYTES)
    if suffix in ("gz", "tgz"):
        return cast("BinaryIO", _Owning(gzip.GzipFile(fileobj=packed), packed))
    if suffix == "bz2":
        return cast("BinaryIO", _Owning(bz2.BZ2File(packed), packed))
    if suffix == "xz":
        return cast("BinaryIO", _Owning(lzma.LZMAFile(packed), packed))
    import pyarrow as pa  # its zstd spares a dependency

    return cast("BinaryIO", _Owning(pa.CompressedInputStream(packed, "zstd"), packed))


class _Owning:
    """A decompressing file that closes what it reads from; Python's own leave that open."""

    def __init__(self, file: Any, packed: Any) -> None:
        self.read = file.read
        self._files = (file, packed)

    def close(self) -> None:
        """Close both."""
        for file in self._files:
            file.close()
