"""Helpers for tests: a run of super-resolution with random weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch

from workflows.superres.networks import Upscaler
from workflows.superres.options import SuperresOptions
from workflows.superres.stage import network_of
from workflows.training.averaging import average_of
from workflows.training.run_folder import Checkpoint, RunFolder

STEP = 7
"""The number of complete steps of the run."""


def small_run(folder: Path, *, stage: str = "superres", **choices: Any) -> Upscaler:
    """Write a run folder with a checkpoint of random weights; return the network to use.

    Args:
        folder: The new run folder.
        stage: The name of the stage that it records.
        choices: Options of the stage (default: FSRCNN, which enlarges by 2).
    """
    options = SuperresOptions(**{"network": "fsrcnn", "scale": 2, **choices})
    torch.manual_seed(options.seed)
    network = network_of(options)
    for weights in network.last_weights():  # an untrained network returns its base alone
        torch.nn.init.normal_(weights, std=0.3 / max(weights[0].numel(), 9) ** 0.5)
    average = None
    if options.ema_decay:
        average = average_of(network, options.ema_decay)
        for parameter in network.parameters():  # the weights themselves are not to be used
            parameter.data.mul_(3)
    run = RunFolder(folder)
    recorded = {**dataclasses.asdict(options), "stage": stage}
    run.create_or_continue(recorded, {"versions": {}, "data": {}})
    generation, _ = run.claim()
    state = {
        "networks": {"generator": network.state_dict()},
        "average": None if average is None else average.state_dict(),
        "step": STEP,
    }
    run.save(Checkpoint(generation, STEP), {"stage": state, "updates": STEP}, step=STEP)
    used = network if average is None else average.module
    assert isinstance(used, Upscaler)
    return used.eval()
