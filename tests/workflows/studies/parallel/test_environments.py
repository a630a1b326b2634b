"""Environments with another Pillow: complete or absent, whatever happens while they are created."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import TesseraeError
from workflows.studies.parallel import environments
from workflows.studies.parallel.environments import (
    SIMD,
    STOCK,
    EnvironmentPlan,
    EnvironmentUnavailableError,
    Interpreter,
    environments_folder,
    free_threaded,
    open_environment,
    other_pillow,
    own_interpreter,
)
from workflows.training.errors import DiskFullError

PLAN = other_pillow(Interpreter("python", SIMD, "12.1.1.post0"))
FREE = EnvironmentPlan(
    name="python3.14t", program="/usr/bin/python3.14t", python_version="3.14", pillow=STOCK,
    version="12.1.1", has_lock=False,
)  # fmt: skip


class Programs:
    """Programs that do what those of an environment do, at once, and fail on demand."""

    def __init__(self) -> None:
        self.words: list[str] = []
        """The word by which each step that was run is known: `venv`, `numpy`, ..."""
        self.errors: dict[str, BaseException | str] = {}
        """What the step with a word raises, or prints as it fails."""
        self.has_lock = True

    def __call__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Do the step of a command."""
        text = " ".join(command)
        words = ("print", "sys.exit", "venv", "ensurepip", "numpy", "simplejpeg")
        word = next(word for word in words if word in text)
        self.words.append(word)
        if word == "venv":
            (Path(command[-1]) / "bin").mkdir(parents=True)
            (Path(command[-1]) / "bin" / "python").touch()
        error = self.errors.get(word)
        if isinstance(error, BaseException):
            raise error
        if error is not None:
            return subprocess.CompletedProcess(command, 1, "", error)
        output = f'["12.1.1", {str(self.has_lock).lower()}]' if word == "print" else ""
        return subprocess.CompletedProcess(command, 0, output, "")


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Programs:
    """Replace the programs of an environment."""
    programs = Programs()
    monkeypatch.setattr(environments, "run_program", programs)
    return programs


def entries(folder: Path) -> list[str]:
    """Return the names in a folder of environments, without the folder of its locks."""
    return sorted(path.name for path in folder.iterdir() if path.name != ".tmp")


CREATED = ["venv", "ensurepip", "numpy", "simplejpeg"]
PROBED = ["print", "sys.exit"]


def test_an_environment_is_created_once(tmp_path: Path, programs: Programs) -> None:
    """All studies of a user share it."""
    folder = tmp_path / "cache" / "environments"
    lines: list[str] = []
    first = open_environment(PLAN, folder, lines.append)
    assert first == open_environment(PLAN, folder, lines.append)
    assert first == Interpreter(str(folder / PLAN.folder_name / "bin/python"), STOCK, "12.1.1")
    assert programs.words == [*CREATED, *PROBED, *PROBED]
    assert entries(folder) == [PLAN.folder_name]
    assert len(lines) == 1
    assert lines[0].startswith("creating an environment with Pillow in ")


def test_each_interpreter_pillow_and_compiler_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is taken for another, as a home folder may be shared by machines."""
    names = {PLAN.folder_name, FREE.folder_name}
    names |= {replace(PLAN, **{name: "0"}).folder_name for name in ("python_version", "version")}
    monkeypatch.setenv("CC", "clang")
    assert len({*names, PLAN.folder_name}) == 5


@pytest.mark.parametrize("step", CREATED)
def test_an_interrupted_creation_leaves_nothing(
    tmp_path: Path, programs: Programs, step: str
) -> None:
    """The next command begins anew, and a half of an environment is never used."""
    programs.errors = {step: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        open_environment(PLAN, tmp_path, print)
    assert entries(tmp_path) == []
    programs.errors, programs.words = {}, []
    open_environment(PLAN, tmp_path, print)
    assert programs.words == [*CREATED, *PROBED]


def test_what_a_killed_command_left_is_removed(tmp_path: Path, programs: Programs) -> None:
    """It has a name of its own, in which something may still write."""
    (tmp_path / f".{PLAN.folder_name}.killed" / "lib").mkdir(parents=True)
    (tmp_path / f".{FREE.folder_name}.another").mkdir()
    open_environment(PLAN, tmp_path, print)
    assert entries(tmp_path) == sorted([f".{FREE.folder_name}.another", PLAN.folder_name])


def test_a_damaged_environment_is_created_anew(tmp_path: Path, programs: Programs) -> None:
    """Its files may have been removed by something that empties caches."""
    lines: list[str] = []
    (tmp_path / PLAN.folder_name / "lib").mkdir(parents=True)
    programs.errors = {"print": "ModuleNotFoundError: No module named 'numpy'"}
    with pytest.raises(EnvironmentUnavailableError, match="No module named 'numpy'"):
        open_environment(PLAN, tmp_path, lines.append)
    assert programs.words == ["print", *CREATED, "print"]
    assert lines[0].startswith(f"{tmp_path / PLAN.folder_name} is created anew: ")
    assert not (tmp_path / PLAN.folder_name / "lib").exists()


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("ensurepip", "Traceback\nOSError: [Errno 28] No space left on device"),
        ("numpy", "ERROR: Could not install packages: [Errno 122] Disk quota exceeded\nnotice"),
        ("simplejpeg", "as: No space left on device"),
    ],
)
def test_a_full_disk_is_named(tmp_path: Path, programs: Programs, step: str, message: str) -> None:
    """The last line of pip may hide it, and nothing that fills the disk is left."""
    programs.errors = {step: message}
    with pytest.raises(DiskFullError, match=f"the disk of {tmp_path} is full: an environment with"):
        open_environment(PLAN, tmp_path, print)
    assert entries(tmp_path) == []


def test_a_library_is_missing_only_where_it_does_not_exist(
    tmp_path: Path, programs: Programs
) -> None:
    """The Python of this process has simplejpeg, so that pip has failed for another reason."""
    programs.errors = {"simplejpeg": "ERROR: no index.", "sys.exit": "no module"}
    with pytest.raises(EnvironmentUnavailableError, match=r"^ERROR: no index$"):
        open_environment(PLAN, tmp_path, print)
    programs.has_lock = False
    assert open_environment(FREE, tmp_path, print).decoders == ("pillow",)
    programs.has_lock = True
    with pytest.raises(EnvironmentUnavailableError, match="turns its global lock on"):
        open_environment(FREE, tmp_path, print)


def test_a_folder_that_cannot_be_written_is_named_with_its_cure(tmp_path: Path) -> None:
    """A user may have no home folder."""
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentUnavailableError, match="XDG_CACHE_HOME can name another folder"):
        open_environment(PLAN, tmp_path / "file" / "environments", print)


def test_the_folder_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable of the desktop standard names another one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert environments_folder() == tmp_path / ".cache" / "tesserae" / "environments"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    assert environments_folder() == tmp_path / "other" / "tesserae" / "environments"


def test_this_interpreter_is_described() -> None:
    """Pillow-SIMD is known by its version."""
    own = own_interpreter()
    assert own.python == sys.executable
    assert own.pillow == (SIMD if ".post" in own.version else STOCK)
    assert other_pillow(own).pillow != own.pillow


@pytest.mark.slow
def test_pip_that_finds_no_pillow_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The programs of Python are run, up to the step that fails."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(EnvironmentUnavailableError, match="No matching distribution found for"):
        open_environment(PLAN, tmp_path, print)
    assert entries(tmp_path) == []


def test_an_interpreter_with_a_lock_is_refused() -> None:
    """So is a program that does not exist."""
    with pytest.raises(TesseraeError, match="it has a global lock"):
        free_threaded(sys.executable)
    with pytest.raises(TesseraeError, match="--free-threaded is nopython: there is no such"):
        free_threaded("nopython")
