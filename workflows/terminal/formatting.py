"""Formatting of numbers and names for people: `27.1 GB`, `17 min 3 s`, `99.9 %`.

Names from data may hold newlines, terminal escape sequences or lone surrogates, so they are escaped
before they are printed.
"""

from __future__ import annotations

from typing import TextIO

BYTE_UNITS = ("kB", "MB", "GB", "TB", "PB")
MAX_DECIMALS = 7
"""The maximum number of decimals of a percentage: shows one row of a hundred million."""


def printable(text: str) -> str:
    r"""Return *text* on one line, with each non-printable character as its escape (`\x1b`).

    Args:
        text: Any text, lone surrogates included; a newline becomes `\n`, and a backslash stays as
            it is.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def encodable(text: str, stream: TextIO) -> str:
    """Return a text with each character that the encoding of a stream lacks as its escape.

    Args:
        text: The text.
        stream: The stream whose `encoding` counts; nothing is written to it. Without an encoding it
            is taken as UTF-8.
    """
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def counted(count: int, noun: str, plural: str = "s") -> str:
    """Return a count with its noun, such as `1 shard` or `1,252 shards`.

    Args:
        count: The number to format.
        noun: The noun in the singular.
        plural: The ending of the plural (default `s`).
    """
    return f"{count:,} {noun}{'' if count == 1 else plural}"


def array_text(name: str) -> str:
    """Return the name of an image array for people, such as `224 px` or `jpeg256@90`.

    Args:
        name: The name of the array: a size in pixels as text, or an encoding.
    """
    return f"{name} px" if name.isdecimal() else name


def bytes_text(num_bytes: float) -> str:
    """Return a number of bytes with three digits and a decimal unit, such as `27.1 GB` or `999 B`.

    Args:
        num_bytes: The number of bytes, not negative, which is rounded to whole bytes below 1 kB. 1
            kB is 1000 bytes, and the largest unit is PB.
    """
    if num_bytes < 999.5:
        return f"{num_bytes:.0f} B"
    value = num_bytes / 1000
    for unit in BYTE_UNITS[:-1]:
        if value < 999.5:
            return f"{three_digits(value)} {unit}"
        value /= 1000
    return f"{three_digits(value)} {BYTE_UNITS[-1]}"


def three_digits(value: float) -> str:
    """Return a number with three digits, or all digits of a larger one: `1.23`, `12.3`, `1,234`.

    Args:
        value: The number, not negative. It gets at most two decimals, so 0.051 is `0.05`.
    """
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{decimals}f}"


def seconds_text(seconds: float) -> str:
    """Return a duration in at most two units: `30 ms`, `4.2 s`, `17 min 3 s`, `3 d 4 h`.

    Args:
        seconds: The duration in seconds, not negative; 0 is `0.0 s`.
    """
    if 0 < seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, full_seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {full_seconds} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def share_text(part: float, total: float) -> str:
    """Return a share in percent, with one decimal, or more where it would show 0 or 100.

    Args:
        part: A number from 0 to *total*.
        total: The number that is 100 %.

    Returns:
        A text such as `99.9 %`; `0.0 %` and `100.0 %` stand for none and all alone, as far as 7
        decimals show the difference. `-` if *total* is 0.
    """
    if not total:
        return "-"
    percent, decimals = 100 * part / total, 1
    is_between = part not in (0, total)
    while is_between and decimals < MAX_DECIMALS and f"{percent:.{decimals}f}" in _ends(decimals):
        decimals += 1
    return f"{percent:.{decimals}f} %"


def _ends(decimals: int) -> tuple[str, str]:
    return f"{0:.{decimals}f}", f"{100:.{decimals}f}"


def per_second(count: float, seconds: float) -> str:
    """Return the rate of *count* in *seconds* without its unit, such as `1,252`.

    Args:
        count: The number of items, not negative.
        seconds: The duration in seconds.

    Returns:
        The rate, with one decimal if it is below 99.5 and not 0; `-` if *seconds* is 0 or negative.
    """
    if seconds <= 0:
        return "-"
    rate = count / seconds
    return f"{rate:,.0f}" if rate >= 99.5 or rate == 0 else f"{rate:,.1f}"
