"""The implementation of `tesserae study neighbours`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

from pipeline.errors import TesseraeError
from pipeline.memory import limit_bytes
from pipeline.neighbours.vectors import Floats
from workflows.studies.neighbours import summary
from workflows.studies.neighbours.growth import grown, intrinsic_dimension, unit_length
from workflows.studies.neighbours.methods import (
    METHODS,
    QUICK_METHODS,
    BuildRecord,
    BuiltSearches,
    Method,
)
from workflows.studies.neighbours.options import NeighboursOptions
from workflows.studies.neighbours.timing import (
    RoundQueries,
    limit_threads,
    measure,
    num_queries,
    round_queries,
)
from workflows.studies.report import StudyReport, publish
from workflows.studies.results import ResultsFolder
from workflows.studies.runs import StudyRun, run_arms
from workflows.studies.vector_sets import VectorSet, open_vector_sets
from workflows.terminal.formatting import bytes_text

BUILDS_FILE = "builds.jsonl"
MAX_POOL_SHARE, MAX_POOL = 0.25, 4_000
"""The largest share of the words, and their largest number, that are held out as queries."""
MEMORY_FACTOR = 4
"""The memory of a study, as a multiple of that of its vectors: copies, graphs and bits."""


def neighbours(options: NeighboursOptions) -> int:
    """Run the study, or continue it, and publish its report.

    What is finished is recorded in the folder `--out`, a line for each build and each run, and is
    not measured again; an index that further runs need is built again, in the same way.

    Args:
        options: The vectors, the numbers of them, the queries and the rounds.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: The vectors or the folder cannot be used, a library is missing, or the
            vectors do not fit into memory.
        ValueError: There are too few queries for the rounds.
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
    """
    (vector_set,) = open_vector_sets(options)
    vectors, pool = searched_and_queries(vector_set)
    # What there are decides it, so that a small split needs no other options.
    options = replace(options, queries=num_queries(pool, options.seeds, options.queries))
    sizes = sorted({*options.sizes, len(vectors)})
    _check_memory(sizes[-1], vectors.shape[1])
    methods = QUICK_METHODS if options.quick else METHODS
    results = ResultsFolder(options.folder, options.STUDY)
    with results.locked(), limit_threads(options.threads):
        results.check_settings(_settings(options, vector_set, methods))
        print(f"results: {options.folder}")
        print(vector_set.describe())
        print(
            f"{len(vectors):,} of them are searched; each of {options.seeds} rounds has"
            f" {2 * options.queries} queries of its own",
            flush=True,
        )
        runs, dimensions = [], {}
        for count in sizes:
            searched = grown(vectors, count)
            dimensions[count] = intrinsic_dimension(searched)
            runs += _measure_size(results, searched, pool, methods, options)
        measured = summary.Measurements(runs, _builds(results), sizes, methods)
        publish(_report(options, vector_set, measured, dimensions, len(vectors)), options.folder)
    return 0


def searched_and_queries(vector_set: VectorSet) -> tuple[Floats, Floats]:
    """Return the vectors that are searched and the queries, in random order and of length 1.

    Args:
        vector_set: The vectors. Of words, a quarter and at most 4,000 are held out as queries.

    Returns:
        (n, d) and (m, d) float32. Neither depends on the options of the study.
    """
    rng = np.random.default_rng(0)
    vectors = unit_length(vector_set.vectors[rng.permutation(len(vector_set.vectors))])
    if vector_set.queries is not None:
        order = rng.permutation(len(vector_set.queries))
        return vectors, unit_length(vector_set.queries[order])
    num_queries = min(MAX_POOL, int(MAX_POOL_SHARE * len(vectors)))
    return vectors[num_queries:], vectors[:num_queries]


def _check_memory(count: int, dim: int) -> None:
    needed = MEMORY_FACTOR * 4 * count * dim
    if needed > limit_bytes():
        raise TesseraeError(
            f"{count:,} vectors of {dim} numbers need about {bytes_text(needed)} with their"
            f" indexes, and there are {bytes_text(limit_bytes())} of memory: pass smaller --sizes"
            " or --max-vectors."
        )


def _settings(
    options: NeighboursOptions, vector_set: VectorSet, methods: tuple[Method, ...]
) -> Mapping[str, Any]:
    # Sizes and seeds are none of them, so that a study can be extended.
    return {
        **vector_set.identity,
        "queries": options.queries,
        "threads": options.threads,
        "methods": [method.name for method in methods],
        "faiss": version("faiss-cpu"),
        "numpy": version("numpy"),
    }


def _builds(results: ResultsFolder) -> list[BuildRecord]:
    return results.records(BuildRecord, BUILDS_FILE)


def _measure_size(
    results: ResultsFolder,
    vectors: Floats,
    pool: Floats,
    methods: tuple[Method, ...],
    options: NeighboursOptions,
) -> list[StudyRun]:
    recorded = {(b.count, b.kind, tuple(b.build_options.items())) for b in _builds(results)}

    def record(build: BuildRecord) -> None:
        key = build.count, build.kind, tuple(build.build_options.items())
        if key not in recorded:  # that of the first command counts
            recorded.add(key)
            results.append(build, BUILDS_FILE)

    searches = BuiltSearches(vectors, on_build=record)
    by_arm = {summary.arm_name(len(vectors), method): method for method in methods}

    @cache
    def queries(seed: int) -> RoundQueries:
        return round_queries(pool, seed, options.queries, searches.exact_index())

    def run(arm: str, seed: int) -> Mapping[str, float]:
        search = searches.search(by_arm[arm])
        exact = searches.exact_index()
        return measure(search, exact.vectors, queries(seed), threads=options.threads)

    runs = run_arms(
        results,
        list(by_arm),
        range(options.seeds),
        run,
        title=f"{len(vectors):,} vectors",
        line=_line,
    )
    # A line of the builds may be missing whose runs are there: it was damaged and removed, or lost
    # when the power failed. The report needs each.
    for method in methods:
        if (len(vectors), method.kind, method.build_options) not in recorded:
            searches.search(method)
    return runs


def _line(run: StudyRun) -> str:
    values = run.metrics
    return (
        f"round {run.seed}  {run.arm}: recall@10 {100 * values['recall_10']:.1f} %,"
        f" {values['single_cpu_us']:,.0f} us of CPU time a query, {values['batch_cpu_us']:,.1f} in"
        " a batch"
    )


def _report(
    options: NeighboursOptions,
    vector_set: VectorSet,
    measured: summary.Measurements,
    dimensions: Mapping[int, float],
    num_real: int,
) -> StudyReport:
    notebook = summary.notebook_table(measured)
    tables = [summary.size_table(measured, count) for count in measured.sizes]
    tables.append(summary.choice_table(measured, options.recall))
    tables += [] if notebook is None else [notebook]
    notes = [*_notes(options), *summary.size_notes(dimensions, num_real)]
    return StudyReport(
        title="Nearest neighbours: exact, LSH and HNSW",
        question=(
            "From how many vectors on is approximate search faster than exact search, and what does"
            f" it cost in recall and memory? {vector_set.describe()}."
        ),
        answers=options.answers(summary.answers(measured, options.recall)),
        tables=tables,
        figures=summary.figures(measured, options.recall),
        notes=notes,
        settings={
            **_settings(options, vector_set, tuple(measured.methods)),
            "sizes": list(measured.sizes),
            "rounds": options.seeds,
            "recall": options.recall,
        },
    )


def _notes(options: NeighboursOptions) -> list[str]:
    return [
        "Recall is the share of the nearest by exact search that a method finds, with 95 %"
        " intervals over rounds, each with other queries. By chance: the recall of as many"
        " candidates drawn at random.",
        f"Times are medians over {options.seeds} rounds, and minima; each round measures every"
        f" method with the same queries on {options.threads} thread(s), and ratios are taken within"
        " a round. CPU time is what the search itself took; wall time includes waiting for other"
        " programs. Recall repeats exactly, times do not.",
        "The fastest setting is chosen by recall and time of one half of the queries of each round,"
        " and every figure in the tables is of the other half.",
        "Memory is the size of the arrays of an index; each also needs the vectors, with which it"
        " compares its candidates exactly.",
    ]
