"""What runs on the machines of a cluster, compared with what runs here."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from distributed import Client

from cluster.broadcast import Silent, ask
from cluster.errors import ClusterError

CODE = "code of "

Code = Callable[[], Mapping[str, str]]
"""Says which code it is, where it is called: a digest for each tree of source files."""


def compare(
    client: Client,
    packages: Sequence[str],
    code: Code,
    *,
    alike: Sequence[str] = (),
    workers: Sequence[str] | None = None,
) -> list[str]:
    """Return a sentence for each package that is another one on some worker.

    Args:
        client: Of the cluster.
        packages: Distributions whose versions are compared, and Python's.
        code: The code of each tree must be the same everywhere: tasks and ranks are of it.
        alike: Distributions whose public versions must be the same too; what follows a `+`, such as
            the CUDA that a build is for, may differ.
        workers: Addresses of the workers that are asked; None = all.

    Raises:
        ClusterError: A worker cannot say, its code is another, or one of *alike* is.
    """
    here = installed((*packages, *alike), code)
    answers = ask(client, installed, (*packages, *alike), code, workers=workers)
    sentences = []
    for (name, theirs), differing in sorted(_differences(here, answers).items()):
        if name.startswith(CODE):
            raise ClusterError(
                f"{_named(differing)} has another Tesserae than this machine: its"
                f" {name.removeprefix(CODE)}/ differs. Install the same on both, and start the"
                " worker again."
            )
        sentence = f"{name} is {here[name] or 'missing'} here and {theirs or 'missing'} on"
        sentence += f" {_named(differing)}"
        if name in alike and _public(theirs) != _public(here[name]):
            raise ClusterError(
                f"{sentence}: expected the same version. Install it there, and start the worker"
                " again."
            )
        sentences.append(sentence)
    return sentences


def _differences(
    here: Mapping[str, str], answers: Mapping[str, Any]
) -> dict[tuple[str, str], list[str]]:
    """Which workers have another version: by what it is of, and what theirs is."""
    others: dict[tuple[str, str], list[str]] = defaultdict(list)
    for worker, found in sorted(answers.items()):
        if isinstance(found, Silent):
            continue  # it is just ending, or does not answer: nothing is known of it
        if not isinstance(found, dict):
            raise ClusterError(
                f"worker {worker} cannot run what is asked of it ({type(found).__name__}: {found})."
                " Install the same Tesserae there, and start the worker with its Python."
            )
        for name, kept in here.items():
            if found.get(name) != kept:
                others[name, str(found.get(name))].append(worker)
    return others


def _public(version: str) -> str:
    """A version without what follows its `+`."""
    return version.partition("+")[0]


def installed(packages: Sequence[str], code: Code) -> dict[str, str]:
    """Return the versions of *packages* and of Python, and what *code* says, in this process."""
    found = {"Python": platform.python_version()}
    found |= {CODE + tree: digest for tree, digest in code().items()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def _named(workers: Sequence[str]) -> str:
    more = f" and {len(workers) - 1} more" if len(workers) > 1 else ""
    return f"worker {workers[0]}{more}"
