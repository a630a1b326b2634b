"""What is a URL for fsspec, and what is a path that merely looks like one."""

import os
import re

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CHAIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::(/|.*://)")


def is_url(text: str) -> bool:
    """Return True if *text* is a URL, or a chain of them such as `simplecache::s3://a`.

    What begins with a slash, a dot or `~` is a path, whatever follows: dates and names of runs hold
    `::`. So is what exists as a path.
    """
    if _SCHEME.match(text):
        return True
    return _CHAIN.match(text) is not None and not os.path.exists(text)  # noqa: PTH110 - no errors
