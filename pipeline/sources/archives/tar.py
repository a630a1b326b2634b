"""A walk over the headers of a tar without unpacking: names, sizes, and offsets of the data.

A tar is a sequence of members, each a header of 512 bytes and its data padded to 512, closed by
two blocks of zeros. The walk seeks from header to header, so a plain tar costs one small read a
member, and a compressed or remote one is read once from front to back. The formats are ustar, GNU
(long names, sizes over 8 GiB) and pax; sparse members are refused. A tar that stops before its end
is refused, with the last member's name, so that half an archive is never read as a whole one.
Members behind the closing zeros (`cat a.tar b.tar`) count like the others; any other data there
are refused.
"""

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from pipeline.errors import SourceError
from pipeline.sources.archives.compression import BrokenCompressionError
from pipeline.sources.archives.tar_header import (
    BLOCK,
    has_tar_checksum,
    member_path,
    number_of,
    pax_records,
    size_of,
    target_of,
)
from pipeline.sources.content import TAR, UNKNOWN, advice_on_content, content_of, description_of
from pipeline.sources.read_errors import as_read_error

PIECE_BYTES = 1 << 20
_MAX_EXTENDED_BYTES = 1 << 20  # of a long name or a pax header; a larger one is damaged
_MAX_MEMBER_BYTES = 1 << 62
_REGULAR = frozenset(b"0\x007")
_LINKS = frozenset(b"12")
_EMPTY = frozenset(b"123456V")  # links, devices, folders, pipes, volume labels: without data
_PASSED_OVER = _EMPTY | frozenset(b"D")  # GNU tar's list of a folder's names is no file
_EXTENDING = frozenset(b"LKxgX")
_CUT = "The archive was cut off or damaged: download it again."

PLAIN = ".tar"
COMPRESSED = (
    ".tar.gz",
    ".tgz",
    ".tar.zst",
    ".tzst",
    ".tar.bz2",
    ".tbz2",
    ".tbz",
    ".tar.xz",
    ".txz",
)
_OTHER_ENDS = (".zip", ".gz", ".zst", ".bz2", ".xz")


class Member(NamedTuple):
    """A regular file in a tar, or a link to one."""

    name: str
    """The path inside the tar, without a leading './'."""
    offset: int
    """The offset of its data in bytes, from the start of the (decompressed) file."""
    num_bytes: int
    """The size of its data in bytes; 0 for a link."""
    target: str | None
    """The member that a link stands for, None for a file. A link has no data of its own."""


def is_tar(name: str) -> bool:
    """Return True if a file's name ends as those of tars do, compressed or not.

    Args:
        name: A file name or path, in any case, such as `a.tar`, `a.tar.gz` or `a.tgz`.
    """
    return name.lower().endswith((PLAIN, *COMPRESSED))


def stem_of(name: str) -> str:
    """Return the name of an archive without folder and suffixes: `a` for `x/a.tar.gz`.

    Args:
        name: The path of a tar, zip or compressed file, whose suffixes may be of any case; any
            other suffix is kept.
    """
    name = name.rpartition("/")[2]
    for suffix in (PLAIN, *COMPRESSED, *_OTHER_ENDS):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


class Tar:
    """A tar that is read at random (a plain local file) or from front to back.

    Args:
        file: The open file, positioned anywhere if it can seek, at its start if not.
        name: The full name, for messages.
        num_bytes: The length of the file; None if only its end tells.
        can_seek: True if *file* can seek; otherwise data that are skipped are read.
        past_end: True if members behind the zeros that end an archive count: not under listing
            rules 1, which older stores were made by.
    """

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        num_bytes: int | None = None,
        *,
        can_seek: bool = False,
        past_end: bool = True,
    ) -> None:
        self._file = file
        self.name = name
        self._end = num_bytes
        self.can_seek = can_seek
        self._past_end = past_end
        self._at = 0
        self._last = ""

    @property
    def walks_quickly(self) -> bool:
        """True if the members can be walked without reading the data between them."""
        return self.can_seek

    def __enter__(self) -> "Tar":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def at_offset(self, offset: int) -> "Tar":
        """Set the position in the archive without moving in the file; return this same object.

        Args:
            offset: The offset in bytes, counted in the archive, of the byte at which the file is.
        """
        self._at = offset
        return self

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Return exactly the bytes of the archive at a position, and move behind them.

        Args:
            offset: The offset of the first byte in the (decompressed) archive. In a tar that cannot
                seek, since it is compressed or remote, it must not lie before the current position.
            num_bytes: The number of bytes.

        Raises:
            ReadError: The system or a server failed.
            SourceError: The archive ends before these bytes, or its compression is damaged.
            ValueError: *offset* lies before the position of an archive that cannot seek.
        """
        self._move(offset)
        data = self._take(num_bytes)
        if len(data) != num_bytes:
            raise self._cut(f"it ends at byte {self._at}")
        return data

    def pieces(self, offset: int, num_bytes: int) -> Iterator[bytes]:
        """Yield the bytes that `read` returns, in pieces of at most `PIECE_BYTES`, 1 MiB.

        Args:
            offset: The offset of the first byte in the (decompressed) archive. In a tar that cannot
                seek, since it is compressed or remote, it must not lie before the current position.
            num_bytes: The number of bytes; of 0, nothing is yielded.

        Yields:
            The next bytes, read when they are asked for.

        Raises:
            ReadError: The system or a server failed.
            SourceError: The archive ends before these bytes, or its compression is damaged.
            ValueError: *offset* lies before the position of an archive that cannot seek.
        """
        for done in range(0, num_bytes, PIECE_BYTES):
            yield self.read(offset + done, min(PIECE_BYTES, num_bytes - done))

    def _move(self, offset: int) -> None:
        if offset == self._at:
            return
        if self.can_seek:
            with as_read_error(self.name):
                self._file.seek(offset)
            self._at = offset
            return
        if offset < self._at:
            raise ValueError(f"{self.name}: cannot go back from {self._at} to {offset}")
        while self._at < offset:  # a stream skips by reading, in pieces to bound the memory
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
        except BrokenCompressionError as e:
            raise self._cut(f"its compression is broken near byte {self._at}: {e}") from e
        except OSError as e:
            with as_read_error(self.name):  # the same conversion to ReadError as everywhere
                raise e from e
        self._at += len(data)
        return data

    def _cut(self, problem: str) -> SourceError:
        after = f", after the member {self._last!r}" if self._last else ""
        return SourceError(f"{self.name} is not a complete tar: {problem}{after}. {_CUT}")

    def members(self, start: int = 0, stop: int | None = None) -> Iterator[Member]:
        """Yield every file and link of the tar that lies in bytes [start, stop).

        In a tar that cannot seek, since it is compressed or remote, the data of a member can be
        read only before the next member is asked for.

        Args:
            start: The offset in bytes of the first header (default: 0).
            stop: The end in bytes of a tar that is itself a member of another, which may end
                without its blocks of zeros, since the outer header states its length; None: the end
                of the file (default).

        Yields:
            A `Member` for each, in the order of the archive: `name`, its path without a leading
            './', in which bytes that are not UTF-8 are surrogates (`surrogateescape`); `offset` and
            `num_bytes` of its data in the decompressed archive; and `target`, the path that a link
            points to, or None for a file. The `num_bytes` of a link is 0, and its target need not
            exist. Folders, pipes and devices are omitted.

        Raises:
            ReadError: The system or a server failed.
            SourceError: The file is no tar, or not a whole one, or a member is sparse or of another
                kind that cannot be read in place.
        """
        end = self._end if stop is None else stop
        at = start
        # Extended headers describe either all further members, or only the next one.
        global_pax: dict[str, str] = {}
        pax: dict[str, str] = {}
        while (next_header := self._next_header(at, start, stop)) is not None:
            if next_header[0] != at:  # another archive begins, for which the old headers end
                pax, global_pax = {}, {}
            at, header = next_header
            num_bytes = self._num_bytes(header, at, end, pax)
            if header[156] in _EXTENDING:
                self._extend(header, at, num_bytes, pax, global_pax)
            else:
                member = self._member(header, at, num_bytes, pax)
                if member is not None:
                    yield member
                # The extended header of one member ends with it; the global one stays.
                pax = dict(global_pax) if global_pax else {}
            at += BLOCK + -(-num_bytes // BLOCK) * BLOCK

    def _num_bytes(self, header: bytes, at: int, end: int | None, pax: dict[str, str]) -> int:
        """Return the size in bytes of the data behind a header; they must lie before *end*."""
        if header[156] in _EMPTY:
            return 0
        if "size" in pax:  # overrides the header's field, which is too short for large files
            num_bytes = number_of(pax["size"].encode("utf-8", "surrogateescape"), 10)
        else:
            num_bytes = size_of(header[124:136])
        if not 0 <= num_bytes <= _MAX_MEMBER_BYTES:
            raise self._cut(f"the header at byte {at} has an invalid size")
        if end is not None and at + BLOCK + num_bytes > end:
            raise SourceError(
                f"{self.name} is not a complete tar: its member {member_path(header, pax)!r}"
                f" at byte {at} needs {num_bytes} bytes, and the archive ends at byte {end}. {_CUT}"
            )
        return num_bytes

    def _member(self, header: bytes, at: int, num_bytes: int, pax: dict[str, str]) -> Member | None:
        """Return the member of a header; None for one that cannot be a sample."""
        kind = header[156]
        name = self._last = member_path(header, pax)
        if pax and any(word.startswith("GNU.sparse") for word in pax):
            raise self._refused(name, "sparse")
        if kind in _REGULAR:  # the oldest tars mark a folder only by a slash
            return None if name.endswith("/") else Member(name, at + BLOCK, num_bytes, None)
        if kind in _LINKS:
            return Member(name, at + BLOCK, 0, target_of(header, pax, name))
        if kind in _PASSED_OVER:
            return None
        if kind == ord("M"):
            raise self._refused(name, "the rest of a file that begins on another volume")
        raise self._refused(name, f"of the kind {chr(kind)!r}")

    def _next_header(self, at: int, start: int, stop: int | None) -> tuple[int, bytes] | None:
        """Find the header at *at* or behind the zeros there, and where it is; None: the end."""
        end = None  # the offset of the archive's first block of zeros
        while stop is None or at < stop:
            self._move(at)
            block = self._take(BLOCK if stop is None else min(BLOCK, stop - at))
            if block.strip(b"\0"):
                if len(block) == BLOCK and has_tar_checksum(block):
                    return at, block
                raise self._no_header(block, at, start, end)
            if len(block) == BLOCK and not self._past_end:
                return None
            if len(block) < BLOCK:
                if end is None:  # no closing zeros at all: bytes may be missing
                    raise self._cut(
                        f"it ends at byte {self._at} without the blocks of zeros that close it"
                    )
                return None
            end = at if end is None else end
            at += BLOCK
        return None

    def _no_header(self, block: bytes, at: int, start: int, end: int | None) -> SourceError:
        """Return the error for the *block* at *at*, no header, behind the *end*, if any."""
        if end is not None:
            return SourceError(
                f"{self.name}: the archive ends at byte {end}, and what follows at byte {at} is"
                f" not a member of a tar ({block[:16]!r}). Cut it off (head -c {at}), or download"
                " the archive again."
            )
        if at == start and content_of(block) not in (TAR, UNKNOWN):
            inner = f", the member {self._last!r}," if self._last else ""
            return SourceError(
                f"{self.name}{inner} is not a tar: it is {description_of(block)}."
                f" {advice_on_content(block)}"
            )
        if len(block) < BLOCK:
            return self._cut(f"it ends at byte {at + len(block)}, in the middle of a header")
        return self._cut(f"no header of a member is at byte {at}")

    def _refused(self, name: str, description: str) -> SourceError:
        return SourceError(
            f"{self.name}: the member {name!r} is {description}, which cannot be read in place. "
            "Unpack the archive and pass the folder."
        )

    def _extend(
        self, header: bytes, at: int, size: int, pax: dict[str, str], global_pax: dict[str, str]
    ) -> None:
        """Read a header that describes the next member (or, for `g`, all further members)."""
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
            global_pax.update(records)
