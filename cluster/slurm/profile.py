"""The profile that describes a site with Slurm, which its users write once, as YAML."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml
from dask.utils import parse_bytes
from distributed.utils import get_ip, get_ip_interface

from cluster.errors import ClusterError
from cluster.limits import too_many_files

WALLTIME_PATTERN = re.compile(r"(\d+-)?\d+(:\d\d){1,2}|\d+-\d+")
MEMORY_PATTERN = re.compile(r"\d+(\.\d+)?\s*[A-Za-z]+")
MIN_MEMORY_BYTES = 1_000_000
"""The smallest memory request: one of sbatch's units, a megabyte."""


@dataclass(frozen=True, kw_only=True)
class JobConfig:
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
    """The time limit of each job, such as `04:00:00`; None for that of the partition."""
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
    jobs: Mapping[str, JobConfig] = field(default_factory=dict)
    """The jobs of each kind, by a name of the user's choice."""
    host: str | None = None
    """The address of this machine for the nodes; None for that of `interface`, or the default."""
    interface: str | None = None
    """The network interface of this machine that the nodes reach, such as `ib0`."""
    shared: str = "~/.local/state/tesserae/slurm"
    """A folder on a file system of all nodes, for certificates and logs."""
    scratch: str | None = None
    """A folder on a local disk of each node for temporary files; None for Dask's default."""
    python: str = sys.executable
    """The path of the Python interpreter on the nodes."""
    container: Sequence[str] = ()
    """The words that run a command in a container, such as `apptainer exec /images/tesserae.sif`;
    none runs it on the node itself."""
    prologue: Sequence[str] = ()
    """Lines of the job script that run before the workers start."""


def read_profile(path: Path) -> Profile:
    """Read the profile of a site from a YAML file.

    Args:
        path: The file, a mapping with any of the keys `way` (`jobs` or `allocation`), `jobs`,
            `host`, `interface`, `shared`, `scratch`, `python`, `container` (a line, with quotes as
            in a shell, or a list of words) and `prologue` (a list of lines).
            `jobs` maps the name of each kind of job to a mapping with `count`, `cores` and any of
            `memory` (a text such as `64GB`), `least`, `workers`, `gpus`, `walltime` (such as
            `"04:00:00"`, in quotes), `partition`, `account` and `directives` (a list of lines).

    Returns:
        The profile, with the keys as attributes, also of each job in the mapping `jobs`. Those that
        the file lacks have their defaults.

    Raises:
        ClusterError: The file cannot be read, a key is unknown, a value is invalid, or `way` is
            `jobs` and there is no job.
    """
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as e:
        reason = too_many_files(e) or str(e)
        raise ClusterError(f"the profile {path} cannot be read ({reason}).") from None
    values = dict(_check_profile_keys(document, Profile, str(path)))
    if values.get("way", "jobs") not in ("jobs", "allocation"):
        raise ClusterError(f"{path}: way is {values['way']!r}: expected jobs or allocation.")
    kinds = values.get("jobs") or {}
    if not isinstance(kinds, dict):
        raise ClusterError(
            f"{path}: jobs is {kinds!r}: expected a mapping from the name of each kind of job to"
            " its keys."
        )
    values["jobs"] = {
        str(name): _read_job_kind(
            _check_profile_keys(kind, JobConfig, f"{path}, jobs, {name}"), f"{path}, jobs, {name}"
        )
        for name, kind in kinds.items()
    }
    _check_list_of_lines(values.get("prologue", ()), f"{path}: prologue")
    if "container" in values:
        values["container"] = _read_container(values["container"], str(path))
        if values.get("way") == "allocation":
            raise ClusterError(
                f"{path}: container is for jobs that the command submits: with way: allocation, run"
                " the container with srun."
            )
    _check_profile_texts(values, ("host", "interface", "shared", "scratch", "python"), str(path))
    profile = Profile(**values)
    if profile.way == "jobs" and profile.jobs and not any(k.count for k in profile.jobs.values()):
        raise ClusterError(f"{path}: count is 0 for every kind of job: expected at least one job.")
    if profile.way == "jobs" and not profile.jobs:
        raise ClusterError(
            f"{path}: jobs is empty: expected e.g. `cpu:` with count, cores and memory."
        )
    return profile


def _check_profile_keys(mapping: object, shape: type, where: str) -> dict[str, Any]:
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


def _check_profile_texts(values: dict[str, Any], names: Sequence[str], where: str) -> None:
    for name in names:
        text = values.get(name, "x")
        if not isinstance(text, str) or not text or not text.isprintable():
            raise ClusterError(f"{where}: {name} is {text!r}: expected one line of text.")


def _read_container(value: object, where: str) -> list[str]:
    """Return the words of `container`, which is a line or a list."""
    words: list[str] = []
    if isinstance(value, str) and value.isprintable():
        with suppress(ValueError):  # a quote that is not closed
            words = shlex.split(value)
    elif isinstance(value, list) and all(isinstance(word, str) and word for word in value):
        words = value
    if not words:
        raise ClusterError(
            f"{where}: container is {value!r}: expected the command that runs another one in a"
            " container, such as apptainer exec /images/tesserae.sif."
        )
    return words


def _check_job_request(values: dict[str, Any], where: str) -> None:
    walltime = values.get("walltime")
    if walltime is not None and not (
        isinstance(walltime, str) and WALLTIME_PATTERN.fullmatch(walltime)
    ):
        raise ClusterError(f'{where}: walltime is {walltime!r}: expected "HH:MM:SS", in quotes.')
    if "memory" in values and not is_whole_node(values["memory"]):
        _check_profile_memory(values["memory"], where)


def is_whole_node(memory: object) -> bool:
    """Return True if a profile requests all memory of a node, which sbatch writes as 0.

    Args:
        memory: The value of the key `memory`: 0 or "0" for all memory; anything else, None too,
            gives False.
    """
    return type(memory) in (int, str) and str(memory).strip() == "0"


def _check_profile_memory(memory: object, where: str) -> None:
    if isinstance(memory, str) and MEMORY_PATTERN.fullmatch(memory.strip()):
        with suppress(ValueError):  # an unknown unit
            if parse_bytes(memory) >= MIN_MEMORY_BYTES:
                return
    raise ClusterError(
        f"{where}: memory is {memory!r}: expected a number and a unit, such as 64GB; 0 for all"
        " memory of a node; or no such key, where the site forbids --mem."
    )


def _check_list_of_lines(lines: object, description: str) -> None:
    if not isinstance(lines, list | tuple) or not all(isinstance(line, str) for line in lines):
        raise ClusterError(f"{description} is {lines!r}: expected a list of lines.")


def _read_job_kind(values: dict[str, Any], where: str) -> JobConfig:
    for name in ("count", "cores"):
        if name not in values:
            raise ClusterError(f"{where}: {name} is missing.")
    for name in ("count", "cores", "workers", "gpus", "least"):
        if name in values and (type(values[name]) is not int or values[name] < 0):
            raise ClusterError(f"{where}: {name} is {values[name]!r}: expected a number.")
    if values["cores"] < 1:
        raise ClusterError(f"{where}: cores is {values['cores']}: expected at least 1.")
    _check_profile_texts(values, ("partition", "account"), where)
    _check_job_request(values, where)
    _check_list_of_lines(values.get("directives", ()), f"{where}: directives")
    kind = JobConfig(**values)
    if kind.least is not None and kind.least > kind.count:
        raise ClusterError(f"{where}: least is {kind.least}: expected at most count, {kind.count}.")
    if kind.least is not None and (kind.gpus or not kind.processes):
        raise ClusterError(
            f"{where}: least is set: expected a kind of job with workers and without gpus."
        )
    return kind


def reachable_host(profile: Profile) -> str:
    """Return the address of this machine that the nodes of the site can reach.

    Args:
        profile: The profile. Its `host` is returned as it is; without it, the address of its
            `interface`; without both, the address of the default route.

    Raises:
        ValueError: This machine has no interface of that name, or it has no IPv4 address.
    """
    if profile.host is not None:
        return profile.host
    if profile.interface is not None:
        return str(get_ip_interface(profile.interface))
    return str(get_ip())
