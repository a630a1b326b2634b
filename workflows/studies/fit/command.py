"""The implementation of `tesserae study fit`: it runs the study and publishes its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import torch

from pipeline.errors import TesseraeError
from workflows.devise.words import names_of_classes
from workflows.studies.fit import CROP, FITS
from workflows.studies.fit.options import FitOptions
from workflows.studies.fit.photographs import (
    PhotographsRecord,
    collect,
    source_fingerprints,
)
from workflows.studies.fit.pretrained import (
    KnownClasses,
    PolicyHits,
    PretrainedStudy,
    open_pretrained,
)
from workflows.studies.fit.pretrained_summary import policy_line, pretrained_report
from workflows.studies.fit.stores import FitStores, evaluated_images, prepare_stores
from workflows.studies.fit.training import QueryHits, Training, train_and_evaluate
from workflows.studies.fit.training_summary import run_line, training_report
from workflows.studies.report import publish
from workflows.studies.results import ResultsFolder
from workflows.studies.runs import RUNS_FILE, StudyRun, run_arms
from workflows.training.precision import training_precision

POLICIES_FILE = "policies.jsonl"
"""The name of the file of evaluated policies in the folder of a study of a pretrained network."""
NETWORK_FILE = "network.jsonl"
"""The name of the file of the network that is evaluated, and of the classes that it knows."""
HITS_FILE = "hits.jsonl"
"""The name of the file of the images that each run recognises."""
_FREE = frozenset({"out", "seeds", "quick", "class_names"})
"""The options that change no result of a run."""
_OF_TRAINING = frozenset(
    {"train_split", "size", "validation", "network", "width", "epochs", "batch_size",
     "learning_rate"}
)  # fmt: skip
"""The options that have no effect on a pretrained network."""


def fit(options: FitOptions) -> int:
    """Run the study, or continue it, and publish its report.

    The photographs, the stores, and each finished run are kept in the folder `--out`, and not made
    again. Torch's number of threads and its global seed are set in this process.

    Args:
        options: The source, the folder, and how networks are trained.

    Returns:
        The exit status, 0.

    Raises:
        TesseraeError: The source, the network or the folder cannot be used, or training diverges.
        ValueError: An option has an invalid value.
        KeyboardInterrupt: Ctrl-C was pressed; the message says how to continue.
    """
    torch.set_num_threads(options.threads)
    results = ResultsFolder(options.folder, options.STUDY)
    settings = _settings(options)
    with results.locked():
        results.check_settings(settings)
        print(f"results: {results.path}")
        for caution in options.cautions:
            print(caution, flush=True)
        try:
            record = collect(options, results.path)
            if options.trunk is None:
                _train(options, results, record, settings)
            else:
                _evaluate(options, options.trunk, results, record, settings)
        except KeyboardInterrupt as e:
            raise KeyboardInterrupt(str(e) or "Run the same command again to continue.") from None
    return 0


def _settings(options: FitOptions) -> dict[str, Any]:
    """Return the settings that decide the results; seeds are none, so that they can be added."""
    without = _FREE | (frozenset() if options.trunk is None else _OF_TRAINING)
    settings = {name: value for name, value in options.as_dict().items() if name not in without}
    precision = training_precision("auto", torch.device("cpu"))
    return {
        **settings,
        "source_fingerprints": source_fingerprints(options),
        "precision": str(precision).removeprefix("torch.") if options.trunk is None else "float32",
        "torch": version("torch"),
    }


def _train(
    options: FitOptions, results: ResultsFolder, record: PhotographsRecord, settings: dict[str, Any]
) -> None:
    stores = prepare_stores(results.path, dict.fromkeys(FITS, (options.size,)), train=True)
    data = Training(options, stores, evaluated_images(stores))
    data.check()

    def run(arm: str, seed: int) -> Mapping[str, float]:
        metrics, recognised = train_and_evaluate(data, arm, seed)
        # Before the run is recorded: a command that is killed between the two repeats the run.
        for hits in recognised:
            results.append(hits, HITS_FILE)
        return metrics

    seeds = range(options.seeds)
    runs = run_arms(results, FITS, seeds, run, title="training", line=run_line)
    recorded_hits = results.records(QueryHits, HITS_FILE)
    _check_hits(results, runs, recorded_hits)
    report = training_report(
        runs,
        recorded_hits,
        data.images,
        record,
        options,
        settings,
        num_unreadable=stores.num_unreadable,
    )
    publish(report, results.path)


def _check_hits(
    results: ResultsFolder, runs: Sequence[StudyRun], hits: Sequence[QueryHits]
) -> None:
    """Refuse a folder in which a finished run has lost a line of the images that it recognises."""
    recorded = {(each.arm, each.seed, each.query) for each in hits}
    for run in runs:
        if not all((run.arm, run.seed, query) in recorded for query in FITS):
            raise TesseraeError(
                f"{results.path / HITS_FILE} lacks a line of the run {run.arm}, seed {run.seed}."
                f" Remove the line of that run from {RUNS_FILE} there, and run the same command"
                " again."
            )


def _evaluate(
    options: FitOptions,
    trunk: str,
    results: ResultsFolder,
    record: PhotographsRecord,
    settings: dict[str, Any],
) -> None:
    classes = record.classes
    if options.class_names is not None:
        classes = names_of_classes(classes, options.class_names)
    study = open_pretrained(trunk, classes)
    sizes = {fit: [study.size] for fit in FITS}
    if study.own_side > study.size:
        sizes[CROP] = [study.size, study.own_side]
    stores = prepare_stores(results.path, sizes, train=False)
    images = study.evaluated(evaluated_images(stores))
    _check_network(study, results)
    hits = _policies(study, stores, results)
    report = pretrained_report(
        hits,
        images,
        record,
        options,
        settings,
        size=study.size,
        own_side=study.own_side,
        num_unreadable=stores.num_unreadable,
    )
    publish(report, results.path)


def _check_network(study: PretrainedStudy, results: ResultsFolder) -> None:
    """Record the network and the classes that it knows, or compare them with those of the folder.

    They are no settings: which classes a network knows is found when the photographs are there, and
    `--class-names` can be passed then.
    """
    recorded = results.records(KnownClasses, NETWORK_FILE)
    if not recorded:
        results.append(study.known_classes, NETWORK_FILE)
    elif recorded[-1] != study.known_classes:
        raise TesseraeError(
            f"--out {results.path} has results of another --trunk, or of classes of other"
            " --class-names. Pass the same ones, or another --out."
        )


def _policies(
    study: PretrainedStudy, stores: FitStores, results: ResultsFolder
) -> dict[str, PolicyHits]:
    """Evaluate what is not evaluated yet, and return the recognised images by policy."""
    recorded = {hits.policy: hits for hits in results.records(PolicyHits, POLICIES_FILE)}
    for policy in study.policies:
        if policy not in recorded:
            recorded[policy] = study.evaluate(stores, policy)
            results.append(recorded[policy], POLICIES_FILE)
        print(policy_line(recorded[policy]), flush=True)
    return {policy: recorded[policy] for policy in study.policies}
