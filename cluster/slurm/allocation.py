"""One Slurm job for everything: scheduler, workers and the command.

`sbatch -N8 prepare.sh`, whose script contains `srun tesserae prepare ... --cluster
slurm:profile.yaml`. Of the processes that srun starts, the first runs the command and the
scheduler, and all of them run workers. The workers of the first are a separate process on its node,
with the cores and GPUs that Slurm has assigned to the first. The processes find each other through
a folder on a file system of all nodes.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cluster import certificates
from cluster.embedded_scheduler import EmbeddedScheduler
from cluster.errors import ClusterError
from cluster.processes.heartbeat import HEARTBEAT_TIMEOUT_SECONDS, Heartbeat
from cluster.processes.stdin_link import ERROR_PREFIX, WorkerLink, stdin_worker_command
from cluster.slurm.profile import Profile, reachable_host

ADDRESS_TIMEOUT_SECONDS = 120.0
"""The timeout of the other processes for the first to start."""
WORKER_EXIT_TIMEOUT_SECONDS = 5.0
"""How long the scheduler waits for workers to leave before it stops."""
MIN_RESTART_INTERVAL_SECONDS = 30.0
"""The minimum time between two starts of the workers of this node."""
CLOSE_SECONDS = 30.0
"""The timeout for the workers of this node to end."""
ADDRESS_FILE = "address"


class SlurmAllocation(EmbeddedScheduler):
    """The scheduler in the first process of a Slurm step; all its processes run workers."""

    def __init__(self, profile: Profile, *, dashboard: bool, workers: int, threads: int) -> None:
        """Start the scheduler and the workers of this node, and publish the address.

        Args:
            profile: Description of the site.
            dashboard: True to serve the dashboard on the loopback address of this machine.
            workers: Number of worker processes of this node without a GPU; each GPU has one more.
            threads: Number of tasks that each of them runs at once.
        """
        self._folder = _step_folder(profile)
        _remove_step_files(self._folder)
        files = certificates.create_certificates()
        super().__init__(reachable_host(profile), files, dashboard=dashboard)
        certificates.write_certificates(self._folder, certificates.files_for_workers(files))
        _write_atomically(self._folder / ADDRESS_FILE, self.address)
        options = {"workers": str(workers), "threads": str(threads), "gpus": "all"}
        if profile.scratch is not None:
            options["scratch"] = profile.scratch
        self._files, self._options = files, options
        self._local_link = self._start_local_workers()
        self._heartbeat = Heartbeat(self._beat)

    def check_startup(self) -> None:
        """Check that the workers of this node have not failed to start; called while there is none.

        Raises:
            ClusterError: They have; the message contains their last output.
        """
        if (output := self._local_link.exit_message()) is not None:
            raise ClusterError(
                f"the workers of this node ended: {output.removeprefix(ERROR_PREFIX)}"
            )

    def maintain(self) -> None:
        """Restart the workers of this node if they have ended. Callers poll this."""
        lifetime = time.monotonic() - self._local_link.begun
        if lifetime > MIN_RESTART_INTERVAL_SECONDS and self._local_link.exit_message() is not None:
            self._local_link.disconnect()
            self._local_link.wait(0)
            self._local_link = self._start_local_workers()

    def _start_local_workers(self) -> WorkerLink:
        return WorkerLink(
            stdin_worker_command(sys.executable, self.address, self._options), self._files
        )

    def _beat(self) -> None:
        self._local_link.send_heartbeat()
        # The time of change of the file is the heartbeat for processes on other nodes.
        (self._folder / ADDRESS_FILE).touch()

    def close(self) -> None:
        """Let the other processes end, and stop the scheduler."""
        self._heartbeat.stop()
        # Without the file the other processes end, and their workers with them.
        with suppress(OSError):
            (self._folder / ADDRESS_FILE).unlink(missing_ok=True)
        self._local_link.disconnect()
        deadline = time.monotonic() + WORKER_EXIT_TIMEOUT_SECONDS
        while self.cluster.scheduler_info["workers"] and time.monotonic() < deadline:
            time.sleep(0.1)  # a worker that loses its scheduler first would retry for a while
        self._local_link.wait(CLOSE_SECONDS)
        super().close()
        _remove_step_files(self._folder)


def step_rank() -> int:
    """Return the rank of this process in its Slurm step, from 0.

    Raises:
        ClusterError: The process does not belong to a step.
    """
    step_rank = os.environ.get("SLURM_PROCID")
    if step_rank is None or "SLURM_STEP_ID" not in os.environ:
        raise ClusterError(
            "way: allocation needs a Slurm step: expected `srun tesserae ...` in an sbatch script."
        )
    return int(step_rank)


def wait_for_scheduler(profile: Profile) -> tuple[str, Path, Callable[[], bool]]:
    """Wait up to 120 seconds for the first process of the step to publish its scheduler's address.

    Call it in another process of the same Slurm step.

    Args:
        profile: Description of the site, with the folder `shared` that all nodes share.

    Returns:
        The address (such as `tls://10.0.0.1:40123`), the folder of certificates (`ca.pem`,
        `worker.pem` and `worker.key`), and a function without parameters that returns True once the
        first process has ended, or has shown no sign of life for 120 seconds.

    Raises:
        ClusterError: The first process did not start in time.
        KeyError: This process belongs to no Slurm step.
    """
    folder = _step_folder(profile)
    address_file = folder / ADDRESS_FILE
    deadline = time.monotonic() + ADDRESS_TIMEOUT_SECONDS
    while (address := _read_address(address_file)) is None:
        if time.monotonic() > deadline:
            raise ClusterError(
                f"the first process of the step did not publish its address in {folder}. All nodes"
                " must be able to read that folder: set another one with `shared:` in the profile."
            )
        time.sleep(0.2)

    def has_ended() -> bool:
        try:
            return time.time() - address_file.stat().st_mtime > HEARTBEAT_TIMEOUT_SECONDS
        except FileNotFoundError:
            return True

    return address, folder, has_ended


def _read_address(file: Path) -> str | None:
    # The first process removes the file when it ends, which may be at any moment.
    try:
        return file.read_text()
    except FileNotFoundError:
        return None


def _step_folder(profile: Profile) -> Path:
    step = f"{os.environ['SLURM_JOB_ID']}.{os.environ['SLURM_STEP_ID']}"
    return Path(profile.shared).expanduser() / step


def _remove_step_files(folder: Path) -> None:
    """Remove the files of a first process from *folder*, and the folder if it is empty then.

    The folder has the name of a step, and its parent may be used by others, so foreign files and
    links are left alone.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    certificates.remove_certificates(folder)
    (folder / ADDRESS_FILE).unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()


def _write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(text)
    temporary.replace(path)
