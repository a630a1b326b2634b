"""The study of DeViSE: settings are chosen on some classes and evaluated on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.store import records
from pipeline.store.open import open_objects
from pipeline.wordvectors.files import read_word_vectors
from pipeline.wordvectors.hierarchy import Hierarchy
from pipeline.wordvectors.vectors import class_vectors
from tests.commands import run
from tests.workflows.devise.small import WNIDS, Small, make_small
from workflows.cli import main
from workflows.devise.class_splits import SEEN, UNSEEN, VALIDATION
from workflows.devise.options import DeviseOptions
from workflows.studies import devise
from workflows.studies.devise import (
    ClassSplit,
    StudyData,
    differences,
    run_split,
    select_setting,
    selected_devise,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Return 48 and 24 images of six classes, with mirrored features."""
    return make_small(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def data(small: Small) -> StudyData:
    """Return the study's data with two unseen, two validation and two seen classes."""
    listed = records.load_recipe(open_objects(str(small.store))).classes
    return devise.open_study_data(
        str(small.store),
        small.features,
        class_vectors(read_word_vectors(small.words), listed),
        Hierarchy([("top", wnid) for wnid in WNIDS]),
        unseen="2",
        validation=2,
    )


def test_training_excludes_held_out_classes(data: StudyData) -> None:
    """Training excludes validation classes at first, and unseen classes always."""
    choosing, final = (ClassSplit(data, 3, final=last) for last in (False, True))
    parts = choosing.images.parts
    assert [int((parts == part).sum()) for part in (SEEN, VALIDATION, UNSEEN)] == [2, 2, 2]
    assert np.array_equal(final.images.parts == UNSEEN, parts == UNSEEN)
    assert not (final.images.parts == VALIDATION).any()
    for split in (choosing, final):
        allowed = np.flatnonzero(split.images.parts == SEEN).tolist()
        assert sorted(set(split.train.labels.tolist())) == allowed
    assert len(choosing.train.labels) == 2 * 8 * 2  # mirror images too
    assert len(final.train.labels) == 4 * 8 * 2


def test_a_setting_is_chosen_on_validation_classes_only(data: StudyData) -> None:
    """A setting that is best on unseen classes, but not on validation classes, is rejected."""
    split = ClassSplit(data, 0, final=False)
    labels, parts = data.held_out.labels, split.images.parts
    right = np.eye(6, dtype=np.float32)[labels]

    def learn(_: ClassSplit, setting: Any) -> Any:
        scores = right.copy()
        wrong = np.isin(labels, np.flatnonzero(parts == setting["wrong"]))
        scores[wrong] = -scores[wrong]
        return scores

    chosen, reached = select_setting(split, learn, [{"wrong": VALIDATION}, {"wrong": UNSEEN}])
    assert chosen == {"wrong": UNSEEN}
    assert reached == 1.0


@pytest.mark.parametrize("loss", devise.DEVISE)
def test_each_setting_of_devise_has_known_options(loss: str) -> None:
    """The stage accepts every setting of a loss."""
    for setting in devise.DEVISE[loss]:
        options = DeviseOptions(loss=loss, **setting)
        assert {name: getattr(options, name) for name in setting} == setting


def test_every_method_is_evaluated_on_the_same_images(
    data: StudyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chosen DeViSE is one of its losses."""
    grid = {loss: [{"head": "linear", "batch_size": 8}] for loss in devise.DEVISE}
    monkeypatch.setattr(devise, "DEVISE", grid)
    outcomes = list(run_split(data, 1, steps=3))
    names = [outcome.method for outcome in outcomes]
    assert names == [*(f"DeViSE {loss}" for loss in grid), "ridge", "ridge, centred", "ConSE",
                     "ConSE, centred",
                     "softmax", "random codes"]  # fmt: skip
    counts = [outcome.evaluation.unseen[1].counts.tolist() for outcome in outcomes]
    assert all(count == counts[0] for count in counts)
    best = selected_devise(outcomes)
    losses = [outcome for outcome in outcomes if outcome.method.startswith("DeViSE")]
    assert best.validation_hit_rate == max(outcome.validation_hit_rate for outcome in losses)
    assert best.evaluation in [outcome.evaluation for outcome in losses]


@pytest.mark.slow
def test_the_command_prints_a_table(small: Small, tmp_path: Path) -> None:
    """The command prints a table, and the differences of DeViSE with intervals."""
    done = run(
        "study", "devise", "--store", small.store, "--word-vectors", small.words,
        "--unseen-classes", 2,
        "--validation-classes", 2, "--seeds", 2, "--steps", 2, "--batch-size", 8,
        scratch=tmp_path, seconds=110,
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "DeViSE, selected" in done.out
    assert "method" in done.out
    assert "hit@1 of unseen classes: DeViSE minus ridge:" in done.out


def test_missing_arguments_are_named(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    """The errors name a missing store, missing words and missing features."""
    for words, message in (
        ((), "required: --store, --word-vectors"),
        (("--store", small.store), "required: --word-vectors"),
        (
            ("--store", small.store, "--word-vectors", small.words, "--features", "none"),
            "no features",
        ),
    ):
        assert main(["study", "devise", *map(str, words)]) == 1
        assert message in capsys.readouterr().err


def test_differences_leave_out_undefined_metrics(data: StudyData) -> None:
    """With two classes there is no hit@5, and no difference of it."""
    split = ClassSplit(data, 0, final=True)
    from workflows.devise.accuracy import evaluate

    right = np.eye(6, dtype=np.float32)[data.held_out.labels]
    judgements = [evaluate(right, split.images)]
    lines = list(differences(dict.fromkeys(("DeViSE, selected", *devise.BASELINES), judgements)))
    assert len(lines) == len(devise.BASELINES)
    assert all("+0.0" in line for line in lines)


def test_conse_with_centred_words_mixes_the_vectors_of_the_space(data: StudyData) -> None:
    """Centred ConSE uses vectors minus the mean of the seen classes, like DeViSE."""
    from workflows.devise import baselines

    split = ClassSplit(data, 0, final=True)
    softmaxes, setting = devise._SoftmaxCache(), {"penalty": 1e-3, "num_classes": 10}
    plain, centred = softmaxes.conse(split, setting), softmaxes.conse_centred(split, setting)
    fitted = baselines.fit_softmax(split.train, penalty=1e-3)
    features = data.held_out.features
    for vectors, scores in ((data.classes.vectors, plain), (split.space.vectors, centred)):
        expected = baselines.conse(fitted, vectors, num_classes=10)(features)
        np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert np.abs(plain - centred).max() > 1e-2
    learned = np.flatnonzero(split.images.parts == SEEN)
    assert np.abs(split.space.centre - data.classes.vectors[learned].mean(0)).max() < 1e-5
    assert len(softmaxes._fitted) == 1
