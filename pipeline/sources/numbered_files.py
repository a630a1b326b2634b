"""The check of numbered archives for gaps.

Names that count their files (`-00000-of-00002`) tell which are missing, and such a source is
refused. If names only number them, a gap may be intended, as in a part of a set; it is reported.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from pipeline.errors import SourceError
from pipeline.sources.classes.class_names import abbreviate
from pipeline.sources.clutter import name_skip_reason
from pipeline.sources.location import Location

_COUNTED_NAME = re.compile(r"(.*[-_])([0-9]{1,6})-of-([0-9]{1,6})(.*)", re.ASCII | re.DOTALL)
# The digit in the suffix `.bz2` is no number of a series.
_LAST_NUMBER = re.compile(
    r"(.*?)([0-9]{1,18})([^0-9]*(?:bz2)?)", re.ASCII | re.DOTALL | re.IGNORECASE
)
_MAX_SPAN = 1_000_000
"""The span of numbers above which they are no series, but dates or hashes."""


def check_complete(location: Location, paths: Sequence[str]) -> None:
    """Refuse incomplete sets of files whose names count them, such as `train-00000-of-00002.tar`.

    Numbers begin at 0. Nothing is refused for a single file that is the source, and where the
    options' `rules` is 1. Missing files that the options ignore are not missed.

    Args:
        location: The folder of the source, with the options by which it is read.
        paths: The paths of the files in it, which are not looked up; other names are accepted.

    Raises:
        SourceError: Files are missing; the message names the first three.
    """
    if location.only_file or location.options.rules == 1:
        return
    numbers: dict[tuple[str, str, str], set[int]] = {}
    for path in paths:
        if match := _COUNTED_NAME.fullmatch(path):
            numbers.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    for (before, count, after), present in numbers.items():
        names = (
            f"{before}{number:0{len(count)}d}-of-{count}{after}"
            for number in range(int(count))
            if number not in present
        )
        missing = _missing_unless_ignored(location, names)
        if missing:
            raise SourceError(
                f"{location.root} has {len(present):,} of the {int(count):,} files that their"
                f" names imply: {abbreviate(missing, 3)} {'is' if len(missing) == 1 else 'are'}"
                " missing. Download the rest, or pass --ignore with a pattern of the files that"
                f" may be missing, such as {missing[0].rpartition('/')[2]!r}."
            )


def missing_numbers(location: Location, paths: Sequence[str]) -> Iterator[str]:
    """Yield a sentence for the user on each series of numbered files that has gaps.

    The last number in a path counts, also one in a suffix such as `.jp2`, but not that of `.bz2`;
    a series are the paths that are equal but for it. Numbers more than 1,000,000 apart, and those
    that begin above 1 with more gaps than files, are taken for dates or hashes, not for a series.
    Ignored files are not missed. Nothing is yielded for a single file that is the source, and where
    the options' `rules` is 1.

    Args:
        location: The folder of the source, with the options by which it is read.
        paths: The paths of the files in it, which are not looked up.

    Yields:
        A sentence without a full stop that names at most three of the missing files, such as '1 of
        the files numbered 000 to 009 is missing: a-004.tar'.
    """
    if location.only_file or location.options.rules == 1:
        return
    rows: dict[tuple[str, str], dict[int, str]] = defaultdict(dict)
    for path in paths:
        if match := _LAST_NUMBER.fullmatch(path):
            rows[match[1], match[3]][int(match[2])] = match[2]
    for (before, after), digits in rows.items():
        first, last = min(digits), max(digits)
        num_missing = last - first + 1 - len(digits)
        # Other numbers, such as years or hashes, are no series.
        if last - first > _MAX_SPAN or (first > 1 and num_missing > len(digits)):
            continue
        width = len(digits[first])
        names = (
            f"{before}{number:0{width}d}{after}"
            for number in range(first, last)
            if number not in digits
        )
        missing = _missing_unless_ignored(location, names)
        if not missing:
            continue
        remainder = f" and {len(missing) - 3:,} more" if len(missing) > 3 else ""
        yield (
            f"{len(missing):,} of the files numbered {digits[first]} to {digits[last]}"
            f" {'is' if len(missing) == 1 else 'are'} missing: {', '.join(missing[:3])}{remainder}"
        )


def _missing_unless_ignored(location: Location, paths: Iterable[str]) -> list[str]:
    """Return the *paths* that would be files of the source if they existed."""
    return [
        path for path in paths if not name_skip_reason(path.rpartition("/")[2], location.options)
    ]
