"""The ledger of a split: an exact second copy of its recipe, plan and commits.

Each line is a JSON object {"name", "text"}, one for each document; the last line has the digest of
those before it. `repair` restores a damaged document from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store import document, layout, schema
from pipeline.store.objects import Objects


def encode_ledger(documents: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the bytes of a ledger with copies of documents; nothing is written.

    Args:
        documents: The name of each document, relative to the store, and its bytes, which are UTF-8,
            such as `recipe.json` and what `Recipe.encode` returns.

    Returns:
        Lines of JSON, `{"name", "text"}` for each document in their order, and a last one,
        `{"digest"}`, with the SHA-256 of the lines before it in hexadecimal. Each ends with a
        newline.

    Raises:
        UnicodeDecodeError: A document is not UTF-8.
    """
    lines = "".join(
        json.dumps({"name": name, "text": text.decode()}, ensure_ascii=False) + "\n"
        for name, text in documents
    ).encode()
    last = json.dumps({"digest": hashlib.sha256(lines).hexdigest()}) + "\n"
    return lines + last.encode()


@dataclass(frozen=True)
class Copy:
    """One line of a ledger: the copy of a document."""

    name: str
    """The name of the document, relative to the store."""
    text: str
    """The text of the document, exactly as it was written."""


@dataclass(frozen=True)
class Ledger:
    """The readable part of a ledger."""

    copies: dict[str, bytes]
    """The bytes of each intact document, by its name relative to the store."""
    damage: str | None
    """The problem with the ledger: `missing`, `damaged` or None."""


def read_ledger(objects: Objects, split: str) -> Ledger:
    """Read the ledger of a split, or the intact lines of a damaged one; a missing one is no error.

    A ledger holds second copies of the recipe, the plan and the commits.

    Args:
        objects: The objects of the store.
        split: The name of the split.

    Returns:
        The bytes of each intact copy by name of the document, such as `recipe.json`, in `copies`;
        and in `damage` `missing`, `damaged` or None. Copies of other documents than the recipe, the
        plan of the split and its commits are left out.

    Raises:
        OSError: The disk reports an error, or the ledger is a folder.
        StoreError: The request to an object store failed.
    """
    try:
        data = objects.get(layout.ledger(split), document.MAX_BYTES)
    except FileNotFoundError:
        return Ledger({}, "missing")
    except StoreDamagedError:
        return Ledger({}, "damaged")
    copies = {
        name: text for name, text in _ledger_lines(data) if layout.may_be_in_ledger(split, name)
    }
    return Ledger(copies, None if encode_ledger(copies.items()) == data else "damaged")


def _ledger_lines(data: bytes) -> Iterator[tuple[str, bytes]]:
    for line in data.split(b"\n"):
        try:
            copy = schema.parse(Copy, json.loads(line))
            text = copy.text.encode()
            document.decode_document(text, copy.name)
        except (ValueError, RecursionError, MemoryError, StoreError):
            continue  # the other lines are still good copies
        yield copy.name, text
