"""Which rank this process is, of how many, and how many of them are on its machine."""

from __future__ import annotations

import os
import re

_RANKS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"))
"""Where torchrun and srun say who is who.

Not SLURM_NTASKS: a batch script has that too, with SLURM_PROCID 0, and what it runs without srun is
alone, not rank 0 of the ranks that nobody started.
"""

_HERE = ("LOCAL_WORLD_SIZE", "SLURM_STEP_TASKS_PER_NODE")


def place(rank: int | None, world: int | None) -> tuple[int, int]:
    """The rank of this process and the number of ranks: as given, or as a launcher says.

    Raises:
        ValueError: One was given without the other, or *rank* is none of *world*.
    """
    if (rank is None) != (world is None):
        raise ValueError(f"rank is {rank}, world is {world}: expected both or none.")
    if rank is None or world is None:
        found = ((os.environ.get(r), os.environ.get(w)) for r, w in _RANKS)
        rank, world = next(((int(r), int(w)) for r, w in found if r and w), (0, 1))
    if not 0 <= rank < world:
        raise ValueError(f"rank is {rank} of a world of {world}: expected 0 to {world - 1}.")
    return rank, world


def ranks_here(world: int) -> int:
    """How many ranks of *world* are on this machine, as far as a launcher says; else 1.

    Slurm's `4(x2),3` is for three machines; which of them this is makes no difference here.
    """
    said = next((os.environ[name] for name in _HERE if os.environ.get(name)), "1")
    counts = [int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?(?:,|$)", said)]
    return min(max(counts, default=1), world)
