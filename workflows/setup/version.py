"""The text of `tesserae --version`: what a report of a defect needs."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline.installation import DISTRIBUTION, ROOT, installed_version
from workflows.setup import detect_pillow

PACKAGES = (
    *("dask", "distributed", "zarr", "numpy", "pyarrow", "fsspec", "simplejpeg"),
    *("torch", "transformers", "safetensors", "gensim", "faiss-cpu", "s3fs", "dask-jobqueue"),
)
"""The packages whose versions are printed, if they are installed."""


def version_text() -> str:
    """Return the versions of Tesserae, Python, the system, Pillow and the packages, in lines.

    The first line is `tesserae` and the version. None of the packages is imported.
    """
    return "\n".join(_lines())


def _lines() -> Iterator[str]:
    number = installed_version("tesserae")
    yield f"tesserae {number}" if number else "tesserae, not installed"
    yield f"  {DISTRIBUTION} in {ROOT}{_commit()}"
    yield f"  Python {platform.python_version()} in {sys.prefix}"
    yield f"  {platform.platform()}"
    yield f"  {_pillow() or 'no Pillow'}"
    versions = ((name, installed_version(name)) for name in PACKAGES)
    yield "  " + ", ".join(f"{name} {number}" for name, number in versions if number)


def _pillow() -> str:
    for folder in map(Path, sys.path):
        if owners := detect_pillow.pillow_owners(folder):
            level = detect_pillow.installed_simd_level(folder)
            return f"{' and '.join(owners)}, vector instructions: {level}"
    return ""


def _commit() -> str:
    """Return the commit of a checkout, with `-dirty` if a file of it has changed; else ''."""
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        return ""
    command = [git, "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return f", commit {done.stdout.strip()}" if done.returncode == 0 else ""
