"""The implementation of `tesserae study`: it runs a study and prints its table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from workflows.studies.intervals import MIN_VALUES, mean_interval
from workflows.studies.options import (
    DeviseStudyOptions,
    DigitsOptions,
    GaussiansOptions,
    StudyOptions,
)

if TYPE_CHECKING:  # it loads torch
    from workflows.studies.devise import StudyData


def _limit_threads(options: StudyOptions) -> None:
    import torch

    torch.set_num_threads(options.threads)


@contextmanager
def _recording_nothing() -> Iterator[None]:
    """Say of an interrupted study that it cannot be continued."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            "This study records nothing: the same command begins anew."
        ) from None


@_recording_nothing()
def gaussians(options: GaussiansOptions) -> int:
    """Run the study of Gaussians, and print its results.

    They are a heading, a line for each control, one for the settings of each pair, and one for each
    run.

    Args:
        options: `objectives` and `settings`, tuples of names of which all pairs are run; `seeds`,
            the number of runs of each, with the seeds 0, 1, ...; `steps`, the training steps of a
            run; and `threads`, the number of torch's threads, which it sets in this process.

    Returns:
        The exit status, 0.

    Raises:
        NonFiniteError: A generated point is NaN or infinite: training has diverged.
        KeyboardInterrupt: Ctrl-C was pressed; the message says that nothing is kept.
    """
    from workflows.studies import gaussians as study

    _limit_threads(options)
    print(
        f"modes: covered modes, of {len(study.CENTRES)}; near: points within 3 standard deviations"
        " of a mode; distance: sliced Wasserstein distance to the data"
    )
    print(f"{'method':<16} {'seed':>4} {'modes':>6} {'near':>7} {'distance':>9}", flush=True)

    def show(name: str, seed: int, metrics: study.PointMetrics) -> None:
        print(
            f"{name:<16} {seed:>4} {metrics.modes:>6} {metrics.good:>7.1%}"
            f" {metrics.distance:>9.4f}",
            flush=True,
        )

    for name, metrics in study.controls().items():
        show(name, 0, metrics)
    for settings in options.settings:
        for objective in options.objectives:
            arm = study.arm_of(objective, settings)
            print(f"{arm.name}: {arm.describe()}", flush=True)
            for seed in range(options.seeds):
                show(arm.name, seed, study.run_arm(arm, seed=seed, steps=options.steps))
    return 0


@_recording_nothing()
def digits(options: DigitsOptions) -> int:
    """Run the study of digits, and print its results.

    They are a line for each seed with the distances of the controls, one for the settings of each
    pair, one for each run, and one for the mean over the runs of a pair.

    Args:
        options: `objectives` and `settings`, tuples of names of which all pairs are run; `seeds`,
            the number of runs of each, with the seeds 0, 1, ...; `steps`, the training steps of a
            run; and `threads`, the number of torch's threads, which it sets in this process.

    Returns:
        The exit status, 0.

    Raises:
        NonFiniteError: A generated image contains NaN or infinity: training has diverged.
        KeyboardInterrupt: Ctrl-C was pressed; the message says that nothing is kept.
    """
    from workflows.studies import digits as study

    _limit_threads(options)
    for seed in range(options.seeds):
        controls = study.controls(study.load_digits(seed))
        distances = ", ".join(f"{name} {value:.4f}" for name, value in controls.items())
        print(
            f"seed {seed}, sliced Wasserstein distance to held-out images: {distances}", flush=True
        )
    for settings in options.settings:
        for objective in options.objectives:
            arm = study.arm_of(objective, settings)
            print(f"{arm.name}: {arm.describe()}", flush=True)
            correlations = []
            for seed in range(options.seeds):
                curves = study.run_arm(arm, study.load_digits(seed), seed=seed, steps=options.steps)
                correlations.append(curves.correlation)
                print(
                    f"{arm.name:<16} {seed:>4}  rank correlation of critic estimate and distance"
                    f" {curves.correlation:>7.3f}  last distance {curves.distance[-1]:>7.4f}",
                    flush=True,
                )
            print(f"{arm.name:<16} mean rank correlation {_correlation_text(correlations)}")
    return 0


def _correlation_text(correlations: Sequence[float]) -> str:
    """Return the mean of correlations with its interval, as far as there are any."""
    interval = mean_interval(correlations).limited(-1, 1)
    if interval.has_interval:
        return f"{interval.mean:.3f} (95 % {interval.low:.3f} to {interval.high:.3f})"
    if len(correlations) < MIN_VALUES:
        return f"{interval.mean:.3f} (one run has no interval; pass more --seeds)"
    return "undefined, as a run has none"


@_recording_nothing()
def devise(options: DeviseStudyOptions) -> int:
    """Run the study of DeViSE, and print a line for each result, its table and the differences.

    Args:
        options: `store`, with finished splits `train` and `val` and their `features` (None = the
            only ones); the file of `word_vectors`; `seeds`, the number of splits of the classes;
            `steps` and `batch_size` of DeViSE; `threads`, the number of torch's threads, which it
            sets in this process; and the other options of `tesserae study devise`.

    Returns:
        The exit status, 0.

    Raises:
        ValueError: There are to be no unseen classes, or `features` is None and the store has none
            or several.
        TesseraeError: The store, the features, the word vectors, the names, the hierarchy or the
            CLIP model cannot be opened, or there are too few classes, or too few images for a
            batch.
        KeyboardInterrupt: Ctrl-C was pressed; the message says that nothing is kept.
    """
    from workflows.devise.accuracy import table_rows
    from workflows.studies import devise as study

    _limit_threads(options)
    data = _open_devise_study_data(options)
    evaluations: dict[str, list[Any]] = {}
    for seed in range(options.seeds):
        outcomes = list(study.run_split(data, seed, steps=options.steps))
        for outcome in [*outcomes, study.selected_devise(outcomes)]:
            evaluations.setdefault(outcome.method, []).append(outcome.evaluation)
            setting = ", ".join(f"{name} {value}" for name, value in outcome.setting.items())
            largest_k = max(k for k in outcome.evaluation.unseen if k <= study.SELECTION_K)
            hits = outcome.evaluation.unseen[largest_k].micro
            print(
                f"split {seed}  {outcome.method:<16} validation hit rate"
                f" {outcome.validation_hit_rate:.3f}  unseen hit@{largest_k} {hits:.3f}  {setting}",
                flush=True,
            )
    print()
    for name, *cells in table_rows(evaluations):
        print(f"{name:<16}" + "".join(f"{cell:>12}" for cell in cells))
    print()
    for line in study.differences(evaluations):
        print(line, flush=True)
    return 0


def _open_devise_study_data(options: DeviseStudyOptions) -> StudyData:
    from pipeline.store import records
    from pipeline.store.open import open_objects
    from pipeline.wordvectors.files import read_word_vectors
    from pipeline.wordvectors.hierarchy import read_hierarchy
    from pipeline.wordvectors.vectors import class_vectors
    from workflows.devise.words import names_of_classes
    from workflows.studies import devise as study
    from workflows.studies.vector_sets import only_features

    if options.unseen_classes == "0":
        raise ValueError(
            "--unseen-classes is 0: expected at least 1 class, or a file that names some."
        )
    objects = open_objects(options.store)
    features = options.features or only_features(options.store, "train")
    classes = names_of_classes(records.load_recipe(objects).classes, options.class_names)
    return study.open_study_data(
        options.store,
        features,
        class_vectors(read_word_vectors(options.word_vectors), classes, synonyms=options.synonyms),
        None if options.hierarchy is None else read_hierarchy(options.hierarchy),
        unseen=options.unseen_classes,
        validation=options.validation_classes,
        clip=options.clip_model,
        batch_size=options.batch_size,
    )
