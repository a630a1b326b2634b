"""Workers in Slurm jobs of their own, and the profile that describes a site.

The scheduler runs in the process of the command, on a login node, and submits jobs of workers. A
job that reaches its walltime is submitted again while the command runs. dask-jobqueue writes the
headers and submits the jobs; a job runs `tesserae cluster worker`. The alternative, one job for
everything, is in `cluster.slurm.allocation`.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import dask
import yaml
from dask.utils import parse_bytes
from distributed import Client
from distributed.utils import get_ip, get_ip_interface

from cluster import certificates
from cluster.broadcast import broadcast
from cluster.embedded import EmbeddedScheduler
from cluster.errors import ClusterError
from cluster.limits import too_many_files
from cluster.slurm.jobs import JobPool, Jobs
from cluster.slurm.load import worker_demand

KEEP_SECONDS = 10.0
"""The interval between two queries of the queue."""
SCHEDULER_TIMEOUT_SECONDS = "600"
"""How long the workers of a job search for a lost scheduler before the job ends, in seconds."""
WALLTIME_PATTERN = re.compile(r"(\d+-)?\d+(:\d\d){1,2}|\d+-\d+")
MEMORY_PATTERN = re.compile(r"\d+(\.\d+)?\s*[A-Za-z]+")
MIN_MEMORY_BYTES = 1_000_000
"""The smallest memory request: one of sbatch's units, a megabyte."""
PENDING_STATE = "PD"
"""Slurm's code for the state of a job that waits."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """The request for jobs of one kind; its fields are keys of the profile."""

    count: int
    """The number of jobs."""
    cores: int
    """The number of cores of each job."""
    memory: str | None = None
    """The memory for sbatch's --mem: `0` is all memory of a node; None omits the line, for sites
    that forbid it."""
    least: int | None = None
    """The minimum number of jobs, which grows to `count` with the load; None for always `count`."""
    workers: int | None = None
    """The number of worker processes of each job without a GPU; None for one per core."""
    gpus: int = 0
    """The number of GPUs of each job, each with a worker process."""
    walltime: str | None = None
    partition: str | None = None
    account: str | None = None
    directives: Sequence[str] = ()
    """Additional lines for sbatch, such as `--constraint=skylake`."""

    @property
    def processes(self) -> int:
        """The number of worker processes of each job without a GPU."""
        return self.cores if self.workers is None else self.workers


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The description of a site, which its users write once; its fields are keys of the file."""

    way: Literal["jobs", "allocation"] = "jobs"
    """The kind of cluster: jobs of workers, or one allocation for everything."""
    jobs: Mapping[str, Kind] = field(default_factory=dict)
    host: str | None = None
    """The address of this machine for the nodes; None for that of `interface`, or the default."""
    interface: str | None = None
    shared: str = "~/.local/state/tesserae/slurm"
    """A folder on a file system of all nodes, for certificates and logs."""
    scratch: str | None = None
    python: str = sys.executable
    prologue: Sequence[str] = ()
    """Lines of the job script that run before the workers start."""


def read_profile(path: Path) -> Profile:
    """Read a profile from a YAML file.

    Raises:
        ClusterError: The file cannot be read, or a value is invalid.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        reason = too_many_files(e) or str(e)
        raise ClusterError(f"the profile {path} cannot be read ({reason}).") from None
    values = dict(_check_keys(document, Profile, str(path)))
    if values.get("way", "jobs") not in ("jobs", "allocation"):
        raise ClusterError(f"{path}: way is {values['way']!r}: expected jobs or allocation.")
    kinds = values.get("jobs") or {}
    if not isinstance(kinds, dict):
        raise ClusterError(
            f"{path}: jobs is {kinds!r}: expected a mapping from the name of each kind of job to"
            " its keys."
        )
    values["jobs"] = {
        str(name): _read_kind(
            _check_keys(kind, Kind, f"{path}, jobs, {name}"), f"{path}, jobs, {name}"
        )
        for name, kind in kinds.items()
    }
    _check_lines(values.get("prologue", ()), f"{path}: prologue")
    _check_texts(values, ("host", "interface", "shared", "scratch", "python"), str(path))
    profile = Profile(**values)
    if profile.way == "jobs" and profile.jobs and not any(k.count for k in profile.jobs.values()):
        raise ClusterError(f"{path}: count is 0 for every kind of job: expected at least one job.")
    if profile.way == "jobs" and not profile.jobs:
        raise ClusterError(
            f"{path}: jobs is empty: expected e.g. `cpu:` with count, cores and memory."
        )
    return profile


def _check_keys(mapping: object, shape: type, where: str) -> dict[str, Any]:
    """Check the keys of a mapping against the fields of *shape*; return it without null values."""
    field_names = [item.name for item in fields(shape)]
    if not isinstance(mapping, dict) or any(name not in field_names for name in mapping):
        invalid = (
            next((n for n in mapping if n not in field_names), "")
            if isinstance(mapping, dict)
            else mapping
        )
        raise ClusterError(
            f"{where}: {invalid!r} is not a valid key: expected {', '.join(field_names)}."
        )
    return {name: value for name, value in mapping.items() if value is not None}


def _check_texts(values: dict[str, Any], names: Sequence[str], where: str) -> None:
    for name in names:
        text = values.get(name, "x")
        if not isinstance(text, str) or not text or not text.isprintable():
            raise ClusterError(f"{where}: {name} is {text!r}: expected one line of text.")


def _check_request(values: dict[str, Any], where: str) -> None:
    walltime = values.get("walltime")
    if walltime is not None and not (
        isinstance(walltime, str) and WALLTIME_PATTERN.fullmatch(walltime)
    ):
        raise ClusterError(f'{where}: walltime is {walltime!r}: expected "HH:MM:SS", in quotes.')
    if "memory" in values and not is_whole_node(values["memory"]):
        _check_memory(values["memory"], where)


def is_whole_node(memory: object) -> bool:
    """Return True if a profile requests all memory of a node, which sbatch writes as 0."""
    return type(memory) in (int, str) and str(memory).strip() == "0"


def _check_memory(memory: object, where: str) -> None:
    if isinstance(memory, str) and MEMORY_PATTERN.fullmatch(memory.strip()):
        with suppress(ValueError):  # an unknown unit
            if parse_bytes(memory) >= MIN_MEMORY_BYTES:
                return
    raise ClusterError(
        f"{where}: memory is {memory!r}: expected a number and a unit, such as 64GB; 0 for all"
        " memory of a node; or no such key, where the site forbids --mem."
    )


def _check_lines(lines: object, description: str) -> None:
    if not isinstance(lines, list | tuple) or not all(isinstance(line, str) for line in lines):
        raise ClusterError(f"{description} is {lines!r}: expected a list of lines.")


def _read_kind(values: dict[str, Any], where: str) -> Kind:
    for name in ("count", "cores"):
        if name not in values:
            raise ClusterError(f"{where}: {name} is missing.")
    for name in ("count", "cores", "workers", "gpus", "least"):
        if name in values and (type(values[name]) is not int or values[name] < 0):
            raise ClusterError(f"{where}: {name} is {values[name]!r}: expected a number.")
    if values["cores"] < 1:
        raise ClusterError(f"{where}: cores is {values['cores']}: expected at least 1.")
    _check_texts(values, ("partition", "account"), where)
    _check_request(values, where)
    _check_lines(values.get("directives", ()), f"{where}: directives")
    kind = Kind(**values)
    if kind.least is not None and kind.least > kind.count:
        raise ClusterError(f"{where}: least is {kind.least}: expected at most count, {kind.count}.")
    if kind.least is not None and (kind.gpus or not kind.processes):
        raise ClusterError(
            f"{where}: least is set: expected a kind of job with workers and without gpus."
        )
    return kind


class SlurmJobs(EmbeddedScheduler):
    """A scheduler in this process, with workers in Slurm jobs. Use it as a context manager."""

    def __init__(
        self, profile: Profile, *, dashboard: bool, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Start the scheduler and submit the jobs.

        Args:
            profile: Description of the site.
            dashboard: True to serve the dashboard on the loopback address of this machine.
            say: Called with one line when a job starts, ends or is rejected.

        Raises:
            ClusterError: Slurm is missing, or rejects a job.
        """
        self._say = say
        self._profile = profile
        self._folder = Path(profile.shared).expanduser() / secrets.token_hex(4)
        files = certificates.make()
        # Jobs may wait in the queue for any time, so Dask must not give up without workers.
        with dask.config.set({"distributed.scheduler.no-workers-timeout": None}):
            super().__init__(reachable_host(profile), files, dashboard=dashboard)
        certificates.write(self._folder, worker_files(files))
        self._client: Client | None = None
        pools = {
            name: JobPool(kind.count, kind.processes, kind.least)
            for name, kind in profile.jobs.items()
        }
        self._jobs = Jobs(pools, self, say)
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

    def check(self) -> None:
        """Update the jobs, as `keep` does, while there is no worker."""
        self.keep()

    def keep(self) -> None:
        """Submit jobs that have ended again, and adapt their number to the load.

        Callers poll this; it limits its own rate.

        Raises:
            ClusterError: Jobs end as soon as they begin.
        """
        now = time.monotonic()
        if now - self._checked < KEEP_SECONDS:
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
            self._say(f"Slurm still lists the jobs {numbers}: scancel {' '.join(remaining)}")
        super().close()
        certificates.remove(self._folder)  # the logs of the jobs are kept until `__exit__`

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop the cluster; keep the logs of its jobs after an error."""
        self.close()
        if kind is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def submit(self, name: str) -> str:
        """Submit a job as `BatchSystem` defines."""
        from dask_jobqueue.slurm import SLURMJob

        kind = self._profile.jobs[name]
        command = [self._profile.python, "-m", "workflows", "cluster", "worker"]
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
            reason = too_many_files(e, "sbatch") or _last_line(e)
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
        """Cancel jobs as `BatchSystem` defines."""
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
        numbers = broadcast(self._client, _job_number, seconds=KEEP_SECONDS)
        if not all(isinstance(number, str) for number in numbers.values()):
            return set()  # a worker that does not answer may belong to any job
        idle = worker_demand(self._client).idle  # queried last: the answers took a while
        busy = {number for worker, number in numbers.items() if worker not in idle}
        return set(numbers.values()) - busy


def _job_number() -> str | None:
    return os.environ.get("SLURM_JOB_ID")


def worker_files(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the certificate files that workers need, by name."""
    return {name: files[name] for name in (certificates.AUTHORITY, "worker.pem", "worker.key")}


def reachable_host(profile: Profile) -> str:
    """Return the address of this machine that the nodes of the site can reach."""
    if profile.host is not None:
        return profile.host
    if profile.interface is not None:
        return str(get_ip_interface(profile.interface))
    return str(get_ip())


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
