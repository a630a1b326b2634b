"""Worlds of real processes, without a cluster."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cluster.rank import Rank
from workflows.training.world import World, join


def _run(work: Callable[..., Any], rank: int, world: int, folder: Path, file: Path) -> None:
    torch.set_num_threads(1)
    me = Rank(rank=rank, world=world, generation=1, host="127.0.0.1", gpu=False)
    with join(me, folder) as joined:
        file.write_bytes(pickle.dumps(work(joined)))
    os._exit(0)  # as a rank does


def in_ranks(work: Callable[[World], Any], world: int, folder: Path) -> list[Any]:
    """What *work*, which can be pickled, returns in each rank of a world of processes."""
    context = multiprocessing.get_context("spawn")
    folder.mkdir(exist_ok=True)
    files = [folder / f"{world}-{rank}.pickle" for rank in range(world)]
    processes = [
        context.Process(
            target=_run, args=(work, rank, world, folder / f"meet-{world}", file), daemon=True
        )
        for rank, file in enumerate(files)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join(90)
        assert [process.exitcode for process in processes] == [0] * world
    finally:
        for process in processes:
            process.kill()
    return [pickle.loads(file.read_bytes()) for file in files]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """As a checkpoint brings it back."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded
