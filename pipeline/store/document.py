"""JSON documents that detect their own damage.

A document is one JSON object with its keys sorted, two spaces of indent, a final newline, and a
`digest`: the SHA-256 of the same text without that key. An object has exactly one encoding, so a
changed byte anywhere, even in white space, is found by encoding it again and comparing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, TypeVar

from pipeline.errors import InvalidDocumentError, StoreDamagedError, StoreError
from pipeline.store import schema
from pipeline.store.layout import READABLE_FORMATS
from pipeline.store.schema import SchemaError

Kind = TypeVar("Kind")

REPAIR = "Run `tesserae repair`."
"""The advice in the error messages of most documents."""

MAX_BYTES = 2**30
"""The maximum length in bytes of a document that is read; 2^22 shards need less."""


def encode_document(fields: dict[str, Any]) -> bytes:
    """Encode fields as a document: sorted JSON with a key `digest`, the SHA-256 of the rest.

    Args:
        fields: Plain JSON values by name, without the key `digest`; tuples become lists. Numbers
            must be finite, and `format` must be a format version of a store, 1 or 2, which is not
            checked: no other document can be decoded. The dict is not changed.

    Returns:
        UTF-8 text that ends with a newline; equal fields give equal bytes.
    """
    return _with_digest(fields, digest(fields))


def digest(fields: dict[str, Any]) -> str:
    """Return the SHA-256 by which other documents refer to a document with these fields.

    It is that of the text of the document without the key `digest`.

    Args:
        fields: The fields of the document as plain JSON values by name, without the key `digest`.

    Returns:
        64 hexadecimal digits.
    """
    return hashlib.sha256(_document_text(fields)).hexdigest()


def decode_document(data: bytes, name: str, advice: str = REPAIR) -> dict[str, Any]:
    """Decode a document, and check it against its own digest.

    Args:
        data: The bytes of the document.
        name: Its name in the store, for messages.
        advice: The last sentence of the message, for a damaged document (default: `REPAIR`, "Run
            `tesserae repair`.").

    Returns:
        The fields of the document by name, as plain JSON values, `format` included, without the key
        `digest`. Their types and ranges are not checked, except for `format`; `decode_document_as`
        does so.

    Raises:
        StoreDamagedError: The bytes differ from those that `encode_document` wrote.
        StoreError: The document has no format, or one that this version does not read.
    """
    try:
        fields = json.loads(data, parse_constant=_refuse_constant)
        recorded = fields.pop("digest")
        intact = recorded == digest(fields) and _with_digest(fields, recorded) == data
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, MemoryError):
        intact = False
    if not intact:
        raise StoreDamagedError(
            f"{name} is damaged: its text does not match its own digest. {advice}"
        )
    if type(fields.get("format")) is not int or fields["format"] not in READABLE_FORMATS:
        readable = " and ".join(map(str, READABLE_FORMATS))
        raise StoreError(
            f"{name} has format {schema.describe_value(fields.get('format'))}: this version reads"
            f" {readable}. Use the version of Tesserae that created the store."
        )
    return dict(fields)


def decode_document_as(
    kind: type[Kind],
    data: bytes,
    name: str,
    complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda fields: fields,
    *,
    advice: str = REPAIR,
) -> Kind:
    """Decode a document as the dataclass *kind* and check each of its fields.

    Args:
        kind: The dataclass, whose fields are annotated with types that
            `pipeline.store.schema.check` reads. It has all keys of the document but `digest` as
            fields, `format` included.
        data: The bytes of the document.
        name: The name of the document in the store, for messages.
        complete: A function that gets the fields of the document by name, without `digest`, and
            returns those of *kind*: it may add some that an earlier format did not have, or remove
            some (default: the same fields).
        advice: The last sentence of the message, for a damaged document (default: `REPAIR`, "Run
            `tesserae repair`.").

    Returns:
        An instance of *kind*; the lists of the document are tuples in it, except in fields of the
        type `Any`.

    Raises:
        StoreDamagedError: The bytes differ from those written, or the document is of another kind
            or has a missing, unknown or invalid field.
        StoreError: The document has a format that this version does not read.
    """
    fields = decode_document(data, name, advice)
    try:
        return schema.parse(kind, complete(fields))
    except SchemaError as e:
        raise InvalidDocumentError(name, str(e), advice) from None


def check_value(name: str, key: str, value: object, expected: object, advice: str = REPAIR) -> None:
    """Refuse a document with a field that contradicts its other fields or its name.

    Args:
        name: The name of the document in the store, for the message.
        key: The name of the field, or any phrase for it, for the message.
        value: The value in the document.
        expected: The value that it must equal (`==`).
        advice: The last sentence of the message (default: `REPAIR`, "Run `tesserae repair`.").

    Raises:
        StoreDamagedError: *value* differs from *expected*.
    """
    if value != expected:
        problem = (
            f"{key} is {schema.describe_value(value)}: expected {schema.describe_value(expected)}"
        )
        raise InvalidDocumentError(name, problem, advice)


def check_field(name: str, annotation: Any, key: str, value: object) -> None:
    """Refuse a document with a value that *annotation* does not allow.

    Call this for a value inside a field whose own annotation allows anything.

    Args:
        name: The name of the document in the store, for the message.
        annotation: A type that `pipeline.store.schema.check` reads: `int`, `float`, `str`, `bool`,
            `None`, `Any`, a dataclass, a union of these, `tuple[...]` or `dict[...]` with their
            types, or `Annotated` with bounds, such as `Annotated[int, Between(0, 9)]`.
        key: The name of the field, for the message, such as `provenance.image_seconds`.
        value: The JSON value in the document, as `json.loads` returns it: a list for a tuple.

    Raises:
        StoreDamagedError: The value is invalid; a negative number is for an `int` without bounds.
        KeyError: The annotation is another type, such as `list[int]` or a plain `dict`.
    """
    try:
        schema.check(annotation, value, key)
    except SchemaError as e:
        raise InvalidDocumentError(name, str(e), REPAIR) from None


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _with_digest(fields: dict[str, Any], digest: str) -> bytes:
    return _document_text({**fields, "digest": digest})


def _document_text(fields: dict[str, Any]) -> bytes:
    return (json.dumps(fields, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()
