"""Which classes are kept back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TesseraeError
from workflows.devise.class_splits import LEFT_OUT, SEEN, UNSEEN, VALIDATION, class_parts

WNIDS = [f"n{label:08d}" for label in range(50)]


@given(
    unseen=st.integers(0, 20), validation=st.integers(0, 15), seed=st.integers(0, 10**6),
    lost=st.sets(st.integers(0, 49), max_size=5),
)  # fmt: skip
def test_every_class_is_one_thing(unseen: int, validation: int, seed: int, lost: set[int]) -> None:
    """As many of each as were asked for; who has no word is in none."""
    known = np.array([label not in lost for label in range(50)])
    parts = class_parts(WNIDS, known, unseen=str(unseen), validation=validation, seed=seed)
    assert (parts == UNSEEN).sum() == unseen
    assert (parts == VALIDATION).sum() == validation
    assert set(np.flatnonzero(parts == LEFT_OUT).tolist()) == lost
    again = class_parts(WNIDS, known, unseen=str(unseen), validation=0, seed=seed)
    assert np.array_equal(parts == UNSEEN, again == UNSEEN)  # whatever is chosen by
    assert np.array_equal(again == SEEN, (parts == SEEN) | (parts == VALIDATION))


def test_another_seed_draws_others() -> None:
    """And the same one the same, on every machine."""
    known = np.ones(50, bool)
    drawn = [
        np.flatnonzero(class_parts(WNIDS, known, unseen="10", validation=0, seed=s) == UNSEEN)
        for s in (0, 1)
    ]
    assert len(set(drawn[0].tolist())) == 10
    assert drawn[0].tolist() != drawn[1].tolist()


@pytest.mark.parametrize("kind", ["lines", "json"])
def test_unseen_classes_can_be_named(tmp_path: Path, kind: str) -> None:
    """A line each, with words behind or not; or the list `unseen` of JSON."""
    file = tmp_path / "unseen"
    names = [WNIDS[3], WNIDS[7], "n99999999"]
    text = (
        json.dumps({"seen": [], "unseen": names})
        if kind == "json"
        else "\n".join(f"{name} some words" for name in names)
    )
    file.write_text(text)
    parts = class_parts(WNIDS, np.ones(50, bool), unseen=str(file), validation=0, seed=0)
    assert np.flatnonzero(parts == UNSEEN).tolist() == [3, 7]


def test_what_leaves_nothing_to_learn_from_is_refused(tmp_path: Path) -> None:
    """So is a file that is not there, or names none of the classes."""
    known = np.ones(50, bool)
    with pytest.raises(TesseraeError, match="1 of 50 classes are left"):
        class_parts(WNIDS, known, unseen="40", validation=9, seed=0)
    with pytest.raises(TesseraeError, match="cannot be read"):
        class_parts(WNIDS, known, unseen=str(tmp_path / "none"), validation=0, seed=0)
    (tmp_path / "others").write_text("n99999999\n")
    with pytest.raises(TesseraeError, match="names none of the store's 50"):
        class_parts(WNIDS, known, unseen=str(tmp_path / "others"), validation=0, seed=0)


def test_seen_classes_can_be_named_and_all_others_are_unseen(tmp_path: Path) -> None:
    """But those without a word, which are neither; to choose by, some of the seen are kept."""
    file = tmp_path / "seen"
    file.write_text("\n".join(WNIDS[:30]))
    known = np.arange(50) != 40
    parts = class_parts(WNIDS, known, seen=str(file), validation=4, seed=0)
    assert np.flatnonzero(parts == UNSEEN).tolist() == [*range(30, 40), *range(41, 50)]
    assert (parts == SEEN).sum() == 26
    assert np.flatnonzero(parts == VALIDATION).max() < 30
    with pytest.raises(TesseraeError, match="Leave one out"):
        class_parts(WNIDS, known, seen=str(file), unseen="3", validation=0, seed=0)
    with pytest.raises(TesseraeError, match=r"--seen is .* expected a file that names them"):
        class_parts(WNIDS, known, seen=str(tmp_path / "none"), validation=0, seed=0)


def test_a_class_without_a_picture_is_not_learned_from() -> None:
    """It is left out; an unseen one needs none."""
    pictured = np.arange(50) >= 10
    known = np.arange(50) != 49
    parts = class_parts(WNIDS, known, has_image=pictured, unseen="20", validation=5, seed=1)
    assert (parts == UNSEEN).sum() == 20
    assert (parts == UNSEEN)[:10].any()
    assert set(np.flatnonzero(parts == LEFT_OUT)) == {
        *np.flatnonzero(~pictured & (parts != UNSEEN)).tolist(), 49
    }  # fmt: skip
    assert pictured[(parts == SEEN) | (parts == VALIDATION)].all()
    assert (parts == VALIDATION).sum() == 5


def test_names_that_are_of_no_class_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They may be misspelt; what lies behind a comma is no part of a name."""
    file = tmp_path / "unseen"
    file.write_text(f"{WNIDS[0]},tench\nn0000001\n", encoding="utf-8-sig")
    parts = class_parts(WNIDS, np.ones(50, bool), unseen=str(file), validation=0, seed=0)
    assert np.flatnonzero(parts == UNSEEN).tolist() == [0]
    said = capsys.readouterr().out
    assert f"notice: 1 of 2 names in {file} are of no class of the store: n0000001" in said
