"""The classes that a pretrained network knows."""

from __future__ import annotations

import numpy as np

from workflows.studies.fit.pretrained import PolicyHits, match_classes


def test_classes_are_matched_by_their_sets_of_names() -> None:
    """Order, case, spaces and underscores do not matter; a part of the names is no match."""
    names = ["tench, Tinca tinca", "great_white  shark, White Shark", "cock", "n00000003"]
    classes = [
        ("n00000000", "white shark, great white shark"),
        ("n00000001", "Tinca tinca, tench"),
        ("n00000002", "cock, rooster"),
        ("n00000003", ""),
    ]
    assert match_classes(classes, names) == {0: 1, 1: 0, 3: 3}


def test_classes_of_the_same_names_are_left_out() -> None:
    """Neither of two cranes is known, whoever has two of them."""
    assert match_classes([("a", "crane"), ("b", "cock")], ["crane", "crane", "cock"]) == {1: 2}
    assert match_classes([("a", "crane"), ("b", "Crane"), ("c", "cock")], ["crane", "cock"]) == {
        2: 1
    }


def test_hits_are_read_as_they_were_recorded() -> None:
    """A character stands for an image."""
    hits = PolicyHits(policy="crop", first="010", among="011")
    assert np.array_equal(hits.hits(), [False, True, False])
    assert np.array_equal(hits.hits(top=5), [False, True, True])
