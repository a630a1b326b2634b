"""Checks of the arguments of loaders, and their values as Python types."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any


def whole_number(name: str, value: Any) -> int:
    """Return *value*, an integer of any library, as a Python int.

    Args:
        name: The name of the argument, for the error.
        value: The value to convert: an integer of Python, numpy or torch, of any sign, also as an
            array of no dimensions. True and False are 1 and 0.

    Raises:
        ValueError: The value is not an integer; a float such as 2.0, a text and None are not.
    """
    # Integers of numpy and torch pass; a float, which `int` would truncate silently, does not.
    try:
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} is {value!r}: expected a whole number.") from None


def positive_number(name: str, value: Any) -> int:
    """Return *value*, an integer of any library, as a Python int of at least 1.

    Args:
        name: The name of the argument, for the error.
        value: The value to convert: an integer of Python, numpy or torch.

    Raises:
        ValueError: The value is not an integer, as a float, a text or None, or is less than 1.
    """
    number = whole_number(name, value)
    if number < 1:
        raise ValueError(f"{name} is {number}: expected at least 1.")
    return number


def side(name: str, value: Any) -> int:
    """Return the side of a square image in pixels as a Python int of any sign.

    Args:
        name: The name of the argument, for the error.
        value: The value to convert: an integer of Python, numpy or torch.

    Raises:
        ValueError: The value is not an integer, as a float, a text or None.
    """
    try:
        return whole_number(name, value)
    except ValueError:
        raise ValueError(
            f"{name} is {value!r}: expected the side of a square in pixels, a whole number such as"
            " size=224; for several squares of each image, sizes=(72, 224)."
        ) from None


def sides_to_load(size: Any, sizes: Any) -> tuple[int, ...]:
    """Return the sides in pixels that the arguments *size* and *sizes* of a loader select.

    Args:
        size: The side of the only square, an integer of any library, or None.
        sizes: An iterable of one or more sides, or None. If both arguments are None, the side is
            224.

    Returns:
        One or more different sides, each at least 1, in the order of *sizes*, as Python ints.

    Raises:
        ValueError: Both are set, *sizes* is empty, a text or no iterable, or a side is no integer,
            less than 1 or repeated.
    """
    if size is not None and sizes is not None:
        raise ValueError("size and sizes were both given: expected one of them.")
    selected: tuple[int, ...]
    if sizes is None:
        selected = (side("size", 224 if size is None else size),)
    elif isinstance(sizes, str) or not isinstance(sizes, Iterable):
        raise ValueError(f"sizes is {sizes!r}: expected several sides in pixels, as (72, 224).")
    else:
        selected = tuple(side("sizes", each) for each in sizes)
    if not selected or min(selected) < 1 or len(set(selected)) < len(selected):
        raise ValueError(f"sizes are {selected}: expected one or more, none of them twice.")
    return selected
