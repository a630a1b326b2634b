"""The header of a tar's member: its checksum, sizes, names and extended records."""

import zlib
from collections.abc import Iterator

BLOCK = 512
"""The number of bytes in a header; a member's data are padded to a multiple of it."""

_ADLER = 65521
_MAX_DIGITS = 24  # of 2^63 there are 21 octal ones
_DIGITS = {8: frozenset(b"01234567"), 10: frozenset(b"0123456789")}


def has_tar_checksum(header: bytes) -> bool:
    """Return True if the checksum of a header is valid.

    It is the sum of all bytes, unsigned or, as some old programs summed them, signed, in which the
    field of the checksum itself counts as spaces.

    Args:
        header: The header of a member, 512 bytes.
    """
    field = header[148:156]
    try:
        stored = int(field.split(b"\0", 1)[0].strip() or b"-1", 8)
    except ValueError:
        return False
    # adler32's low half is 1 + the sum, modulo 65521, at a tenth of the cost of sum()
    quick = (zlib.adler32(header) & 0xFFFF) - 1 - sum(field) + 256
    if (quick - stored) % _ADLER == 0:
        return True
    # Some old programs summed signed bytes.
    summed = header[:148] + header[156:]
    return stored == 256 + sum(byte - 256 if byte > 127 else byte for byte in summed)


def size_of(field: bytes) -> int:
    """Return the number of bytes in the size field of a header.

    Args:
        field: The field of 12 bytes: octal digits up to the first zero byte, with spaces around
            them or not, or a number in base 256 if its highest bit is set.

    Returns:
        The size; 0 for a blank field, -1 for an invalid one.
    """
    if field[0] & 0x80:
        return int.from_bytes(field, "big") - (0x80 << 88)
    return number_of(field.split(b"\0", 1)[0].strip() or b"0", 8)


def number_of(digits: bytes, base: int) -> int:
    """Return digits as a number; -1 if there are none, too many, or other characters among them.

    Args:
        digits: The text of the number, at most 24 digits; a sign, space or underscore makes it
            invalid.
        base: 8 or 10.
    """
    if not digits or len(digits) > _MAX_DIGITS or not _DIGITS[base].issuperset(digits):
        return -1
    return int(digits, base)


def member_path(header: bytes, pax: dict[str, str]) -> str:
    """Return the path of a member in its tar, without a leading './'.

    The slash at the end of a folder's name is kept. Bytes that are not UTF-8 become surrogates
    (`surrogateescape`).

    Args:
        header: The header of the member, 512 bytes.
        pax: The extended records that describe the member, by keyword; its `path` takes precedence
            over the header.
    """
    name = pax.get("path")
    if name is None:
        name = header[:100].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
        if header[257:263] == b"ustar\0" and header[345]:
            prefix = header[345:500].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
            name = f"{prefix}/{name}"
    while name.startswith("./"):
        name = name[2:]
    return name


def target_of(header: bytes, pax: dict[str, str], name: str) -> str:
    """Return the path in the tar of the member that a link stands for, without '.' and '..'.

    A '..' at the top is ignored. Bytes that are not UTF-8 become surrogates (`surrogateescape`).

    Args:
        header: The header of the link, 512 bytes.
        pax: The extended records that describe the link, by keyword; its `linkpath` takes
            precedence over the header.
        name: The path of the link in the tar, to which a symbolic target is relative; the target of
            a hard link is relative to the tar.
    """
    target = pax.get("linkpath")
    if target is None:
        target = header[157:257].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    # a symbolic link is relative to its own folder, a hard one to the archive
    return resolved(name.split("/")[:-1] if header[156:157] == b"2" else [], target)


def resolved(folders: list[str], target: str) -> str:
    """Return the path of *target* as seen from *folders*, without '.' and '..'.

    Args:
        folders: The folders that *target* is relative to, from the outermost; they are not changed.
        target: A path, which counts as relative even with a slash at its beginning; '..' at the top
            is ignored.
    """
    parts = list(folders)
    for part in target.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def pax_records(data: bytes) -> Iterator[tuple[str, str]]:
    """Yield the keyword and value of each record of an extended header.

    Args:
        data: The data of the header: `<length> <keyword>=<value>` lines, where the length is that
            of the line in bytes. A zero byte in place of a length ends them.

    Yields:
        The keyword, such as `path`, `linkpath` or `size`, and its value as a text. Of both, bytes
        that are not UTF-8 become surrogates (`surrogateescape`).

    Raises:
        ValueError: A record has no length or no value.
    """
    at = 0
    while at < len(data) and data[at]:
        space = data.index(b" ", at)
        length = number_of(data[at:space], 10)
        line = data[at : at + length]
        word, sign, value = line[space + 1 - at : -1].partition(b"=")
        if len(line) != length or not line.endswith(b"\n") or not sign:
            raise ValueError("no length or no value")
        yield word.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape")
        at += length
