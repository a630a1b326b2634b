"""The validation of documents: fields, types and bounds come from the dataclass they become.

    @dataclass(frozen=True, kw_only=True)
    class Plan:
        split: Split                                    # a str that can name a split
        num_rows: Annotated[int, Between(1, 2**40)]

    parse(Plan, {"split": "train", "num_rows": 11})

A digest shows that a document is unchanged, not that its author is trustworthy: a store may come
from someone else. So each value is checked against the annotation of its field before it is used,
and the error names the field, its value and the expected values. Only lists are converted, to
tuples: a document that was read encodes to the same text again.

A library for this (pydantic, msgspec, jsonschema) would be another dependency that each decoding
worker has to load, pin and trust, for a few dataclasses of numbers and names. This module costs a
millisecond once, and fields are declared in the dataclasses only.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from pipeline.store.encoding import is_array_name
from pipeline.store.layout import MAX_SIZE, is_split

T = TypeVar("T")
Read = Callable[[Any, str], Any]
"""A function of a JSON value and its field's name that returns the value or raises SchemaError."""

MAX_DEPTH = 16
"""The maximum depth of nested objects and lists in a field of any type."""
MAX_SHOWN = 60
"""The maximum number of characters of a value in a message."""


class SchemaError(ValueError):
    """A value that its field cannot have; the message does not name the document."""


@dataclass(frozen=True)
class Between:
    """The bounds of a number, both inclusive."""

    minimum: float
    maximum: float


@dataclass(frozen=True)
class Matching:
    """A rule for the text of a field."""

    fits: Callable[[str], object]
    """A function whose result is true for a valid text."""
    description: str
    """The description of a valid text, for the message."""


def pattern(expression: str, description: str) -> Matching:
    """Return the rule that the whole text of a field matches a regular expression.

    Args:
        expression: The regular expression, in the syntax of `re`.
        description: The description of a valid text, which follows "expected" in a message.

    Returns:
        The rule, for an annotation such as `Annotated[str, pattern("[a-z]+", "small letters")]` of
        a field or of `check`. Its `fits(text)` is true for a valid text, and its `description` is
        that of the argument.
    """
    return Matching(re.compile(expression).fullmatch, description)


def _is_size(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 4 and text == str(int(text))


Count = Annotated[int, Between(0, 2**63 - 1)]
"""A count, or a size in bytes."""
Shard = Annotated[int, Between(0, 2**32)]
"""The index of a shard in its split."""
Size = Annotated[int, Between(1, MAX_SIZE)]
"""The side of a square in pixels."""
SizeText = Annotated[
    str,
    Matching(
        lambda text: _is_size(text) and 1 <= int(text) <= MAX_SIZE,
        f"a size in pixels, 1 to {MAX_SIZE}",
    ),
]
"""The side of a square in pixels as the key of a JSON object."""
EncodingName = Annotated[
    str, Matching(is_array_name, "original or jpeg<short side>@<quality>, such as jpeg256@90")
]
"""The name of an encoded array."""
Rows = Annotated[int, Between(1, 2**24)]
"""The number of rows in a shard or a chunk."""
Digest = Annotated[str, pattern(r"[0-9a-f]{32}|[0-9a-f]{64}", "32 or 64 hexadecimal digits")]
"""A digest of another document, or of an object's bytes."""
Split = Annotated[str, Matching(is_split, "letters, digits, '-' and '_'")]
"""The name of a split."""
Format = Annotated[int, Between(1, 1000)]
"""A version number: of a format, an order or a set of rules."""


def parse(kind: type[T], fields: Any, where: str = "") -> T:
    """Return *fields*, a JSON object, as the dataclass *kind*.

    Args:
        kind: The dataclass, whose fields are annotated with types that `check` reads.
        fields: The value of every field, by name, as `json.loads` returns it, and nothing else. A
            field with a default must be there, too. It is not changed.
        where: The name of the field that holds the object, for messages; empty at the top of a
            document.

    Returns:
        An instance of *kind*; JSON lists are tuples in it, except in fields of any type.

    Raises:
        SchemaError: *fields* is not a dict; a field is missing, unknown or invalid; or the
            dataclass refuses the values with a ValueError.
    """
    if type(fields) is not dict:
        raise _invalid_value_error(where or "it", fields, "an object")
    readers = _field_readers(typing.cast(Any, kind))  # mypy takes a type for unhashable
    prefix = f"{where}." if where else ""
    for name in sorted(readers.keys() - fields.keys()):
        raise SchemaError(f"{prefix}{name} is missing")
    for name in sorted(fields.keys() - readers.keys()):
        raise SchemaError(f"{prefix}{_key_text(name)} is not a field of this document")
    values = {name: readers[name](value, prefix + name) for name, value in fields.items()}
    try:
        return kind(**values)
    except SchemaError:
        raise
    except ValueError as e:  # raised by the dataclass's own __post_init__
        raise SchemaError(str(e).rstrip(".")) from e


def check(annotation: Any, value: Any, where: str) -> Any:
    """Check that an annotation allows a JSON value, and return the value.

    Args:
        annotation: The type of a field: `int`, `float`, `str`, `bool`, `None`, `Any`, a dataclass,
            a union of these, `tuple[...]` or `dict[...]` with their types, or `Annotated` of an
            `int` or a `float` with `Between` (both bounds are allowed) or of a `str` with
            `Matching`, such as `Annotated[int, Between(0, 9)]` or `dict[str, Count]`. An `int`
            without bounds is 0 to 2^63 - 1; a `float` must be finite, and may be an int. `Any` is
            any value that is at most 16 deep, with finite numbers of at most 64 bits.
        value: The JSON value, as `json.loads` returns it: a list, not a tuple, for a `tuple[...]`.
        where: The name of the field, with which the message begins.

    Returns:
        The value: a tuple for a JSON list, and an instance for a dataclass. A value of the type
        `Any` stays as it is, lists included.

    Raises:
        SchemaError: The value is invalid.
        KeyError: The annotation is another type, such as `list[int]` or a plain `dict`.
    """
    return _reader_of(annotation)(value, where)


@functools.cache
def _field_readers(kind: Any) -> dict[str, Read]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {field.name: _reader_of(hints[field.name]) for field in dataclasses.fields(kind)}


def _reader_of(annotation: Any) -> Read:
    rules: tuple[Any, ...] = ()
    if typing.get_origin(annotation) is Annotated:
        annotation, *metadata = typing.get_args(annotation)
        rules = tuple(metadata)
    if isinstance(annotation, type) and dataclasses.is_dataclass(annotation):
        return functools.partial(parse, annotation)
    origin = typing.get_origin(annotation)
    if origin is not None:
        return _COMPOUND[origin](*typing.get_args(annotation))
    return _PLAIN[annotation](*rules)


def _integer_reader(bounds: Between = Between(0, 2**63 - 1)) -> Read:
    def reader(value: Any, where: str) -> Any:
        if type(value) is not int or not bounds.minimum <= value <= bounds.maximum:
            expected = f"a whole number from {bounds.minimum} to {bounds.maximum}"
            raise _invalid_value_error(where, value, expected)
        return value

    return reader


def _number_reader(bounds: Between = Between(-math.inf, math.inf)) -> Read:
    def reader(value: Any, where: str) -> Any:
        # `math.isfinite` overflows on an integer of 400 digits, so its size is checked first.
        small = type(value) is float or (type(value) is int and abs(value) < 2**63)
        if not small or not math.isfinite(value) or not bounds.minimum <= value <= bounds.maximum:
            raise _invalid_value_error(
                where, value, f"a finite number from {bounds.minimum:g} to {bounds.maximum:g}"
            )
        return value

    return reader


def _text_reader(rule: Matching | None = None) -> Read:
    def reader(value: Any, where: str) -> Any:
        if type(value) is not str or not (rule is None or rule.fits(value)):
            raise _invalid_value_error(
                where, value, "a string" if rule is None else rule.description
            )
        return value

    return reader


def _boolean_reader() -> Read:
    def reader(value: Any, where: str) -> Any:
        if type(value) is not bool:
            raise _invalid_value_error(where, value, "true or false")
        return value

    return reader


def _null_reader() -> Read:
    def reader(value: Any, where: str) -> Any:
        if value is not None:
            raise _invalid_value_error(where, value, "null")

    return reader


def _any_reader() -> Read:
    def reader(value: Any, where: str, depth: int = 0) -> Any:
        """Return *value* unless it is nested too deeply or holds a number that JSON cannot."""
        if depth > MAX_DEPTH:
            raise SchemaError(f"{where} holds objects in objects, more than {MAX_DEPTH} deep")
        if isinstance(value, float) and not math.isfinite(value):
            raise _invalid_value_error(where, value, "a finite number")
        if type(value) is int and not abs(value) < 2**64:
            raise _invalid_value_error(where, value, "a number of at most 64 bits")
        inside = value.values() if isinstance(value, dict) else value
        for each in inside if isinstance(value, dict | list) else ():
            reader(each, where, depth + 1)
        return value

    return reader


def _tuple_reader(*kinds: Any) -> Read:
    if kinds[-1] is not Ellipsis:
        readers = [_reader_of(kind) for kind in kinds]

        def fixed(value: Any, where: str) -> Any:
            if type(value) is not list or len(value) != len(readers):
                raise _invalid_value_error(where, value, f"a list of {len(readers)}")
            pairs = enumerate(zip(readers, value, strict=True))
            return tuple(reader(each, f"{where}[{index}]") for index, (reader, each) in pairs)

        return fixed
    read_item = _reader_of(kinds[0])

    def any_length(value: Any, where: str) -> Any:
        if type(value) is not list:
            raise _invalid_value_error(where, value, "a list")
        return tuple(read_item(each, f"{where}[{index}]") for index, each in enumerate(value))

    return any_length


def _mapping_reader(key: Any, value: Any) -> Read:
    read_key, read_value = _reader_of(key), _reader_of(value)

    def reader(items: Any, where: str) -> Any:
        if type(items) is not dict:
            raise _invalid_value_error(where, items, "an object")
        return {
            read_key(k, f"a key of {where}"): read_value(v, f"{where}.{_key_text(k)}")
            for k, v in items.items()
        }

    return reader


def _union_reader(*kinds: Any) -> Read:
    readers = [_reader_of(kind) for kind in kinds]

    def reader(value: Any, where: str) -> Any:
        errors = []
        for each in readers:
            try:
                return each(value, where)
            except SchemaError as e:
                errors.append(e)
        raise errors[0]

    return reader


_PLAIN: dict[Any, Callable[..., Read]] = {
    int: _integer_reader,
    float: _number_reader,
    str: _text_reader,
    bool: _boolean_reader,
    None: _null_reader,
    types.NoneType: _null_reader,
    Any: _any_reader,
}
_COMPOUND: dict[Any, Callable[..., Read]] = {
    tuple: _tuple_reader,
    dict: _mapping_reader,
    Mapping: _mapping_reader,
    types.UnionType: _union_reader,
    typing.Union: _union_reader,
}


def _invalid_value_error(where: str, value: Any, expected: str) -> SchemaError:
    return SchemaError(f"{where} is {describe_value(value)}: expected {expected}")


def _key_text(name: str) -> str:
    return name if re.fullmatch(r"[\w.-]{1,60}", name) else describe_value(name)


def describe_value(value: Any) -> str:
    """Return a short text for a value, which may be very long or have no text (a huge number).

    Args:
        value: Any JSON value.

    Returns:
        Its `repr`, cut to `MAX_SHOWN` (60) characters and `...` if it is longer; for objects, lists
        and numbers of more than 64 bits a phrase: "an object of 2", "a list of 3", "a number of 70
        bits".
    """
    if isinstance(value, dict | list):
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    if type(value) is int and abs(value) >= 2**64:
        return f"a number of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
