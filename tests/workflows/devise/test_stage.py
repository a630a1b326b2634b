"""DeViSE's steps do not depend on the number of ranks or on interruptions."""

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
from workflows.devise.class_splits import SEEN, UNSEEN, VALIDATION
from workflows.devise.heads import Head
from workflows.devise.options import DeviseOptions
from workflows.devise.stage import Devise, open_trunk
from workflows.devise.word_space import FILE, load_word_space, make_word_space
from workflows.training.stage import Data
from workflows.training.world import BatchNorm, World, synchronise_batch_norm

KINDS: dict[str, dict[str, Any]] = {
    "paper": {"loss": "hinge", "head": "linear", "dropout": 0.0, "mirrored": False},
    "cosine": {"loss": "cosine"},
    "l2": {"loss": "l2", "schedule": "constant"},
    "infonce": {"loss": "infonce", "centre": False},
}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Create a store with 48 training and 24 validation images of six classes."""
    return make_small(tmp_path_factory.mktemp("devise"))


def weights(stage: Any) -> list[torch.Tensor]:
    """Return copies of the weights of the head."""
    return [value.clone() for value in stage.head.state_dict().values()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_equals_an_uninterrupted_one(small: Small, tmp_path: Path, kind: str) -> None:
    """The weights are equal to the bit, within an epoch and across its end."""
    uninterrupted = small_stage(small, tmp_path, **KINDS[kind])
    states = []
    for _ in range(10):
        states.append(through_a_file(uninterrupted.state_dict()))
        uninterrupted.advance()
    for step in (0, 3, 5, 9):
        resumed = small_stage(small, tmp_path, **KINDS[kind])
        resumed.advance()
        resumed.load_state_dict(states[step])
        for _ in range(10 - step):
            resumed.advance()
        assert all(map(torch.equal, weights(resumed), weights(uninterrupted)))
        assert resumed.batches.state_dict() == uninterrupted.batches.state_dict()


def some_steps(world: World, small: Small, folder: Path, **choices: Any) -> list[torch.Tensor]:
    """Return the weights of the head after six steps."""
    stage = small_stage(small, folder, world, **choices)
    for _ in range(6):
        stage.advance()
    return weights(stage)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("paper", marks=pytest.mark.slow), "cosine"])
def test_two_ranks_take_the_steps_of_one(small: Small, tmp_path: Path, kind: str) -> None:
    """Dropout, the order of wrong classes and mirroring do not depend on the ranks."""
    alone = some_steps(World(), small, tmp_path / "space", **KINDS[kind])
    work = partial(some_steps, small=small, folder=tmp_path / "space", **KINDS[kind])
    for of_rank in in_ranks(work, 2, tmp_path / "ranks"):
        for actual, expected in zip(of_rank, alone, strict=True):
            torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_held_out_classes_are_not_trained_on(small: Small, tmp_path: Path) -> None:
    """No batch holds an image, or a mirrored image, of a held-out class."""
    stage = small_stage(small, tmp_path, unseen_classes="2", validation_classes=1)
    labels = set()
    for _ in range(12):
        labels |= set(stage.batches.take().labels.tolist())
    assert labels == set(stage.space.labels(SEEN).tolist())
    held_out = stage.space.labels(UNSEEN, VALIDATION)
    assert len(held_out) == 3
    assert not labels & set(held_out.tolist())


def test_evaluation_during_training_excludes_unseen_classes(small: Small, tmp_path: Path) -> None:
    """The metrics cover seen and validation classes; weights and loader stay unchanged."""
    stage = small_stage(small, tmp_path, unseen_classes="2", validation_classes=2)
    before, position = weights(stage), stage.batches.state_dict()
    metrics, pictures = stage.evaluate()
    assert set(metrics) == {"seen_hit1", "validation_hit1"}
    assert pictures == {}
    assert all(map(torch.equal, before, weights(stage)))
    assert stage.batches.state_dict() == position


def test_training_reduces_the_loss(small: Small, tmp_path: Path) -> None:
    """The outputs approach the vectors of their classes."""
    stage = small_stage(small, tmp_path, dropout=0.0, steps=150, mirrored=False)
    first = float(stage.advance()["cosine"])
    metrics = {}
    while stage.step < 150:
        metrics = stage.advance()
    assert first < 0.5
    assert float(metrics["cosine"]) > 0.8


def test_the_mean_of_words_is_of_seen_classes_alone(small: Small, tmp_path: Path) -> None:
    """The centre is computed without the unseen classes, so that it reveals nothing of them."""
    space = small_stage(small, tmp_path, unseen_classes="2").space
    seen = space.labels(SEEN)
    words = small_stage(small, tmp_path / "plain", unseen_classes="2", centre=False).space.vectors
    np.testing.assert_allclose(space.centre, words[seen].mean(0), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(space.vectors, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at_once", [2, 3, 7])
def test_micro_batches_give_the_step_of_the_full_batch(
    small: Small, tmp_path: Path, kind: str, at_once: int
) -> None:
    """Weights and metrics are equal within rounding."""
    full = small_stage(small, tmp_path, **KINDS[kind])
    parts = small_stage(small, tmp_path, micro_batch_size=at_once, **KINDS[kind])
    for _ in range(4):
        expected, actual = full.advance(), parts.advance()
        torch.testing.assert_close(expected, actual, rtol=1e-4, atol=1e-5)
    for expected, actual in zip(weights(full), weights(parts), strict=True):
        torch.testing.assert_close(expected, actual, rtol=1e-4, atol=1e-5)


def test_micro_batches_bound_the_rows_of_a_forward_pass(small: Small, tmp_path: Path) -> None:
    """The trunk sees at most three rows at once, and its update stays the same."""
    options = {"learn": "all", "trunk_learning_rate": 1e-2, "dropout": 0.0}
    full, parts = (
        small_pixel_stage(small, tmp_path, micro_batch_size=limit, **options) for limit in (None, 3)
    )
    batch_sizes: list[int] = []
    assert parts.trunk is not None
    parts.trunk.model.register_forward_hook(lambda *hook: batch_sizes.append(len(hook[2][0])))
    for _ in range(2):
        expected, actual = full.advance(), parts.advance()
        assert expected.keys() == actual.keys()
        for name in expected:
            torch.testing.assert_close(expected[name], actual[name], rtol=1e-3, atol=1e-4)
    assert max(batch_sizes) == 3
    assert sum(batch_sizes) == 16


def small_pixel_stage(small: Small, folder: Path, **choices: Any) -> Devise:
    """Return a stage that trains the trunk from pixels."""
    ready = small_stage(small, folder)
    options = DeviseOptions(**{**vars(ready.options), **choices})
    only = ready.space.labels(SEEN).tolist()
    loader = Loader(small.store, size=SIZE, batch_size=8, include_labels=only, rank=0, world=1)
    torch.manual_seed(0)
    return Devise(options, Data(loader, None, WORDS, folder=str(folder)), World())


def test_an_opened_new_trunk_maps_each_image_independently() -> None:
    """Batch norm is over all ranks in training, and uses the trunk's statistics afterwards."""
    options = DeviseOptions(trunk="new", learn="all", width=8)
    trunk = open_trunk(options, torch.device("cpu"), trainable=False, size=SIZE)
    norms = [m for m in trunk.model.modules() if isinstance(m, torch.nn.BatchNorm2d | BatchNorm)]
    assert norms
    assert not any(norm.training for norm in norms)
    images = torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8)
    together, alone = trunk.extract(images), trunk.extract(images[:1])
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "old", [torch.nn.BatchNorm2d(3).double(), torch.nn.BatchNorm2d(3, device="meta")]
)
def test_a_synchronised_batch_norm_keeps_values_dtype_and_device(old: torch.nn.Module) -> None:
    """A new trunk on a GPU stays there."""
    new = synchronise_batch_norm(torch.nn.Sequential(old))[0]
    assert isinstance(new, BatchNorm)
    for name, value in old.state_dict().items():
        replaced = new.state_dict()[name]
        assert (replaced.dtype, replaced.device) == (value.dtype, value.device)
        assert value.is_meta or torch.equal(replaced, value)


def test_a_head_copies_its_statistics() -> None:
    """Loading the state of another head must not change the arrays of the word space."""
    mean, spread = np.zeros(4, np.float32), np.ones(4, np.float32)
    head = Head(mean, spread, 2)
    head.load_state_dict(Head(mean + 5, spread + 5, 2).state_dict())
    assert head.mean.tolist() == [5] * 4
    assert (mean.tolist(), spread.tolist()) == ([0] * 4, [1] * 4)


def test_an_unusable_word_space_is_refused(small: Small, tmp_path: Path) -> None:
    """Features that are not finite, equal class vectors and a truncated file are refused."""
    stage = small_stage(small, tmp_path)
    labels = len(stage.space.wnids)
    vectors = np.tile(np.eye(1, 4, dtype=np.float32), (labels, 1))
    classes = ClassVectors(
        wnids=tuple(stage.space.wnids),
        names=WORDS,
        vectors=vectors,
        sources=("token",) * labels,
        used_names=((),) * labels,
    )
    parts = np.full(labels, SEEN, np.int8)
    features = np.ones((3, 2), np.float32)
    for centre in (True, False):
        with pytest.raises(TesseraeError, match="all 6 training classes have the same"):
            make_word_space(classes, parts, features, centre=centre)
    features[1, 1] = np.nan
    with pytest.raises(TesseraeError, match="contain NaN or infinity: `tesserae verify`"):
        make_word_space(classes, parts, features, centre=True)
    file = tmp_path / FILE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(TesseraeError, match="is not the word space of a run"):
        load_word_space(tmp_path)


def test_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths become absolute; names of the model hub and numbers stay unchanged."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net").mkdir()
    named = DeviseOptions(
        trunk="net", word_vectors="w.bin", hierarchy="h", init_from="runs/a", unseen_classes="u"
    ).with_absolute_paths()
    full = [named.trunk, named.word_vectors, named.hierarchy, named.init_from, named.unseen_classes]
    assert full == [str(tmp_path / name) for name in ("net", "w.bin", "h", "runs/a", "u")]
    unchanged = DeviseOptions(trunk="some/model", unseen_classes="40").with_absolute_paths()
    assert (unchanged.trunk, unchanged.unseen_classes) == ("some/model", "40")
    assert unchanged.word_vectors is None
    assert DeviseOptions(trunk="new").prepared_sizes(()) == (64,)
    assert DeviseOptions(trunk="new", feature_size=32).prepared_sizes(()) == (32,)
    assert DeviseOptions(trunk="some/model").prepared_sizes(()) == ()
