"""Numbers and names as they are printed for a reader."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.terminal.formatting import (
    bytes_text,
    encodable,
    per_second,
    printable,
    seconds_text,
    share_text,
    three_digits,
)


@given(st.text(st.characters(codec=None)))
def test_printable_text_has_no_control_characters(text):
    """Newlines, lone surrogates and bidirectional controls are escaped, too."""
    expected = printable(text)

    assert expected.isprintable()
    assert expected == expected.encode("utf-8").decode("utf-8")


@given(st.text().filter(str.isprintable))
def test_printable_characters_are_unchanged(text):
    """Only unprintable characters are escaped."""
    assert text == printable(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("a\nb", r"a\nb"),
        ("\udcff", r"\udcff"),
        ("\u202egpj", r"\u202egpj"),
        ("[red]x[/red] é", "[red]x[/red] é"),
    ],
)
def test_unprintable_characters_are_shown_as_escapes(text, expected):
    """A reader can tell the name from the output."""
    assert expected == printable(text)


def test_a_name_beyond_the_terminals_encoding_is_escaped():
    """A name with an accent does not stop a run in the C locale."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")

    assert encodable("café", stream) == r"caf\xe9"
    assert encodable("café", io.StringIO()) == "café"


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (110_234, "110 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (27_100_000_000, "27.1 GB"),
        (9.996e12, "10.0 TB"),
        (5e18, "5,000 PB"),
    ],
)
def test_bytes_have_three_digits_and_a_decimal_unit(num_bytes, expected):
    """The unit changes where four digits would be shown."""
    assert expected == bytes_text(num_bytes)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0.0 s"),
        (0.0302, "30 ms"),
        (0.9996, "1.0 s"),
        (4.24, "4.2 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.7, "1 min 0 s"),
        (1023, "17 min 3 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_times_have_their_two_largest_units(seconds, expected):
    """Rounding never gives `60 s` or `1 min 60 s`."""
    assert expected == seconds_text(seconds)


@given(total=st.integers(1, 50_000_000), data=st.data())
def test_shares_are_not_rounded_to_0_or_100_percent(total, data):
    """One bad row of a million is not shown as `100.0 %` readable."""
    part = data.draw(st.integers(0, total))
    expected = float(share_text(part, total).removesuffix(" %"))

    assert (expected == 100) == (part == total)
    assert (expected == 0) == (part == 0)
    assert abs(expected - 100 * part / total) <= 0.0501


def test_a_share_or_rate_of_nothing_is_a_dash():
    """There is no division by zero, and no invented number."""
    assert share_text(0, 0) == "-"
    assert per_second(10, 0) == "-"


def test_rates_have_at_least_three_significant_digits():
    """Small rates have a decimal place, and large ones have thousands separators."""
    assert [per_second(25, 2), per_second(2504, 2), per_second(0, 2)] == ["12.5", "1,252", "0"]
    assert [three_digits(v) for v in (1.234, 12.34, 123.4, 1234)] == [
        "1.23",
        "12.3",
        "123",
        "1,234",
    ]
