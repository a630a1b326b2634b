"""The distinction between URLs for fsspec and paths that look like URLs."""

import os
import re

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CHAIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*::(/|.*://)")


def is_url(text: str) -> bool:
    """Return True if *text* is a URL or a chain of URLs such as `simplecache::s3://a`.

    A URL begins with a scheme and `://`. A chain begins with a name, whose first character is a
    letter, and `::`; then follow a slash or, at any place, `://`. So `zip::/data/a.zip` is one, but
    not `a::b`, because names of runs may contain `::`. False is returned for a chain that exists as
    a path on this machine, unless it begins with a scheme. Nothing is requested from the network.

    Args:
        text: A path or URL as a user writes it, such as `s3://bucket/folder`.
    """
    if _SCHEME.match(text):
        return True
    return _CHAIN.match(text) is not None and not os.path.exists(text)  # noqa: PTH110 - no errors
