"""The values of `options.json` as text, for pages and cards."""

from __future__ import annotations

from typing import Any

MAX_LISTED_VALUES = 12
"""The maximum number of values of a list, such as that of the classes, that are named."""


def option_text(value: Any) -> str:
    """Return a value of `options.json` as text.

    Args:
        value: A JSON value; None, which is an option that follows from others, becomes a dash. Of a
            long list, the first values and their number are named.
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        more = f", ... ({len(value):,} in total)" if len(value) > MAX_LISTED_VALUES else ""
        return ", ".join(map(option_text, value[:MAX_LISTED_VALUES])) + more
    return str(value)
