"""The choice of settings, and from which number of vectors on approximate search is faster."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from workflows.studies.intervals import MeanInterval
from workflows.studies.neighbours import summary
from workflows.studies.neighbours.methods import EXACT, LSH, NUMPY, BuildRecord, Method
from workflows.studies.neighbours.summary import BATCH, SINGLE, Measurements
from workflows.studies.runs import StudyRun

FAST = Method(kind=LSH, name="fast", build_options=(("bits", 8),), candidates=10)
GOOD = Method(kind=LSH, name="good", build_options=(("bits", 9),), candidates=20)
SLOW = Method(kind=LSH, name="slow", build_options=(("bits", 9),), candidates=30)
METHODS = (Method(kind=NUMPY, name="numpy"), Method(kind=EXACT, name="exact"), FAST, GOOD, SLOW)
RECALLS = {"numpy": 1.0, "exact": 1.0, "fast": 0.8, "good": 0.96, "slow": 0.99}
MICROSECONDS = {
    100: {"numpy": 5.0, "exact": 20.0, "fast": 1.0, "good": 10.0, "slow": 11.0},
    774: {"numpy": 50.0, "exact": 40.0, "fast": 1.0, "good": 10.0, "slow": 11.0},
    9_000: {"numpy": 500.0, "exact": 400.0, "fast": 1.0, "good": 20.0, "slow": 30.0},
}


def measurements(
    noise: float = 0.01, choice_us: Mapping[str, float] | None = None, **judged: float
) -> Measurements:
    """Return three rounds.

    Args:
        noise: The growth of times from round to round, beside that of the machine.
        choice_us: Times of the queries for choosing that differ from those of the judged ones.
        **judged: Recalls of the judged queries that differ from those of the ones for choosing.
    """
    runs = []
    for seed in range(3):
        for count, times in MICROSECONDS.items():
            for method in METHODS:
                # Machine noise of a round is common to all methods.
                time_us = times[method.name] * (1 + seed) * (1 + noise * seed)
                recall = RECALLS[method.name]
                times_of = {f"{mode}{clock}_us": time_us for mode in (SINGLE, BATCH)
                            for clock in ("", "_cpu")}  # fmt: skip
                metrics = {
                    **{f"recall_{k}": judged.get(method.name, recall) for k in (1, 3, 10)},
                    "choice_recall_10": recall,
                    **times_of,
                    **{
                        f"choice_{name}": (choice_us or {}).get(method.name, value)
                        for name, value in times_of.items()
                    },
                }
                arm = summary.arm_name(count, method)
                runs.append(StudyRun(arm=arm, seed=seed, metrics=metrics, seconds=1.0))
    builds = [
        BuildRecord(
            count=count, kind=kind, build_options=dict(options), seconds=1.0, cpu_seconds=0.1,
            vector_bytes=1_000_000, index_bytes=2_000_000 if options else 0,
        )
        for count in MICROSECONDS
        for kind, options in sorted({(m.kind, m.build_options) for m in METHODS})
    ]  # fmt: skip
    return Measurements(runs, builds, list(MICROSECONDS), METHODS)


def test_the_fastest_setting_that_reaches_the_recall_is_chosen() -> None:
    """The recall of the judged queries has no part in the choice."""
    measured = measurements(good=0.5)
    assert measured.chosen(774, LSH, SINGLE, 0.95) == GOOD
    assert measured.recall(774, GOOD, 10).mean == 0.5
    assert measured.chosen(774, LSH, SINGLE, 0.97) == SLOW
    assert measured.chosen(774, LSH, SINGLE, 0.7) == FAST
    assert measured.chosen(774, LSH, SINGLE, 0.995) is None


def test_the_times_of_the_judged_queries_have_no_part_in_the_choice() -> None:
    """What is slow with them alone is chosen, among indexes and among exact searches."""
    measured = measurements(choice_us={"good": 50.0, "slow": 5.0, "numpy": 1.0, "exact": 2.0})
    assert measured.chosen(774, LSH, SINGLE, 0.95) == SLOW
    assert measured.exact(774, BATCH).name == "numpy"
    assert measured.speed_up(774, SLOW, SINGLE).mean == pytest.approx(50 / 11)


def test_times_are_compared_with_the_fastest_exact_search_within_a_round() -> None:
    """A machine that is three times as slow in one round changes no ratio."""
    measured = measurements()
    assert measured.exact(100, SINGLE).name == "numpy"
    assert measured.exact(774, SINGLE).name == "exact"
    speed_up = measured.speed_up(774, GOOD, SINGLE)
    assert (speed_up.mean, speed_up.low, speed_up.high) == pytest.approx((4, 4, 4))
    assert measured.speed_up(100, GOOD, SINGLE).mean == pytest.approx(0.5)


def test_the_answers_name_the_number_of_vectors_from_which_it_pays() -> None:
    """What is not seen to be faster everywhere above does not count."""
    text = " ".join(summary.answers(measurements(), 0.95))
    assert (
        "one at a time: lsh, chosen for a recall@10 of 95 %, is faster than exact search from 774"
        in text
    )
    assert "at 100 it is not seen to be" in text
    assert "no setting of hnsw has a recall@10 of 95 % among 9,000 vectors" in text
    assert "Among 9,000 vectors, one query at a time: good has a recall@10 of 96.0" in text
    assert "20.00 (20.00 to 20.00) times as fast as the fastest exact search" in text
    everywhere = "\n".join(summary.answers(measurements(), 0.7))
    assert "is faster than exact search at every number of vectors, from 100 on" in everywhere


def test_an_index_that_is_slower_everywhere_never_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer names the largest number of vectors that was measured."""
    monkeypatch.setitem(MICROSECONDS, 9_000, dict.fromkeys(RECALLS, 400.0) | {"exact": 100.0})
    text = " ".join(summary.answers(measurements(), 0.95))
    assert (
        "lsh, chosen for a recall@10 of 95 %, is not seen to be faster than exact search at 9,000"
        in text
    )


def test_the_tables_have_every_method_and_choice() -> None:
    """A build is repaid by the time that queries save; slower ones never repay it."""
    measured = measurements()
    table = summary.size_table(measured, 774)
    assert [row[0] for row in table.rows] == [method.name for method in METHODS]
    rows = {(row[0], row[1], row[2]): row for row in summary.choice_table(measured, 0.95).rows}
    # Medians are those of round 1, 2.02 times the times of round 0: 60.6 us are saved.
    assert rows["774", "one at a time", "good"][-2:] == ["faster", "1,650 queries"]
    assert rows["100", "one at a time", "good"][-2:] == ["slower", "never"]
    assert ("774", "in a batch", "hnsw: none reaches 95 %") in rows


def test_what_is_not_seen_to_be_faster_repays_no_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """The medians of rounds whose ratio has an interval around 1 differ by chance."""
    monkeypatch.setitem(MICROSECONDS, 774, dict.fromkeys(RECALLS, 40.0))
    rows = {(row[0], row[1], row[2]): row for row in summary.choice_table(
        measurements(), 0.95).rows}  # fmt: skip
    assert rows["774", "one at a time", "good"][-2:] == ["no difference seen", ""]


def test_the_notebook_is_shown_beside_its_numbers_of_vectors_alone() -> None:
    """Without one of them there is no table."""
    table = summary.notebook_table(measurements())
    assert table is not None
    assert [row[0] for row in table.rows] == ["774"] * 3
    assert table.rows[0][-2:] == ["2,850", "16,900"]
    measured = measurements()
    assert (
        summary.notebook_table(Measurements(measured.runs, measured.builds, [100], METHODS)) is None
    )


def test_the_figures_show_recall_time_and_memory() -> None:
    """Each index is labelled once with its memory; joined lines are those of chosen settings."""
    figures = summary.figures(measurements(), 0.95)
    assert list(figures) == ["recall-time-memory", "time-size", "time-size-batch"]
    labels = [text.text for text in figures["recall-time-memory"].texts]
    assert labels.count("2 MB") == 2
    assert {"numpy", "exact", "LSH"} <= set(labels)
    assert len(figures["time-size"].lines) == 3


def test_a_ratio_near_1_shows_the_digits_of_its_verdict() -> None:
    """`1.00 (1.00 to 1.00)` would not be faster."""
    ratio = MeanInterval(3, 1.003, 1.001, 1.005)
    assert (summary._ratio_text(ratio), summary._verdict(ratio)) == (
        "1.003 (1.001 to 1.005)",
        summary.FASTER,
    )
    assert summary._ratio_text(MeanInterval(3, 1.003, 0.999, 1.005)) == "1.00 (1.00 to 1.00)"
