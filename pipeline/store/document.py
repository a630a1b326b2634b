"""JSON documents that know when they were damaged.

A document is one JSON object with its keys sorted, two spaces of indent, a final newline, and a
`digest`: the SHA-256 of the same text without that key. There is one way to write an object, so
a changed byte anywhere, white space too, is found by writing it again and comparing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.errors import StoreDamagedError, StoreError
from pipeline.store.layout import READABLE_FORMATS

Made = TypeVar("Made")


def encode(fields: dict[str, Any]) -> bytes:
    """Write *fields*, which must be plain JSON values without a `digest`, as a document."""
    return _sealed(fields, digest(fields))


def digest(fields: dict[str, Any]) -> str:
    """The SHA-256, in hexadecimal, by which other documents refer to this one."""
    return hashlib.sha256(_text(fields)).hexdigest()


def decode(data: bytes, name: str) -> dict[str, Any]:
    """Read a document back, without its digest.

    Raises:
        StoreDamagedError: It is not, byte for byte, what `encode` wrote.
        StoreError: It was written by a format this version does not know.
    """
    try:
        fields = json.loads(data)
        recorded = fields.pop("digest")
        intact = recorded == digest(fields) and _sealed(fields, recorded) == data
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        intact = False
    if not intact:
        raise StoreDamagedError(
            f"{name} is damaged: its text does not match its own digest. Run `tesserae repair`."
        )
    if fields.get("format") not in READABLE_FORMATS:
        known = " and ".join(map(str, READABLE_FORMATS))
        raise StoreError(
            f"{name} has format {fields.get('format')!r}: this version reads {known}."
            " Use the version of Tesserae that made the store."
        )
    return dict(fields)


def decode_as(make: Callable[[dict[str, Any]], Made], data: bytes, name: str) -> Made:
    """Read a document back as what *make* makes of its fields, without the digest.

    Raises:
        StoreDamagedError: It is not what was written, or a document of another kind.
    """
    fields = decode(data, name)
    try:
        return make(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise StoreDamagedError(
            f"{name} holds another document than its name says. Run `tesserae repair`."
        ) from e


def _sealed(fields: dict[str, Any], digest: str) -> bytes:
    return _text({**fields, "digest": digest})


def _text(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()
