"""The versions and code of workers, compared with those of this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
from distributed import Client

from cluster import versions
from cluster.broadcast import NoResponseError
from cluster.errors import ClusterError
from cluster.versions import compare_versions, installed_versions

CODE = {"pipeline": "a", "workflows": "b", "cluster": "c"}


def code() -> Mapping[str, str]:
    """Return the code digests of this machine."""
    return CODE


Compare = Callable[..., list[str]]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Return a function that compares with simulated answers of workers."""

    def compare_with(answers: Mapping[str, Any], **how: Any) -> list[str]:
        def broadcast(*_: Any, **__: Any) -> dict[str, Any]:
            local_versions = installed_versions(("numpy", "torch"), code)
            return {w: local_versions | a if isinstance(a, dict) else a for w, a in answers.items()}

        monkeypatch.setattr(versions, "broadcast", broadcast)
        return compare_versions(cast(Client, None), ("numpy",), code, **how)

    return compare_with


@pytest.mark.parametrize("tree", CODE)
def test_other_code_in_any_tree_is_refused(compared: Compare, tree: str) -> None:
    """The error names the tree and the worker."""
    with pytest.raises(ClusterError, match=f"worker w2 runs another .*: its {tree}/ differs"):
        compared({"w1": {}, "w2": {f"code of {tree}": "x"}})


def test_a_worker_without_one_of_the_trees_is_refused(compared: Compare) -> None:
    """The worker's older code may not even report the tree."""
    remote_versions = installed_versions(("numpy", "torch"), code)
    del remote_versions["code of workflows"]
    with pytest.raises(ClusterError, match="its workflows/ differs"):
        compared({"w1": {"code of workflows": ""}})
    assert versions._differing_workers(installed_versions((), code), {"w1": remote_versions})


def test_another_version_of_a_package_is_reported(compared: Compare) -> None:
    """A different version is a notice, and a worker that does not answer is ignored."""
    (line,) = compared(
        {"w1": {"numpy": "1.0"}, "w2": {"numpy": "1.0"}, "w3": NoResponseError("no answer")}
    )
    assert line.endswith("and 1.0 on worker w1 and 1 more")


@pytest.mark.parametrize(
    ("theirs", "refused"), [("2.12.0", True), ("", True), ("2.13.0+cu130", False)]
)
def test_packages_that_must_match_are_compared_by_public_version(
    compared: Compare, monkeypatch: pytest.MonkeyPatch, theirs: str, refused: bool
) -> None:
    """The CPU and GPU builds of one release of torch match."""
    version = versions.version
    monkeypatch.setattr(
        versions, "version", lambda name: "2.13.0+cpu" if name == "torch" else version(name)
    )
    answers = {"w1": {"torch": theirs}}
    if refused:
        with pytest.raises(ClusterError, match=r"torch is 2.13.0\+cpu here and .* same version"):
            compared(answers, must_match=("torch",))
    else:
        assert len(compared(answers, must_match=("torch",))) == 1
    assert len(compared(answers)) == 0  # whoever prepares needs none
