"""Interpreters with other libraries than this process has, in environments of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import PIL

from pipeline.errors import TesseraeError
from workflows.setup.detect_pillow import PILLOW_SIMD, PILLOW_STOCK, cpu_has_avx2

STOCK, SIMD = "Pillow", "Pillow-SIMD"
SIMD_VERSION = re.compile(r"\.post\d+$")
"""The end of the version of Pillow-SIMD, by which it differs from Pillow's."""
FREE_THREADED_VERSIONS = ("3.15", "3.14", "3.13")
"""The versions of Python that exist without a global lock, the newest first."""
INSTALL_SECONDS = 900.0
"""How long pip may take to create an environment: it may compile Pillow-SIMD."""
HAS_LOCK = "getattr(sys, '_is_gil_enabled', lambda: True)()"
PROBE = f"import json, sys, numpy, PIL.Image; print(json.dumps([PIL.__version__, {HAS_LOCK}]))"
"""A program that prints the version of Pillow and whether there is a global lock. Importing a
library that needs the lock brings it back."""

Report = Callable[[str], None]


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


def own_interpreter() -> Interpreter:
    """Return the interpreter of this process."""
    kind = SIMD if SIMD_VERSION.search(PIL.__version__) else STOCK
    return Interpreter(sys.executable, kind, PIL.__version__)


def other_pillow(own: Interpreter, folder: Path, report: Report) -> Interpreter | None:
    """Return an interpreter with the Pillow that this process has not, in an environment.

    Args:
        own: The interpreter of this process.
        folder: The folder of environments, in which one is created if it is missing.
        report: A function that is called with lines for the user.

    Returns:
        The interpreter; None if the environment cannot be created, as without a package index or a
        compiler.
    """
    if own.pillow == SIMD:
        return _environment(
            folder / "pillow", sys.executable, [f"pillow=={PILLOW_STOCK}"], STOCK, report
        )
    # pip's cache ignores CC, and could return a wheel that was compiled without AVX2.
    simd = ["--no-cache-dir", "--no-binary", "pillow-simd", f"pillow-simd=={PILLOW_SIMD}"]
    return _environment(folder / "pillow-simd", sys.executable, simd, SIMD, report)


def free_threaded(python: str | None, folder: Path, report: Report) -> Interpreter | None:
    """Return an interpreter without a global lock, with Pillow in an environment of its own.

    Args:
        python: The program; None: the newest one on the PATH.
        folder: The folder of environments, in which one is created if it is missing.
        report: A function that is called with lines for the user.

    Returns:
        The interpreter; None if there is none, or if its environment cannot be created.

    Raises:
        TesseraeError: *python* is no interpreter, or has a global lock.
    """
    names = [f"python{version}t" for version in FREE_THREADED_VERSIONS]
    program = shutil.which(python) if python else next(filter(None, map(shutil.which, names)), None)
    if program is None:
        if python:
            raise TesseraeError(f"--free-threaded is {python}: there is no such program.")
        return None
    command = [program, "-c", "import sys; print(sys._is_gil_enabled())"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.stdout.strip() != "False":
        if python:
            raise TesseraeError(
                f"--free-threaded is {python}: it has a global lock. Pass a free-threaded build,"
                " such as python3.14t."
            )
        return None
    environment = _environment(
        folder / Path(program).name, program, [f"pillow=={PILLOW_STOCK}"], STOCK, report
    )
    if environment is not None and environment.has_lock:
        report(f"{Path(program).name} is left out: numpy or Pillow turns its global lock on")
        return None
    return environment


def _environment(
    folder: Path, program: str, pillow: list[str], kind: str, report: Report
) -> Interpreter | None:
    python = folder / "bin" / "python"
    record = folder / "requirements.json"
    requirements = json.dumps([program, pillow])
    if not (record.exists() and record.read_text() == requirements and python.exists()):
        report(f"creating an environment with {kind} in {folder}")
        if not _create(folder, program, pillow, report):
            return None
        record.write_text(requirements)
    done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, check=False)
    if done.returncode:
        report(f"{kind} is left out: {python} fails: {_last_line(done.stderr)}")
        return None
    version, has_lock = json.loads(done.stdout)
    simplejpeg = f"import sys, numpy, PIL.Image, simplejpeg; sys.exit({HAS_LOCK} != {has_lock})"
    probe = subprocess.run([python, "-c", simplejpeg], capture_output=True, check=False)
    decoders = ("pillow",) if probe.returncode else ("pillow", "simplejpeg")
    return Interpreter(str(python), kind, version, has_lock, decoders)


def _create(folder: Path, program: str, pillow: list[str], report: Report) -> bool:
    compiler = "cc -mavx2" if cpu_has_avx2() else "cc"
    pip = [str(folder / "bin" / "python"), "-I", "-m", "pip", "install", "--quiet"]
    steps = [
        [program, "-m", "venv", "--clear", str(folder)],
        [*pip, "numpy", *pillow],
        [*pip, "--no-deps", "simplejpeg"],
    ]
    for step in steps:
        try:
            done = subprocess.run(
                step, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS,
                env=_environment_variables(compiler),
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as e:
            report(f"{folder.name} is left out: {e}")
            return False
        if done.returncode and step is not steps[-1]:  # simplejpeg has no wheels for some Pythons
            report(f"{folder.name} is left out: {_last_line(done.stderr)}")
            return False
    return True


def _environment_variables(compiler: str) -> dict[str, str]:
    return {**os.environ, "CC": os.environ.get("CC", compiler)}


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no output"
