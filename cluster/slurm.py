"""Workers of a Slurm cluster that are jobs of their own; and what a site's users write down of it.

The scheduler is in the command's process, on a login node, and submits jobs of workers. A job that
reached its walltime is submitted again, for as long as the command runs. Headers, submission and
cancelling are dask-jobqueue's; what a job runs is `tesserae cluster worker`. The other way, one job
that holds everything, is in `cluster.allocation`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from distributed import Client
from distributed.utils import get_ip, get_ip_interface

from cluster import certificates
from cluster.asking import ask
from cluster.errors import ClusterError
from cluster.local import scheduler_here
from cluster.scaling import need
from cluster.settings import hush, in_force

KEEP_SECONDS = 10.0
"""Between two looks at the queue."""
BRIEF_SECONDS = 20.0
"""A job that ended so soon did not work."""
BRIEF_JOBS = 3
"""So many of them, one after the other, and it is said instead of tried again."""
SPARE_LOOKS = 3
"""So many looks in a row must find a job too many before one is let go."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Jobs that are alike."""

    count: int
    cores: int
    memory: str
    least: int | None = None
    """So many jobs however little there is to do, `count` at most; None = always `count`."""
    workers: int | None = None
    """Processes of each job; None = one a core, 0 = those of GPUs alone."""
    gpus: int = 0
    walltime: str | None = None
    partition: str | None = None
    account: str | None = None
    directives: Sequence[str] = ()
    """More lines for sbatch, e.g. `--constraint=skylake`."""

    @property
    def processes(self) -> int:
        """That decode, of each job."""
        return self.cores if self.workers is None else self.workers


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What a site's users write down once."""

    way: Literal["jobs", "allocation"] = "jobs"
    jobs: Mapping[str, Kind] = field(default_factory=dict)
    host: str | None = None
    """The address of this machine that nodes reach; None = that of `interface`, or the usual."""
    interface: str | None = None
    shared: str = "~/.local/state/tesserae/slurm"
    """A folder that all nodes see, for certificates and logs."""
    scratch: str | None = None
    python: str = sys.executable
    prologue: Sequence[str] = ()
    """Lines of a job's script before the workers start."""


def read_profile(path: Path) -> Profile:
    """Read a profile.

    Raises:
        ClusterError: It makes no sense.
    """
    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        raise ClusterError(f"the profile {path} cannot be read ({e}).") from None
    made = dict(_checked(found, Profile, str(path)))
    if made.get("way", "jobs") not in ("jobs", "allocation"):
        raise ClusterError(f"{path}: way is {made['way']!r}: expected jobs or allocation.")
    kinds = made.get("jobs") or {}
    if not isinstance(kinds, dict):
        raise ClusterError(f"{path}: jobs is {kinds!r}: expected a name for each kind of job.")
    made["jobs"] = {
        str(name): _kind(_checked(kind, Kind, f"{path}, jobs, {name}"), f"{path}, jobs, {name}")
        for name, kind in kinds.items()
    }
    profile = Profile(**made)
    if profile.way == "jobs" and not profile.jobs:
        raise ClusterError(
            f"{path}: jobs names none: expected e.g. cpu: with count, cores, memory."
        )
    return profile


def _checked(found: object, shape: type, where: str) -> dict[str, Any]:
    known = [one.name for one in fields(shape)]
    if not isinstance(found, dict) or any(name not in known for name in found):
        wrong = next((n for n in found if n not in known), "") if isinstance(found, dict) else found
        raise ClusterError(f"{where}: {wrong!r} makes no sense: expected {', '.join(known)}.")
    return found


def _kind(found: dict[str, Any], where: str) -> Kind:
    for name in ("count", "cores", "memory"):
        if name not in found:
            raise ClusterError(f"{where}: {name} is missing.")
    for name in ("count", "cores", "workers", "gpus", "least"):
        if name in found and (type(found[name]) is not int or found[name] < 0):
            raise ClusterError(f"{where}: {name} is {found[name]!r}: expected a number.")
    kind = Kind(**found)
    if kind.least is not None and (kind.gpus or not kind.processes):
        raise ClusterError(
            f"{where}: least is for jobs that decode: expected no gpus, and workers."
        )
    return kind


class SlurmJobs:
    """A scheduler here, and jobs of workers. Use as a context manager."""

    def __init__(
        self, profile: Profile, *, dashboard: bool, say: Callable[[str], None] = lambda _: None
    ) -> None:
        """Submit the jobs.

        Raises:
            ClusterError: There is no Slurm here, or it takes none of them.
        """
        self._say = say
        self._profile = profile
        self._config = in_force()
        hush()
        self._folder = Path(profile.shared).expanduser() / secrets.token_hex(4)
        files = certificates.make()
        certificates.write(self._folder, workers_part(files))
        self.cluster = scheduler_here(host_of(profile), files, dashboard=dashboard)
        self._client: Client | None = None
        self._jobs: list[_Job] = []
        self._brief = 0
        """Jobs, one after the other, that ended as soon as they began."""
        self._spare: Counter[str] = Counter()
        """Of a kind of job: looks, one after the other, at which there were too many."""
        self._checked = time.monotonic()
        try:
            for name, kind in profile.jobs.items():
                for _ in range(self._target(kind)):
                    self._jobs.append(self._submit(name))
        except BaseException:
            self.close()
            raise

    @property
    def dashboard(self) -> str:
        """The dashboard's address."""
        return str(self.cluster.dashboard_link)

    def client(self) -> Client:
        """A client of it."""
        self._client = Client(self.cluster)
        return self._client

    def check(self) -> None:
        """Look after the jobs while nobody works yet."""
        self.keep()

    def keep(self) -> None:
        """Submit again what has ended, and have as many jobs as there is work for.

        May be called all the time.

        Raises:
            ClusterError: Jobs end as soon as they have begun.
        """
        now = time.monotonic()
        if now - self._checked < KEEP_SECONDS:
            return
        self._checked = now
        there = _queued()
        if there is None:  # Slurm does not answer: nothing is known
            return
        self._note_ended(there, now)
        for name, kind in self._profile.jobs.items():
            mine = [job for job in self._jobs if job.name == name]
            target = self._target(kind)
            for _ in range(target - len(mine)):
                self._jobs.append(self._submit(name))
                self._say(f"job {self._jobs[-1].number} is submitted")
            # Not at once: between two splits, say, there is nothing to do for a moment.
            self._spare[name] = self._spare[name] + 1 if len(mine) > target else 0
            if self._spare[name] >= SPARE_LOOKS:
                self._let_go(mine, len(mine) - target)

    def _note_ended(self, there: set[str], now: float) -> None:
        for job in [job for job in self._jobs if job.number not in there]:
            self._jobs.remove(job)
            if now - job.submitted >= BRIEF_SECONDS + KEEP_SECONDS:
                self._brief = 0
            else:
                self._brief += 1
            if self._brief >= BRIEF_JOBS:
                raise ClusterError(
                    f"jobs of Slurm end as soon as they begin. See {self._folder}/*.err; what is"
                    " committed stays."
                )
            self._say(f"job {job.number} has ended")

    def _target(self, kind: Kind) -> int:
        """How many jobs of a kind there shall be now."""
        if kind.least is None or self._client is None:
            return kind.count if kind.least is None else max(1, kind.least)
        wanted = -(-need(self._client).workers // max(1, kind.processes))
        return min(kind.count, max(1, kind.least, wanted))

    def _let_go(self, mine: Sequence[_Job], surplus: int) -> None:
        if self._client is None:
            return
        idle = need(self._client).idle
        at = ask(self._client, os.environ.get, "SLURM_JOB_ID", seconds=KEEP_SECONDS)
        busy = {number for worker, number in at.items() if worker not in idle}
        free = [job for job in reversed(mine) if job.number not in busy][:surplus]
        for job in free:
            self._jobs.remove(job)
            self._say(f"job {job.number} is let go: nothing is left for it to do")
        _cancel([job.number for job in free])

    def close(self) -> None:
        """Cancel the jobs, and stop the scheduler."""
        _cancel([job.number for job in self._jobs])
        self.cluster.close(timeout=30)
        certificates.remove(self._folder)
        self._config.__exit__(None, None, None)

    def __enter__(self) -> SlurmJobs:
        """Start nothing: that is done."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop it. The jobs' logs stay where something went wrong."""
        self.close()
        if kind is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _submit(self, name: str) -> _Job:
        from dask_jobqueue.slurm import SLURMJob

        kind = self._profile.jobs[name]
        words = [self._profile.python, "-m", "workflows", "cluster", "worker"]
        words += [str(self.cluster.scheduler_address), "--certs", str(self._folder)]
        words += ["--gpus", "all" if kind.gpus else "none"]
        words += ["--workers", str(kind.processes)]
        words += ["--scratch", self._profile.scratch] if self._profile.scratch else []
        gres = [f"--gres=gpu:{kind.gpus}"] if kind.gpus else []
        try:
            job = SLURMJob(  # type: ignore[no-untyped-call]
                scheduler=self.cluster.scheduler_address,
                name="tesserae",
                job_name="tesserae",
                cores=kind.cores,
                memory=kind.memory,
                processes=1,
                walltime=kind.walltime,
                queue=kind.partition,
                account=kind.account,
                job_extra_directives=[*gres, *kind.directives],
                job_script_prologue=list(self._profile.prologue),
                log_directory=str(self._folder),
            )
            job._command_template = f"exec {shlex.join(words)}"
            asyncio.run(job.start())  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError, ValueError) as e:
            raise ClusterError(f"Slurm does not take the job ({_last_line(e)}).") from e
        return _Job(str(job.job_id), name, time.monotonic())


@dataclass
class _Job:
    number: str
    name: str
    """Of its kind."""
    submitted: float


def workers_part(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Those of all certificates that workers need."""
    return {name: files[name] for name in (certificates.AUTHORITY, "worker.pem", "worker.key")}


def host_of(profile: Profile) -> str:
    """The address of this machine that nodes reach."""
    if profile.host is not None:
        return profile.host
    if profile.interface is not None:
        return str(get_ip_interface(profile.interface))
    return str(get_ip())


def _cancel(numbers: Sequence[str]) -> None:
    if numbers:
        with suppress(OSError, subprocess.TimeoutExpired):
            subprocess.run(["scancel", *numbers], capture_output=True, check=False, timeout=30)


def _queued() -> set[str] | None:
    """Our jobs that wait or run; None if Slurm does not say."""
    words = ["squeue", "--noheader", "--format=%A", "--me"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return set(done.stdout.split()) if done.returncode == 0 else None


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
