"""The rates and times of a progress display."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.terminal.meter import Meter


def test_current_and_overall_rates_differ():
    """A run that has slowed down shows both rates."""
    meter = Meter(10_000, 0.0)
    for second in range(1, 101):
        meter.add(float(second), 100 if second <= 50 else 10, 1000, 2000, 0)

    assert meter.window(100.0)[0] == pytest.approx(10)
    assert meter.window(100.0)[1:] == (pytest.approx(1000), pytest.approx(2000))
    assert meter.overall(100.0)[0] == pytest.approx(55)


def test_the_current_rate_spans_several_shards():
    """Shards a minute apart do not show a rate of zero for most of the minute."""
    meter = Meter(10_000, 0.0)
    for minute in range(1, 11):
        meter.add(60.0 * minute, 600, 0, 0, 0)

    assert 5 < meter.window(630.0)[0] <= 10


def test_the_rate_of_a_stalled_run_falls():
    """The current rate falls with every second in which nothing is counted."""
    meter = Meter(None, 0.0)
    for second in range(1, 21):
        meter.add(float(second), 100, 0, 0, 0)
    rates = [meter.window(20.0 + later)[0] for later in (0, 30, 300)]

    assert rates[0] > rates[1] > rates[2] > 0


def test_start_up_is_excluded_from_rates():
    """The first rows are excluded, too; the total time includes everything."""
    meter = Meter(110, 0.0)
    meter.add(90.0, 10, 0, 0, 0)
    meter.restart_rates(90.0)
    assert meter.seconds_left(90.0) is None
    meter.add(100.0, 20, 0, 0, 0)
    assert meter.seconds_left(100.0) == pytest.approx(40)
    assert meter.window(100.0)[0] == meter.overall(100.0)[0] == pytest.approx(2)
    assert meter.from_start(100.0)[0] == pytest.approx(0.3)


def test_the_time_left_follows_from_the_rate_of_the_run():
    """After half of the rows in ten seconds, ten seconds are left."""
    meter = Meter(200, 5.0)
    meter.add(15.0, 100, 0, 0, 0)

    assert meter.seconds_left(15.0) == pytest.approx(10)


def test_rows_of_earlier_runs_are_excluded_from_rates():
    """Rows of earlier runs count for the share, but not for the rate."""
    meter = Meter(1_000, 0.0)
    meter.initial_rows = 600
    meter.add(10.0, 100, 0, 0, 0)

    assert meter.overall(10.0)[0] == pytest.approx(10)
    assert meter.done == 700
    assert meter.share() == pytest.approx(0.7)
    assert meter.seconds_left(10.0) == pytest.approx(30)


def test_the_time_left_is_none_without_a_total():
    """The time left is also None before the first row."""
    assert Meter(None, 0.0).seconds_left(1.0) is None
    assert Meter(10, 0.0).seconds_left(1.0) is None
    assert Meter(None, 0.0).share() is None


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.integers(0, 5000), st.integers(0, 10**9)), max_size=60
    ),
    st.integers(0, 1000),
)
def test_rates_and_times_are_never_negative_or_errors(steps, total):
    """The counts may exceed the total, or come without time between them."""
    meter, now = Meter(total, 0.0), 0.0
    for seconds, rows, num_bytes in steps:
        now += seconds
        meter.add(now, rows, num_bytes, num_bytes, 0)
        assert min(meter.window(now)) >= 0
        assert (meter.seconds_left(now) or 0) >= 0
        assert 0 <= (meter.share() or 0) <= 1

    assert meter.last.rows == sum(rows for _, rows, _ in steps)


def test_memory_of_the_meter_is_bounded():
    """A listing counts far more often than the display is drawn."""
    meter = Meter(None, 0.0)
    for count in range(10_000):
        meter.add(count / 1000, 1, 0, 0, 0)

    assert len(meter._marks) <= 41
    assert meter.window(10.0)[0] == pytest.approx(1000, rel=0.05)
