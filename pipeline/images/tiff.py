"""The first directory of a TIFF: its tags, and the file without tags that are only metadata.

This module reads only what must be known of an image before Pillow decodes its pixels.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

NEW_SUBFILE_TYPE = 254
IMAGE_WIDTH, IMAGE_LENGTH = 256, 257
BITS_PER_SAMPLE = 258
COMPRESSION = 259
PHOTOMETRIC = 262
STRIP_OFFSETS, SAMPLES_PER_PIXEL, ROWS_PER_STRIP, STRIP_BYTES = 273, 277, 278, 279
PLANAR_CONFIGURATION = 284
SEPARATE = 2
"""The planar configuration with a separate plane for each channel."""
TILE_WIDTH, TILE_LENGTH, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
SUB_IFDS = 330
SAMPLE_FORMAT = 339
SMIN_SAMPLE_VALUE = 340
SMAX_SAMPLE_VALUE = 341
DNG_VERSION = 50706

_SHOWING = frozenset([
    254, 255, 256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 280, 281, 284, 290, 291, 292,
    293, 301, 317, 318, 319, 320, 321, 322, 323, 324, 325, 332, 334, 336, 338, 339, 340, 341, 347,
    512, 513, 514, 515, 517, 518, 519, 520, 521, 529, 530, 531, 532,
])  # fmt: skip
"""The tags that describe how an image is stored; the others are texts, EXIF or profiles."""

_KINDS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q"}
_MAX_PIECES = 1 << 20
_DEFLATE = (8, 32946)


@dataclass(frozen=True)
class Directory:
    """The first directory of a TIFF: its location and its tags."""

    order: str
    """The byte order in the notation of `struct`: "<" or ">"."""
    big: bool
    """True for BigTIFF, whose offsets have 8 bytes."""
    offset: int
    """The offset of the directory, which begins with its number of entries."""
    entries: dict[int, bytes]
    """The bytes of the first entry of each tag."""

    def numbers(self, data: bytes, tag: int, max_count: int = 64) -> tuple[float, ...]:
        """Return the numbers of a tag of this directory.

        Args:
            data: All bytes of the file.
            tag: The number of the tag, such as 258, `BITS_PER_SAMPLE`.
            max_count: The maximum count of numbers; a tag that claims more is unreadable
                (default: 64).

        Returns:
            The numbers in the order of the file, integers or floats by the type of the tag; empty
            if the tag is absent or unreadable, or holds text or fractions.
        """
        entry = self.entries.get(tag)
        if entry is None:
            return ()
        kind, count = struct.unpack_from(f"{self.order}H{'Q' if self.big else 'I'}", entry, 2)
        code = _KINDS.get(kind)
        if code is None or not 0 < count <= max_count:
            return ()
        form = f"{self.order}{count}{code}"
        field = entry[12:] if self.big else entry[8:]
        where, source = 0, field
        if struct.calcsize(form) > len(field):  # the field then holds the offset of the numbers
            (where,), source = struct.unpack(f"{self.order}{'Q' if self.big else 'I'}", field), data
        if where + struct.calcsize(form) > len(source):
            return ()
        return struct.unpack_from(form, source, where)

    def number(self, data: bytes, tag: int, default: float) -> float:
        """Return the first number of a tag, or *default* if the tag is absent or unreadable.

        A tag with more than 64 numbers counts as unreadable.

        Args:
            data: All bytes of the file.
            tag: The number of the tag, such as 259, `COMPRESSION`.
            default: The result for a tag without numbers.
        """
        return next(iter(self.numbers(data, tag)), default)


def read_directory(data: bytes) -> Directory | None:
    """Read the first directory of a TIFF or BigTIFF; no pixels are read.

    Args:
        data: All bytes of the file, which begins as a TIFF.

    Returns:
        The directory, whose methods `number` and `numbers` give the values of its tags; None if it
        is cut off or misplaced, or states more than 65,535 tags.
    """
    order = ">" if data[:2] == b"MM" else "<"
    big = b"+" in data[2:4]
    try:
        (offset,) = struct.unpack_from(f"{order}Q" if big else f"{order}I", data, 8 if big else 4)
        (count,) = struct.unpack_from(f"{order}Q" if big else f"{order}H", data, offset)
    except struct.error:
        return None
    start, size = offset + (8 if big else 2), 20 if big else 12
    if count > 65535 or start + count * size > len(data):
        return None
    entries: dict[int, bytes] = {}
    for at in range(start, start + count * size, size):
        (tag,) = struct.unpack_from(f"{order}H", data, at)
        entries.setdefault(tag, data[at : at + size])
    return Directory(order, big, offset, entries)


def tiff_without_metadata(data: bytes) -> bytes | None:
    """Return a TIFF with only the tags of its first image that decide pixels; None if unreadable.

    In the copy the directory is overwritten, so that all offsets remain valid. It loses the texts,
    EXIF, profiles and further pages that could make a reader fail.

    Args:
        data: All bytes of the file; they are not changed.
    """
    directory = read_directory(data)
    if directory is None:
        return None
    entries = [entry for tag, entry in directory.entries.items() if tag in _SHOWING]
    count = struct.pack(f"{directory.order}{'Q' if directory.big else 'H'}", len(entries))
    following = bytes(8 if directory.big else 4)
    written = count + b"".join(entries) + following
    slim = bytearray(data)
    slim[directory.offset : directory.offset + len(written)] = written
    return bytes(slim)


def is_raw_photograph(directory: Directory, data: bytes) -> bool:
    """Return True if the first image is only the preview of a camera's raw photograph.

    DNG has a tag of its own. NEF, ARW and others mark the first image as reduced and store the
    photograph in a subdirectory, an order that no other writer uses.

    Args:
        directory: The first directory of the file, as `read_directory` returns it.
        data: All bytes of the file.
    """
    reduced = int(directory.number(data, NEW_SUBFILE_TYPE, 0)) & 1
    return DNG_VERSION in directory.entries or bool(reduced and SUB_IFDS in directory.entries)


def is_inflated_whole(directory: Directory, data: bytes) -> bool:
    """Return False if strips or tiles of a deflated TIFF are incomplete; True for any other TIFF.

    It is False, too, if the tags of a deflated TIFF contradict each other. libtiff 4.5 accepts some
    incomplete strips and returns uninitialised memory.

    Args:
        directory: The first directory of the file, as `read_directory` returns it.
        data: All bytes of the file.
    """
    if directory.number(data, COMPRESSION, 1) not in _DEFLATE:
        return True
    tiled = TILE_OFFSETS in directory.entries
    names = (TILE_OFFSETS, TILE_BYTES) if tiled else (STRIP_OFFSETS, STRIP_BYTES)
    starts, lengths = (directory.numbers(data, name, _MAX_PIECES) for name in names)
    sizes = _inflated_piece_sizes(directory, data, tiled=tiled)
    if not len(sizes) == len(starts) == len(lengths):
        return False
    return all(
        _inflates_to(data[int(start) : int(start + length)], size)
        for start, length, size in zip(starts, lengths, sizes, strict=True)
    )


def _inflates_to(packed: bytes, num_bytes: int) -> bool:
    try:
        return len(zlib.decompressobj().decompress(packed, max(1, num_bytes))) >= num_bytes
    except zlib.error:
        return False


def _inflated_piece_sizes(directory: Directory, data: bytes, *, tiled: bool) -> list[int]:
    """Return the inflated bytes of each strip or tile; none if the tags are inconsistent."""

    def number(tag: int, default: int) -> int:
        return int(directory.number(data, tag, default))

    width, length = number(IMAGE_WIDTH, 0), number(IMAGE_LENGTH, 0)
    samples, bits = number(SAMPLES_PER_PIXEL, 1), number(BITS_PER_SAMPLE, 1)
    separate = number(PLANAR_CONFIGURATION, 1) == SEPARATE
    across = number(TILE_WIDTH, 0) if tiled else width
    down = number(TILE_LENGTH, 0) if tiled else min(number(ROWS_PER_STRIP, length), length)
    if min(width, length, across, down, samples, bits) < 1:
        return []
    row_bytes = -(-across * bits * (1 if separate else samples) // 8)
    columns, rows = -(-width // across), -(-length // down)
    if columns * rows * samples > _MAX_PIECES:
        return []
    last = down if tiled else length - (rows - 1) * down
    # All tiles have one size and strips have one column, so this is also their order.
    plane = [row_bytes * (last if row == rows - 1 else down) for row in range(rows)] * columns
    return plane * (samples if separate else 1)
