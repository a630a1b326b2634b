"""The zip archives, with the interface of a tar, so that the layouts of tars serve them too.

A zip is read by its central directory, which is at its end, so that a truncated one is refused at
once. Its members are read in the order of their offsets, and each is checked by its own checksum.
"""

import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from pipeline.errors import SourceError
from pipeline.sources.archives.tar import PIECE_BYTES, Member, Tar
from pipeline.sources.archives.tar_header import resolved
from pipeline.sources.read_errors import as_read_error

_ENCRYPTED = 0x1
_MAX_TARGET_BYTES = 1 << 16


class Zip(Tar):
    """A zip that is read from front to back.

    Args:
        file: The open file, positioned anywhere; it must be able to seek.
        name: The full name, for messages.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        super().__init__(file, name)
        try:
            with self._reading():
                self._zip = zipfile.ZipFile(file)
        except BaseException:  # without an instance, no caller could close the file
            file.close()
            raise
        self._at_offset = {info.header_offset: info for info in self._zip.infolist()}

    @property
    def walks_quickly(self) -> bool:
        """True: the directory at the end of the zip lists all members."""
        return True

    def members(self, start: int = 0, stop: int | None = None) -> Iterator[Member]:
        """Yield every file and link of the zip, in the order in which they lie.

        Args:
            start: 0: a zip is only read as a whole.
            stop: None: a zip is only read as a whole.

        Yields:
            A `Member` for each: `name`, its path without a leading './', in which backslashes
            become slashes if the zip was made on Windows; `offset`, that of its header in bytes, by
            which `read` and `pieces` identify it; `num_bytes`, its decompressed size; and `target`,
            the path that a link points to, or None for a file. The `num_bytes` of a link is 0, and
            its target need not exist. Folders are omitted.

        Raises:
            ReadError: The system failed.
            SourceError: A member is encrypted, a link is damaged, or *start* or *stop* is that of
                an inner archive.
        """
        if start or stop is not None:
            raise SourceError(
                f"{self.name} is a zip that holds archives, which cannot be read inside it. Unzip "
                "it, and pass the folder."
            )
        for offset, info in sorted(self._at_offset.items()):
            if info.is_dir():
                continue
            # Some programs on Windows write backslashes; on Unix they are a part of a name.
            name = info.filename.replace("\\", "/") if info.create_system == 0 else info.filename
            name = name.removeprefix("./")
            if info.flag_bits & _ENCRYPTED:
                raise SourceError(
                    f"{self.name}: the member {name!r} is encrypted. Unzip it with its password, "
                    "and pass the folder."
                )
            if stat.S_ISLNK(info.external_attr >> 16):  # the upper half is the mode of Unix
                target = self.read(offset, min(info.file_size, _MAX_TARGET_BYTES))
                text = target.decode("utf-8", "surrogateescape")
                yield Member(name, offset, 0, resolved(name.split("/")[:-1], text))
            else:
                yield Member(name, offset, info.file_size, None)

    def read(self, offset: int, num_bytes: int) -> bytes:
        """Return all bytes of one file in the zip, decompressed; files may be read in any order.

        A link has no data to read: its `Member.num_bytes`, 0, is refused.

        Args:
            offset: The offset of its header, as in `Member.offset` of `members`.
            num_bytes: Its decompressed size, as in `Member.num_bytes`.

        Raises:
            KeyError: No member has this offset.
            ReadError: The system failed.
            SourceError: The member is damaged, or has another size.
        """
        return b"".join(self.pieces(offset, num_bytes))

    def pieces(self, offset: int, num_bytes: int) -> Iterator[bytes]:
        """Yield the decompressed bytes of one file in the zip, in pieces of at most 1 MiB.

        A link has no data to read: its `Member.num_bytes`, 0, is refused.

        Args:
            offset: The offset of its header, as in `Member.offset` of `members`.
            num_bytes: Its decompressed size, as in `Member.num_bytes`.

        Yields:
            The next bytes, read when they are asked for; an error may come behind the last of them.

        Raises:
            KeyError: No member has this offset.
            ReadError: The system failed.
            SourceError: The member is damaged, or has another size.
        """
        info = self._at_offset[offset]
        left = num_bytes
        with self._reading(info.filename), self._zip.open(info) as member:
            while piece := member.read(PIECE_BYTES):
                left -= len(piece)
                if left < 0:  # the directory lies: stop before the file fills the spool
                    break
                yield piece
        if left:
            raise SourceError(
                f"{self.name}: the member {info.filename!r} does not have the {num_bytes} bytes"
                " that the zip's directory lists. Download it again."
            )

    @contextmanager
    def _reading(self, member: str = "") -> Iterator[None]:
        """Raise `SourceError` for damaged bytes of the zip, and `ReadError` for a failing disk."""
        inside = f", at the member {member!r}" if member else ""
        try:
            with as_read_error(self.name):
                yield
        except (zipfile.BadZipFile, zlib.error, EOFError, UnicodeDecodeError) as e:
            raise SourceError(
                f"{self.name} is not a complete zip{inside}: {e}. It was cut off or damaged:"
                " download it again."
            ) from e
        except (NotImplementedError, RuntimeError) as e:
            raise SourceError(
                f"{self.name} cannot be read as a zip{inside}: {e}. Unzip it, and pass the folder."
            ) from e
