"""One job of Slurm that holds everything: scheduler, workers and the command.

`sbatch -N8 prepare.sh`, whose script says `srun tesserae prepare ... --cluster slurm:profile.yaml`.
Of the processes that srun starts, the first runs the command and the scheduler, and the others work
for it. They meet in a folder that all nodes see.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cluster import certificates
from cluster.errors import ClusterError
from cluster.heartbeat import Heartbeat
from cluster.here import Here
from cluster.slurm import Profile, host_of, workers_part

BEAT_SECONDS = 15.0
SILENCE_SECONDS = 120.0
"""Without a sign of life of the first process for so long, the others take it that it is gone."""
WAIT_SECONDS = 120.0
LEAVE_SECONDS = 5.0
ADDRESS = "address"


class Allocation(Here):
    """The first process of a step of Slurm: the scheduler, for which the others work."""

    def __init__(self, profile: Profile, *, dashboard: bool) -> None:
        """Start the scheduler, and tell the others where it is."""
        self._folder = _meeting(profile)
        shutil.rmtree(self._folder, ignore_errors=True)
        files = certificates.make()
        super().__init__(host_of(profile), files, dashboard=dashboard)
        certificates.write(self._folder, workers_part(files))
        _write(self._folder / ADDRESS, self.address)
        self._heart = Heartbeat((self._folder / ADDRESS).touch, BEAT_SECONDS)

    def close(self) -> None:
        """Send the others home, and stop the scheduler."""
        self._heart.stop()
        with suppress(OSError):
            (self._folder / ADDRESS).unlink(missing_ok=True)
        until = time.monotonic() + LEAVE_SECONDS
        while self.cluster.scheduler_info["workers"] and time.monotonic() < until:
            time.sleep(0.1)  # one that loses its scheduler first is in no hurry
        super().close()
        shutil.rmtree(self._folder, ignore_errors=True)


def place_in_step() -> int:
    """Which process of a step of Slurm this is.

    Raises:
        ClusterError: It is in none.
    """
    place = os.environ.get("SLURM_PROCID")
    if place is None or "SLURM_STEP_ID" not in os.environ:
        raise ClusterError(
            "way: allocation is for what srun starts: expected `srun tesserae ...` in a script for"
            " sbatch, with two processes or more."
        )
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) < 2:
        raise ClusterError("srun started one process: the first runs the command, others work.")
    return int(place)


def wait_for_first(profile: Profile) -> tuple[str, Path, Callable[[], bool]]:
    """Wait for the first process of the step.

    Returns:
        The scheduler's address, the folder of certificates, and whether the first has ended.

    Raises:
        ClusterError: It did not come.
    """
    folder = _meeting(profile)
    said = folder / ADDRESS
    until = time.monotonic() + WAIT_SECONDS
    while not said.exists():
        if time.monotonic() > until:
            raise ClusterError(
                f"the first process of the step did not say where it is, in {folder}. All nodes"
                " must see that folder: name another with shared: in the profile."
            )
        time.sleep(0.2)

    def ended() -> bool:
        try:
            return time.time() - said.stat().st_mtime > SILENCE_SECONDS
        except FileNotFoundError:
            return True

    return said.read_text(), folder, ended


def _meeting(profile: Profile) -> Path:
    step = f"{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    return Path(profile.shared).expanduser() / step


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}")
    beside.write_text(text)
    beside.replace(path)
