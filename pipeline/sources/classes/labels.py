"""The value of a label: a number, a name, or none."""

import math
import re

from pipeline.errors import SourceError
from pipeline.sources.classes.class_names import clean_name

_NUMBER = re.compile(r"[+-]?[0-9]+(\.0*)?", re.ASCII)


_MAX_DIGITS = 400


def read_label(value: object, sample: str) -> int | str | None:
    """Return the value of a label: a number from 0 on, a name, or None for no class.

    Args:
        value: The label in a column, a `.cls` or a `.json`, as a Python value. None, NaN, -1 and a
            blank text are no class. Integers, whole floats and texts of a whole number (`07`,
            `1.0`) are numbers. True and False are the names `true` and `false`. Bytes are read as
            UTF-8. Any other text is a name, without white space around it and in Unicode NFC.
        sample: A description of the sample, for a message.

    Raises:
        SourceError: The value is none of these: a number below -1 or of too many digits, a float
            that is not whole, a text of several lines, bytes that are not UTF-8, a list, or of
            another type.
    """
    # bool before int, of which it is a subclass: true and false are names, not 1 and 0.
    if value is None or isinstance(value, bool):
        return None if value is None else str(value).lower()
    if isinstance(value, bytes):
        value = _decode_label(value, sample)
    if isinstance(value, str):
        return _read_label_text(value, sample)
    if isinstance(value, float):
        return _read_label_float(value, sample)
    if isinstance(value, int):
        return _class_number(value, value, sample)
    kind = "a list" if isinstance(value, list | tuple) else f"of type {type(value).__name__}"
    raise SourceError(
        f"{sample} has the label {quote_label(value)}, which is {kind}: expected one number or one"
        " name (a label of several classes, or one-hot, must be converted to one number)."
    )


def quote_label(value: object) -> str:
    """Return the `repr` of a label as it was read, for a message.

    Args:
        value: The label in a column, a `.cls` or a `.json`, of any type. Of a `repr` of more than
            60 characters, the first 57 and '...' are returned.
    """
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _decode_label(value: bytes, sample: str) -> str:
    try:
        return value.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SourceError(
            f"{sample} has the label {quote_label(value)}, which is not UTF-8: expected a number or"
            " a name."
        ) from None


def _read_label_text(value: str, sample: str) -> int | str | None:
    text = clean_name(value)
    if not text:
        return None
    if _NUMBER.fullmatch(text):
        if len(text) > _MAX_DIGITS:  # int() refuses more than 4,300 digits with another error
            raise SourceError(
                f"{sample} has the label {quote_label(value)}, which is a number of {len(text):,}"
                " characters: expected one of few digits."
            )
        return _class_number(int(text.partition(".")[0]), value, sample)
    if "\n" in text or "\r" in text:
        raise SourceError(
            f"{sample} has the label {quote_label(value)}, which is of several lines: expected one"
            " number or one name."
        )
    return text


def _read_label_float(value: float, sample: str) -> int | None:
    if math.isnan(value):
        return None
    if math.isinf(value) or not value.is_integer():
        raise SourceError(
            f"{sample} has the label {value!r}: expected a whole number, a name, or -1 for none."
        )
    return _class_number(int(value), value, sample)


def _class_number(number: int, value: object, sample: str) -> int | None:
    if number == -1:
        return None
    if number < -1:
        raise SourceError(
            f"{sample} has the label {quote_label(value)}: expected a number from 0 on, or -1 for a"
            " sample that has no class."
        )
    return number
