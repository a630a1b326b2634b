"""Single options that several commands share."""

from __future__ import annotations

from typing import Any

from pipeline.wordvectors.vectors import SYNONYMS
from workflows.options.fields import argument, option


def store_argument() -> Any:
    """Return the field of the positional argument STORE, a `str`."""
    return argument("folder or URL of the store", metavar="STORE")


def clip_option() -> Any:
    """Return the field of the option `--clip-model`, a `str | None`."""
    return option(
        None,
        "CLIP model, a folder or a hub name, to compare DeViSE with",
        implied="none",
        metavar="MODEL",
    )


def synonyms_option(group: str = "options") -> Any:
    """Return the dataclass field of `--synonyms`, to be assigned in the body of an `Options` class.

    Its value is `mean` (the default) or `first`: a class with several names gets the mean of the
    vectors of those names that have one, or the vector of its first name.

    Args:
        group: The heading of the help text under which it is listed (default `options`).
    """
    return option(
        "mean",
        "how a class with several names gets its vector: from the first name, or as the mean over"
        " all names that have one",
        choices=SYNONYMS,
        group=group,
    )
