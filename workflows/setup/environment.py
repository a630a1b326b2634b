"""The virtual environment `.venv`: its files, its stamp, and how a set-up step runs in it.

    setup.started     written first: marks a folder that `make setup` created and may recreate
    setup.log         the output of pip and the compiler
    wheels/           the compiled Pillow-SIMD and the empty distribution named `pillow`
    constraints.txt   the project's constraints, with the one permitted version of `pillow`
    setup.json        written last: the inputs of a complete environment

This module uses the standard library only, because `workflows.setup.install` runs before anything
is installed.
"""

import functools
import hashlib
import json
import os
import shlex
import subprocess
import time
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SOURCES = (
    "constraints.txt",
    "pipeline/images/_jpeg_crop.c",
    "workflows/setup/install.py",
    "workflows/setup/install_pillow.py",
    "workflows/setup/detect_pillow.py",
)
TABLES = ("build-system", "project", "dependency-groups")


class SetupError(Exception):
    """An error in setting up the environment, with a message for the user."""


@dataclass(frozen=True, kw_only=True)
class EnvironmentConfig:
    """The packages that an environment shall contain."""

    extras: tuple[str, ...]
    """The extras and dependency groups of pyproject.toml to install, sorted."""
    pillow: str
    """The kind of Pillow to install: `auto`, `simd` or `stock`."""


@dataclass(frozen=True)
class Environment:
    """A virtual environment in the folder *root*: `.venv` of the project; it may be missing."""

    root: Path
    """The absolute path of the folder that it is in, in which its steps run."""
    name: str = ".venv"
    """The name of the environment's own folder."""

    @property
    def folder(self) -> Path:
        """The path of the environment."""
        return self.root / self.name

    @property
    def site(self) -> Path:
        """The path of the environment's `site-packages`."""
        return next(iter(sorted(self.folder.glob("lib/python3*/site-packages"))))

    def run(self, step: str, *command: str, env: Mapping[str, str] | None = None) -> None:
        """Run a command in the project's root, print one line, and append its output to the log.

        The log is `setup.log` in the environment, whose folder must exist. The command gets an
        empty standard input.

        Args:
            step: The description of the step that is printed.
            command: The program and its arguments.
            env: Environment variables to add (default: none).

        Raises:
            SetupError: The command failed; the message has the last lines of its output.
            FileNotFoundError: The program or the folder does not exist.
        """
        print(f"setup: {step} ...", end="", flush=True)
        began = time.monotonic()
        log = self.folder / "setup.log"
        with log.open("ab", buffering=0) as out:
            out.write(f"\n$ {shlex.join(command)}\n".encode())
            start = out.tell()
            code = subprocess.run(
                command, cwd=self.root, env={**os.environ, **(env or {})}, check=False,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            ).returncode  # fmt: skip
        print(f" {time.monotonic() - began:.0f} s", flush=True)
        if code:
            tail = log.read_bytes()[start:].decode(errors="replace").splitlines()[-15:]
            raise SetupError("\n".join([*(f"    {line}" for line in tail), (
                f"setup failed: {step} ended with exit status {code}. The lines above are the end "
                f"of {log}; fix the cause that they name, and repeat the command."
            )]))  # fmt: skip

    def pip(self, step: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Run the environment's pip as one step, isolated from PYTHONPATH and the user site.

        Args:
            step: The description of the step that is printed.
            arguments: The subcommand of pip and its arguments.
            env: Environment variables to add (default: none).

        Raises:
            SetupError: pip failed; the message has the last lines of its output.
            FileNotFoundError: The environment does not exist.
        """
        python = str(self.folder / "bin" / "python")
        quiet = ("--disable-pip-version-check", "--no-input")
        self.run(step, python, "-I", "-m", "pip", *arguments, *quiet, env=env)

    def stamp(self) -> dict[str, Any]:
        """Return the inputs of the last complete set-up, from `setup.json`.

        Returns:
            `extras` (a list), `pillow`, `why_stock`, `inputs` (a digest) and `folder`; empty if the
            environment is incomplete or was moved.
        """
        try:
            text = (self.folder / "setup.json").read_text(encoding="utf-8")
            stamp: dict[str, Any] = json.loads(text)
        except (OSError, ValueError):
            return {}
        alive = (self.folder / "bin" / "python").exists()
        return stamp if alive and stamp.get("folder") == str(self.folder) else {}

    def write_stamp(self, config: EnvironmentConfig, why_stock: str) -> None:
        """Write the inputs to `.venv/setup.json`, which marks the environment as complete.

        Args:
            config: The packages that were installed: `extras` (names) and `pillow` (`auto`, `simd`
                or `stock`).
            why_stock: The reason why stock Pillow was installed; empty if Pillow-SIMD was.

        Raises:
            OSError: `.venv` does not exist or cannot be written to, or a file of the project is
                missing.
        """
        stamp = {
            **asdict(config),
            "why_stock": why_stock,
            "inputs": digest_of_inputs(self.root),
            "folder": str(self.folder),  # a moved environment does not work: its scripts have paths
        }
        # Written under another name first, so that an interrupted write leaves no valid stamp.
        part = self.folder / "setup.json.part"
        part.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
        part.replace(self.folder / "setup.json")


@functools.cache
def project_tables(root: Path) -> dict[str, Any]:
    """Return the tables of pyproject.toml that affect what is installed, without those of tools.

    Args:
        root: The folder of pyproject.toml.

    Returns:
        The content of `build-system`, `project` and `dependency-groups`, by name; empty for one
        that is missing. The result is cached and must not be changed.

    Raises:
        OSError: There is no pyproject.toml.
        ValueError: It is not valid TOML.
    """
    with (root / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    return {name: project.get(name, {}) for name in TABLES}


def digest_of_inputs(root: Path) -> str:
    """Return the SHA-256, in hexadecimal, of what decides the content of an environment.

    That is the result of `project_tables`, `constraints.txt`, the code that installs, and the code
    that is compiled.

    Args:
        root: The folder of the project, with `workflows/setup`.

    Raises:
        OSError: One of the files is missing.
    """
    parts = [json.dumps(project_tables(root), sort_keys=True).encode()]
    parts += [(root / name).read_bytes() for name in SOURCES]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
