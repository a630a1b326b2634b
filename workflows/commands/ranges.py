"""Numbers of a command line, each with the range that makes sense.

A bare `int` or `float` as the type of an option takes -5, nan and inf, which fail much later, or
run for ever. A `Range` refuses them where they are typed, and says what would be accepted.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

MAX_INT = 2**63 - 1
"""The largest whole number that files and libraries hold."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that an option may be: a type for argparse, and a check for code."""

    kind: type[int] | type[float] = int
    least: float | None = None
    most: float | None = None
    above: float | None = None
    """A number that the value must exceed, where there is no least one."""

    def __call__(self, text: str) -> int | float:
        """Read *text* as a number of this range.

        Raises:
            argparse.ArgumentTypeError: It is none, with what was expected.
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
        """Return what was expected in place of *value*; nothing where it is in the range."""
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
        most = "" if self.most is None else _text(self.most)
        if self.least is not None:
            low = _text(self.least)
            return before + (f"{low} to {most}" if most else f"at least {low}")
        if self.above is not None:
            return f"{before}more than {_text(self.above)}" + (f", at most {most}" if most else "")
        return f"{before}at most {most}" if most else ""


def whole(least: int | None = None, most: int | None = None) -> Range:
    """Whole numbers from *least* to *most*, both included; None = no bound."""
    return Range(kind=int, least=least, most=most)


def number(
    least: float | None = None, most: float | None = None, *, above: float | None = None
) -> Range:
    """Finite numbers from *least*, or above *above*, to *most*; None = no bound."""
    return Range(kind=float, least=least, most=most, above=above)


def _text(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"
