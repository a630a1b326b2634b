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
    """The type of the numbers: `int` or `float`."""
    minimum: float | None = None
    """The smallest accepted number; None: no limit."""
    maximum: float | None = None
    """The largest accepted number; None: no limit."""
    above: float | None = None
    """An exclusive lower bound, used instead of `minimum`; None: no limit."""
    words: tuple[tuple[str, int], ...] = ()
    """The words that are accepted, each with the number that stands for it, which may be outside
    the range."""

    def __call__(self, text: str) -> int | float:
        """Parse *text* as a number within this range.

        Args:
            text: The value as typed on the command line.

        Raises:
            argparse.ArgumentTypeError: *text* is no number or outside the range; the message says
                what was expected.
        """
        if text in dict(self.words):
            return dict(self.words)[text]
        try:
            value = self.kind(text)
        except ValueError:
            noun = "a whole number" if self.kind is int else "a number"
            words = "".join(f", or {word}" for word, _ in self.words)
            raise argparse.ArgumentTypeError(
                f"expected {noun}{self._within(', ')}{words}"
            ) from None
        expected = self._expected_number(value)
        if expected:
            raise argparse.ArgumentTypeError(f"expected {expected}")
        return value

    def expected(self, value: float) -> str:
        """Return the accepted range if a number is outside it and stands for no word.

        Args:
            value: The number. nan and infinite ones are never accepted, and without a maximum,
                integers are accepted up to 2**63 - 1.

        Returns:
            A description of what is expected, such as `at least 1`, if *value* is not accepted;
            otherwise ''.
        """
        return "" if value in dict(self.words).values() else self._expected_number(value)

    def _expected_number(self, value: float) -> str:
        if not -math.inf < value < math.inf:  # nan too; an int may be too long for a float
            return f"a finite number{self._within(', ')}"
        if isinstance(value, int) and self.maximum is None and value > MAX_INT:
            return f"at most {MAX_INT:,}"
        inside = (
            (self.minimum is None or value >= self.minimum)
            and (self.maximum is None or value <= self.maximum)
            and (self.above is None or value > self.above)
        )
        return "" if inside else self._within()

    def _within(self, before: str = "") -> str:
        high = "" if self.maximum is None else _bound_text(self.maximum)
        if self.minimum is not None:
            low = _bound_text(self.minimum)
            return before + (f"{low} to {high}" if high else f"at least {low}")
        if self.above is not None:
            return f"{before}more than {_bound_text(self.above)}" + (
                f", at most {high}" if high else ""
            )
        return f"{before}at most {high}" if high else ""


def _bound_text(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"
