"""The limits of a process: its cores, and its open files, which are raised or explained."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path
from typing import Any

import pytest

from cluster.errors import ClusterError
from cluster.limits import SCHEDULER_FILES, cores, raise_file_limit, too_many_files
from cluster.slurm.profile import read_profile
from workflows import cli

TOO_MANY_FILES = OSError(errno.EMFILE, "Too many open files")


def test_cores_respect_the_container_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """The container's quota limits the number of cores if it is lower than the affinity."""
    limits = {"/sys/fs/cgroup/cpu.max": "150000 100000\n"}
    monkeypatch.setattr(Path, "read_text", lambda self: limits[str(self)])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert cores() == 2
    limits.update({"/sys/fs/cgroup/cpu.max": "max 100000\n"})
    assert cores() == 64


def limit(monkeypatch: pytest.MonkeyPatch, *limits: int) -> None:
    """Set the soft and hard limit that this process sees to *limits*."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)


@pytest.mark.parametrize(
    ("limits", "raised"),
    [
        ((1024, 4096), (4096, 4096)),
        ((1024, 2**20), (SCHEDULER_FILES, 2**20)),
        ((1024, -1), (SCHEDULER_FILES, -1)),
        ((4096, 4096), None),
        ((2**20, -1), None),
        ((-1, -1), None),
    ],
)
def test_the_file_limit_of_a_scheduler_is_raised(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], raised: tuple[int, int] | None
) -> None:
    """The limit is raised as far as the system allows, and a refusal is no error."""
    new_limits: list[Any] = []
    limit(monkeypatch, *limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: new_limits.append(new))
    raise_file_limit()
    assert new_limits == ([] if raised is None else [raised])

    def refuse(*_: object) -> None:
        raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    raise_file_limit()


def test_an_error_of_the_file_limit_names_the_call_and_the_cure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only errors of the limit itself, or raised from one, are explained."""
    limit(monkeypatch, 1024, 4096)
    assert too_many_files(TOO_MANY_FILES, "sbatch") == (
        "cannot open sbatch: this process has reached its limit of 1,024 open files: raise the"
        " limit with `ulimit -n 4096` before the command"
    )
    limit(monkeypatch, 64, 64)
    named = OSError(errno.EMFILE, "Too many open files", str(tmp_path / "log"))
    wrapped = RuntimeError("the cluster failed to start")
    wrapped.__cause__ = named
    expected = f"cannot open {tmp_path / 'log'}: this process has reached its limit of 64 open"
    assert expected in too_many_files(wrapped)
    assert "an administrator raise the hard limit, to 65536 for example" in too_many_files(wrapped)
    limit(monkeypatch, 65536, 2**20)  # as a scheduler that has raised its own
    assert "raise the limit with `ulimit -n 131072` before" in too_many_files(TOO_MANY_FILES)
    limit(monkeypatch, 65536, -1)
    assert "raise the limit with `ulimit -n 131072` before" in too_many_files(TOO_MANY_FILES)
    assert "/proc/sys/fs/file-max" in too_many_files(OSError(errno.ENFILE, "File table overflow"))
    assert too_many_files(OSError(errno.ENOENT, "No such file")) == ""
    assert too_many_files(ValueError("x")) == ""


def test_no_command_shows_a_bare_error_number(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An unreadable Slurm profile and an uncaught error are both explained in words."""

    def refuse(self: Path, *_: object, **__: object) -> str:
        raise OSError(errno.EMFILE, "Too many open files", str(self))

    limit(monkeypatch, 1024, 4096)
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(ClusterError, match=r"p\.yaml: this process has .* `ulimit -n \d+`"):
        read_profile(tmp_path / "p.yaml")
    assert cli._sentence(TOO_MANY_FILES).startswith("cannot open another file or connection: this")
