"""DeViSE's steps: the same for any number of ranks, and however often they were broken off."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import TesseraeError
from pipeline.loader import Loader
from pipeline.wordvectors.vectors import ClassVectors
from tests.workflows.devise.small import SIZE, WORDS, Small, make_small, small_stage
from tests.workflows.training.worlds import in_ranks, through_a_file
from workflows.devise.class_space import FILE, load_space, make_space
from workflows.devise.class_splits import SEEN, UNSEEN, VALIDATION
from workflows.devise.options import Options
from workflows.devise.stage import Devise, open_trunk
from workflows.training.loop import Data
from workflows.training.world import BatchNorm, World

KINDS: dict[str, dict[str, Any]] = {
    "paper": {"loss": "hinge", "head": "linear", "dropout": 0.0, "mirrored": False},
    "cosine": {"loss": "cosine"},
    "l2": {"loss": "l2", "schedule": "constant"},
    "infonce": {"loss": "infonce", "centre": False},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """48 and 24 pictures of six classes."""
    return make_small(tmp_path_factory.mktemp("devise"))


def weights(stage: Any) -> list[torch.Tensor]:
    """Of the head."""
    return [value.clone() for value in stage.head.state_dict().values()]


@pytest.mark.parametrize("kind", KINDS)
def test_going_on_is_the_same_as_not_having_stopped(
    small: Small, tmp_path: Path, kind: str
) -> None:
    """To the bit, in the midst of an epoch and between two."""
    whole = small_stage(small, tmp_path, **KINDS[kind])
    states = []
    for _ in range(10):
        states.append(through_a_file(whole.state_dict()))
        whole.advance()
    for place in (0, 3, 5, 9):
        other = small_stage(small, tmp_path, **KINDS[kind])
        other.advance()
        other.load_state_dict(states[place])
        for _ in range(10 - place):
            other.advance()
        assert all(map(torch.equal, weights(other), weights(whole)))
        assert other.batches.state_dict() == whole.batches.state_dict()


def some_steps(world: World, small: Small, folder: Path, **choices: Any) -> list[torch.Tensor]:
    """The head after six steps."""
    stage = small_stage(small, folder, world, **choices)
    for _ in range(6):
        stage.advance()
    return weights(stage)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("paper", marks=pytest.mark.slow), "cosine"])
def test_two_ranks_take_the_steps_of_one(small: Small, tmp_path: Path, kind: str) -> None:
    """What is dropped, which wrong class comes first, which pictures are mirrored."""
    alone = some_steps(World(), small, tmp_path / "space", **KINDS[kind])
    work = partial(some_steps, small=small, folder=tmp_path / "space", **KINDS[kind])
    for found in in_ranks(work, 2, tmp_path / "ranks"):
        for one, other in zip(found, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_nothing_is_learned_from_classes_that_are_kept_back(small: Small, tmp_path: Path) -> None:
    """Not from their pictures, nor from the mirror images of those."""
    stage = small_stage(small, tmp_path, unseen="2", validation=1)
    labels = set()
    for _ in range(12):
        labels |= set(stage.batches.take().labels.tolist())
    assert labels == set(stage.space.labels(SEEN).tolist())
    kept = stage.space.labels(UNSEEN, VALIDATION)
    assert len(kept) == 3
    assert not labels & set(kept.tolist())


def test_a_look_says_nothing_of_unseen_classes(small: Small, tmp_path: Path) -> None:
    """Hits of seen ones and of those to choose by; and it changes nothing."""
    stage = small_stage(small, tmp_path, unseen="2", validation=2)
    before, place = weights(stage), stage.batches.state_dict()
    figures, pictures = stage.evaluate()
    assert set(figures) == {"seen_hit1", "validation_hit1"}
    assert pictures == {}
    assert all(map(torch.equal, before, weights(stage)))
    assert stage.batches.state_dict() == place


def test_it_learns_what_it_is_shown(small: Small, tmp_path: Path) -> None:
    """The loss falls, and pictures come near the vectors of their classes."""
    stage = small_stage(small, tmp_path, dropout=0.0, steps=150, mirrored=False)
    first = float(stage.advance()["cosine"])
    told = {}
    while stage.step < 150:
        told = stage.advance()
    assert first < 0.5
    assert float(told["cosine"]) > 0.8


def test_the_mean_of_words_is_of_seen_classes_alone(small: Small, tmp_path: Path) -> None:
    """What is said of unseen ones must not depend on which they are."""
    space = small_stage(small, tmp_path, unseen="2").space
    seen = space.labels(SEEN)
    words = small_stage(small, tmp_path / "plain", unseen="2", centre=False).space.vectors
    np.testing.assert_allclose(space.centre, words[seen].mean(0), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(space.vectors, axis=1), 1, atol=1e-6)


def test_the_rate_rises_and_falls() -> None:
    """From a small one to all of it, to nothing."""
    from workflows.devise.options import Options
    from workflows.devise.stage import schedule

    options = Options(steps=100, warm_share=0.1)
    shares = [schedule(options, step) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == 1.0
    assert shares[9] == 1.0
    assert shares[-1] < 0.01
    assert shares[10:] == sorted(shares[10:], reverse=True)
    constant = Options(steps=100, schedule="constant")
    assert schedule(constant, 99) == 1.0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_once", [2, 3, 7])
def test_parts_of_a_batch_make_the_step_of_the_whole(
    small: Small, tmp_path: Path, kind: str, at_once: int
) -> None:
    """Within rounding, and with the same figures."""
    whole = small_stage(small, tmp_path, **KINDS[kind])
    parts = small_stage(small, tmp_path, micro_batch=at_once, **KINDS[kind])
    for _ in range(4):
        told, other = whole.advance(), parts.advance()
        torch.testing.assert_close(told, other, rtol=1e-4, atol=1e-5)
    for one, other in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_parts_bound_what_goes_through_the_trunk_at_once(small: Small, tmp_path: Path) -> None:
    """And its weights move as they would."""
    options = {"learn": "all", "trunk_rate": 1e-2, "dropout": 0.0}
    whole, parts = (
        small_pixel_stage(small, tmp_path, micro_batch=most, **options) for most in (None, 3)
    )
    seen: list[int] = []
    assert parts.trunk is not None
    parts.trunk.model.register_forward_hook(lambda *what: seen.append(len(what[2][0])))
    for _ in range(2):
        one, other = whole.advance(), parts.advance()
        assert one.keys() == other.keys()
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)
    assert max(seen) == 3
    assert sum(seen) == 16


def small_pixel_stage(small: Small, folder: Path, **choices: Any) -> Devise:
    """A stage that learns from pixels."""
    ready = small_stage(small, folder)
    options = Options(**{**vars(ready.options), **choices})
    only = ready.space.labels(SEEN).tolist()
    loader = Loader(small.store, size=SIZE, batch_size=8, only=only, rank=0, world=1)
    torch.manual_seed(0)
    return Devise(options, Data(loader, None, WORDS, folder=str(folder)), World())


def test_a_new_trunk_looks_at_each_picture_by_itself_when_it_is_opened() -> None:
    """Its batch norm is over all ranks while it learns, and as it learned to be afterwards."""
    options = Options(trunk="new", learn="all", width=8)
    trunk = open_trunk(options, torch.device("cpu"), learns=False, size=SIZE)
    norms = [m for m in trunk.model.modules() if isinstance(m, torch.nn.BatchNorm2d | BatchNorm)]
    assert norms
    assert not any(norm.training for norm in norms)
    images = torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8)
    together, alone = trunk.features(images), trunk.features(images[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_learned_in_is_refused(small: Small, tmp_path: Path) -> None:
    """Features that are no numbers; classes that are all one; a file that is cut off."""
    stage = small_stage(small, tmp_path)
    labels = len(stage.space.wnids)
    vectors = np.tile(np.eye(1, 4, dtype=np.float32), (labels, 1))
    classes = ClassVectors(
        wnids=tuple(stage.space.wnids),
        names=WORDS,
        vectors=vectors,
        how=("token",) * labels,
        used=((),) * labels,
    )
    parts = np.full(labels, SEEN, np.int8)
    features = np.ones((3, 2), np.float32)
    for centre in (True, False):
        with pytest.raises(TesseraeError, match="all 6 classes to learn from have one"):
            make_space(classes, parts, features, centre=centre)
    features[1, 1] = np.nan
    with pytest.raises(TesseraeError, match="no numbers: `tesserae verify`"):
        make_space(classes, parts, features, centre=True)
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TesseraeError, match="is no word space of a run"):
        load_space(tmp_path)


def test_files_are_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks are in other folders; names of the model hub and numbers stay as they are."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net").mkdir()
    named = Options(trunk="net", words="w.bin", hierarchy="h", start="runs/a", unseen="u").located()
    full = [named.trunk, named.words, named.hierarchy, named.start, named.unseen]
    assert full == [str(tmp_path / name) for name in ("net", "w.bin", "h", "runs/a", "u")]
    other = Options(trunk="some/model", unseen="40").located()
    assert (other.trunk, other.unseen, other.words) == ("some/model", "40", None)
    assert Options(trunk="new").prepared_size == 64
    assert Options(trunk="new", feature_size=32).prepared_size == 32
    assert Options(trunk="some/model").prepared_size is None
