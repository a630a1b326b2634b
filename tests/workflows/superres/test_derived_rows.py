"""The network of a run enlarges the images of a store in tasks, and other networks are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.errors import StoreMismatchError
from pipeline.features.probes import probes_differ
from pipeline.store.open import open_objects
from pipeline.store.upscaled import UpscaledRecipe
from tests.images import make_folder, prepare_inline
from tests.pipeline.features import upscaled
from tests.workflows.superres.small import STEP, small_run
from workflows.superres import derived_rows
from workflows.superres.derived_rows import UpscalerNetwork, UpscaleTaskConfig, weights_digest
from workflows.superres.model import open_upscaler


def config_of(folder: Path) -> UpscaleTaskConfig:
    """Return the arguments of tasks that use the network of a run."""
    return UpscaleTaskConfig(
        store="nowhere", split="train", run="train-1", name="x", kinds=("16",), folder=str(folder)
    )


@pytest.fixture
def recipe(tmp_path: Path) -> UpscaledRecipe:
    """Return the recipe of images of 8 px that the run in `run` enlarges to 16 px."""
    small_run(tmp_path / "run")
    store = tmp_path / "store"
    prepare_inline(make_folder(tmp_path / "images", 3), str(store), sizes=(8,))
    digest = weights_digest(open_upscaler(tmp_path / "run"))
    return upscaled.recipe_of(open_objects(str(store)), weights=digest, step=STEP)


def test_the_network_of_the_recipe_enlarges_images(recipe: UpscaledRecipe, tmp_path: Path) -> None:
    """Alone and averaged over eight orientations, as the run's network does."""
    images = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    trained = open_upscaler(tmp_path / "run")
    results = []
    for ensemble in (False, True):
        network = config_of(tmp_path / "run").open_network(
            replace(recipe, self_ensemble=ensemble), torch.device("cpu")
        )
        results.append(network.compute(images, "16"))
        expected = trained.enlarge(images, self_ensemble=ensemble).permute(0, 2, 3, 1)
        assert np.array_equal(results[-1], expected)
        assert results[-1].dtype == np.uint8
    assert not np.array_equal(*results)


def test_a_run_with_other_weights_is_refused(recipe: UpscaledRecipe, tmp_path: Path) -> None:
    """The message says at which step the run is, since it may have been trained further."""
    small_run(tmp_path / "other", seed=1)
    with pytest.raises(StoreMismatchError, match=f"is at step {STEP} with other weights than tho"):
        config_of(tmp_path / "other").open_network(recipe, torch.device("cpu"))


def test_the_digest_covers_weights_and_settings(tmp_path: Path) -> None:
    """The same run gives the same digest; another seed, kind or base another one."""
    digests = []
    for number, choices in enumerate(
        ({}, {}, {"seed": 1}, {"network": "srcnn"}, {"base": "none"}, {"scale": 4})
    ):
        small_run(tmp_path / str(number), **choices)
        digests.append(weights_digest(open_upscaler(tmp_path / str(number))))
    assert digests[0] == digests[1]
    assert len(set(digests)) == len(digests) - 1


def test_probes_tell_machines_apart(recipe: UpscaledRecipe, tmp_path: Path) -> None:
    """Single levels are rounding differences; a shift by two levels is another computation."""
    trained = open_upscaler(tmp_path / "run")
    network = UpscalerNetwork(trained, stored_size=8, self_ensemble=False)
    probe = network.probe()
    assert not probes_differ(probe, network.probe(), recipe.probe_tolerance)

    def changed(change: int, step: int) -> str:
        """Return the probe of a network that differs by *change* levels in each *step*-th pixel."""

        class Changed(UpscalerNetwork):
            def compute(self, images: torch.Tensor, kind: str) -> np.ndarray:
                pixels = np.ascontiguousarray(super().compute(images, kind)).clip(5, 250)
                pixels.reshape(len(pixels), -1)[:, ::step] += np.uint8(change)
                return pixels

        return Changed(trained, stored_size=8, self_ensemble=False).probe()

    same = changed(0, 1)
    assert not probes_differ(same, changed(1, 6_480), recipe.probe_tolerance)
    assert probes_differ(same, changed(2, 1), recipe.probe_tolerance)


def test_a_batch_depends_on_the_size_of_the_images_alone(
    recipe: UpscaledRecipe, tmp_path: Path
) -> None:
    """Sums would differ if it depended on free memory."""
    trained = open_upscaler(tmp_path / "run")
    rows = [
        UpscalerNetwork(trained, stored_size=side, self_ensemble=False).batch_rows
        for side in (72, 256, 1_024)
    ]
    assert rows == [derived_rows.BATCH_PIXELS // 72**2, 1, 1]
