"""The tables, figures and answers of the study."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from workflows.reports.figures import Estimate, Figure, interval_figure
from workflows.reports.table import Table
from workflows.studies.arm_tables import StudyMetric, interval_of, ratio_of, values_of
from workflows.studies.intervals import MeanInterval, geometric_interval
from workflows.studies.parallel.arms import COLD, METHOD_NAMES, SERIAL, WARM, ParallelArm
from workflows.studies.parallel.environments import Interpreter
from workflows.studies.report import StudyReport
from workflows.studies.runs import StudyRun

RATE = StudyMetric(name="images_per_second", heading="images/s", decimals=0, is_rate=True)
CPU = StudyMetric(name="cpu_ms", heading="CPU ms", decimals=2, is_rate=True)
DECODE = StudyMetric(name="decode_ms", heading="decode, ms", decimals=2, is_rate=True)
RESIZE = StudyMetric(name="resize_ms", heading="resize, ms", decimals=2, is_rate=True)
LOCK = StudyMetric(name="lock_share", heading="lock held", percent=True, is_rate=True)
MEMORY = StudyMetric(name="memory_bytes", heading="memory")
MEGABYTE = 1e6
CACHE_TEXTS = MappingProxyType({WARM: "files in memory", COLD: "files on the disk alone"})
"""The titles of the tables of files in memory and of others."""
MAX_CACHED_SHARE = 0.5
"""The share of files in memory from which on arms without files in memory are left out."""
WARM_NOTE = (
    "The files could not be removed from the page cache of this system, so nothing is said about"
    " files on the disk alone."
)
"""The note in place of tables and answers on files that are not in memory."""
LOCK_NOTE = (
    "The share of the lock is that of a sampler (py-spy), scaled by a second in which the lock was"
    " held all the time."
)
"""The note on shares of the lock, where there are any."""
BESIDE = MappingProxyType(
    {
        "processes": "processes-kept",
        "dask-threads": "threads",
        "dask-processes": "processes-kept",
    }
)
"""The method that each of these is compared with, to see what it costs."""
LESSON_IMAGES = 2_000
"""The number of images of the timings of the lesson."""
LESSON_SECONDS = {
    "serial": 25.3,
    "3 processes": 8.03,
    "6 processes": 4.89,
    "8 processes": 4.47,
    "12 processes": 3.97,
    "12 threads": 3.65,
    "16 threads": 3.22,
}
"""The seconds for 2,000 images that the notebook of the lesson (fast.ai 2017, part 2, lesson 10)
shows, with a cold cache, on a machine that it does not name."""


def report_of(
    runs: Sequence[StudyRun], arms: Sequence[ParallelArm], settings: Mapping[str, Any]
) -> StudyReport:
    """Return the report of the study.

    Args:
        runs: The finished runs.
        arms: The arms; the first of them is the interpreter's own.
        settings: The settings of the study.
    """
    libraries = [
        arm for arm in arms if arm.method == SERIAL and arm.cache == WARM and not arm.buffers
    ]
    groups = _method_groups(arms)
    methods = groups[0]
    is_cold = _files_leave_memory(runs, methods)
    if not is_cold:
        methods = [arm for arm in methods if arm.cache == WARM]
    tables = [_library_table(runs, libraries)]
    figures: dict[str, Figure] = {}
    for cache, text in CACHE_TEXTS.items():
        chosen = [arm for arm in methods if arm.cache == cache]
        if chosen:
            tables.append(_method_table(runs, chosen, f"Methods, {text}"))
            figures[f"methods-{cache}"] = _figure(runs, chosen, f"{chosen[0].library}, {text}")
    for free in groups[1:]:
        title = f"{free[0].library} without a lock, {CACHE_TEXTS[WARM]}"
        tables.append(_method_table(runs, free, title))
    tables.append(_lesson_table())
    return StudyReport(
        title="Threads, processes and SIMD",
        question="Which library and how many threads or processes decode and resize fastest here,"
        " and what does the interpreter's lock cost?",
        answers=[
            *_library_answers(runs, [arm for arm in libraries if arm.interpreter.has_lock]),
            *_method_answers(runs, methods),
            *(answer for free in groups[1:] for answer in _free_answers(runs, free)),
        ],
        tables=tables,
        figures=figures,
        notes=[
            "Each method decodes whole images and resizes their centre once, as the lesson does."
            " The time begins when its threads or processes are ready. All methods of a round run"
            " in a random order, and ratios are of pairs of the same round.",
            "Methods with the same library made the same pixels: their checksums are equal.",
            *([LOCK_NOTE] if any(LOCK.name in run.metrics for run in runs) else []),
            "Processes return pixels to the command, unless they keep them; `prepare` lets each"
            " process write its own.",
            *([] if is_cold else [WARM_NOTE]),
        ],
        settings=settings,
    )


def _method_groups(arms: Sequence[ParallelArm]) -> list[list[ParallelArm]]:
    """Return the arms whose methods are compared: those of each interpreter that has several.

    They all have the library of its arms with several threads or processes. The first group is that
    of the interpreter's own, the others are of interpreters without a lock: they may have another
    Python and another Pillow, so they are compared among themselves alone.
    """
    groups: dict[Interpreter, str] = {}
    for arm in arms:
        if arm.method != SERIAL:
            groups[arm.interpreter] = arm.decoder
    return [
        [arm for arm in arms if arm.interpreter == interpreter and arm.decoder == decoder]
        for interpreter, decoder in groups.items()
    ]


def _files_leave_memory(runs: Sequence[StudyRun], arms: Sequence[ParallelArm]) -> bool:
    """Return False if the files of cold arms were still in memory, as some disks have it."""
    shares = [
        share
        for arm in arms
        if arm.cache == COLD
        for share in values_of(runs, arm.name, "cached_share").values()
    ]
    return not shares or sum(shares) / len(shares) < MAX_CACHED_SHARE


def _library_table(runs: Sequence[StudyRun], arms: Sequence[ParallelArm]) -> Table:
    rows = [
        [
            _library_text(arm),
            *(_text(runs, arm, metric) for metric in (RATE, DECODE, RESIZE, CPU, LOCK)),
        ]
        for arm in arms
    ]
    columns = ["library, serial", RATE.heading, DECODE.heading, RESIZE.heading, CPU.heading]
    return Table("Libraries", [*columns, LOCK.column], rows, columns[:1])


def _library_text(arm: ParallelArm) -> str:
    return arm.library if arm.interpreter.has_lock else f"{arm.library}, no lock"


def _method_table(runs: Sequence[StudyRun], arms: Sequence[ParallelArm], title: str) -> Table:
    serial = next(arm for arm in arms if arm.method == SERIAL and not arm.buffers)
    rows = []
    for arm in arms:
        ratio = None if arm is serial else ratio_of(runs, arm.name, serial.name, RATE.name)
        memory = interval_of(runs, arm.name, MEMORY)
        rows.append(
            [
                arm.method_text,
                _text(runs, arm, RATE),
                "" if ratio is None else ratio_text(ratio),
                _text(runs, arm, CPU),
                _text(runs, arm, LOCK),
                "-" if memory is None else f"{memory.mean / MEGABYTE:,.0f}",
            ]
        )
    columns = ["method", RATE.heading, "over serial", CPU.heading, LOCK.column, "memory, MB"]
    return Table(title, columns, rows, columns[:1])


def _lesson_table() -> Table:
    rows = [
        [method, f"{seconds:.2f}", f"{LESSON_IMAGES / seconds:,.0f}",
         f"{LESSON_SECONDS['serial'] / seconds:.2f}"]
        for method, seconds in LESSON_SECONDS.items()
    ]  # fmt: skip
    columns = ["method", "seconds", "images/s", "over serial"]
    return Table(
        "The lesson's timings, 2,000 images, cold, another machine", columns, rows, ["method"]
    )


def _figure(runs: Sequence[StudyRun], arms: Sequence[ParallelArm], title: str) -> Figure:
    estimates = []
    for arm in arms:
        interval = interval_of(runs, arm.name, RATE)
        if interval is not None:
            name = METHOD_NAMES[arm.method]
            estimates.append(
                Estimate(
                    label=arm.method_text,
                    value=interval.mean,
                    low=interval.low,
                    high=interval.high,
                    series=name,
                )
            )
    return interval_figure(title, estimates, across="images/s, with 95 % intervals")


def ratio_text(ratio: MeanInterval) -> str:
    """Return a ratio with its interval, such as `1.92 (1.85 to 1.99)`.

    Args:
        ratio: The mean ratio of pairs and its interval.
    """
    if not ratio.has_interval:
        return f"{ratio.mean:.2f}"
    form = f".{ratio.decimals(2, null=1)}f"
    return f"{ratio.mean:{form}} ({ratio.low:{form}} to {ratio.high:{form}})"


def _text(runs: Sequence[StudyRun], arm: ParallelArm, metric: StudyMetric) -> str:
    interval = interval_of(runs, arm.name, metric)
    return "-" if interval is None else metric.text(interval)


def _ratio_sentence(subject: str, ratio: MeanInterval | None, *, than: str) -> str:
    beside = f"{subject}, beside {than}: "
    if ratio is None:
        return f"{beside}not measured."
    if not ratio.has_interval:
        return f"{beside}{ratio.mean:.2f} times as fast; one round has no interval."
    seen = "no difference seen, " if ratio.low <= 1 <= ratio.high else ""
    return f"{beside}{seen}{ratio_text(ratio)} times as fast."


def _library_answers(runs: Sequence[StudyRun], arms: Sequence[ParallelArm]) -> Iterator[str]:
    by_library = {arm.library: arm for arm in arms}
    stock, simd = by_library.get("Pillow"), by_library.get("Pillow-SIMD")
    if stock is not None and simd is not None:
        resize = ratio_of(runs, stock.name, simd.name, RESIZE.name)
        yield _ratio_sentence("Resizing with Pillow-SIMD", resize, than="Pillow")
        decode = ratio_of(runs, stock.name, simd.name, DECODE.name)
        yield _ratio_sentence("Decoding with Pillow-SIMD", decode, than="Pillow")
        rate = ratio_of(runs, simd.name, stock.name, RATE.name)
        yield _ratio_sentence("A whole image with Pillow-SIMD", rate, than="Pillow")
        yield (
            "If resizing took no time at all, decoding and resizing together would be"
            f" {ratio_text(_bound(runs, stock))} times as fast with Pillow (Amdahl's law)."
        )
    for arm in arms:
        if arm.decoder == "simplejpeg" and arm.interpreter.pillow in by_library:
            plain = by_library[arm.interpreter.pillow]
            decode = ratio_of(runs, plain.name, arm.name, DECODE.name)
            yield _ratio_sentence(f"Decoding with {arm.library}", decode, than=plain.library)


def _bound(runs: Sequence[StudyRun], arm: ParallelArm) -> MeanInterval:
    decode, resize = (values_of(runs, arm.name, metric.name) for metric in (DECODE, RESIZE))
    return geometric_interval([1 + resize[seed] / decode[seed] for seed in decode])


def _method_answers(runs: Sequence[StudyRun], arms: Sequence[ParallelArm]) -> Iterator[str]:
    for cache, text in ((WARM, "from memory"), (COLD, "from the disk")):
        chosen = {(a.method, a.workers): a for a in arms if a.cache == cache and not a.buffers}
        numbers = sorted({workers for method, workers in chosen if method == "threads"})
        for number in (numbers[:1] + numbers[-1:]) if numbers else ():
            threads, processes = (
                chosen.get((method, number)) for method in ("threads", "processes-kept")
            )
            if threads is not None and processes is not None:
                ratio = ratio_of(runs, threads.name, processes.name, RATE.name)
                yield _ratio_sentence(
                    f"{number} threads, {text}", ratio, than=f"{number} processes that keep pixels"
                )
        yield from _number_answers(runs, chosen, numbers, text)
    yield from _cost_answers(runs, arms)


def _number_answers(
    runs: Sequence[StudyRun],
    chosen: Mapping[tuple[str, int], ParallelArm],
    numbers: Sequence[int],
    text: str,
) -> Iterator[str]:
    """Yield what twice as many threads or processes as cores change."""
    for method in ("threads", "processes-kept"):
        ends = [chosen[method, number] for number in numbers if (method, number) in chosen]
        if len(ends) > 1:
            ratio = ratio_of(runs, ends[-1].name, ends[0].name, RATE.name)
            yield _ratio_sentence(
                f"{ends[-1].method_text}, {text}", ratio, than=f"{ends[0].workers} of them"
            )


def _free_answers(runs: Sequence[StudyRun], arms: Sequence[ParallelArm]) -> Iterator[str]:
    """Yield how much faster threads without a lock are than one of them."""
    serial, *threads = arms
    for arm in threads[:1] + threads[-1:]:
        ratio = ratio_of(runs, arm.name, serial.name, RATE.name)
        yield _ratio_sentence(f"{arm.method_text}, from memory", ratio, than=serial.method_text)


def _cost_answers(runs: Sequence[StudyRun], arms: Sequence[ParallelArm]) -> Iterator[str]:
    warm = [arm for arm in arms if arm.cache == WARM]
    plain = {(arm.method, arm.workers): arm for arm in warm if not arm.buffers}
    for arm in warm:
        beside = plain.get((arm.method, arm.workers))
        if arm.buffers and beside is not None:
            ratio = ratio_of(runs, arm.name, beside.name, RATE.name)
            yield _ratio_sentence(arm.method_text, ratio, than="the same without them")
        pool = BESIDE.get(arm.method)
        beside = plain.get((pool or "", arm.workers))
        if beside is not None and arm.workers == min(
            n for method, n in plain if method == arm.method
        ):
            ratio = ratio_of(runs, arm.name, beside.name, RATE.name)
            yield _ratio_sentence(arm.method_text, ratio, than=beside.method_text)
    for arm in warm:
        share = interval_of(runs, arm.name, LOCK)
        if share is not None and arm.method == SERIAL:
            yield (
                f"One thread holds the interpreter's lock {LOCK.text(share)} % of the time: the"
                f" lock alone would allow {1 / max(share.mean, 1e-3):,.0f} threads to work at once."
            )
