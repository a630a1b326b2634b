"""`tesserae study neighbours` from its flags to its report, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.workflows.studies.vectors import clustered_vectors, write_words
from workflows.cli import main
from workflows.studies.neighbours import command
from workflows.studies.neighbours.command import searched_and_queries
from workflows.studies.neighbours.methods import EXACT, HNSW, LSH, METHODS, NUMPY
from workflows.studies.vector_sets import VectorSet

SMALL = tuple(
    next(method for method in METHODS if method.kind == kind) for kind in (NUMPY, EXACT, LSH, HNSW)
)
"""A method of each kind but scikit-learn's, which takes long to import."""


@pytest.fixture(autouse=True)
def _few_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "METHODS", SMALL)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    """Return a file of word vectors."""
    return write_words(tmp_path / "words.txt")


def study(words: Path, out: Path, *more: Any) -> list[str]:
    """Return a command line."""
    flags = {"--sizes": 774, "--queries": 10, "--seeds": 2, "--word-vectors": words, "--out": out}
    line = [str(word) for flag in flags.items() for word in flag]
    return ["study", "neighbours", *line, *map(str, more)]


def recalls_of(out: Path) -> dict[tuple[str, int], dict[str, float]]:
    """Return all recalls of the finished runs by arm and seed, in their order."""
    lines = map(json.loads, (out / "runs.jsonl").read_text().splitlines())
    return {
        (line["arm"], line["seed"]): {
            name: value for name, value in line["metrics"].items() if "recall" in name
        }
        for line in lines
    }


def test_rounds_measure_all_methods_in_turn(
    words: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number at hand is measured beside the requested one, which needs displaced copies."""
    out = tmp_path / "out"
    assert main(study(words, out)) == 0
    printed = capsys.readouterr().out
    arms = [(f"{count} vectors, {m.name}", seed) for count in (300, 774) for seed in (0, 1)
            for m in SMALL]  # fmt: skip
    assert list(recalls_of(out)) == arms
    assert "300 of them are searched; each of 2 rounds has 20 queries of its own" in printed
    assert "Up to 300 vectors are real ones" in printed
    assert "LSHForest, 3 nearest, 10,000 queries (2017, another machine)" in printed
    builds = [json.loads(line) for line in (out / "builds.jsonl").read_text().splitlines()]
    assert [(b["count"], b["kind"]) for b in builds] == [
        (count, kind) for count in (300, 774) for kind in (NUMPY, EXACT, LSH, HNSW)
    ]
    files = {file.name for file in out.iterdir() if not file.name.startswith(".")}
    assert files >= {
        "report.html",
        "recall-time-memory.svg",
        "time-size.svg",
        "time-size-batch.svg",
    }
    for (arm, _), recalls in recalls_of(out).items():
        if arm.endswith((NUMPY, EXACT)):
            assert set(recalls.values()) == {1.0}


def test_an_interrupted_study_goes_on_to_the_same_recall(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is broken off in the middle of a round, and what is finished is not measured again."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main(study(words, whole)) == 0
    measured = command.measure
    calls = []

    def interrupted(*args: Any, **choices: Any) -> dict[str, float]:
        calls.append(args)
        if len(calls) == 13:  # the fifth of the second number of vectors
            raise KeyboardInterrupt
        return measured(*args, **choices)

    monkeypatch.setattr(command, "measure", interrupted)
    assert main(study(words, parts)) != 0
    before = (parts / "runs.jsonl").read_text()
    assert len(recalls_of(parts)) == 12
    assert "has 12 runs that are finished" in capsys.readouterr().err
    assert main(study(words, parts)) == 0
    assert len(calls) == 13 + 4
    assert (parts / "runs.jsonl").read_text().startswith(before)
    assert recalls_of(parts) == recalls_of(whole)
    builds = (parts / "builds.jsonl").read_text()
    assert len(builds.splitlines()) == 2 * len(SMALL)  # what was built again has one record
    assert main(study(words, parts)) == 0
    assert len(calls) == 13 + 4
    assert (parts / "builds.jsonl").read_text() == builds
    assert main(study(words, parts, "--queries", "11")) == 1


def test_a_lost_line_of_the_builds_is_measured_again(words: Path, tmp_path: Path) -> None:
    """It may be damaged and removed, as the error advises; no run is measured again."""
    out = tmp_path / "out"
    assert main(study(words, out)) == 0
    runs, lines = (out / "runs.jsonl").read_text(), (out / "builds.jsonl").read_text().splitlines()
    (out / "builds.jsonl").write_text("\n".join(lines[1:]) + "\n")
    assert main(study(words, out)) == 0
    assert (out / "runs.jsonl").read_text() == runs
    built = [json.loads(line) for line in (out / "builds.jsonl").read_text().splitlines()]
    assert [(b["count"], b["kind"]) for b in built[-1:]] == [(300, NUMPY)]
    assert len(built) == len(lines)


def test_what_cannot_be_measured_is_refused_early(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Too few queries, and too little memory; no folder is begun."""
    out = tmp_path / "out"
    assert main(study(words, out, "--seeds", "9")) == 1
    assert (
        "there are 99 queries for 9 rounds: expected at least 20 for each"
        in capsys.readouterr().err
    )
    monkeypatch.setattr(command, "limit_bytes", lambda: 10_000)
    assert main(study(words, out)) == 1
    assert "774 vectors of 12 numbers need about 149 kB" in capsys.readouterr().err
    assert not out.exists()


def test_queries_of_words_are_held_out_and_those_of_images_are_another_split() -> None:
    """None of them is searched, whatever the options are."""
    vectors = clustered_vectors(400, 6)
    searched, pool = searched_and_queries(VectorSet(name="words", origin="f", vectors=vectors))
    assert (len(searched), len(pool)) == (300, 100)
    assert len(np.unique(np.concatenate([searched, pool]), axis=0)) == 400
    images = VectorSet(name="images", origin="f", vectors=vectors[:250], queries=vectors[250:])
    searched, pool = searched_and_queries(images)
    assert (len(searched), len(pool)) == (250, 150)
    for rows in (searched, pool):
        assert np.linalg.norm(rows, axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_small_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It measures scikit-learn, too, and the report says that its figures support no conclusion."""
    words = write_words(tmp_path / "words.txt", 1_000, 50)
    out = tmp_path / "out"
    assert main(["study", "neighbours", "--quick", "--out", str(out), "--word-vectors", str(words),
                 "--queries", "20"]) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert "its figures support no conclusion" in printed
    assert "Queries one at a time" not in printed
    assert len(recalls_of(out)) == 4 * 7 * 3
    assert "scikit-learn, 10 nearest, here" in printed
