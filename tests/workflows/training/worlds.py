"""Worlds of real processes without a cluster."""

from __future__ import annotations

import io
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from cluster.ranks.rank_process import Rank
from tests.fork_server import fork_server
from workflows.training.world import World, join


def _run(file: Path, rank: int, world: int) -> None:
    torch.set_num_threads(1)
    me = Rank(rank=rank, world=world, generation=1, host="127.0.0.1", gpu=False)
    work = pickle.loads((file.parent / "work.pickle").read_bytes())
    with join(me, file.parent / f"meet-{world}") as joined:
        file.write_bytes(pickle.dumps(work(joined)))
    os._exit(0)  # as a rank does


def in_ranks(work: Callable[[World], Any], world: int, folder: Path) -> list[Any]:
    """Return what *work*, a picklable function, returns in each rank of a world of processes."""
    folder.mkdir(exist_ok=True)
    (folder / "work.pickle").write_bytes(pickle.dumps(work))
    files = [folder / f"{world}-{rank}.pickle" for rank in range(world)]
    with (folder / "out").open("wb") as out:
        processes = [
            fork_server().fork(
                __name__,
                [str(file), str(rank), str(world)],
                out=out,
                err=out,
                folder=folder,
                environment=os.environ,
                heavy=True,
            )
            for rank, file in enumerate(files)
        ]
    try:
        ended = [process.wait(90) for process in processes]
        assert ended == [0] * world, (folder / "out").read_text()
    finally:
        for process in processes:
            process.kill()
    return [pickle.loads(file.read_bytes()) for file in files]


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state after a round trip through a checkpoint file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


if __name__ == "__main__":
    _run(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
