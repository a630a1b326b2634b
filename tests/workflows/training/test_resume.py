"""Tests that a run of any stage, interrupted and resumed, equals an uninterrupted one.

On the CPU they are bit-identical. A GPU may add up in another order each time, so that runs on it
agree within rounding only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.loader import Loader
from tests.devices import DEVICES
from tests.workflows.devise.small import make_small
from tests.workflows.devise.small import small_stage as small_devise_stage
from tests.workflows.training.small import BATCH, SIZE, SMALL, small_store, tensors, train_rank
from workflows.classify.options import ClassifyOptions
from workflows.colourise.options import ColouriseOptions
from workflows.devise.word_space import FILE
from workflows.training import loop
from workflows.training.loop import TrainingJob, make_stage
from workflows.training.options import TrainingOptions
from workflows.training.run_folder import RunFolder
from workflows.training.stage import Data
from workflows.training.stage_registry import import_location
from workflows.training.world import World
from workflows.wgan.options import WganOptions

STEPS, INTERRUPTED_AT = 6, 3
"""The steps of a run, which end in the second epoch, and the step after which it is interrupted."""
TOLERANCE = 0.05
"""The largest difference of two runs on a GPU: its norm, as a share of that of the expected values.

Gradients that are rounded differently, by a millionth, lead to differences of a thousandth after
these steps; an optimiser or a position in the data that was not restored, to 0.6 and more.
"""

Setup = tuple[TrainingOptions, Data, Mapping[str, bytes]]
"""The options and the data of a stage, and further files of its run folder."""


def image_data(store: Path, options: TrainingOptions) -> Data:
    """Return the loaders of a stage of images: batches of 8 of 36 and 18 squares of 16 px."""
    train, held_out = (
        Loader(store, split, size=SIZE, batch_size=BATCH, **options.loader_arguments(training=of))
        for split, of in (("train", True), ("val", False))
    )
    return Data(train, held_out, ("zero", "one", "two"), sizes=(SIZE,))


def image_setup(folder: Path, options: TrainingOptions) -> Setup:
    """Return the setup of a stage of images on a new store."""
    store = small_store(folder)
    options = replace(options, steps=STEPS, eval_every=3, log_every=1, threads_per_rank=1)
    return options, image_data(store, options), {}


def wgan(folder: Path) -> Setup:
    """Return the setup of a WGAN with two critic updates in a step."""
    return image_setup(folder, WganOptions(**SMALL))


def colourise(folder: Path) -> Setup:
    """Return the setup of a colourisation with a critic."""
    options = ColouriseOptions(image_size=SIZE, batch_size=BATCH, width=8, adversarial_weight=0.05)
    return image_setup(folder, options)


def classify(folder: Path) -> Setup:
    """Return the setup of a classifier with mixed rows, momentum and an average of its weights."""
    options = ClassifyOptions(
        network="resnet9", width=8, image_size=SIZE, batch_size=BATCH, precision="float32",
        mixup=0.2, ema_decay=0.9, epochs=2, learning_rate=0.02,
    )  # fmt: skip
    return image_setup(folder, options)


def devise(folder: Path) -> Setup:
    """Return the setup of a DeViSE head with dropout on stored features."""
    choices = {"steps": STEPS, "eval_every": 3, "log_every": 1, "learning_rate": 1e-3}
    stage = small_devise_stage(make_small(folder), folder / "space", **choices)
    space = (folder / "space" / FILE).read_bytes()
    return stage.options, stage._data, {FILE: space}


SETUPS: dict[str, Callable[[Path], Setup]] = {
    "wgan": wgan,
    "colourise": colourise,
    "classify": classify,
    "devise": devise,
}


@pytest.fixture(autouse=True)
def devices_used(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Yield the set of devices that stages are made for; let a GPU compute in full float32.

    A rank selects the fastest of cuDNN's algorithms, with TF32: that of two runs may differ, and
    with it the third digit of every sum.
    """
    used: set[str] = set()
    original, precision = loop.make_stage, torch.get_float32_matmul_precision()

    def make_precisely(job: TrainingJob, world: World, **arguments: Any) -> Any:
        used.add(world.device.type)
        torch.backends.cudnn.benchmark = False
        torch.set_float32_matmul_precision("highest")
        return original(job, world, **arguments)

    monkeypatch.setattr(loop, "make_stage", make_precisely)
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield used
    torch.set_float32_matmul_precision(precision)


def newest_state(run: RunFolder) -> dict[str, Any]:
    """Return the state of the newest checkpoint, with tensors on the CPU."""
    newest = run.newest_checkpoint()
    assert newest is not None
    return run.load(newest)


def losses(run: RunFolder) -> torch.Tensor:
    """Return the metrics of each step of a whole run, (steps, metrics) float64."""
    lines = [line for line in run.metrics() if "what" not in line]
    assert [line["step"] for line in lines] == [*range(1, STEPS + 1)]
    names = sorted(lines[0].keys() - {"generation", "step"})
    return torch.tensor([[line[name] for name in names] for line in lines], dtype=torch.float64)


def agree(actual: torch.Tensor, expected: torch.Tensor, *, gpu: bool) -> bool:
    """Return True if tensors are equal; on a GPU, if numbers differ by no more than rounding."""
    if not gpu or not expected.is_floating_point():
        return torch.equal(actual, expected)
    difference = (actual - expected).norm()
    return bool(difference <= TOLERANCE * expected.norm() + 1e-12)


QUICK_STAGES = {"classify"}
"""Stages that quick tests resume as runs. A quick test of each stage resumes its state alone."""


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "stage",
    [pytest.param(s, marks=[] if s in QUICK_STAGES else [pytest.mark.slow]) for s in SETUPS],
)
def test_a_resumed_run_equals_an_uninterrupted_one(
    tmp_path: Path, devices_used: set[str], stage: str, device: str
) -> None:
    """The checkpoint is restored to the bit, and what follows equals an uninterrupted run."""
    options, data, files = SETUPS[stage](tmp_path)
    gpu = device == "cuda"
    whole, result = train_rank(stage, options, data, tmp_path / "whole", files=files, gpu=gpu)
    assert result == "done"
    broken, result = train_rank(
        stage, options, data, tmp_path / "broken", files=files, gpu=gpu, stop_at=INTERRUPTED_AT
    )
    assert result == f"stopped at step {INTERRUPTED_AT}"

    job = TrainingJob(import_location(stage), str(broken.path), options, data, None)
    restored = make_stage(job, World(device=torch.device(device)))
    restored.load_state_dict(newest_state(broken)["stage"])
    saved = newest_state(broken)["stage"]
    for actual, expected in zip(tensors(restored.state_dict()), tensors(saved), strict=True):
        assert torch.equal(actual.cpu(), expected)
    assert restored.batches.state_dict() == saved["batches"]
    restored.batches.close()

    _, result = train_rank(stage, options, data, broken.path, gpu=gpu)
    assert result == "done"
    assert devices_used == {device}
    first, second = newest_state(whole), newest_state(broken)
    assert first["updates"] == second["updates"]
    assert first["stage"]["step"] == second["stage"]["step"] == STEPS
    assert first["stage"]["batches"] == second["stage"]["batches"]
    for actual, expected in zip(tensors(second), tensors(first), strict=True):
        assert agree(actual, expected, gpu=gpu)
    for actual, expected in zip(losses(broken), losses(whole), strict=True):
        assert agree(actual, expected, gpu=gpu)
