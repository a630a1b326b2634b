"""What the study of cosine concludes from runs."""

from __future__ import annotations

from workflows.studies.cosine.measure import FORMS
from workflows.studies.cosine.rankings import COSINE, CSLS, DOT, EUCLIDEAN, MEASURES, RANDOM
from workflows.studies.cosine.summary import (
    FORM_METRICS,
    form_arm,
    measure_arm,
    precision_figure,
    set_answers,
)
from workflows.studies.runs import StudyRun

HUBNESS = {DOT: 9.0, CSLS: 0.5}
PRECISION = {DOT: 0.2, CSLS: 0.5, RANDOM: 0.01}


def runs() -> list[StudyRun]:
    """Return three seeds in which dot product is worse than cosine, and CSLS better."""
    study_runs = []
    for seed in range(3):
        for form in FORMS:
            metrics = {metric.name: 0.5 for metric in FORM_METRICS}
            study_runs.append(
                StudyRun(arm=form_arm("images", form), seed=seed, metrics=metrics, seconds=1.0)
            )
        for measure in MEASURES:
            metrics = {
                "hubness": HUBNESS.get(measure, 2.0) + 0.1 * seed,
                "precision": PRECISION.get(measure, 0.4) + 0.01 * seed,
            }
            study_runs.append(
                StudyRun(
                    arm=measure_arm("images", measure), seed=seed, metrics=metrics, seconds=1.0
                )
            )
    return study_runs


def test_more_hubs_and_fewer_neighbours_of_the_class_are_worse() -> None:
    """Each measure is compared with cosine, within the seeds."""
    answers = list(set_answers("images", runs(), has_labels=True))
    for measure, hubness, precision in (
        (DOT, "+7.00 (+7.00 to +7.00): worse", "-20.0 (-20.0 to -20.0) points: worse"),
        (CSLS, "-1.50 (-1.50 to -1.50): better", "+10.0 (+10.0 to +10.0) points: better"),
        (EUCLIDEAN, "no difference seen", "no difference seen"),
    ):
        compared = [a for a in answers if a.startswith(f"{measure_arm('images', measure)}, ")]
        of_precision, of_hubness = compared
        assert of_hubness.endswith(hubness)
        assert of_precision.endswith(precision)
    assert not any(answer.startswith(measure_arm("images", RANDOM)) for answer in answers)
    without = list(set_answers("images", runs(), has_labels=False))
    assert not any("precision" in answer for answer in without)


def test_the_figure_of_precision_leaves_out_chance_and_the_base() -> None:
    """Chance would stretch the axis."""
    labels = {text.text for text in precision_figure("images", runs()).texts}
    assert {DOT, CSLS, EUCLIDEAN} <= labels
    assert not {RANDOM, COSINE} & labels
