"""A trained network enlarges images as its run evaluated them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pipeline.errors import TesseraeError
from tests.workflows.superres.small import STEP, small_run
from workflows.superres import bicubic
from workflows.superres.model import open_upscaler
from workflows.training.run_folder import RunFolder

IMAGES = torch.randint(0, 256, (2, 3, 9, 14), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("decay", [0.999, 0.0])
def test_a_run_is_used_with_the_average_of_its_weights(tmp_path: Path, decay: float) -> None:
    """Images are those of the average, or of the weights themselves in a run without one."""
    network = small_run(tmp_path / "run", ema_decay=decay)
    trained = open_upscaler(tmp_path / "run")
    assert (trained.step, trained.scale, trained.options.network) == (STEP, 2, "fsrcnn")
    enlarged = trained.enlarge(IMAGES.byte())
    assert enlarged.shape == (2, 3, 18, 28)
    assert enlarged.dtype == torch.uint8
    with torch.no_grad():
        expected = bicubic.round_to_levels(network(IMAGES.float()))
    assert torch.equal(enlarged, expected.byte())
    assert not torch.equal(expected, bicubic.enlarge(IMAGES.float(), 2))


def test_a_self_ensemble_is_the_mean_of_eight_orientations(tmp_path: Path) -> None:
    """Each is a quarter turn, mirrored or not, and is turned back before the mean."""
    network = small_run(tmp_path / "run")
    images = IMAGES.float()
    results = []
    with torch.no_grad():
        for turns in range(4):
            for mirrored in (False, True):
                turned = torch.rot90(images, turns, (2, 3))
                result = network(turned.flip(3) if mirrored else turned)
                results.append(torch.rot90(result.flip(3) if mirrored else result, -turns, (2, 3)))
    expected = bicubic.round_to_levels(torch.stack(results).mean(0))
    enlarged = open_upscaler(tmp_path / "run").enlarge(IMAGES, self_ensemble=True).float()
    assert (enlarged - expected).abs().max() <= 1  # another order of the sum
    assert (enlarged - expected).abs().mean() < 0.01
    assert not torch.equal(enlarged, open_upscaler(tmp_path / "run").enlarge(IMAGES).float())


def test_unsuitable_runs_are_refused(tmp_path: Path) -> None:
    """A run of another stage, and one without a checkpoint."""
    small_run(tmp_path / "other", stage="wgan")
    with pytest.raises(
        TesseraeError, match=r"run of the stage wgan: expected a run of .* superres`"
    ):
        open_upscaler(tmp_path / "other")
    RunFolder(tmp_path / "new").create_or_continue({"stage": "superres"}, {"data": {}})
    with pytest.raises(TesseraeError, match="no checkpoint yet"):
        open_upscaler(tmp_path / "new")
