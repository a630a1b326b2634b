"""Single options that several commands share."""

from __future__ import annotations

from typing import Any

from pipeline.store.encoding import parse_encoding
from pipeline.wordvectors.vectors import SYNONYMS
from workflows.options.fields import argument, option


def store_argument() -> Any:
    """Return the field of the positional argument STORE, a `str`."""
    return argument("folder or URL of the store", metavar="STORE")


def encoded_option(help: str, *, implied: str, group: str) -> Any:
    """Return the field of the option `--encoded`, a `str | None`: the encoded rows to read.

    Args:
        help: The help text.
        implied: The rows that are read without the option, as a phrase.
        group: The heading of the help text under which it is listed.
    """
    return option(None, help, implied=implied, metavar="ENCODING", group=group)


def check_encoded_option(value: str | None) -> None:
    """Check the value of `--encoded`.

    Args:
        value: An encoding, such as `jpeg:256@90`; None: the option is omitted.

    Raises:
        ValueError: It is no encoding.
    """
    if value is None:
        return
    try:
        parse_encoding(value)
    except ValueError as e:
        raise ValueError(f"--encoded: {e}") from None


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
