"""Which rank this process is, of how many, and how many of them are on its machine.

Asked when an iteration begins, in this order; the first that answers decides:

    torch.distributed       a process group that is initialised, whoever started the processes
    RANK                    torchrun, accelerate; of Lightning, NODE_RANK and LOCAL_RANK
    OMPI_COMM_WORLD_RANK    mpirun of Open MPI
    MV2_COMM_WORLD_RANK     mpirun of MVAPICH2
    PMI_RANK                mpirun of MPICH and Intel MPI
    SLURM_PROCID            srun

Launchers are nested: srun may start one torchrun a node, which starts the ranks, so an inner world
is at least as large as an outer one. An outer world that is larger means that ranks would read
the same rows without knowing of each other: that is an error, and so is half an answer.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import RankError

_LAUNCHERS = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
)

_LOCAL_WORLDS = (
    "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "MV2_COMM_WORLD_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
    "SLURM_STEP_TASKS_PER_NODE",
)

_FIRST_SPECIAL_STEP = 2**32 - 16
"""Slurm numbers the steps that srun did not start, such as a batch script, from about here up."""

_PROCESS_GROUP = "torch.distributed"

_CURE = "Pass rank= and world= to the loader."


class Placement(NamedTuple):
    """A rank among the ranks of a world, and who says so."""

    rank: int
    world: int
    source: str = "rank= and world="

    def part(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this rank's part of the rows of a global batch."""
        count = len(rows)
        return rows[self.rank * count // self.world : (self.rank + 1) * count // self.world]


def explicit_placement(rank: int | None, world: int | None) -> Placement | None:
    """Return the place that the caller chose, or None if it is to be asked for.

    Raises:
        ValueError: One was given without the other, or *rank* is none of *world*.
    """
    if (rank is None) != (world is None):
        raise ValueError(f"rank is {rank}, world is {world}: expected both or none.")
    if rank is None or world is None:
        return None
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank} of a world of {world}: expected 0 to {world - 1}.")
    return Placement(rank, world)


def current_placement() -> Placement:
    """Return the place of this process, now, as the process group or a launcher says.

    Raises:
        RankError: Two of them disagree, or one says only half of it.
    """
    placements, incomplete = _answers()
    if incomplete and not (placements and _completes(placements[0])):
        raise incomplete[0]
    nearest = placements[0] if placements else Placement(0, 1, "nothing")
    for outer in placements[1:]:
        if outer.world > nearest.world:
            raise RankError(
                f"this is rank {nearest.rank} of {nearest.world} by {nearest.source}, but rank"
                f" {outer.rank} of {outer.world} by {outer.source}: ranks would read the same rows."
                f" {_CURE}"
            )
    return nearest


def ranks_here(world: int) -> int:
    """Return how many ranks of *world* are on this machine, as far as a launcher says; else 1.

    Slurm's `4(x2),3` is for three machines; which of them this is makes no difference here.
    """
    text = next((os.environ[name] for name in _LOCAL_WORLDS if os.environ.get(name)), "1")
    counts = [int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?(?:,|$)", text)]
    return min(max(counts, default=1), world)


def _answers() -> tuple[list[Placement], list[RankError]]:
    """Return what the sources say, the innermost first, and why those before it say only half."""
    placements: list[Placement] = []
    incomplete: list[RankError] = []
    sources: list[Callable[[], Placement | None]] = [process_group, _of_torchrun]
    sources += [partial(_of_pair, names) for names in _LAUNCHERS]
    for ask in (*sources, _of_slurm):
        try:
            placement = ask()
        except RankError as e:
            if not placements:  # else a launcher further in has said all of it
                incomplete.append(e)
            continue
        if placement is not None:
            placements.append(placement)
    return placements, incomplete


def _completes(placement: Placement) -> bool:
    """Return True if *placement* settles what an incomplete answer leaves open.

    A process group is what the ranks are. Some job scripts set WORLD_SIZE to srun's number of
    tasks, and leave the rank to srun.
    """
    if placement.source == _PROCESS_GROUP:
        return True
    return not os.environ.get("RANK") and os.environ.get("WORLD_SIZE") == str(placement.world)


def process_group() -> Placement | None:
    """Return the place in torch's process group, or None where none is initialised."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return Placement(distributed.get_rank(), distributed.get_world_size(), _PROCESS_GROUP)


def _of_torchrun() -> Placement | None:
    """Return the place in RANK and WORLD_SIZE, or in what Lightning sets in place of RANK."""
    world = _number("WORLD_SIZE")
    if _number("RANK") is not None:
        return _of_pair(("RANK", "WORLD_SIZE"))
    if world is None or world == 1:
        return None
    local, node, beside = map(_number, ("LOCAL_RANK", "NODE_RANK", "LOCAL_WORLD_SIZE"))
    if local is None or node is None or (node > 0 and beside is None):
        raise RankError(
            f"WORLD_SIZE is {world} and RANK is not set: this process cannot tell which rank it"
            f" is. Call torch.distributed.init_process_group first, or set RANK. {_CURE}"
        )
    return _checked(node * (beside or 0) + local, world, "WORLD_SIZE, NODE_RANK and LOCAL_RANK")


def _of_pair(names: tuple[str, str]) -> Placement | None:
    rank, world = map(_number, names)
    if rank is None and world is None:
        return None
    if rank is None or world is None:
        if world == 1 or (rank == 0 and names[0] != "RANK"):
            return None
        present, missing = names if world is None else names[::-1]
        raise RankError(
            f"{present} is {os.environ[present]} and {missing} is not set: this process cannot"
            f" tell which rank it is. {_CURE}"
        )
    return _checked(rank, world, f"{names[0]} and {names[1]}")


def _of_slurm() -> Placement | None:
    """Return the place in a step that srun started.

    A batch script has SLURM_NTASKS too, with SLURM_PROCID 0, but it is no task of a step: what it
    runs without srun is alone, and not rank 0 of ranks that nobody started.
    """
    rank, world = _number("SLURM_PROCID"), _number("SLURM_STEP_NUM_TASKS")
    if world is None and _is_step("SLURM_STEP_ID", "SLURM_STEPID"):
        world = _number("SLURM_NTASKS")
    if rank is None or (rank == 0 and world is None):
        return None
    if world is None:
        raise RankError(
            f"SLURM_PROCID is {rank} and SLURM_STEP_NUM_TASKS is not set: this process is one of"
            f" several tasks and cannot tell of how many. {_CURE}"
        )
    return _checked(rank, world, "SLURM_PROCID and SLURM_STEP_NUM_TASKS")


def _is_step(*names: str) -> bool:
    step = next((number for number in map(_number, names) if number is not None), None)
    return step is not None and 0 <= step < _FIRST_SPECIAL_STEP


def _checked(rank: int, world: int, source: str) -> Placement:
    if not 0 <= rank < world:
        raise RankError(
            f"{source} say rank {rank} of a world of {world}: expected 0 to {world - 1}. {_CURE}"
        )
    return Placement(rank, world, source)


def _number(name: str) -> int | None:
    """Return the number in an environment variable, or None if it is not set."""
    text = os.environ.get(name, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise RankError(f"{name} is {text!r}: expected a whole number. {_CURE}") from None
