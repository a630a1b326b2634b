"""The tables and answers of known runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from workflows.studies.fit import FITS, pretrained_summary
from workflows.studies.fit.options import FitOptions
from workflows.studies.fit.paired import PairedDifference
from workflows.studies.fit.photographs import PhotographsRecord
from workflows.studies.fit.pretrained import PolicyHits
from workflows.studies.fit.pretrained_summary import pretrained_report
from workflows.studies.fit.shapes import SHAPES
from workflows.studies.fit.stores import EvaluatedImages
from workflows.studies.fit.training import QueryHits, metric_name
from workflows.studies.fit.training_summary import training_report
from workflows.studies.runs import StudyRun

IMAGES = EvaluatedImages(np.array([0, 0, 1]), np.array([10, 15, 20]), np.array([10, 10, 10]))
RECORD = PhotographsRecord(
    cut=True, squares=1.0, classes=(("a", ""), ("b", "")), num_train=8, num_evaluated=3,
    evaluated="val",
)  # fmt: skip


def runs() -> list[StudyRun]:
    """Return runs whose accuracy is 50 % on the own query and 40 % on others; pad has 3 less."""
    study_runs = []
    for seed in range(3):
        for fit in FITS:
            accuracies = {
                query: (0.5 if query == fit else 0.4) - 0.03 * (fit == "pad") + 0.01 * seed
                for query in FITS
            }
            metrics = {metric_name(query): value for query, value in accuracies.items()}
            metrics |= {
                metric_name(query, shape=shape): value
                for query, value in accuracies.items()
                for shape in SHAPES[:2]
            }
            study_runs.append(StudyRun(arm=fit, seed=seed, metrics=metrics, seconds=1.0))
    return study_runs


def hits_of_runs() -> list[QueryHits]:
    """Return hits of three images: all of them, but squished ones of the arm crop only two."""
    return [
        QueryHits(
            arm=fit, seed=seed, query=query, bits="110" if (fit, query) == ("crop", "squish")
            else "111",
        )
        for seed in range(4)  # the last seed has no finished run
        for fit in FITS
        for query in FITS
    ]  # fmt: skip


def test_the_cross_table_has_all_pairs_and_their_differences() -> None:
    """The pairs of the notebook and of the own query are named, and compared seed by seed."""
    report = training_report(runs(), hits_of_runs(), IMAGES, RECORD, FitOptions(source="data"), {})
    cross, differences, shapes = report.tables[:3]
    assert [row[0] for row in cross.rows] == list(FITS)
    assert cross.rows[0][1].startswith("51.0 (48.5 to 53.5)")
    assert cross.rows[1][1].startswith("38.0")
    by_arm = {row[0]: row[1:] for row in differences.rows}
    assert by_arm["train crop, query crop"] == ["", "", "", ""]
    mix = by_arm["train crop, query squish (the notebook's mix)"]
    # Of d = (0, 0, -1): -1/3 -+ t(2) * 0.577 / sqrt(3), t(2) = 4.303.
    assert mix == ["-10.0 (-10.0 to -10.0)", "(-176.8 to +110.1)"] * 2
    assert by_arm["train pad, query pad"] == ["-3.0 (-3.0 to -3.0)", "(+0.0 to +0.0)", "", ""]
    assert by_arm["train pad, query crop"][::2] == [
        "-13.0 (-13.0 to -13.0)", "-10.0 (-10.0 to -10.0)",
    ]  # fmt: skip
    assert shapes.rows[0][-1] == "-"  # no metric of the third shape
    answers = "\n".join(report.answers)
    assert "train pad, query pad, top-1 minus that of train crop, query crop: -3.0" in answers
    assert "The notebook's mix: train crop, query squish" in answers
    assert "no difference seen" in next(a for a in report.answers if "train squish, query sq" in a)
    # The seeds alone tell them apart, and the images do not.
    (pad,) = [a for a in report.answers if a.startswith("train pad, query pad, top-1")]
    assert pad.endswith(
        "-3.0 (-3.0 to -3.0) points, over images (+0.0 to +0.0): no difference seen"
    )
    notes = "\n".join(report.notes)
    assert "chance, the share of the largest class, is 66.7%" in notes
    assert "The rectangles are artificial" in notes


def test_a_difference_over_seeds_and_over_images_is_seen() -> None:
    """One alone is not enough, and a single seed decides nothing."""
    hits = [
        QueryHits(
            arm=fit, seed=seed, query=query, bits="100" if fit == query else "000"
        )
        for seed in range(3) for fit in FITS for query in FITS
    ]  # fmt: skip
    many = [replace(each, bits=each.bits[0] * 40 + each.bits[1:]) for each in hits]
    for recorded, seen in ((many, "worse"), (hits, "no difference seen")):
        report = training_report(runs(), recorded, IMAGES, RECORD, FitOptions(source="data"), {})
        mix = next(a for a in report.answers if a.startswith("The notebook's mix"))
        assert mix.endswith(f": {seen}")
    first = [run for run in runs() if run.seed == 0]
    report = training_report(first, many, IMAGES, RECORD, FitOptions(source="data"), {})
    assert all(answer.endswith("pass more --seeds") for answer in report.answers)


def test_a_pretrained_network_is_compared_image_by_image() -> None:
    """The shares by shape are those of the images of the shape."""
    hits = {
        "crop": PolicyHits(policy="crop", first="110", among="110"),
        "pad": PolicyHits(policy="pad", first="100", among="111"),
    }
    report = pretrained_report(
        hits, IMAGES, RECORD, FitOptions(source="data", trunk="model"), {}, size=16, own_side=16
    )
    table, shapes = report.tables[:2]
    assert table.rows[1][1].startswith("33.3")
    assert table.rows[1][2].startswith("-33.3 (")
    assert table.rows[1][3] == "0 / 1"
    assert [cell.split(" ")[0] for cell in shapes.rows[0][1:]] == ["100.0", "100.0", "0.0"]
    assert any("no difference seen" in answer for answer in report.answers)


def test_a_small_difference_over_many_images_shows_its_digits() -> None:
    """`+0.0 (+0.0 to +0.1) points: better` would contradict itself."""
    difference = PairedDifference(0.0003, 0.0001, 0.0005, gained=20, lost=5, p_value=0.004)
    assert pretrained_summary._answer("pad", difference) == (
        "pad, top-1 minus that of crop: +0.03 (+0.01 to +0.05) points: better"
    )
