"""What runs on the machines of a cluster, compared with what runs here."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from distributed import Client

from cluster.asking import Silent, ask
from cluster.errors import ClusterError

CODE = "code"


def compare(client: Client, packages: Sequence[str], code: Callable[[], str]) -> list[str]:
    """A sentence for each package that is another one on some worker.

    Args:
        client: Of the cluster.
        packages: Distributions whose versions are compared, and Python's.
        code: Says which code it is, where it is called: tasks are of that, so it must be the same.

    Raises:
        ClusterError: A worker cannot say, or its code is another.
    """
    here = installed(tuple(packages), code)
    answers = ask(client, installed, tuple(packages), code)
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
    for (name, _), workers in others.items():
        if name == CODE:
            raise ClusterError(
                f"{_named(workers)} has another Tesserae than this machine. Install the same on"
                " both, and start the worker again."
            )
    return [
        f"{name} is {here[name] or 'missing'} here and {theirs} on {_named(workers)}"
        for (name, theirs), workers in sorted(others.items())
    ]


def installed(packages: Sequence[str], code: Callable[[], str]) -> dict[str, str]:
    """Versions of *packages* and of Python, and what *code* says, in this process."""
    found = {"Python": platform.python_version(), CODE: code()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found


def _named(workers: Sequence[str]) -> str:
    more = f" and {len(workers) - 1} more" if len(workers) > 1 else ""
    return f"worker {workers[0]}{more}"
