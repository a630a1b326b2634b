"""Figures and names as a person reads them: `27.1 GB`, `17 min 3 s`, `99.9 %`, and no surprises.

Names from data may hold anything: newlines, escapes that a terminal obeys, half a surrogate.
"""

from __future__ import annotations

from typing import TextIO

BYTE_UNITS = ("kB", "MB", "GB", "TB", "PB")
MOST_PLACES = 7
"""Of a share: one row of a hundred million is still something."""


def printable(text: str) -> str:
    r"""*text* on one line, what is no printable character written as its escape (`\x1b`)."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def encodable(text: str, stream: TextIO) -> str:
    """*text* with what the stream's encoding lacks escaped, so that a name cannot stop a run."""
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def counted(count: int, noun: str, plural: str = "s") -> str:
    """`1 shard`, `1,252 shards`; *plural* is what the noun ends in then."""
    return f"{count:,} {noun}{'' if count == 1 else plural}"


def bytes_text(num_bytes: float) -> str:
    """`27.1 GB`: three digits and a decimal unit, as disks are sold."""
    if num_bytes < 999.5:
        return f"{num_bytes:.0f} B"
    value = num_bytes / 1000
    for unit in BYTE_UNITS[:-1]:
        if value < 999.5:
            return f"{three_digits(value)} {unit}"
        value /= 1000
    return f"{three_digits(value)} {BYTE_UNITS[-1]}"


def three_digits(value: float) -> str:
    """`1.23`, `12.3`, `123`, `1,234`."""
    places = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:,.{places}f}"


def seconds_text(seconds: float) -> str:
    """`30 ms`, `4.2 s`, `17 min 3 s`, `2 h 5 min`, `3 d 4 h`: at most the two largest units."""
    if 0 < seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def share_text(part: float, whole: float) -> str:
    """In percent; what is not all is never rounded to all, nor something to nothing."""
    if not whole:
        return "-"
    percent, places = 100 * part / whole, 1
    between = part not in (0, whole)
    while between and places < MOST_PLACES and f"{percent:.{places}f}" in _ends(places):
        places += 1
    return f"{percent:.{places}f} %"


def _ends(places: int) -> tuple[str, str]:
    return f"{0:.{places}f}", f"{100:.{places}f}"


def per_second(count: float, seconds: float) -> str:
    """`1,252`: a rate, without its unit."""
    if seconds <= 0:
        return "-"
    rate = count / seconds
    return f"{rate:,.0f}" if rate >= 99.5 or rate == 0 else f"{rate:,.1f}"
