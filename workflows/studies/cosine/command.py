"""The implementation of `tesserae study cosine`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from pipeline.errors import TesseraeError
from pipeline.neighbours.vectors import Doubles, Rows, measure_lengths
from workflows.studies.cosine import summary
from workflows.studies.cosine.measure import (
    FORMS,
    form_metrics,
    hub_metrics,
    norm_quantiles,
    precision,
    sample_of,
)
from workflows.studies.cosine.options import CosineOptions
from workflows.studies.cosine.rankings import MEASURES, Space
from workflows.studies.report import StudyReport, publish
from workflows.studies.results import ResultsFolder
from workflows.studies.runs import StudyRun, run_arms
from workflows.studies.vector_sets import VectorSet, open_vector_sets

MIN_QUERIES, MIN_SEARCHED = 10, 20
"""The numbers of labelled queries of a seed, and of labelled images that are searched, below which
the study is refused."""


def cosine(options: CosineOptions) -> int:
    """Run the study, or continue it, and publish its report.

    What is finished is recorded in the folder `--out`, a line for each run, and is not done again.

    Args:
        options: The vectors, the sizes of samples and their number.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: The vectors or the folder cannot be used, or there are too few labelled
            images.
        ValueError: `features` is None, and the store has none or several.
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
    """
    sets = list(open_vector_sets(options))
    labelled = {
        vector_set.name: queries
        for vector_set in sets
        if (queries := labelled_queries(vector_set, options)) is not None
    }
    settings = _settings(options, sets, labelled)
    results = ResultsFolder(options.folder, options.STUDY)
    with results.locked(), ThreadpoolController().limit(limits=options.threads):
        results.check_settings(settings)
        print(f"results: {options.folder}")
        for vector_set in sets:
            print(vector_set.describe(), flush=True)
        arms: dict[str, Callable[[int], Mapping[str, float]]] = {}
        for vector_set in sets:
            arms |= _arms(vector_set, labelled.get(vector_set.name), options)
        runs = run_arms(
            results,
            list(arms),
            range(options.seeds),
            lambda arm, seed: arms[arm](seed),
            title="samples",
            line=_line,
        )
        publish(_report(options, sets, labelled, runs, settings), options.folder)
    return 0


@dataclass(frozen=True)
class LabelledQueries:
    """Images that are searched, and those of another split that are the queries of all seeds."""

    space: Space
    labels: Rows
    """(n,) int64, the classes of the searched images."""
    queries: Doubles
    """(m, d) float64, in random order."""
    query_labels: Rows
    """(m,) int64, the classes of the queries."""
    per_seed: int
    """The number of queries of a seed; no query is of two seeds."""

    def precision(self, measure: str, seed: int) -> float:
        """Return the share of the 10 nearest that have the class of their query.

        Args:
            measure: One of `rankings.MEASURES`.
            seed: The seed, whose queries are taken.
        """
        part = slice(self.per_seed * seed, self.per_seed * (seed + 1))
        return precision(
            self.space, self.labels, self.queries[part], self.query_labels[part], measure, seed
        )


def labelled_queries(vector_set: VectorSet, options: CosineOptions) -> LabelledQueries | None:
    """Return the images with a label that are searched, and the queries of all seeds.

    Args:
        vector_set: The images of two splits, with their labels; or words.
        options: The number of images that are searched, of queries and of seeds.

    Returns:
        None for words, and for a split of which no image has a label.

    Raises:
        TesseraeError: There are too few images with a label.
    """
    if vector_set.labels is None or not (vector_set.labels >= 0).any():
        return None
    assert vector_set.queries is not None
    assert vector_set.query_labels is not None
    rows = np.flatnonzero(vector_set.labels >= 0)[: options.searched]
    pool = np.random.default_rng(0).permutation(np.flatnonzero(vector_set.query_labels >= 0))
    per_seed = min(options.queries, len(pool) // options.seeds)
    if len(rows) < MIN_SEARCHED:
        raise TesseraeError(
            f"{len(rows):,} of the images of split {options.split} that were read have a label:"
            f" expected at least {MIN_SEARCHED}. Pass a larger --max-vectors, or another --split."
        )
    if per_seed < MIN_QUERIES:
        raise TesseraeError(
            f"{len(pool):,} of the images of split {options.query_split} that were read have a"
            f" label: expected at least {MIN_QUERIES} for each of {options.seeds} seeds. Pass"
            " fewer --seeds, or another --query-split."
        )
    return LabelledQueries(
        Space(vector_set.vectors[rows].astype(np.float64)),
        vector_set.labels[rows],
        vector_set.queries[pool].astype(np.float64),
        vector_set.query_labels[pool],
        per_seed,
    )


def _arms(
    vector_set: VectorSet, labelled: LabelledQueries | None, options: CosineOptions
) -> dict[str, Callable[[int], Mapping[str, float]]]:
    """Return the function of a seed that runs each arm of a set, by the name of the arm."""

    def sample(seed: int) -> Doubles:
        rows = sample_of(vector_set, options.rows, seed)
        return vector_set.vectors[rows].astype(np.float64)

    def run_form(form: str, seed: int) -> Mapping[str, float]:
        return form_metrics(sample(seed), form)

    def run_measure(measure: str, seed: int) -> Mapping[str, float]:
        metrics = hub_metrics(sample(seed), measure, seed)
        if labelled is not None:
            metrics["precision"] = labelled.precision(measure, seed)
        return metrics

    name = vector_set.name
    arms: dict[str, Callable[[int], Mapping[str, float]]] = {}
    for form in FORMS:
        arms[summary.form_arm(name, form)] = partial(run_form, form)
    for measure in MEASURES:
        arms[summary.measure_arm(name, measure)] = partial(run_measure, measure)
    return arms


def _settings(
    options: CosineOptions, sets: list[VectorSet], labelled: Mapping[str, LabelledQueries]
) -> dict[str, Any]:
    # The number of seeds is none of them, so that a study can be extended.
    settings: dict[str, Any] = {
        f"{vector_set.name} {name}": value
        for vector_set in sets
        for name, value in vector_set.identity.items()
    }
    for name, queries in labelled.items():
        settings[f"{name} searched"] = len(queries.labels)
        settings[f"{name} queries of a seed"] = queries.per_seed
    return settings | {
        "rows": options.rows, "threads": options.threads, "numpy": version("numpy"),
    }  # fmt: skip


def _line(run: StudyRun) -> str:
    values = run.metrics
    if "hubness" in values:
        text = (
            f"hubness {values['hubness']:.2f}, {100 * values['orphans']:.1f} % no one's neighbour"
        )
        if "precision" in values:
            text += f", {100 * values['precision']:.1f} % of the same class"
    else:
        text = f"mean cosine {values['mean_cosine']:.3f}, {100 * values['same']:.1f} % same lists"
    return f"seed {run.seed}  {run.arm}: {text}"


def _report(
    options: CosineOptions,
    sets: list[VectorSet],
    labelled: Mapping[str, LabelledQueries],
    runs: list[StudyRun],
    settings: Mapping[str, Any],
) -> StudyReport:
    names = [vector_set.name for vector_set in sets]
    lengths = {s.name: measure_lengths(s.vectors).lengths for s in sets}
    tables = [summary.norm_table({name: norm_quantiles(v) for name, v in lengths.items()})]
    answers: list[str] = []
    figures = {"hubness": summary.hubness_figure(names, runs)}
    for vector_set in sets:
        name = vector_set.name
        has_labels = name in labelled
        tables += summary.set_tables(name, runs, has_labels=has_labels)
        answers += summary.set_answers(name, runs, has_labels=has_labels)
        figures[f"agreement-{name}"] = summary.agreement_figure(name, runs)
        if has_labels:
            figures[f"precision-{name}"] = summary.precision_figure(name, runs)
        elif vector_set.labels is None:  # the order of words tells how frequent they are
            figures[f"lengths-{name}"] = summary.rank_figure(lengths[name])
    described = "; ".join(vector_set.describe() for vector_set in sets)
    return StudyReport(
        title="Cosine, dot product and Euclidean distance",
        question=(
            "When do dot product, cosine and Euclidean distance agree, what do lengths, the mean"
            f" vector and hubs change, and which one should be used? {described}."
        ),
        answers=options.answers(answers),
        tables=tables,
        figures=figures,
        notes=_notes(options, sets, labelled),
        settings=settings,
    )


def _notes(
    options: CosineOptions, sets: Sequence[VectorSet], labelled: Mapping[str, LabelledQueries]
) -> list[str]:
    notes = [
        f"Each of {options.seeds} seeds draws a sample of {options.rows:,} vectors, at"
        " most 80 % of a set. Each vector of a sample is a query among the others. Intervals are"
        " 95 %, by Student's t over the seeds, and end at the limits of shares and correlations;"
        " samples of different seeds overlap.",
        "Hubness is the skewness of N_10, the number of vectors of which a vector is among the 10"
        " nearest (Radovanovic et al., JMLR 2010). The largest hub is a neighbour of that share of"
        " the sample. Correlations are Spearman's, of N_10.",
        "The measure random draws neighbours at random: it is the control, and its precision is"
        " chance.",
        "The mean for centring, and r of CSLS, are of the searched vectors alone.",
    ]
    notes += [
        f"{name}: precision is of {queries.per_seed:,} queries of split {options.query_split} for"
        f" each seed, no query twice, among {len(queries.labels):,} images of split"
        f" {options.split}."
        for name, queries in labelled.items()
    ]
    notes += [
        f"{vector_set.name}: no image of split {options.split} has a label, so precision is left"
        " out."
        for vector_set in sets
        if vector_set.labels is not None and vector_set.name not in labelled
    ]
    return notes
