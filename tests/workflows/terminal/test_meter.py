"""The sums behind a display of progress."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.terminal.meter import Meter


def test_now_is_what_was_done_of_late_and_overall_is_all_of_it():
    """A run that slowed down shows both."""
    meter = Meter(10_000, 0.0)
    for second in range(1, 101):
        meter.add(float(second), 100 if second <= 50 else 10, 1000, 2000, 0)

    assert meter.window(100.0)[0] == pytest.approx(10)
    assert meter.window(100.0)[1:] == (pytest.approx(1000), pytest.approx(2000))
    assert meter.overall(100.0)[0] == pytest.approx(55)


def test_now_takes_in_several_shards_however_slow_they_are():
    """Shards a minute apart do not show as nothing for most of the minute."""
    meter = Meter(10_000, 0.0)
    for minute in range(1, 11):
        meter.add(60.0 * minute, 600, 0, 0, 0)

    assert 5 < meter.window(630.0)[0] <= 10


def test_a_stalled_run_shows_a_rate_that_falls():
    """The current rate falls with every second in which nothing is counted."""
    meter = Meter(None, 0.0)
    for second in range(1, 21):
        meter.add(float(second), 100, 0, 0, 0)
    rates = [meter.window(20.0 + later)[0] for later in (0, 30, 300)]

    assert rates[0] > rates[1] > rates[2] > 0


def test_what_came_before_the_work_counts_for_no_rate():
    """Nor does the first of it, which took longer; the total says how long all of it took."""
    meter = Meter(110, 0.0)
    meter.add(90.0, 10, 0, 0, 0)
    meter.restart_rates(90.0)
    assert meter.seconds_left(90.0) is None
    meter.add(100.0, 20, 0, 0, 0)
    assert meter.seconds_left(100.0) == pytest.approx(40)
    assert meter.window(100.0)[0] == meter.overall(100.0)[0] == pytest.approx(2)
    assert meter.from_start(100.0)[0] == pytest.approx(0.3)


def test_the_time_left_is_at_the_rate_of_the_run():
    """Half of the rows in ten seconds leaves ten."""
    meter = Meter(200, 5.0)
    meter.add(15.0, 100, 0, 0, 0)

    assert meter.seconds_left(15.0) == pytest.approx(10)


def test_what_was_done_before_counts_for_no_rate():
    """A run that goes on is not quicker for it, and not as far from its end."""
    meter = Meter(1_000, 0.0)
    meter.before = 600
    meter.add(10.0, 100, 0, 0, 0)

    assert meter.overall(10.0)[0] == pytest.approx(10)
    assert meter.done == 700
    assert meter.share() == pytest.approx(0.7)
    assert meter.seconds_left(10.0) == pytest.approx(30)


def test_without_an_end_nobody_knows_the_time_left():
    """Nor before anything was done."""
    assert Meter(None, 0.0).seconds_left(1.0) is None
    assert Meter(10, 0.0).seconds_left(1.0) is None
    assert Meter(None, 0.0).share() is None


@given(
    st.lists(
        st.tuples(st.floats(0, 100), st.integers(0, 5000), st.integers(0, 10**9)), max_size=60
    ),
    st.integers(0, 1000),
)
def test_whatever_is_counted_rates_and_times_make_sense(steps, total):
    """More rows than were announced, none at all, no time between: never an error or a minus."""
    meter, now = Meter(total, 0.0), 0.0
    for seconds, rows, num_bytes in steps:
        now += seconds
        meter.add(now, rows, num_bytes, num_bytes, 0)
        assert min(meter.window(now)) >= 0
        assert (meter.seconds_left(now) or 0) >= 0
        assert 0 <= (meter.share() or 0) <= 1

    assert meter.last.rows == sum(rows for _, rows, _ in steps)


def test_a_million_counts_are_remembered_as_few():
    """A listing counts far more often than anybody looks."""
    meter = Meter(None, 0.0)
    for count in range(10_000):
        meter.add(count / 1000, 1, 0, 0, 0)

    assert len(meter._marks) <= 41
    assert meter.window(10.0)[0] == pytest.approx(1000, rel=0.05)
