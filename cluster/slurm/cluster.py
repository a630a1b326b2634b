"""Workers of a Slurm cluster that are jobs of their own; and what a site's users write down of it.

The scheduler is in the command's process, on a login node, and submits jobs of workers. A job that
reached its walltime is submitted again, for as long as the command runs. Headers, submission and
cancelling are dask-jobqueue's; what a job runs is `tesserae cluster worker`. The other way, one job
that holds everything, is in `cluster.slurm.allocation`.
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
from cluster.broadcast import ask
from cluster.embedded import Here
from cluster.errors import ClusterError
from cluster.limits import too_many_files
from cluster.slurm.jobs import Jobs, Shape
from cluster.slurm.load import need

KEEP_SECONDS = 10.0
"""Between two looks at the queue."""
PATIENCE = "600"
"""So many seconds a job's workers look for a scheduler that is gone before the job ends."""
WALLTIME = re.compile(r"(\d+-)?\d+(:\d\d){1,2}|\d+-\d+")
MEMORY = re.compile(r"\d+(\.\d+)?\s*[A-Za-z]+")
MIN_MEMORY_BYTES = 1_000_000
"""Less than one of sbatch's units cannot be asked for."""
PENDING = "PD"
"""Slurm's word for a job that waits."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Jobs that are alike."""

    count: int
    cores: int
    memory: str | None = None
    """For sbatch's --mem: `0` is all of a node's; None leaves the line out, for sites that forbid
    it."""
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
        why = too_many_files(e) or str(e)
        raise ClusterError(f"the profile {path} cannot be read ({why}).") from None
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
    _check_lines(made.get("prologue", ()), f"{path}: prologue")
    _check_texts(made, ("host", "interface", "shared", "scratch", "python"), str(path))
    profile = Profile(**made)
    if profile.way == "jobs" and profile.jobs and not any(k.count for k in profile.jobs.values()):
        raise ClusterError(f"{path}: count is 0 of every kind of job.")
    if profile.way == "jobs" and not profile.jobs:
        raise ClusterError(
            f"{path}: jobs names none: expected e.g. cpu: with count, cores, memory."
        )
    return profile


def _checked(found: object, shape: type, where: str) -> dict[str, Any]:
    """What a profile says; a name without a value is one that it does not say."""
    known = [one.name for one in fields(shape)]
    if not isinstance(found, dict) or any(name not in known for name in found):
        wrong = next((n for n in found if n not in known), "") if isinstance(found, dict) else found
        raise ClusterError(f"{where}: {wrong!r} makes no sense: expected {', '.join(known)}.")
    return {name: value for name, value in found.items() if value is not None}


def _check_texts(found: dict[str, Any], names: Sequence[str], where: str) -> None:
    for name in names:
        text = found.get(name, "x")
        if not isinstance(text, str) or not text or not text.isprintable():
            raise ClusterError(f"{where}: {name} is {text!r}: expected a text of one line.")


def _check_request(found: dict[str, Any], where: str) -> None:
    walltime = found.get("walltime")
    if walltime is not None and not (isinstance(walltime, str) and WALLTIME.fullmatch(walltime)):
        raise ClusterError(f'{where}: walltime is {walltime!r}: expected "HH:MM:SS", in quotes.')
    if "memory" in found and not is_whole_node(found["memory"]):
        _check_memory(found["memory"], where)


def is_whole_node(memory: object) -> bool:
    """Return True if a profile asks for all of a node's memory, as sbatch does by 0."""
    return type(memory) in (int, str) and str(memory).strip() == "0"


def _check_memory(memory: object, where: str) -> None:
    if isinstance(memory, str) and MEMORY.fullmatch(memory.strip()):
        with suppress(ValueError):  # a unit that is none
            if parse_bytes(memory) >= MIN_MEMORY_BYTES:
                return
    raise ClusterError(
        f"{where}: memory is {memory!r}: expected a number and a unit, such as 64GB; 0 for all of a"
        " node's; or nothing, where the site forbids --mem."
    )


def _check_lines(found: object, what: str) -> None:
    if not isinstance(found, list | tuple) or not all(isinstance(line, str) for line in found):
        raise ClusterError(f"{what} is {found!r}: expected a list of lines.")


def _kind(found: dict[str, Any], where: str) -> Kind:
    for name in ("count", "cores"):
        if name not in found:
            raise ClusterError(f"{where}: {name} is missing.")
    for name in ("count", "cores", "workers", "gpus", "least"):
        if name in found and (type(found[name]) is not int or found[name] < 0):
            raise ClusterError(f"{where}: {name} is {found[name]!r}: expected a number.")
    if found["cores"] < 1:
        raise ClusterError(f"{where}: cores is {found['cores']}: expected at least 1.")
    _check_texts(found, ("partition", "account"), where)
    _check_request(found, where)
    _check_lines(found.get("directives", ()), f"{where}: directives")
    kind = Kind(**found)
    if kind.least is not None and kind.least > kind.count:
        raise ClusterError(f"{where}: least is {kind.least}, count is {kind.count}.")
    if kind.least is not None and (kind.gpus or not kind.processes):
        raise ClusterError(
            f"{where}: least is for jobs that decode: expected no gpus, and workers."
        )
    return kind


class SlurmJobs(Here):
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
        self._folder = Path(profile.shared).expanduser() / secrets.token_hex(4)
        files = certificates.make()
        # However long the queue is: who is to come is known here.
        with dask.config.set({"distributed.scheduler.no-workers-timeout": None}):
            super().__init__(host_of(profile), files, dashboard=dashboard)
        certificates.write(self._folder, workers_part(files))
        self._client: Client | None = None
        shapes = {
            name: Shape(kind.count, kind.processes, kind.least)
            for name, kind in profile.jobs.items()
        }
        self._jobs = Jobs(shapes, self, say)
        self._checked = time.monotonic()
        try:
            self._jobs.begin()
        except BaseException:
            self.close()
            raise

    def client(self) -> Client:
        """A client of it."""
        self._client = super().client()
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
        try:
            self._jobs.look(now, None if self._client is None else _Tasks(self._client))
        except ClusterError as e:
            raise ClusterError(f"{e}. See {self._folder}/*.err; what is committed stays.") from None

    def close(self) -> None:
        """Cancel the jobs, and stop the scheduler."""
        if left := self._jobs.close():
            self._say(f"Slurm has not let go of jobs {', '.join(left)}: scancel {' '.join(left)}")
        super().close()
        certificates.remove(self._folder)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Stop it. The jobs' logs stay where something went wrong."""
        self.close()
        if kind is None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def submit(self, name: str) -> str:
        """See `Batch`."""
        from dask_jobqueue.slurm import SLURMJob

        kind = self._profile.jobs[name]
        words = [self._profile.python, "-m", "workflows", "cluster", "worker"]
        words += [self.address, "--certs", str(self._folder)]
        words += ["--gpus", "all" if kind.gpus else "none", "--patience", PATIENCE]
        words += ["--workers", str(kind.processes)]
        words += ["--scratch", self._profile.scratch] if self._profile.scratch else []
        more = [f"--gres=gpu:{kind.gpus}"] if kind.gpus else []
        more += ["--mem=0"] if is_whole_node(kind.memory) else []
        named = kind.memory is not None and not is_whole_node(kind.memory)
        try:
            job = SLURMJob(  # type: ignore[no-untyped-call]
                scheduler=self.address,
                name="tesserae",
                job_name="tesserae",
                cores=kind.cores,
                memory=kind.memory if named else "1GB",  # it wants some; the line is left out
                job_directives_skip=[] if named else ["--mem="],
                processes=1,
                walltime=kind.walltime,
                queue=kind.partition,
                account=kind.account,
                job_extra_directives=[*more, *kind.directives],
                job_script_prologue=list(self._profile.prologue),
                log_directory=str(self._folder),
            )
            job._command_template = f"exec {shlex.join(words)}"
            asyncio.run(job.start())  # type: ignore[no-untyped-call]
        except (OSError, RuntimeError, ValueError) as e:
            why = too_many_files(e, "sbatch") or _last_line(e)
            raise ClusterError(f"Slurm does not take the job ({why}).") from e
        return str(job.job_id)

    def queued(self) -> Mapping[str, bool] | None:
        """See `Batch`."""
        words = ["squeue", "--noheader", "--format=%A %t", "--me"]
        try:
            done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
        found = (line.partition(" ") for line in done.stdout.splitlines())
        return {number: state.strip() != PENDING for number, _, state in found}

    def cancel(self, numbers: Sequence[str]) -> None:
        """See `Batch`."""
        if numbers:
            with suppress(OSError, subprocess.TimeoutExpired):
                subprocess.run(["scancel", *numbers], capture_output=True, check=False, timeout=30)


class _Tasks:
    """What there is to do, as a scheduler knows."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def wanted(self) -> int:
        """See `Load`."""
        return need(self._client).workers

    def idle(self) -> set[str]:
        """See `Load`."""
        numbers = ask(self._client, _job_number, seconds=KEEP_SECONDS)
        if not all(isinstance(number, str) for number in numbers.values()):
            return set()  # one that says nothing may be of any of them
        idle = need(self._client).idle  # after that: the answers took a while
        busy = {number for worker, number in numbers.items() if worker not in idle}
        return set(numbers.values()) - busy


def _job_number() -> str | None:
    return os.environ.get("SLURM_JOB_ID")


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


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
