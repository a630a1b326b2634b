"""One job of Slurm that holds everything: scheduler, workers and the command.

`sbatch -N8 prepare.sh`, whose script says `srun tesserae prepare ... --cluster slurm:profile.yaml`.
Of the processes that srun starts, the first runs the command and the scheduler, and all of them
have workers: the first one's are a process of their own beside it, with the cores and GPUs that the
batch system has given to the first. They meet in a folder that all nodes see.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cluster import certificates
from cluster.embedded import Here
from cluster.errors import ClusterError
from cluster.processes.heartbeat import Heartbeat
from cluster.processes.stdin_link import SAYS, WorkerLink, worker_words
from cluster.slurm.cluster import Profile, host_of, workers_part

BEAT_SECONDS = 15.0
SILENCE_SECONDS = 120.0
"""Without a sign of life of the first process for so long, the others take it that it is gone."""
WAIT_SECONDS = 120.0
LEAVE_SECONDS = 5.0
AGAIN_SECONDS = 30.0
"""How long this node's workers have lived before they are started again when they end."""
CLOSE_SECONDS = 30.0
"""How long this node's workers may take to end."""
ADDRESS = "address"


class Allocation(Here):
    """The first process of a step of Slurm: the scheduler, for which all of them work."""

    def __init__(self, profile: Profile, *, dashboard: bool, workers: int, threads: int) -> None:
        """Start the scheduler and this node's workers, and tell the others where it is.

        Args:
            profile: Of the site.
            dashboard: Whether to serve the dashboard, on this machine's loopback address.
            workers: Processes of this node that decode; each of its GPUs has one more.
            threads: Tasks that each of them runs at once.
        """
        self._folder = _meeting(profile)
        _remove(self._folder)
        files = certificates.make()
        super().__init__(host_of(profile), files, dashboard=dashboard)
        certificates.write(self._folder, workers_part(files))
        _write(self._folder / ADDRESS, self.address)
        options = {"workers": str(workers), "threads": str(threads), "gpus": "all"}
        if profile.scratch is not None:
            options["scratch"] = profile.scratch
        self._files, self._options = files, options
        self._own = self._start_own()
        self._heart = Heartbeat(self._beat, BEAT_SECONDS)

    def check(self) -> None:
        """See that the workers of this node have not given up while nobody works yet.

        Raises:
            ClusterError: They have, with what they said.
        """
        if (said := self._own.ended()) is not None:
            raise ClusterError(f"the workers of this node ended: {said.removeprefix(SAYS)}")

    def keep(self) -> None:
        """Start this node's workers again if they have ended. May be called all the time."""
        lived = time.monotonic() - self._own.begun
        if lived > AGAIN_SECONDS and self._own.ended() is not None:
            self._own.hang_up()
            self._own.wait(0)
            self._own = self._start_own()

    def _start_own(self) -> WorkerLink:
        return WorkerLink(worker_words(sys.executable, self.address, self._options), self._files)

    def _beat(self) -> None:
        self._own.beat()
        (self._folder / ADDRESS).touch()

    def close(self) -> None:
        """Send the others home, and stop the scheduler."""
        self._heart.stop()
        with suppress(OSError):
            (self._folder / ADDRESS).unlink(missing_ok=True)
        self._own.hang_up()
        until = time.monotonic() + LEAVE_SECONDS
        while self.cluster.scheduler_info["workers"] and time.monotonic() < until:
            time.sleep(0.1)  # one that loses its scheduler first is in no hurry
        self._own.wait(CLOSE_SECONDS)
        super().close()
        _remove(self._folder)


def place_in_step() -> int:
    """Which process of a step of Slurm this is.

    Raises:
        ClusterError: It is in none.
    """
    place = os.environ.get("SLURM_PROCID")
    if place is None or "SLURM_STEP_ID" not in os.environ:
        raise ClusterError(
            "way: allocation is for what srun starts: expected `srun tesserae ...` in a script for"
            " sbatch."
        )
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


def _remove(folder: Path) -> None:
    """Remove what a first process writes in *folder*, and the folder if nothing else is in it.

    It has the name of a step, in a folder that others may use too.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    certificates.remove(folder)
    (folder / ADDRESS).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _write(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}")
    beside.write_text(text)
    beside.replace(path)
