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

from pipeline.errors import StoreDamagedError, StoreError, WrongDocumentError
from pipeline.store import schema
from pipeline.store.layout import READABLE_FORMATS
from pipeline.store.schema import SchemaError

Kind = TypeVar("Kind")

REPAIR = "Run `tesserae repair`."
"""What is advised about most documents."""

MAX_BYTES = 2**30
"""Length of the longest document that is read: that of 2^22 shards is shorter."""


def encode(fields: dict[str, Any]) -> bytes:
    """Write *fields*, which must be plain JSON values without a `digest`, as a document."""
    return _sealed(fields, digest(fields))


def digest(fields: dict[str, Any]) -> str:
    """The SHA-256, in hexadecimal, by which other documents refer to this one."""
    return hashlib.sha256(_text(fields)).hexdigest()


def decode(data: bytes, name: str, cure: str = REPAIR) -> dict[str, Any]:
    """Read a document back, without its digest.

    Raises:
        StoreDamagedError: It is not, byte for byte, what `encode` wrote.
        StoreError: It was written by a format this version does not know.
    """
    try:
        fields = json.loads(data, parse_constant=_refuse_constant)
        recorded = fields.pop("digest")
        intact = recorded == digest(fields) and _sealed(fields, recorded) == data
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError):
        intact = False
    if not intact:
        raise StoreDamagedError(
            f"{name} is damaged: its text does not match its own digest. {cure}"
        )
    if type(fields.get("format")) is not int or fields["format"] not in READABLE_FORMATS:
        known = " and ".join(map(str, READABLE_FORMATS))
        raise StoreError(
            f"{name} has format {schema.shown(fields.get('format'))}: this version reads {known}."
            " Use the version of Tesserae that made the store."
        )
    return dict(fields)


def decode_as(
    kind: type[Kind],
    data: bytes,
    name: str,
    complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda fields: fields,
    *,
    cure: str = REPAIR,
) -> Kind:
    """Read a document back as the dataclass *kind*, each of whose fields is checked.

    Args:
        kind: What it must be a document of (`pipeline.store.schema`).
        data: Its text.
        name: Its name, for messages.
        complete: Adds the fields that an earlier format did not have.
        cure: What the message advises.

    Raises:
        StoreDamagedError: It is not what was written, or a document of another kind, or a field of
            it has a value that it cannot have.
    """
    fields = decode(data, name, cure)
    try:
        return schema.read(kind, complete(fields))
    except SchemaError as e:
        raise WrongDocumentError(name, str(e), cure) from None


def check_value(name: str, key: str, value: object, expected: object, cure: str = REPAIR) -> None:
    """Refuse a document whose field has another value than its other fields, or its name, demand.

    Raises:
        StoreDamagedError: Naming document, field, value and what was expected.
    """
    if value != expected:
        what = f"{key} is {schema.shown(value)}: expected {schema.shown(expected)}"
        raise WrongDocumentError(name, what, cure)


def check_field(name: str, annotation: Any, key: str, value: object) -> None:
    """Refuse a document one of whose free values is not what *annotation* allows.

    Raises:
        StoreDamagedError: Naming document, key, value and what was expected.
    """
    try:
        schema.check(annotation, value, key)
    except SchemaError as e:
        raise WrongDocumentError(name, str(e), REPAIR) from None


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def _sealed(fields: dict[str, Any], digest: str) -> bytes:
    return _text({**fields, "digest": digest})


def _text(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()
