"""The choice of settings, the tables, the figures and the answers of the study."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from workflows.reports.figures import Figure, Point, point_figure
from workflows.reports.table import Table
from workflows.studies.arm_tables import ratio_of, values_of
from workflows.studies.intervals import MeanInterval, mean_interval
from workflows.studies.neighbours.methods import (
    APPROXIMATE,
    SKLEARN,
    BuildRecord,
    Method,
)
from workflows.studies.runs import StudyRun

SINGLE, BATCH = "single", "batch"
MODES = {SINGLE: "one at a time", BATCH: "in a batch"}
"""The ways in which queries arrive, with their names in the tables."""
NOTEBOOK = {774: (10_000, 2_850.0, 16_900.0), 51_633: (200, 15_500.0, 91_500.0)}
"""The timings of the course's notebook by the number of vectors: the number of queries in a batch,
and the microseconds a query of wall and of processor time, by several threads. It searched 3
neighbours with the LSHForest of scikit-learn 0.18, 20 trees, on another machine, and measured
neither recall nor exact search."""
MEGABYTE = 1e6
FASTER, SLOWER = "faster", "slower"
"""The verdicts on a ratio of times whose whole interval is on one side of 1."""


def arm_name(count: int, method: Method) -> str:
    """Return the name of an arm: a method among a number of vectors.

    Args:
        count: The number of vectors that are searched.
        method: The search.
    """
    return f"{count:,} vectors, {method.name}"


@dataclass(frozen=True)
class Measurements:
    """All runs and builds of a study."""

    runs: Sequence[StudyRun]
    builds: Sequence[BuildRecord]
    sizes: Sequence[int]
    """The numbers of vectors, ascending."""
    methods: Sequence[Method]

    def values(self, count: int, method: Method, metric: str) -> dict[int, float]:
        """Return a metric of an arm by seed."""
        arm = arm_name(count, method)
        return values_of(self.runs, arm, metric)

    def recall(self, count: int, method: Method, k: int) -> MeanInterval:
        """Return the mean recall of an arm and its interval, which is cut off at 0 and 1."""
        values = list(self.values(count, method, f"recall_{k}").values())
        return mean_interval(values).limited(0, 1)

    def median(self, count: int, method: Method, metric: str) -> float:
        """Return the median of a metric of an arm over the rounds."""
        return statistics.median(self.values(count, method, metric).values())

    def vector_bytes(self, count: int) -> int:
        """Return the bytes of a number of vectors."""
        return next(b.vector_bytes for b in self.builds if b.count == count)

    def build(self, count: int, method: Method) -> BuildRecord:
        """Return the cost of the build of an arm."""
        return next(
            b
            for b in self.builds
            if (b.count, b.kind) == (count, method.kind)
            and b.build_options == dict(method.build_options)
        )

    def exact(self, count: int, mode: str) -> Method:
        """Return the fastest exact search, with whose time the others are compared.

        Args:
            count: The number of vectors.
            mode: `single` or `batch`.

        Returns:
            The method whose median time is least with the queries for choosing.
        """
        exact = [method for method in self.methods if method.kind not in APPROXIMATE]
        return min(exact, key=lambda m: self.median(count, m, f"choice_{mode}_cpu_us"))

    def speed_up(self, count: int, method: Method, mode: str) -> MeanInterval:
        """Return how many times as fast as the fastest exact search a method is, within a round.

        Args:
            count: The number of vectors.
            method: The method.
            mode: `single` or `batch`.

        Returns:
            The geometric mean over the rounds, and its interval by Student's t distribution of the
            logarithms.
        """
        exact = arm_name(count, self.exact(count, mode))
        ratio = ratio_of(self.runs, exact, arm_name(count, method), f"{mode}_cpu_us")
        assert ratio is not None  # both have every round
        return ratio

    def chosen(self, count: int, kind: str, mode: str, target: float) -> Method | None:
        """Return the fastest setting of a kind of index that reaches a recall.

        Recall and time are those of the queries for choosing, which judge nothing.

        Args:
            count: The number of vectors.
            kind: `lsh` or `hnsw`.
            mode: `single` or `batch`.
            target: The least mean recall of the 10 nearest.

        Returns:
            The method; None if no setting reaches the recall.
        """
        candidates = [
            method
            for method in self.methods
            if method.kind == kind
            and statistics.mean(self.values(count, method, "choice_recall_10").values()) >= target
        ]
        return min(
            candidates,
            key=lambda method: self.median(count, method, f"choice_{mode}_cpu_us"),
            default=None,
        )


# --- tables ---------------------------------------------------------------------------------------


def size_table(measured: Measurements, count: int) -> Table:
    """Return the table of all methods among a number of vectors.

    Args:
        measured: The measurements.
        count: The number of vectors.
    """
    columns = [
        "method", "recall@1, %", "recall@3, %", "recall@10, %", "by chance, %", "CPU us (min)",
        "wall us", "batch CPU us (min)", "batch wall us", "queries/s of CPU", "index MB",
        "build CPU s",
    ]  # fmt: skip
    rows = []
    for method in measured.methods:
        build = measured.build(count, method)
        rows.append(
            [
                method.name,
                *(_share_text(measured.recall(count, method, k)) for k in (1, 3, 10)),
                f"{100 * method.chance(count):.1f}" if method.kind in APPROXIMATE else "",
                _time_text(measured, count, method, "single_cpu_us"),
                f"{measured.median(count, method, 'single_us'):,.0f}",
                _time_text(measured, count, method, "batch_cpu_us"),
                f"{measured.median(count, method, 'batch_us'):,.0f}",
                f"{1e6 / measured.median(count, method, 'batch_cpu_us'):,.0f}",
                f"{build.index_bytes / MEGABYTE:,.1f}",
                f"{build.cpu_seconds:,.1f}",
            ]
        )
    vector_megabytes = measured.vector_bytes(count) / MEGABYTE
    return Table(
        f"{count:,} vectors, {vector_megabytes:,.1f} MB: microseconds a query, one at a time and in"
        " a batch",
        columns,
        rows,
        ["method"],
    )


def _time_text(measured: Measurements, count: int, method: Method, metric: str) -> str:
    minimum = min(measured.values(count, method, metric).values())
    return f"{measured.median(count, method, metric):,.0f} ({minimum:,.0f})"


def choice_table(measured: Measurements, target: float) -> Table:
    """Return the table of the chosen settings: their recall, their speed-up, and what repays them.

    Args:
        measured: The measurements.
        target: The least recall by which they were chosen.
    """
    columns = [
        "vectors", "queries", "fastest setting", "recall@10, %", "CPU us", "fastest exact",
        "its CPU us", "times as fast", "verdict", "repays its build after",
    ]  # fmt: skip
    rows = []
    for count in measured.sizes:
        for mode, mode_name in MODES.items():
            for kind in APPROXIMATE:
                method = measured.chosen(count, kind, mode, target)
                cells = (
                    [f"{kind}: none reaches {100 * target:g} %", *[""] * 7]
                    if method is None
                    else _choice_cells(measured, count, method, mode)
                )
                rows.append([f"{count:,}", mode_name, *cells])
    return Table(
        f"The fastest setting with a recall@10 of {100 * target:g} %, chosen on other queries",
        columns,
        rows,
        ["queries", "fastest setting", "fastest exact", "verdict"],
    )


def _choice_cells(measured: Measurements, count: int, method: Method, mode: str) -> list[str]:
    exact = measured.exact(count, mode)
    speed_up = measured.speed_up(count, method, mode)
    verdict = _verdict(speed_up)
    time_us, exact_us = (measured.median(count, m, f"{mode}_cpu_us") for m in (method, exact))
    return [
        method.name,
        _share_text(measured.recall(count, method, 10)),
        f"{time_us:,.0f}",
        exact.name,
        f"{exact_us:,.0f}",
        _ratio_text(speed_up),
        verdict,
        _repaid_text(measured.build(count, method), exact_us - time_us, verdict),
    ]


def notebook_table(measured: Measurements) -> Table | None:
    """Return the timings of the course's notebook beside those of this machine.

    Args:
        measured: The measurements.

    Returns:
        The table; None if no number of vectors is one of the notebook's.
    """
    rows = []
    for count, (num_queries, wall_us, cpu_us) in NOTEBOOK.items():
        if count not in measured.sizes:
            continue
        rows.append(
            [
                f"{count:,}",
                f"LSHForest, 3 nearest, {num_queries:,} queries (2017, another machine)",
                "not measured",
                f"{wall_us:,.0f}",
                f"{cpu_us:,.0f}",
            ]
        )
        rows += [
            [
                f"{count:,}",
                f"{method.name}, 10 nearest, here",
                _share_text(measured.recall(count, method, 10)),
                f"{measured.median(count, method, 'batch_us'):,.0f}",
                f"{measured.median(count, method, 'batch_cpu_us'):,.0f}",
            ]
            for method in measured.methods
            if method.kind not in APPROXIMATE
        ]
    if not rows:
        return None
    columns = ["vectors", "method", "recall@10, %", "batch wall us", "batch CPU us"]
    return Table("Beside the notebook of the course", columns, rows, ["method"])


def _share_text(interval: MeanInterval) -> str:
    mean, low, high = (f"{100 * v:.1f}" for v in (interval.mean, interval.low, interval.high))
    return f"{mean} ({low} to {high})" if interval.has_interval else mean


def _ratio_text(interval: MeanInterval) -> str:
    decimals = interval.decimals(2, null=1.0)
    mean, low, high = (f"{v:.{decimals}f}" for v in (interval.mean, interval.low, interval.high))
    return f"{mean} ({low} to {high})" if interval.has_interval else mean


def _verdict(speed_up: MeanInterval) -> str:
    if not speed_up.has_interval:
        return "no interval"
    if speed_up.low > 1:
        return FASTER
    return SLOWER if speed_up.high < 1 else "no difference seen"


def _repaid_text(build: BuildRecord, saved_us: float, verdict: str) -> str:
    if verdict == SLOWER:
        return "never"
    if verdict != FASTER or saved_us <= 0:
        return ""  # no saving was seen that could repay it
    return f"{build.cpu_seconds * 1e6 / saved_us:,.0f} queries"


# --- figures --------------------------------------------------------------------------------------


def figures(measured: Measurements, target: float) -> dict[str, Figure]:
    """Return the figures by name.

    Args:
        measured: The measurements.
        target: The least recall by which settings are chosen.
    """
    largest = measured.sizes[-1]
    return {
        "recall-time-memory": _recall_figure(measured, largest),
        "time-size": _size_figure(measured, SINGLE, target),
        "time-size-batch": _size_figure(measured, BATCH, target),
    }


def _recall_figure(measured: Measurements, count: int) -> Figure:
    series: dict[str, list[Point]] = {}
    labelled = set()
    for method in measured.methods:
        if method.kind == SKLEARN:  # its time would stretch the axis
            continue
        build = measured.build(count, method)
        recall = measured.recall(count, method, 10)
        key = method.kind, method.build_options
        memory = f"{build.index_bytes / MEGABYTE:,.0f} MB"
        is_new = method.kind in APPROXIMATE and key not in labelled
        labelled.add(key)
        series.setdefault(_series_name(method), []).append(
            Point(
                x=measured.median(count, method, "single_cpu_us"),
                y=100 * recall.mean,
                low=100 * recall.low,
                high=100 * recall.high,
                label=memory if is_new else "",
            )
        )
    vectors = measured.vector_bytes(count) / MEGABYTE
    return point_figure(
        f"Recall, time and memory (beside {vectors:,.0f} MB of vectors), {count:,} vectors",
        series,
        across="microseconds of CPU time a query, one at a time",
        upwards="recall of the 10 nearest, %",
        log_x=True,
    )


def _series_name(method: Method) -> str:
    return {"lsh": "LSH", "hnsw": "HNSW"}.get(method.kind, method.kind)


def _size_figure(measured: Measurements, mode: str, target: float) -> Figure:
    metric = f"{mode}_cpu_us"
    series: dict[str, list[Point]] = {}
    for method in measured.methods:
        if method.kind not in APPROXIMATE:
            series[method.kind] = [
                Point(x=count, y=measured.median(count, method, metric)) for count in measured.sizes
            ]
    for kind in APPROXIMATE:
        chosen = {
            count: setting
            for count in measured.sizes
            if (setting := measured.chosen(count, kind, mode, target)) is not None
        }
        points = [
            Point(x=count, y=measured.median(count, setting, metric))
            for count, setting in chosen.items()
        ]
        if points:
            series[f"{kind.upper()}, recall {100 * target:g} %"] = points
    return point_figure(
        f"Time of a query, {MODES[mode]}, by the number of vectors",
        series,
        across="number of vectors",
        upwards="microseconds of CPU time a query",
        log_x=True,
        log_y=True,
        joined=True,
    )


# --- answers --------------------------------------------------------------------------------------


def answers(measured: Measurements, target: float) -> Iterator[str]:
    """Yield what the study found, in sentences.

    Args:
        measured: The measurements.
        target: The least recall by which settings are chosen.
    """
    for mode, mode_name in MODES.items():
        for kind in APPROXIMATE:
            yield _crossing(measured, kind, mode, mode_name, target)
    largest = measured.sizes[-1]
    best = {
        kind: method
        for kind in APPROXIMATE
        if (method := measured.chosen(largest, kind, SINGLE, target)) is not None
    }
    vector_bytes = measured.vector_bytes(largest)
    for method in best.values():
        build = measured.build(largest, method)
        speed_up = measured.speed_up(largest, method, SINGLE)
        yield (
            f"Among {largest:,} vectors, one query at a time: {method.name} has a recall@10 of"
            f" {_share_text(measured.recall(largest, method, 10))} % and is"
            f" {_ratio_text(speed_up)} times as fast as the fastest exact search; it takes"
            f" {build.index_bytes / MEGABYTE:,.0f} MB beside {vector_bytes / MEGABYTE:,.0f} MB of"
            f" vectors, and {build.cpu_seconds:,.0f} s of CPU time to build."
        )


def _crossing(measured: Measurements, kind: str, mode: str, mode_name: str, target: float) -> str:
    """Return from which number of vectors on a kind of index is faster than the exact one."""
    pays: int | None = None
    for count in reversed(measured.sizes):
        method = measured.chosen(count, kind, mode, target)
        if method is None or _verdict(measured.speed_up(count, method, mode)) != FASTER:
            break
        pays = count
    if measured.chosen(measured.sizes[-1], kind, mode, target) is None:
        return (
            f"Queries {mode_name}: no setting of {kind} has a recall@10 of {100 * target:g} % among"
            f" {measured.sizes[-1]:,} vectors, the most that were measured."
        )
    subject = f"Queries {mode_name}: {kind}, chosen for a recall@10 of {100 * target:g} %,"
    if pays is None:
        return (
            f"{subject} is not seen to be faster than exact search at {measured.sizes[-1]:,}"
            " vectors, the most that were measured."
        )
    if pays == measured.sizes[0]:
        return (
            f"{subject} is faster than exact search at every number of vectors, from {pays:,} on."
        )
    below = max(count for count in measured.sizes if count < pays)
    return (
        f"{subject} is faster than exact search from {pays:,} vectors on; at {below:,} it is not"
        " seen to be."
    )


def size_notes(dimensions: Mapping[int, float], num_real: int) -> Iterator[str]:
    """Yield sentences on the origin of the vectors and on how hard they are to search.

    Args:
        dimensions: The local intrinsic dimension by the number of vectors.
        num_real: The number of real vectors at hand.
    """
    listed = ", ".join(f"{count:,}: {value:.1f}" for count, value in dimensions.items())
    yield (
        f"Up to {num_real:,} vectors are real ones; beyond that, real ones displaced by 0.3 of the"
        " difference of two others are added. Queries are real, and never among the vectors."
    )
    yield (
        f"Local intrinsic dimension, estimated in samples of 5,000: {listed}. The larger, the"
        " harder is the search; a value of fewer vectors cannot be compared with the others."
    )
