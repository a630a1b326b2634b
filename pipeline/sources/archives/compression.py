"""A reader of compressed files, from front to back, to their very end.

Python's own readers stop silently at any data behind the first stream of bzip2 or xz. Here a file
is a series of streams (`cat a.gz b.gz`, pigz, pbzip2), each of which must be whole, and only zeros
may lie between or behind them.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, Protocol, cast

from pipeline.sources.content import BZIP2, GZIP, XZ

_READ_BYTES = 1 << 18
_BUFFER_BYTES = 1 << 18  # headers are read by 512 bytes, and a decoder copies its input each time


class BrokenCompressionError(ValueError):
    """A compressed file is cut off, damaged, or followed by something else."""


class _Decoder(Protocol):
    """A decoder of one compressed stream, with the interface of `bz2.BZ2Decompressor`."""

    @property
    def eof(self) -> bool: ...

    @property
    def needs_input(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipDecoder:
    """A decoder of a gzip stream; zlib checks its checksum and length."""

    def __init__(self) -> None:
        self._decompressor = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._decompressor.eof

    @property
    def needs_input(self) -> bool:
        return not self._decompressor.unconsumed_tail and not self._decompressor.eof

    @property
    def unused_data(self) -> bytes:
        return self._decompressor.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._decompressor.decompress(self._decompressor.unconsumed_tail + data, max_length)


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    GZIP: _GzipDecoder,
    BZIP2: bz2.BZ2Decompressor,
    XZ: lzma.LZMADecompressor,
}


class _DecompressingFile(io.RawIOBase):
    """The decompressed bytes of a file, read once from front to back.

    Args:
        packed: The compressed file, positioned at its start; it is closed with this one.
        content: The compression, one of `content.COMPRESSIONS`.
    """

    def __init__(self, packed: BinaryIO, content: str) -> None:
        self._packed = packed
        self._content = content
        self._new_decoder = _DECODERS.get(content)
        self._decoder: _Decoder | None = None
        self._pending = b""  # compressed bytes that were read and not decoded yet
        self._zstd: Any = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = (
            self._next(len(buffer))
            if self._new_decoder is not None
            else self._read_zstd(len(buffer))
        )
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the compressed file, too."""
        if not self.closed:
            if self._zstd is not None:
                self._zstd.close()
            self._packed.close()
        super().close()

    def _next(self, num_bytes: int) -> bytes:
        """Return the next decompressed bytes, at most *num_bytes*; empty at the end."""
        while True:
            decoder = self._decoder or self._next_stream()
            if decoder is None:
                return b""
            data = self._decode(decoder, num_bytes)
            if decoder.eof:  # another stream may follow, beginning in the bytes that are left
                self._pending, self._decoder = decoder.unused_data, None
            if data:
                return data

    def _next_stream(self) -> _Decoder | None:
        """Return the decoder of the next stream; None where only zeros are left."""
        self._pending = self._pending.lstrip(b"\0")
        while not self._pending:
            piece = self._packed.read(_READ_BYTES)
            if not piece:
                return None
            self._pending = piece.lstrip(b"\0")
        self._decoder = self._new_decoder() if self._new_decoder else None
        return self._decoder

    def _decode(self, decoder: _Decoder, num_bytes: int) -> bytes:
        data, self._pending = self._pending, b""
        # A decoder may hold output beyond num_bytes; then it needs no further input yet.
        if not data and decoder.needs_input:
            data = self._packed.read(_READ_BYTES)
            if not data:
                raise BrokenCompressionError(f"the {self._content} data end in the middle")
        try:
            return decoder.decompress(data, num_bytes)
        except (zlib.error, lzma.LZMAError, OSError, EOFError) as e:
            raise BrokenCompressionError(f"{e} ({self._content})") from e

    def _read_zstd(self, num_bytes: int) -> bytes:
        import pyarrow as pa  # it has zstd, which the standard library of Python 3.11 lacks

        if self._zstd is None:
            self._zstd = pa.CompressedInputStream(self._packed, "zstd")
        try:
            return cast("bytes", self._zstd.read(num_bytes))
        except OSError as e:
            # pyarrow reports broken data as an OSError without errno; a disk's error has one.
            if e.errno is not None or type(e) is not OSError:
                raise
            raise BrokenCompressionError(str(e)) from e


def decompressed(packed: BinaryIO, content: str) -> BinaryIO:
    """Return a reader of the decompressed bytes of a file; closing it closes the file, too.

    Reading raises `BrokenCompressionError`, a ValueError, where the file is cut off or damaged, or
    where something follows its end: only another compressed stream or, except in Zstandard, zeros
    may. An empty file has no decompressed bytes. An OSError of *packed* that has an `errno` is
    raised as it is.

    Args:
        packed: The compressed file, open for reading, at its start.
        content: Its compression, `gzip`, `bzip2`, `xz` or `Zstandard`, as `content_of` returns it
            for the first bytes; any other is read as Zstandard.

    Returns:
        A buffered binary file that is read from front to back; it cannot seek.
    """
    return cast("BinaryIO", io.BufferedReader(_DecompressingFile(packed, content), _BUFFER_BYTES))
