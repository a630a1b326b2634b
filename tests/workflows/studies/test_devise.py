"""The study of DeViSE: chosen on some classes, judged once on others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.store import records
from pipeline.store.objects import open_objects
from pipeline.wordvectors.files import read_words
from pipeline.wordvectors.hierarchy import Hierarchy
from pipeline.wordvectors.vectors import class_vectors
from tests.commands import run
from tests.workflows.devise.small import WNIDS, Small, make_small
from workflows.cli import main
from workflows.devise.class_splits import SEEN, UNSEEN, VALIDATION
from workflows.studies import devise
from workflows.studies.devise import Arena, Ground, choose, chosen_devise, differences, run_split


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """48 and 24 pictures of six classes, with mirrored features."""
    return make_small(tmp_path_factory.mktemp("study"))


@pytest.fixture(scope="module")
def ground(small: Small) -> Ground:
    """Two classes for the end, two to choose by, two to learn from."""
    listed = records.load_recipe(open_objects(str(small.store))).classes
    return devise.open_ground(
        str(small.store),
        small.features,
        class_vectors(read_words(small.words), listed),
        Hierarchy([("top", wnid) for wnid in WNIDS]),
        unseen="2",
        validation=2,
    )


def test_what_is_learned_from_is_what_may_be(ground: Ground) -> None:
    """First without the classes to choose by, then with them; never the last ones."""
    choosing, final = (Arena(ground, 3, final=last) for last in (False, True))
    parts = choosing.pictures.parts
    assert [int((parts == part).sum()) for part in (SEEN, VALIDATION, UNSEEN)] == [2, 2, 2]
    assert np.array_equal(final.pictures.parts == UNSEEN, parts == UNSEEN)
    assert not (final.pictures.parts == VALIDATION).any()
    for arena in (choosing, final):
        allowed = np.flatnonzero(arena.pictures.parts == SEEN).tolist()
        assert sorted(set(arena.learned.labels.tolist())) == allowed
    assert len(choosing.learned.labels) == 2 * 8 * 2  # mirror images too
    assert len(final.learned.labels) == 4 * 8 * 2


def test_a_setting_is_chosen_by_the_classes_for_that_alone(ground: Ground) -> None:
    """One that is right of the unseen ones, and wrong of those, is not taken."""
    arena = Arena(ground, 0, final=False)
    labels, parts = ground.judged.labels, arena.pictures.parts
    right = np.eye(6, dtype=np.float32)[labels]

    def learn(_: Arena, setting: Any) -> Any:
        scores = right.copy()
        wrong = np.isin(labels, np.flatnonzero(parts == setting["wrong"]))
        scores[wrong] = -scores[wrong]
        return scores

    chosen, reached = choose(arena, learn, [{"wrong": VALIDATION}, {"wrong": UNSEEN}])
    assert chosen == {"wrong": UNSEEN}
    assert reached == 1.0


def test_every_method_is_judged_on_the_same_pictures(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the chosen DeViSE is one of its losses."""
    grid = {loss: [{"head": "linear", "batch_size": 8}] for loss in devise.DEVISE}
    monkeypatch.setattr(devise, "DEVISE", grid)
    outcomes = list(run_split(ground, 1, steps=3))
    names = [one.method for one in outcomes]
    assert names == [*(f"DeViSE {loss}" for loss in grid), "ridge", "ridge, centred", "ConSE",
                     "ConSE, centred",
                     "softmax", "random codes"]  # fmt: skip
    counts = [one.judged.unseen[1].counts.tolist() for one in outcomes]
    assert all(one == counts[0] for one in counts)
    best = chosen_devise(outcomes)
    some = {one.method: one for one in outcomes if one.method.startswith("DeViSE")}
    assert best.chosen_by == max(one.chosen_by for one in some.values())
    assert best.judged in [one.judged for one in some.values()]


@pytest.mark.slow
def test_the_command_prints_a_table(small: Small, tmp_path: Path) -> None:
    """And how far DeViSE is ahead, with intervals."""
    done = run(
        "study", "devise", "--store", small.store, "--words", small.words, "--unseen", 2,
        "--validation", 2, "--seeds", 2, "--steps", 2, "--batch-size", 8,
        scratch=tmp_path, seconds=110,
    )  # fmt: skip
    assert done.status == 0, done.err
    assert "DeViSE, chosen" in done.out
    assert "method" in done.out
    assert "hit@1 of unseen classes: DeViSE less ridge:" in done.out


def test_what_it_needs_is_asked_for(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    """A store, words, features."""
    for words, says in (
        ((), "--store is missing"),
        (("--store", small.store), "--words is missing"),
        (("--store", small.store, "--words", small.words, "--features", "none"), "no features"),
    ):
        assert main(["study", "devise", *map(str, words)]) == 1
        assert says in capsys.readouterr().err


def test_differences_are_of_what_there_is(ground: Ground) -> None:
    """Of two classes there is no hit@5."""
    arena = Arena(ground, 0, final=True)
    from workflows.devise.evaluation import judge

    right = np.eye(6, dtype=np.float32)[ground.judged.labels]
    found = [judge(right, arena.pictures)]
    said = list(differences(dict.fromkeys(("DeViSE, chosen", *devise.BESIDE), found)))
    assert len(said) == len(devise.BESIDE)
    assert all("+0.0" in line for line in said)


def test_conse_with_centred_words_mixes_the_vectors_of_the_space(ground: Ground) -> None:
    """Of which the mean of the learned classes' is subtracted, as DeViSE's are."""
    from workflows.devise import baselines

    arena = Arena(ground, 0, final=True)
    softmaxes, setting = devise._Softmaxes(), {"penalty": 1e-3, "likeliest": 10}
    plain, centred = softmaxes.conse(arena, setting), softmaxes.conse_centred(arena, setting)
    fitted = baselines.fit_softmax(arena.learned, penalty=1e-3)
    features = ground.judged.features
    for vectors, scores in ((ground.classes.vectors, plain), (arena.space.vectors, centred)):
        expected = baselines.conse(fitted, vectors, likeliest=10)(features)
        np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert np.abs(plain - centred).max() > 1e-2
    learned = np.flatnonzero(arena.pictures.parts == SEEN)
    assert np.abs(arena.space.centre - ground.classes.vectors[learned].mean(0)).max() < 1e-5
    assert len(softmaxes._fitted) == 1
