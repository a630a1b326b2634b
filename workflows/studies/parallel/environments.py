"""Interpreters with other libraries than this process has, in environments of their own.

    ~/.cache/tesserae/environments/NAME-DIGEST   an environment, which is complete
    ~/.cache/tesserae/environments/.NAME-DIGEST.*   one that is being created, or was when a command
                                                 was killed, which the next one removes

All studies of a user share them. An environment is created under a name of its own and renamed when
it is complete, so that neither a command that is killed nor what it has left running can harm it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from tempfile import mkdtemp

import PIL

from pipeline.errors import StoreError, TesseraeError
from pipeline.filesystem import NO_ROOM_ERRNOS
from pipeline.store.lease import lease
from pipeline.store.open import open_objects
from workflows.setup.detect_pillow import PILLOW_SIMD, PILLOW_STOCK, cpu_has_avx2
from workflows.studies.parallel.programs import run_program
from workflows.terminal.formatting import bytes_text
from workflows.terminal.signals import deferred_signals
from workflows.training.errors import DiskFullError

STOCK, SIMD = "Pillow", "Pillow-SIMD"
SIMD_VERSION = re.compile(r"\.post\d+$")
"""The end of the version of Pillow-SIMD, by which it differs from Pillow's."""
FREE_THREADED_VERSIONS = ("3.15", "3.14", "3.13")
"""The versions of Python that exist without a global lock, the newest first."""
INSTALL_SECONDS = 900.0
"""How long a step of creating an environment may take: pip may compile Pillow-SIMD."""
ENVIRONMENT_BYTES = 120_000_000
"""The approximate size of an environment, for the error message of a full disk."""
HAS_LOCK = "getattr(sys, '_is_gil_enabled', lambda: True)()"
PROBE = f"import json, sys, numpy, PIL.Image; print(json.dumps([PIL.__version__, {HAS_LOCK}]))"
"""A program that prints the version of Pillow and whether there is a global lock. Importing a
library that needs the lock brings it back."""

Report = Callable[[str], None]


class EnvironmentUnavailableError(TesseraeError):
    """An environment cannot be created or does not work; the message says why, without a period."""


@dataclass(frozen=True)
class Interpreter:
    """A Python interpreter with its libraries."""

    python: str
    """The path of its program."""
    pillow: str
    """`Pillow` or `Pillow-SIMD`."""
    version: str
    """The version of that."""
    has_lock: bool = True
    """True if threads share a global lock, False in a free-threaded interpreter."""
    decoders: tuple[str, ...] = ("pillow", "simplejpeg")
    """The libraries that decode JPEGs, the slowest first."""

    @property
    def pillow_text(self) -> str:
        """Pillow with its version, as the settings of a study have it."""
        return f"{self.pillow} {self.version}"


@dataclass(frozen=True, kw_only=True)
class EnvironmentPlan:
    """An environment with another Pillow or another interpreter, which need not exist yet."""

    name: str
    """What it adds to a study: `Pillow`, `Pillow-SIMD`, or a program such as `python3.14t`."""
    program: str
    """The path of the interpreter that it is created with."""
    python_version: str
    """The version of that interpreter, with its compiler."""
    pillow: str
    """`Pillow` or `Pillow-SIMD`."""
    version: str
    """The version of that."""
    has_lock: bool = True
    """True if threads of the interpreter share a global lock."""

    @property
    def pillow_text(self) -> str:
        """Pillow with its version, and an interpreter without a lock, as settings have them."""
        text = f"{self.pillow} {self.version}"
        return text if self.has_lock else f"{text}, {self.name}"

    @property
    def requirements(self) -> tuple[str, ...]:
        """The arguments with which pip installs Pillow."""
        if self.pillow == STOCK:
            return (f"pillow=={self.version}",)
        # pip's cache ignores CC, and could return a wheel that was compiled without AVX2.
        flags = ("--no-cache-dir", "--no-binary", "pillow-simd")
        return (*flags, f"pillow-simd=={self.version}")

    @property
    def folder_name(self) -> str:
        """The name of its folder, which differs for each interpreter, Pillow and compiler."""
        inputs = [self.program, self.python_version, *self.requirements, _compiler()]
        digest = blake2b(json.dumps(inputs).encode(), digest_size=6).hexdigest()
        return f"{self.name.lower()}-{digest}"


def own_interpreter() -> Interpreter:
    """Return the interpreter of this process."""
    kind = SIMD if SIMD_VERSION.search(PIL.__version__) else STOCK
    return Interpreter(sys.executable, kind, PIL.__version__)


def other_pillow(own: Interpreter) -> EnvironmentPlan:
    """Return the environment with the Pillow that this process has not.

    Args:
        own: The interpreter of this process.
    """
    kind, version = (STOCK, PILLOW_STOCK) if own.pillow == SIMD else (SIMD, PILLOW_SIMD)
    return EnvironmentPlan(
        name=kind,
        program=os.path.realpath(sys.executable),  # virtual environments of one Python share it
        python_version=sys.version,
        pillow=kind,
        version=version,
    )


def free_threaded(python: str | None) -> EnvironmentPlan | None:
    """Return the environment of an interpreter without a global lock.

    Args:
        python: The program; None: the newest one on the PATH.

    Returns:
        The environment; None if *python* is None and there is no such interpreter.

    Raises:
        TesseraeError: *python* is no interpreter, or has a global lock.
    """
    names = [f"python{version}t" for version in FREE_THREADED_VERSIONS]
    program = shutil.which(python) if python else next(filter(None, map(shutil.which, names)), None)
    if program is None:
        if python:
            raise TesseraeError(
                f"--free-threaded is {python}: there is no such program. Pass the path of a"
                " free-threaded build of Python, such as python3.14t."
            )
        return None
    command = [program, "-c", "import sys; print(sys._is_gil_enabled()); print(sys.version)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    has_lock, _, version = done.stdout.partition("\n")
    if has_lock != "False":
        if python:
            raise TesseraeError(
                f"--free-threaded is {python}: it has a global lock. Pass a free-threaded build,"
                " such as python3.14t."
            )
        return None
    return EnvironmentPlan(
        name=Path(program).name,
        program=os.path.realpath(program),
        python_version=version,
        pillow=STOCK,
        version=PILLOW_STOCK,
        has_lock=False,
    )


def environments_folder() -> Path:
    """Return the folder of the environments of this user, which need not exist.

    It is `tesserae/environments` in XDG_CACHE_HOME, or in ~/.cache.

    Raises:
        EnvironmentUnavailableError: The user has no home folder.
    """
    try:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        raise EnvironmentUnavailableError(
            "there is no home folder for its environment; XDG_CACHE_HOME can name another one"
        ) from None
    return Path(cache).absolute() / "tesserae" / "environments"


def open_environment(plan: EnvironmentPlan, folder: Path, report: Report) -> Interpreter:
    """Return the interpreter of an environment, which is created if it is missing or damaged.

    A command that needs the same environment at the same time waits.

    Args:
        plan: The environment.
        folder: The folder of environments, which is created if it is missing.
        report: A function that is called with lines for the user.

    Raises:
        EnvironmentUnavailableError: It cannot be created, as without a package index or a compiler,
            or it does not work.
        DiskFullError: The disk has no room for it.
    """

    def waiting(holder: str) -> None:
        report(f"waiting for {holder}, which creates an environment with {plan.name}")

    target = folder / plan.folder_name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lease(open_objects(str(folder)), plan.folder_name, wait=True, on_wait=waiting):
            for leftover in folder.glob(f".{plan.folder_name}.*"):
                shutil.rmtree(leftover, ignore_errors=True)  # something may still write there
            if target.exists():
                try:
                    return _probed(plan, target)
                except EnvironmentUnavailableError as e:
                    report(f"{target} is created anew: {e}")
                    shutil.rmtree(target)
            report(f"creating an environment with {plan.name} in {target}")
            _create(plan, target)
            return _probed(plan, target)
    except (OSError, StoreError) as e:
        cause = e.__cause__ if isinstance(e, StoreError) else e
        if isinstance(cause, OSError) and cause.errno in NO_ROOM_ERRNOS:
            raise _full_disk(plan, folder) from e
        raise EnvironmentUnavailableError(
            f"its environment cannot be created in {folder}: {str(e).rstrip('.')};"
            " XDG_CACHE_HOME can name another folder"
        ) from e


def _probed(plan: EnvironmentPlan, folder: Path) -> Interpreter:
    """Return the interpreter of a complete environment."""
    python = str(folder / "bin" / "python")
    try:
        done = run_program([python, "-I", "-c", PROBE])
    except OSError as e:
        raise EnvironmentUnavailableError(f"{python} cannot be started: {e.strerror}") from e
    if done.returncode:
        raise EnvironmentUnavailableError(f"{python} fails: {_last_line(done.stderr)}")
    version, has_lock = json.loads(done.stdout)
    if has_lock and not plan.has_lock:
        raise EnvironmentUnavailableError("numpy or Pillow turns its global lock on")
    simplejpeg = f"import sys, numpy, PIL.Image, simplejpeg; sys.exit({HAS_LOCK} != {has_lock})"
    probe = run_program([python, "-I", "-c", simplejpeg])
    decoders = ("pillow",) if probe.returncode else ("pillow", "simplejpeg")
    return Interpreter(python, plan.pillow, version, has_lock, decoders)


def _create(plan: EnvironmentPlan, target: Path) -> None:
    """Create an environment under another name, and rename it when it is complete."""
    parent = Path(mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    temporary = parent / "tmp"
    folder = parent / target.name
    python = [str(folder / "bin" / "python"), "-I", "-m"]
    pip = [*python, "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
    steps = [
        [plan.program, "-I", "-m", "venv", "--without-pip", str(folder)],
        # `venv` without the option runs this step, and hides its output and so a full disk.
        [*python, "ensurepip", "--default-pip"],
        [*pip, "numpy", *plan.requirements],
        [*pip, "--no-deps", "simplejpeg"],
    ]
    # What a killed step leaves among temporary files is removed with the folder.
    environment = {**os.environ, "CC": _compiler(), "TMPDIR": str(temporary)}
    try:
        temporary.mkdir()
        for step in steps:
            try:
                done = run_program(step, environment=environment, timeout=INSTALL_SECONDS)
            except subprocess.TimeoutExpired as e:
                raise EnvironmentUnavailableError(
                    f"{shlex.join(step)} took longer than {INSTALL_SECONDS:g} s"
                ) from e
            if done.returncode == 0:
                continue
            if _is_full_disk(done.stdout + done.stderr):
                raise _full_disk(plan, target.parent)
            # simplejpeg has no wheels for some Pythons without a lock.
            if plan.has_lock or step is not steps[-1]:
                raise EnvironmentUnavailableError(_last_line(done.stderr))
        folder.rename(target)
    finally:
        with deferred_signals():
            shutil.rmtree(parent, ignore_errors=True)


def _compiler() -> str:
    return os.environ.get("CC", "cc -mavx2" if cpu_has_avx2() else "cc")


def _is_full_disk(output: str) -> bool:
    """Return True if the output of a program names a full disk or an exhausted quota."""
    return any(
        f"[Errno {number}]" in output or os.strerror(number) in output for number in NO_ROOM_ERRNOS
    )


def _full_disk(plan: EnvironmentPlan, folder: Path) -> DiskFullError:
    return DiskFullError(
        f"the disk of {folder} is full: an environment with {plan.name} needs"
        f" {bytes_text(ENVIRONMENT_BYTES)}. Free some space, or set XDG_CACHE_HOME to a folder on a"
        " larger disk."
    )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].rstrip(".") if lines else "no output"
