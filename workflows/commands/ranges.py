"""Numeric option types for argparse that check the range of their values.

A bare `int` or `float` as the type of an option accepts -5, nan and inf, which fail much later or
never terminate. A `Range` rejects them while the command line is parsed, with the accepted range.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

MAX_INT = 2**63 - 1
"""The largest integer that file formats and libraries store: that of 64 signed bits."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """A range of numbers, usable as a type for argparse and as a check of values from code."""

    kind: type[int] | type[float] = int
    least: float | None = None
    most: float | None = None
    above: float | None = None
    """An exclusive lower bound, used instead of `least`."""

    def __call__(self, text: str) -> int | float:
        """Parse *text* as a number within this range.

        Raises:
            argparse.ArgumentTypeError: *text* is no number or outside the range; the message says
                what was expected.
        """
        try:
            value = self.kind(text)
        except ValueError:
            noun = "a whole number" if self.kind is int else "a number"
            raise argparse.ArgumentTypeError(f"expected {noun}{self._within(', ')}") from None
        expected = self.expected(value)
        if expected:
            raise argparse.ArgumentTypeError(f"expected {expected}")
        return value

    def expected(self, value: float) -> str:
        """Return a description of the accepted range if *value* is outside it, else ''."""
        if not -math.inf < value < math.inf:  # nan too; an int may be too long for a float
            return f"a finite number{self._within(', ')}"
        if isinstance(value, int) and self.most is None and value > MAX_INT:
            return f"at most {MAX_INT:,}"
        inside = (
            (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
        )
        return "" if inside else self._within()

    def _within(self, before: str = "") -> str:
        high = "" if self.most is None else _text(self.most)
        if self.least is not None:
            low = _text(self.least)
            return before + (f"{low} to {high}" if high else f"at least {low}")
        if self.above is not None:
            return f"{before}more than {_text(self.above)}" + (f", at most {high}" if high else "")
        return f"{before}at most {high}" if high else ""


def integer(minimum: int | None = None, maximum: int | None = None) -> Range:
    """Return the range of integers from *minimum* to *maximum*, inclusive; None is no bound."""
    return Range(kind=int, least=minimum, most=maximum)


def number(
    minimum: float | None = None, maximum: float | None = None, *, above: float | None = None
) -> Range:
    """Return the range of finite numbers from *minimum* to *maximum*, inclusive.

    Args:
        minimum: The inclusive lower bound (default: none).
        maximum: The inclusive upper bound (default: none).
        above: An exclusive lower bound, instead of *minimum* (default: none).
    """
    return Range(kind=float, least=minimum, most=maximum, above=above)


def _text(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"
