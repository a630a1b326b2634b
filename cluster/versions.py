"""A comparison of the versions and code on the workers of a cluster with those of this process."""

from __future__ import annotations

import platform
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from distributed import Client

from cluster.broadcast import NoResponseError, broadcast
from cluster.errors import ClusterError

CODE_PREFIX = "code of "

Code = Callable[[], Mapping[str, str]]
"""A function that returns a digest for each tree of source files of the calling process."""


def compare_versions(
    client: Client,
    packages: Sequence[str],
    code: Code,
    *,
    must_match: Sequence[str] = (),
    workers: Sequence[str] | None = None,
) -> list[str]:
    """Compare versions and code with those on the workers, and return a sentence per difference.

    Args:
        client: A client of the cluster.
        packages: Names of the distributions to compare; the version of Python is compared too.
        code: A picklable function without parameters that returns a dictionary from the name of
            each tree of source files to a digest; it is called here and on the workers. The digests
            must be equal everywhere, since tasks and ranks run this code.
        must_match: Names of further distributions to compare, whose public versions must be equal.
            The local version after a `+`, such as the CUDA release of a build, may differ.
        workers: Addresses of the workers to compare with (default: all connected ones).

    Returns:
        A sentence for each package, also of *must_match*, and each version of it that workers have
        and this process has not, such as `numpy is 2.1 here and 2.0 on worker tls://...`, sorted by
        name; empty if nothing differs. A worker that does not answer is passed over.

    Raises:
        ClusterError: A worker cannot report its versions, or its code or a version in *must_match*
            differs.
    """
    local_versions = installed_versions((*packages, *must_match), code)
    worker_versions = broadcast(
        client, installed_versions, (*packages, *must_match), code, workers=workers
    )
    sentences = []
    for (name, remote), differing in sorted(
        _differing_workers(local_versions, worker_versions).items()
    ):
        if name.startswith(CODE_PREFIX):
            raise ClusterError(
                f"{_workers_text(differing)} runs another version of Tesserae: its"
                f" {name.removeprefix(CODE_PREFIX)}/ differs from this machine's. Install the same"
                " version on both, and restart the worker."
            )
        sentence = (
            f"{name} is {local_versions[name] or 'missing'} here and {remote or 'missing'} on"
        )
        sentence += f" {_workers_text(differing)}"
        if name in must_match and _public_version(remote) != _public_version(local_versions[name]):
            raise ClusterError(
                f"{sentence}: expected the same version. Install it there, and restart the worker."
            )
        sentences.append(sentence)
    return sentences


def _differing_workers(
    local_versions: Mapping[str, str], worker_versions: Mapping[str, Any]
) -> dict[tuple[str, str], list[str]]:
    """Return the workers that differ, by (name of the package or tree, version on the worker)."""
    differing: dict[tuple[str, str], list[str]] = defaultdict(list)
    for worker, versions in sorted(worker_versions.items()):
        if isinstance(versions, NoResponseError):
            continue  # the worker has ended or does not answer: its versions are not known
        if not isinstance(versions, dict):
            raise ClusterError(
                f"worker {worker} cannot report its versions ({type(versions).__name__}:"
                f" {versions}). Install the same Tesserae there, and start the worker with its"
                " Python."
            )
        for name, local in local_versions.items():
            if versions.get(name) != local:
                differing[name, str(versions.get(name))].append(worker)
    return differing


def _public_version(version: str) -> str:
    """Return a version without its local part, the text from `+` on."""
    return version.partition("+")[0]


def installed_versions(packages: Sequence[str], code: Code) -> dict[str, str]:
    """Return the versions of packages and the digests of source trees in this process.

    Args:
        packages: Names of the distributions.
        code: A function without parameters that returns a dictionary from the name of each tree of
            source files to a digest.

    Returns:
        The versions by name, with `Python` for the interpreter and an empty text for a package that
        is not installed, and the digests by `code of <tree>`, in one dictionary.
    """
    versions = {"Python": platform.python_version()}
    versions |= {CODE_PREFIX + tree: digest for tree, digest in code().items()}
    for name in packages:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = ""
    return versions


def _workers_text(workers: Sequence[str]) -> str:
    more = f" and {len(workers) - 1} more" if len(workers) > 1 else ""
    return f"worker {workers[0]}{more}"
