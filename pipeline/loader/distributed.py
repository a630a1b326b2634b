"""The rank and world size of this process, and the number of ranks on its machine.

They are determined when an iteration begins, from the first of these sources that is set:

    torch.distributed       an initialised process group, however the processes were started
    RANK                    torchrun, accelerate; of Lightning, NODE_RANK and LOCAL_RANK
    OMPI_COMM_WORLD_RANK    mpirun of Open MPI
    MV2_COMM_WORLD_RANK     mpirun of MVAPICH2
    PMI_RANK                mpirun of MPICH and Intel MPI
    SLURM_PROCID            srun

Launchers are nested: srun may start one torchrun per node, which starts the ranks, so an inner
world is at least as large as an outer one. A larger outer world means that ranks would read the
same rows without knowing of each other: that is an error, and so is a rank without a world size.
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
"""The lowest of the step numbers that Slurm gives to steps not started by srun, such as a batch
script."""

_PROCESS_GROUP = "torch.distributed"

_CURE = "Pass rank= and world= to the loader."


class Placement(NamedTuple):
    """A rank, its world size, and the source of both."""

    rank: int
    world: int
    source: str = "rank= and world="

    def part(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return this rank's part of the rows of one global batch.

        Args:
            rows: The rows of the global batch, (n,) int64.

        Returns:
            (m,) int64: the elements [rank * n // world, (rank + 1) * n // world) of *rows*, a view
            of it; m may be 0 if n is less than `world`.
        """
        count = len(rows)
        return rows[self.rank * count // self.world : (self.rank + 1) * count // self.world]


def explicit_placement(rank: int | None, world: int | None) -> Placement | None:
    """Return the placement that the caller chose, or None if both arguments are None.

    Args:
        rank: The rank of this process, 0 to *world* - 1, or None.
        world: The number of ranks, at least 1, or None.

    Returns:
        The placement, with `rank` and `world`, and in `source` the text `rank= and world=`, which
        says in messages where they come from; or None.

    Raises:
        ValueError: Only one of the two is None, or *rank* is out of range, as for a *world* of 0.
    """
    if (rank is None) != (world is None):
        raise ValueError(f"rank is {rank}, world is {world}: pass both or neither.")
    if rank is None or world is None:
        return None
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank} of a world of {world}: expected 0 to {world - 1}.")
    return Placement(rank, world)


def current_placement() -> Placement:
    """Return the placement of this process from its process group or launcher.

    The sources are torch's process group and the environment variables of torchrun, Lightning, MPI
    and Slurm. The innermost counts, in this order.

    Returns:
        The placement, with `rank`, `world` and the name of their `source`; rank 0 of 1, with the
        source `nothing`, if there is none.

    Raises:
        RankError: An outer source has more ranks than the innermost one, or a source has a rank
            without a world size or the reverse, and no inner one settles it.
    """
    placements, incomplete = _read_launchers()
    if incomplete and not (placements and _resolves_incomplete(placements[0])):
        raise incomplete[0]
    innermost = placements[0] if placements else Placement(0, 1, "nothing")
    for outer in placements[1:]:
        if outer.world > innermost.world:
            raise RankError(
                f"this is rank {innermost.rank} of {innermost.world} by {innermost.source}, but"
                f" rank {outer.rank} of {outer.world} by {outer.source}: ranks would read the same"
                f" rows. {_CURE}"
            )
    return innermost


def count_ranks_on_host(world: int) -> int:
    """Return the number of ranks on this machine that the launcher's environment variables state.

    The first of these that is set and not empty counts: `LOCAL_WORLD_SIZE`,
    `OMPI_COMM_WORLD_LOCAL_SIZE`, `MV2_COMM_WORLD_LOCAL_SIZE`, `MPI_LOCALNRANKS` and
    `SLURM_STEP_TASKS_PER_NODE`. Slurm's `4(x2),3` describes three machines, of which the largest
    number is used: the loader only needs to know if all ranks share one machine.

    Args:
        world: The number of ranks on all machines, at least 1.

    Returns:
        The number, at most *world*; 1 if no launcher has set one, or if it is no number; 0 only if
        the variable is `0`.
    """
    text = next((os.environ[name] for name in _LOCAL_WORLDS if os.environ.get(name)), "1")
    # An outer launcher may have set the number of its own tasks, more than this world has ranks.
    counts = [int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?(?:,|$)", text)]
    return min(max(counts, default=1), world)


def _read_launchers() -> tuple[list[Placement], list[RankError]]:
    """Return the placements, innermost first, and the errors of incomplete sources before them."""
    placements: list[Placement] = []
    incomplete: list[RankError] = []
    sources: list[Callable[[], Placement | None]] = [process_group, _from_torchrun]
    sources += [partial(_from_rank_and_world_variables, names) for names in _LAUNCHERS]
    for source in (*sources, _from_slurm):
        try:
            placement = source()
        except RankError as e:
            if not placements:  # otherwise an inner launcher has set everything
                incomplete.append(e)
            continue
        if placement is not None:
            placements.append(placement)
    return placements, incomplete


def _resolves_incomplete(placement: Placement) -> bool:
    """Return True if *placement* supplies what an incomplete source lacks.

    A process group is authoritative. Some job scripts set WORLD_SIZE to srun's number of tasks,
    and take the rank from srun.
    """
    if placement.source == _PROCESS_GROUP:
        return True
    return not os.environ.get("RANK") and os.environ.get("WORLD_SIZE") == str(placement.world)


def process_group() -> Placement | None:
    """Return the placement in torch's process group, or None if none is initialised."""
    # Looked up, not imported: a process that has not loaded it has no process group either.
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return Placement(distributed.get_rank(), distributed.get_world_size(), _PROCESS_GROUP)


def _from_torchrun() -> Placement | None:
    """Return the placement in RANK and WORLD_SIZE, or in Lightning's variables instead of RANK."""
    world = _environment_number("WORLD_SIZE")
    if _environment_number("RANK") is not None:
        return _from_rank_and_world_variables(("RANK", "WORLD_SIZE"))
    if world is None or world == 1:
        return None
    # Lightning starts ranks without RANK, and sets it only when its process group exists.
    local_rank, node_rank, local_world = map(
        _environment_number, ("LOCAL_RANK", "NODE_RANK", "LOCAL_WORLD_SIZE")
    )
    if local_rank is None or node_rank is None or (node_rank > 0 and local_world is None):
        raise RankError(
            f"WORLD_SIZE is {world} and RANK is not set: this process cannot tell which rank it"
            f" is. Call torch.distributed.init_process_group first, or set RANK. {_CURE}"
        )
    return _checked_placement(
        node_rank * (local_world or 0) + local_rank, world, "WORLD_SIZE, NODE_RANK and LOCAL_RANK"
    )


def _from_rank_and_world_variables(names: tuple[str, str]) -> Placement | None:
    rank, world = map(_environment_number, names)
    if rank is None and world is None:
        return None
    if rank is None or world is None:
        # Half a pair is harmless if it can only mean a single process.
        if world == 1 or (rank == 0 and names[0] != "RANK"):
            return None
        present, missing = names if world is None else names[::-1]
        raise RankError(
            f"{present} is {os.environ[present]} and {missing} is not set: this process cannot"
            f" tell which rank it is. {_CURE}"
        )
    return _checked_placement(rank, world, f"{names[0]} and {names[1]}")


def _from_slurm() -> Placement | None:
    """Return the placement in a step that srun started.

    A batch script has SLURM_NTASKS too, with SLURM_PROCID 0, but it is not a task of a step: a
    process that it runs without srun is alone, not rank 0 of ranks that were never started.
    """
    rank, world = _environment_number("SLURM_PROCID"), _environment_number("SLURM_STEP_NUM_TASKS")
    if world is None and _is_srun_step("SLURM_STEP_ID", "SLURM_STEPID"):
        world = _environment_number("SLURM_NTASKS")
    if rank is None or (rank == 0 and world is None):
        return None
    if world is None:
        raise RankError(
            f"SLURM_PROCID is {rank} and SLURM_STEP_NUM_TASKS is not set: this process is one of"
            f" several tasks and cannot tell of how many. {_CURE}"
        )
    return _checked_placement(rank, world, "SLURM_PROCID and SLURM_STEP_NUM_TASKS")


def _is_srun_step(*names: str) -> bool:
    step = next((number for number in map(_environment_number, names) if number is not None), None)
    return step is not None and 0 <= step < _FIRST_SPECIAL_STEP


def _checked_placement(rank: int, world: int, source: str) -> Placement:
    if not 0 <= rank < world:
        raise RankError(
            f"{source} set rank {rank} of a world of {world}: expected 0 to {world - 1}. {_CURE}"
        )
    return Placement(rank, world, source)


def _environment_number(name: str) -> int | None:
    """Return the integer in an environment variable, or None if it is not set or empty."""
    text = os.environ.get(name, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError:
        raise RankError(f"{name} is {text!r}: expected a whole number. {_CURE}") from None
