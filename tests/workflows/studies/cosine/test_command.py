"""`tesserae study cosine` from its flags to its report, in this process."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import TesseraeError
from tests.workflows.devise.small import Small, make_small
from tests.workflows.studies.vectors import clustered_vectors, write_words
from workflows.cli import main
from workflows.studies import vector_sets
from workflows.studies.cosine import command
from workflows.studies.cosine.command import labelled_queries
from workflows.studies.cosine.measure import FORMS, precision
from workflows.studies.cosine.options import CosineOptions
from workflows.studies.cosine.rankings import COSINE, MEASURES
from workflows.studies.vector_sets import VectorSet

ARMS_OF_WORDS = [f"words, {f}" for f in FORMS] + [f"words by {m}" for m in MEASURES]


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Return a file of word vectors."""
    return write_words(tmp_path / "words.txt")


def study(out: Path, *more: Any) -> list[str]:
    """Return a command line."""
    return ["study", "cosine", "--out", str(out), "--rows", "100", "--seeds", "2", *map(str, more)]


def metrics_of(out: Path) -> dict[tuple[str, int], dict[str, float]]:
    """Return the metrics of the finished runs by arm and seed, in their order."""
    lines = map(json.loads, (out / "runs.jsonl").read_text().splitlines())
    return {(line["arm"], line["seed"]): line["metrics"] for line in lines}


def test_the_report_of_words(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tables, figures and answers of each arm; nothing is said of classes, which words lack."""
    out = tmp_path / "out"
    assert main(study(out, "--word-vectors", words)) == 0
    printed = capsys.readouterr().out
    assert list(metrics_of(out)) == [(arm, seed) for seed in (0, 1) for arm in ARMS_OF_WORDS]
    assert "Lengths of the vectors" in printed
    assert "At unit length all three have the same list for 100.0" in printed
    assert "words by CSLS, hubness minus that of words by cosine: " in printed
    assert "words by random, hubness minus" not in printed
    assert "same class" not in printed
    assert "support no conclusion" not in printed
    files = {file.name for file in out.iterdir() if not file.name.startswith(".")}
    assert files == {
        "settings.json", "runs.jsonl", "report.html", "hubness.svg", "agreement-words.svg",
        "lengths-words.svg",
    }  # fmt: skip


def test_an_interrupted_study_goes_on_to_the_same_figures(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed in the middle of a run; other settings are refused."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(study(whole, "--word-vectors", words)) == 0
    of_command = command.hub_metrics
    calls = []

    def interrupted(*args: Any) -> dict[str, float]:
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return of_command(*args)

    monkeypatch.setattr(command, "hub_metrics", interrupted)
    assert main(study(parts, "--word-vectors", words)) != 0
    assert len(metrics_of(parts)) == len(FORMS) + 4
    monkeypatch.setattr(command, "hub_metrics", of_command)
    assert main(study(parts, "--word-vectors", words)) == 0
    assert metrics_of(parts) == metrics_of(whole)
    assert main(study(parts, "--word-vectors", words, "--rows", "120")) == 1
    write_words(words, seed=2)
    assert main(study(parts, "--word-vectors", words)) == 1


def images(num_labels: int = 3) -> VectorSet:
    """Return images of two splits; every tenth has no label."""
    vectors = clustered_vectors(300, 8)
    labels = np.where(np.arange(300) % 10, np.arange(300) % num_labels, -1)
    return VectorSet(
        name="images", origin="features x", vectors=vectors[:200], labels=labels[:200],
        queries=vectors[200:], query_labels=labels[200:],
    )  # fmt: skip


def test_queries_of_seeds_are_different_images_with_a_label() -> None:
    """They are as many for each seed, and those that are searched have a label, too."""
    options = CosineOptions(store="s", seeds=4, queries=30, searched=100)
    labelled = labelled_queries(images(), options)
    assert labelled is not None
    assert (labelled.per_seed, len(labelled.labels)) == (90 // 4, 100)
    assert (labelled.labels >= 0).all()
    assert (labelled.query_labels >= 0).all()
    assert len(np.unique(labelled.queries, axis=0)) == len(labelled.queries) == 90
    found = [labelled.precision(COSINE, seed) for seed in range(4)]
    space, labels = labelled.space, labelled.labels
    for seed in range(4):
        part = slice(22 * seed, 22 * seed + 22)
        of_seed = labelled.queries[part], labelled.query_labels[part]
        assert found[seed] == precision(space, labels, *of_seed, COSINE, seed)
    again = labelled_queries(images(), options)
    assert again is not None
    assert [again.precision(COSINE, seed) for seed in range(4)] == found


def test_images_without_labels_have_no_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All else is measured, and the report says what it lacks."""
    unlabelled = replace(images(), labels=np.full(200, -1))
    monkeypatch.setattr(command, "open_vector_sets", lambda options: iter([unlabelled]))
    assert main(study(tmp_path / "out", "--store", "s")) == 0
    assert "images: no image of split train has a label" in capsys.readouterr().out
    metrics = metrics_of(tmp_path / "out")
    assert all("precision" not in values for values in metrics.values())
    assert {f"images by {measure}" for measure in MEASURES} <= {arm for arm, _ in metrics}


def test_too_few_queries_for_the_seeds_are_refused() -> None:
    """The error says how many there are, and what to do."""
    with pytest.raises(TesseraeError, match=r"^90 of the images of split val .* fewer --seeds"):
        labelled_queries(images(), CosineOptions(store="s", seeds=10))


def test_too_few_images_to_search_are_refused() -> None:
    """Fewer than the 10 nearest could not be found."""
    few = images()
    assert few.labels is not None
    few.labels[10:] = -1  # nine of the first ten have a label
    with pytest.raises(TesseraeError, match=r"^9 of the images of split train .* --max-vectors"):
        labelled_queries(few, CosineOptions(store="s", seeds=4))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_words_and_images_in_the_small_version(
    tmp_path_factory: pytest.TempPathFactory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Neighbours of the same class are counted, and the report cautions about --quick."""
    monkeypatch.setattr(vector_sets, "MIN_VECTORS", 30)
    small: Small = make_small(tmp_path_factory.mktemp("cosine"))
    words = write_words(tmp_path / "words.txt")
    out = tmp_path / "out"
    flags = ("--quick", "--store", small.store, "--word-vectors", words, "--query-split", "val")
    assert main(study(out, *flags)) == 0
    printed = capsys.readouterr().out
    assert "its figures support no conclusion" in printed
    assert "precision is of 12 queries of split val for each seed, no query twice" in printed
    assert "precision@10 minus that of images by cosine" not in printed
    metrics = metrics_of(out)
    assert all(0 <= metrics[f"images by {m}", 0]["precision"] <= 1 for m in MEASURES)
    assert (out / "precision-images.svg").exists()
