"""Figures as SVG files: positions, legends and labels, and text that is escaped."""

from __future__ import annotations

from itertools import combinations
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workflows.reports import figures
from workflows.reports.figures import Estimate, Point, interval_figure, point_figure, svg

VALUES = st.floats(-1e5, 1e5, allow_nan=False)
TEXT = "{http://www.w3.org/2000/svg}text"


def texts_of(figure: figures.Figure) -> list[str]:
    """Return the texts of the SVG file of a figure."""
    return [element.text or "" for element in ElementTree.fromstring(svg(figure)).iter(TEXT)]


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=12))
def test_intervals_lie_within_the_plot_and_enclose_their_value(
    rows: list[tuple[float, float, float]],
) -> None:
    """Rows follow each other from top to bottom, and larger values are further to the right."""
    estimates = [
        Estimate(label=f"row {i}", low=low, value=value, high=high)
        for i, (low, value, high) in enumerate(map(sorted, rows))
    ]
    figure = interval_figure("Title", estimates, across="points", reference=0)
    for mark in figure.marks:
        assert mark.x_span is not None
        low, high = mark.x_span
        assert figure.left - 1e-6 <= low <= mark.x + 1e-6 <= high + 2e-6 <= figure.right + 3e-6
        assert figure.top < mark.y < figure.bottom
    assert [m.y for m in figure.marks] == sorted(m.y for m in figure.marks)
    assert figure.reference is not None
    assert figure.left <= figure.reference <= figure.right


@given(
    st.lists(st.tuples(st.floats(1e-3, 1e6), VALUES), min_size=1, max_size=15),
    st.booleans(),
)
def test_points_lie_within_the_plot(pairs: list[tuple[float, float]], log_x: bool) -> None:
    """Labels cover neither each other nor points."""
    series = {"a": [Point(x=x, y=y, low=y - 1, high=y + 1, label="block 1") for x, y in pairs]}
    figure = point_figure("T", series, across="bytes", upwards="hit@5", log_x=log_x)
    for mark in figure.marks:
        assert figure.left - 1e-6 <= mark.x <= figure.right + 1e-6
        assert figure.top - 1e-6 <= mark.y <= figure.bottom + 1e-6
    width = figures.CHARACTER_WIDTH * len("block 1")
    shares = {"start": 0.0, "middle": 0.5, "end": 1.0}
    starts = [(t.x - shares[t.anchor] * width, t.y) for t in figure.texts if t.text == "block 1"]
    assert all(figure.left <= x for x, _ in starts)
    boxes = [(x, y - 11, x + width, y + 3) for x, y in starts]
    assert not any(figures._overlap(a, b) for a, b in combinations(boxes, 2))
    points = [(m.x - 4, m.y - 4, m.x + 4, m.y + 4) for m in figure.marks]
    assert not any(figures._overlap(box, point) for box in boxes for point in points)


@pytest.mark.parametrize("values", [(3.0, 3.0), (1.0, 9.0), (2.0, 40.0), (0.02, 5_000.0)])
def test_a_logarithmic_axis_has_ticks_that_enclose_the_points(values: tuple[float, float]) -> None:
    """They are at least two, at round numbers."""
    series = {"a": [Point(x=v, y=v, low=v / 2, high=v * 2) for v in values]}
    figure = point_figure("T", series, across="x", upwards="y", log_x=True, log_y=True)
    assert len(figure.x_ticks) >= 2
    assert len(figure.y_ticks) >= 2
    assert figure.x_ticks[0].at == pytest.approx(figure.left)
    assert figure.x_ticks[-1].at == pytest.approx(figure.right)
    assert figure.y_ticks[0].at == pytest.approx(figure.bottom)
    assert figure.y_ticks[-1].at == pytest.approx(figure.top)
    for mark in figure.marks:
        assert figure.left - 1e-6 <= mark.x <= figure.right + 1e-6
        assert mark.y_span is not None
        low, high = mark.y_span
        assert figure.top - 1e-6 <= high < mark.y < low <= figure.bottom + 1e-6
        # A factor of two is as long on one side as on the other.
        assert low - mark.y == pytest.approx(mark.y - high)


def test_series_have_a_legend_and_texts_are_escaped() -> None:
    """A single series has none; markup in names stays text."""
    rows = [
        Estimate(label="<b>crop</b>", value=1, low=0, high=2, series="a & b"),
        Estimate(label="pad", value=1, low=1, high=1, series="c"),
    ]
    figure = interval_figure("Title", rows, across="points")
    assert len(figure.legend) == 2
    shown = texts_of(figure)
    assert {"<b>crop</b>", "a & b", "c", "Title", "points"} <= set(shown)
    alone = interval_figure("Title", rows[:1], across="points")
    assert alone.legend == ()
    assert "a & b" not in texts_of(alone)


def test_a_long_legend_takes_several_lines_within_the_width() -> None:
    """No name of a series is cut off at the right."""
    names = [f"a series with a long name {i}" for i in range(5)]
    series = {name: [Point(x=i, y=i)] for i, name in enumerate(names)}
    figure = point_figure("T", series, across="x", upwards="y", joined=True)
    legend = [text for text in figure.texts if text.text in names]
    assert len({text.y for text in legend}) > 1
    for text in legend:
        assert text.x + figures.CHARACTER_WIDTH * len(text.text) <= figures.WIDTH
        assert text.y < figure.height


@pytest.mark.parametrize(("half_width", "is_apart"), [(1.0, True), (None, False)])
def test_joined_series_with_intervals_stand_beside_each_other(
    half_width: float | None, is_apart: bool
) -> None:
    """At the same x value one interval would hide the other; points without one may be exact."""
    ends = (None, None) if half_width is None else (2 - half_width, 2 + half_width)
    series = {name: [Point(x=i, y=2, low=ends[0], high=ends[1]) for i in range(3)] for name in "ab"}
    figure = point_figure("T", series, across="x", upwards="y", joined=True)
    first, second = (
        [mark.x for mark in figure.marks if mark.colour == colour] for colour in (1, 2)
    )
    shifts = {round(b - a, 6) for a, b in zip(first, second, strict=True)}
    assert shifts == {figures.SERIES_STEP if is_apart else 0}
    for colour, path in figure.lines:
        assert path.startswith(f"{first[0] if colour == 1 else second[0]:.1f},")
