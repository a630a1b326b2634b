"""Workers in Slurm jobs of their own.

The scheduler runs in the process of the command, on a login node, and submits jobs of workers. A
job that reaches its walltime is submitted again while the command runs. dask-jobqueue writes the
headers and submits the jobs; a job runs `tesserae cluster worker`. The alternative, one job for
everything, is in `cluster.slurm.allocation`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import dask
from distributed import Client

from cluster import certificates
from cluster.broadcast import broadcast
from cluster.embedded_scheduler import EmbeddedScheduler
from cluster.errors import ClusterError
from cluster.limits import too_many_files
from cluster.slurm.jobs import JobPool, Jobs
from cluster.slurm.load import worker_demand
from cluster.slurm.profile import Profile, is_whole_node, reachable_host

MAINTENANCE_INTERVAL_SECONDS = 10.0
"""The interval between two queries of the queue."""
SCHEDULER_TIMEOUT_SECONDS = "600"
"""How long the workers of a job search for a lost scheduler before the job ends, in seconds."""
PENDING_STATE = "PD"
"""Slurm's code for the state of a job that waits."""


class SlurmCluster(EmbeddedScheduler):
    """A scheduler in this process, with workers in Slurm jobs. Use it as a context manager."""

    def __init__(
        self, profile: Profile, *, dashboard: bool, report: Callable[[str], None] = lambda _: None
    ) -> None:
        """Start the scheduler and submit the jobs.

        Args:
            profile: Description of the site.
            dashboard: True to serve the dashboard on the loopback address of this machine.
            report: Called with one line when a job starts, ends or is rejected.

        Raises:
            ClusterError: Slurm is missing, or rejects a job.
        """
        self._report = report
        self._profile = profile
        self._folder = Path(profile.shared).expanduser() / secrets.token_hex(4)
        files = certificates.create_certificates()
        # Jobs may wait in the queue for any time, so Dask must not give up without workers.
        with dask.config.set({"distributed.scheduler.no-workers-timeout": None}):
            super().__init__(reachable_host(profile), files, dashboard=dashboard)
        certificates.write_certificates(self._folder, certificates.files_for_workers(files))
        self._client: Client | None = None
        pools = {
            name: JobPool(kind.count, kind.processes, kind.least)
            for name, kind in profile.jobs.items()
        }
        self._jobs = Jobs(pools, self, report)
        self._checked = time.monotonic()
        try:
            self._jobs.submit_initial()
        except (
            BaseException
        ):  # some may be submitted: they are cancelled before the error is raised
            self.close()
            raise

    def client(self) -> Client:
        """Return a new client of the scheduler, which also measures the load for the jobs."""
        self._client = super().client()
        return self._client

    def check_startup(self) -> None:
        """Update the jobs, as `maintain` does, while there is no worker."""
        self.maintain()

    def maintain(self) -> None:
        """Submit jobs that have ended again, and adapt their number to the load.

        Callers poll this; it limits its own rate.

        Raises:
            ClusterError: Jobs end as soon as they begin.
        """
        now = time.monotonic()
        if now - self._checked < MAINTENANCE_INTERVAL_SECONDS:
            return
        self._checked = now
        try:
            self._jobs.update(now, None if self._client is None else _SchedulerLoad(self._client))
        except ClusterError as e:
            raise ClusterError(f"{e}. See {self._folder}/*.err; committed work is kept.") from None

    def close(self) -> None:
        """Cancel the jobs, and stop the scheduler."""
        if remaining := self._jobs.close():
            numbers = ", ".join(remaining)
            self._report(f"Slurm still lists the jobs {numbers}: scancel {' '.join(remaining)}")
        super().close()
        certificates.remove_certificates(
            self._folder
        )  # the logs of the jobs are kept until `__exit__`

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop the cluster; keep the logs of its jobs after an error."""
        self.close()
        if kind is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def submit(self, name: str) -> str:
        """Submit a job of workers with `sbatch`, and return its number.

        The cluster itself calls it for the jobs of the profile. A job of another caller is neither
        replaced when it ends nor cancelled at the end of the cluster.

        Args:
            name: The kind of job, a key of the profile's `jobs`.

        Returns:
            The number of the job, as text.

        Raises:
            ClusterError: Slurm rejects the job, or is missing.
            KeyError: The profile has no such kind of job.
            ModuleNotFoundError: dask-jobqueue is not installed.
        """
        from dask_jobqueue.slurm import SLURMJob

        kind = self._profile.jobs[name]
        command = [*self._profile.container, self._profile.python]
        command += ["-P", "-m", "workflows", "cluster", "worker"]
        command += [self.address, "--certs", str(self._folder)]
        command += [
            "--gpus",
            "all" if kind.gpus else "none",
            "--scheduler-timeout",
            SCHEDULER_TIMEOUT_SECONDS,
        ]
        command += ["--workers", str(kind.processes)]
        command += ["--scratch", self._profile.scratch] if self._profile.scratch else []
        directives = [f"--gres=gpu:{kind.gpus}"] if kind.gpus else []
        directives += ["--mem=0"] if is_whole_node(kind.memory) else []
        has_memory = kind.memory is not None and not is_whole_node(kind.memory)
        try:
            job = SLURMJob(  # type: ignore[no-untyped-call]
                scheduler=self.address,
                name="tesserae",
                job_name="tesserae",
                cores=kind.cores,
                memory=kind.memory
                if has_memory
                else "1GB",  # required by dask-jobqueue; the line is skipped
                job_directives_skip=[] if has_memory else ["--mem="],
                processes=1,
                walltime=kind.walltime,
                queue=kind.partition,
                account=kind.account,
                job_extra_directives=[*directives, *kind.directives],
                job_script_prologue=list(self._profile.prologue),
                log_directory=str(self._folder),
            )
            job._command_template = f"exec {shlex.join(command)}"
            asyncio.run(job.start())  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError, ValueError) as e:
            reason = too_many_files(e, "sbatch") or _last_error_line(e)
            raise ClusterError(f"Slurm rejected the job ({reason}).") from e
        return str(job.job_id)

    def queued(self) -> Mapping[str, bool] | None:
        """Return the queued jobs as `BatchSystem` defines."""
        command = ["squeue", "--noheader", "--format=%A %t", "--me"]
        try:
            completed = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=30
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        if completed.returncode:
            return None
        lines = (line.partition(" ") for line in completed.stdout.splitlines())
        return {number: state.strip() != PENDING_STATE for number, _, state in lines}

    def cancel(self, numbers: Sequence[str]) -> None:
        """Cancel jobs with `scancel`; errors are ignored, since the caller repeats it.

        Args:
            numbers: Numbers of the jobs, some of which may have ended.
        """
        if numbers:
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(["scancel", *numbers], capture_output=True, check=False, timeout=30)


class _SchedulerLoad:
    """The load of a scheduler, as seen by a client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def workers_needed(self) -> int:
        """Return the number of workers for which there is work."""
        return worker_demand(self._client).workers

    def idle(self) -> set[str]:
        """Return the numbers of jobs whose workers certainly have no task."""
        numbers = broadcast(self._client, _job_number, timeout_seconds=MAINTENANCE_INTERVAL_SECONDS)
        if not all(isinstance(number, str) for number in numbers.values()):
            return set()  # a worker that does not answer may belong to any job
        idle = worker_demand(self._client).idle  # queried last: the answers took a while
        busy = {number for worker, number in numbers.items() if worker not in idle}
        return set(numbers.values()) - busy


def _job_number() -> str | None:
    return os.environ.get("SLURM_JOB_ID")


def _last_error_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
