"""`.venv`: where it lies, what it was made from, and how a step is run in it.

    setup.started     first: this folder was made here, and may be made anew
    setup.log         what pip and the compiler said
    wheels/           the compiled Pillow-SIMD and the distribution that stands in for `pillow`
    constraints.txt   the project's constraints, and the one version of `pillow`
    setup.json        last: its presence means that the environment is whole; what it was made from

Standard library only: `workflows.setup.install` runs when nothing is installed.
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

SOURCES = ("constraints.txt", "workflows/setup/install.py", "workflows/setup/pillow.py")
TABLES = ("build-system", "project", "dependency-groups")


class SetupError(Exception):
    """The environment cannot be made; the message is for a person."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What an environment is to hold."""

    extras: tuple[str, ...]
    """Extras and dependency groups of pyproject.toml, sorted."""
    pillow: str
    """`auto`, `simd` or `stock`."""


@dataclass(frozen=True)
class Environment:
    """The `.venv` of the project in *root*."""

    root: Path

    @property
    def folder(self) -> Path:
        """The environment's folder."""
        return self.root / ".venv"

    @property
    def site(self) -> Path:
        """Its `site-packages`."""
        return next(iter(sorted(self.folder.glob("lib/python3*/site-packages"))))

    def run(self, step: str, *command: str, env: Mapping[str, str] | None = None) -> None:
        """Run one step in the project's root: a line on the terminal, its output in the log.

        Raises:
            SetupError: With the end of the output.
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
                f"of {log}; put right what they name and run it again."
            )]))  # fmt: skip

    def pip(self, step: str, *arguments: str, env: Mapping[str, str] | None = None) -> None:
        """Run its own pip as one step, deaf to the caller's PYTHONPATH and user folder."""
        python = str(self.folder / "bin" / "python")
        quiet = ("--disable-pip-version-check", "--no-input")
        self.run(step, python, "-I", "-m", "pip", *arguments, *quiet, env=env)

    def stamp(self) -> dict[str, Any]:
        """Read what it was made from; empty unless it is whole and still in its place."""
        try:
            text = (self.folder / "setup.json").read_text(encoding="utf-8")
            stamp: dict[str, Any] = json.loads(text)
        except (OSError, ValueError):
            return {}
        alive = (self.folder / "bin" / "python").exists()
        return stamp if alive and stamp.get("folder") == str(self.folder) else {}

    def write_stamp(self, wish: Wish, why_stock: str) -> None:
        """Declare it whole."""
        stamp = {
            **asdict(wish),
            "why_stock": why_stock,
            "inputs": digest_of_inputs(self.root),
            "folder": str(self.folder),  # an environment that was moved does not work
        }
        part = self.folder / "setup.json.part"
        part.write_text(json.dumps(stamp, indent=1) + "\n", encoding="utf-8")
        part.replace(self.folder / "setup.json")


@functools.cache
def project_tables(root: Path) -> dict[str, Any]:
    """Read what of pyproject.toml decides what is installed. The tools' options do not."""
    with (root / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    return {name: project.get(name, {}) for name in TABLES}


def digest_of_inputs(root: Path) -> str:
    """Return the sha256 (hex) of all that decides what an environment holds."""
    parts = [json.dumps(project_tables(root), sort_keys=True).encode()]
    parts += [(root / name).read_bytes() for name in SOURCES]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()
