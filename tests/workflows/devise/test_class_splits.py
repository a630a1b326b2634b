"""Tests of the division of classes into parts."""

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
def test_every_class_has_one_part(unseen: int, validation: int, seed: int, lost: set[int]) -> None:
    """Parts have the requested sizes; a class without a vector is left out."""
    has_vector = np.array([label not in lost for label in range(50)])
    parts = class_parts(WNIDS, has_vector, unseen=str(unseen), validation=validation, seed=seed)
    assert (parts == UNSEEN).sum() == unseen
    assert (parts == VALIDATION).sum() == validation
    assert set(np.flatnonzero(parts == LEFT_OUT).tolist()) == lost
    again = class_parts(WNIDS, has_vector, unseen=str(unseen), validation=0, seed=seed)
    assert np.array_equal(parts == UNSEEN, again == UNSEEN)  # whatever is chosen by
    assert np.array_equal(again == SEEN, (parts == SEEN) | (parts == VALIDATION))


def test_another_seed_draws_other_classes() -> None:
    """Two seeds draw different unseen classes."""
    has_vector = np.ones(50, bool)
    drawn = [
        np.flatnonzero(class_parts(WNIDS, has_vector, unseen="10", validation=0, seed=s) == UNSEEN)
        for s in (0, 1)
    ]
    assert len(set(drawn[0].tolist())) == 10
    assert drawn[0].tolist() != drawn[1].tolist()


@pytest.mark.parametrize("kind", ["lines", "json"])
def test_unseen_classes_can_be_named(tmp_path: Path, kind: str) -> None:
    """A file lists unseen classes, as lines with or without names, or as JSON."""
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


def test_too_few_seen_classes_are_refused(tmp_path: Path) -> None:
    """A missing file, or one that names no class of the store, is refused too."""
    has_vector = np.ones(50, bool)
    with pytest.raises(TesseraeError, match="1 class left to train on"):
        class_parts(WNIDS, has_vector, unseen="40", validation=9, seed=0)
    with pytest.raises(TesseraeError, match="cannot be read"):
        class_parts(WNIDS, has_vector, unseen=str(tmp_path / "none"), validation=0, seed=0)
    (tmp_path / "others").write_text("n99999999\n")
    with pytest.raises(TesseraeError, match="lists none of the store's 50"):
        class_parts(WNIDS, has_vector, unseen=str(tmp_path / "others"), validation=0, seed=0)
    with pytest.raises(TesseraeError, match=r"lists none of the store's 0 classes\.$"):
        class_parts([], np.ones(0, bool), seen=str(tmp_path / "others"), validation=0, seed=0)


def test_seen_classes_can_be_named_and_all_others_are_unseen(tmp_path: Path) -> None:
    """Classes without a vector are left out; validation classes are drawn from the seen."""
    file = tmp_path / "seen"
    file.write_text("\n".join(WNIDS[:30]))
    has_vector = np.arange(50) != 40
    parts = class_parts(WNIDS, has_vector, seen=str(file), validation=4, seed=0)
    assert np.flatnonzero(parts == UNSEEN).tolist() == [*range(30, 40), *range(41, 50)]
    assert (parts == SEEN).sum() == 26
    assert np.flatnonzero(parts == VALIDATION).max() < 30
    with pytest.raises(TesseraeError, match="Pass only one of them"):
        class_parts(WNIDS, has_vector, seen=str(file), unseen="3", validation=0, seed=0)
    with pytest.raises(TesseraeError, match=r"--seen-classes is .* expected a file that"):
        class_parts(WNIDS, has_vector, seen=str(tmp_path / "none"), validation=0, seed=0)


def test_a_seen_class_without_an_image_is_left_out() -> None:
    """A seen class without an image is left out; an unseen class needs none."""
    has_image = np.arange(50) >= 10
    has_vector = np.arange(50) != 49
    parts = class_parts(WNIDS, has_vector, has_image=has_image, unseen="20", validation=5, seed=1)
    assert (parts == UNSEEN).sum() == 20
    assert (parts == UNSEEN)[:10].any()
    assert set(np.flatnonzero(parts == LEFT_OUT)) == {
        *np.flatnonzero(~has_image & (parts != UNSEEN)).tolist(), 49
    }  # fmt: skip
    assert has_image[(parts == SEEN) | (parts == VALIDATION)].all()
    assert (parts == VALIDATION).sum() == 5


def test_unknown_names_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Names of no class are reported; text after a comma is not part of a name."""
    file = tmp_path / "unseen"
    file.write_text(f"{WNIDS[0]},tench\nn0000001\n", encoding="utf-8-sig")
    parts = class_parts(WNIDS, np.ones(50, bool), unseen=str(file), validation=0, seed=0)
    assert np.flatnonzero(parts == UNSEEN).tolist() == [0]
    output = capsys.readouterr().out
    assert f"notice: 1 of 2 names in {file} match no class of the store: n0000001" in output
