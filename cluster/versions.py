"""What runs on the machines of a cluster, compared with what runs here."""

from __future__ import annotations

import hashlib
import importlib.util
import platform
from collections import defaultdict
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from distributed import Client

from cluster.asking import ask
from cluster.errors import ClusterError


def compare(client: Client, packages: Sequence[str], code: Sequence[str]) -> list[str]:
    """A sentence for each package that is another one on some worker.

    Args:
        client: Of the cluster.
        packages: Distributions whose versions are compared, and Python's.
        code: Packages of which every source file must be the same: tasks are theirs.

    Raises:
        ClusterError: A worker cannot say, or its code is another.
    """
    here = installed(tuple(packages), tuple(code))
    answers = ask(client, installed, tuple(packages), tuple(code))
    others: dict[tuple[str, str], list[str]] = defaultdict(list)
    for worker, found in sorted(answers.items()):
        if isinstance(found, OSError):
            continue  # it is just ending, or does not answer: nothing is known of it
        if not isinstance(found, dict):
            raise ClusterError(
                f"worker {worker} cannot run what is asked of it ({type(found).__name__}: {found})."
                " Install the same Tesserae there, and start the worker with its Python."
            )
        for name, kept in here.items():
            if found.get(name) != kept:
                others[name, str(found.get(name))].append(worker)
    for (name, _), workers in others.items():
        if name in code:
            raise ClusterError(
                f"{_named(workers)} has other code in {name}/ than this machine. Install the same"
                " Tesserae on both, and start the worker again."
            )
    return [
        f"{name} is {here[name] or 'missing'} here and {theirs} on {_named(workers)}"
        for (name, theirs), workers in sorted(others.items())
    ]


def installed(packages: Sequence[str], code: Sequence[str]) -> dict[str, str]:
    """Versions of *packages* and of Python, and digests of *code*, in this process."""
    found = {"Python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found | {name: _digest(name) for name in code}


def _digest(package: str) -> str:
    spec = importlib.util.find_spec(package)
    digest = hashlib.blake2b(digest_size=16)
    for folder in map(Path, (spec and spec.submodule_search_locations) or ()):
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _named(workers: Sequence[str]) -> str:
    more = f" and {len(workers) - 1} more" if len(workers) > 1 else ""
    return f"worker {workers[0]}{more}"
