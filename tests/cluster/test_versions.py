"""Code and packages of workers, compared with those of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import pytest
from distributed import Client

from cluster import versions
from cluster.broadcast import Silent
from cluster.errors import ClusterError
from cluster.versions import compare, installed

CODE = {"pipeline": "a", "workflows": "b", "cluster": "c"}


def code() -> Mapping[str, str]:
    """Of this machine."""
    return CODE


Compare = Callable[..., list[str]]


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Compare:
    """Compare with workers that answer what they are given to answer."""

    def compare_with(answers: Mapping[str, Any], **how: Any) -> list[str]:
        def ask(*_: Any, **__: Any) -> dict[str, Any]:
            here = installed(("numpy", "torch"), code)
            return {w: here | a if isinstance(a, dict) else a for w, a in answers.items()}

        monkeypatch.setattr(versions, "ask", ask)
        return compare(cast(Client, None), ("numpy",), code, **how)

    return compare_with


@pytest.mark.parametrize("tree", CODE)
def test_other_code_in_any_tree_is_refused(compared: Compare, tree: str) -> None:
    """By the tree, and the worker."""
    with pytest.raises(ClusterError, match=f"worker w2 has another .*: its {tree}/ differs"):
        compared({"w1": {}, "w2": {f"code of {tree}": "x"}})


def test_a_tree_that_a_worker_does_not_have_is_refused(compared: Compare) -> None:
    """Or that its older code says nothing of."""
    here = installed(("numpy", "torch"), code)
    del here["code of workflows"]
    with pytest.raises(ClusterError, match="its workflows/ differs"):
        compared({"w1": {"code of workflows": ""}})
    assert versions._differences(installed((), code), {"w1": here})


def test_another_version_of_a_package_is_said(compared: Compare) -> None:
    """And no more; a worker that says nothing is left alone."""
    (line,) = compared({"w1": {"numpy": "1.0"}, "w2": {"numpy": "1.0"}, "w3": Silent("no answer")})
    assert line.endswith("and 1.0 on worker w1 and 1 more")


@pytest.mark.parametrize(
    ("theirs", "refused"), [("2.12.0", True), ("", True), ("2.13.0+cu130", False)]
)
def test_what_must_be_alike_is_refused_by_its_public_version(
    compared: Compare, monkeypatch: pytest.MonkeyPatch, theirs: str, refused: bool
) -> None:
    """Torch for processors on this machine, and for GPUs on those that train, is one version."""
    version = versions.version
    monkeypatch.setattr(
        versions, "version", lambda name: "2.13.0+cpu" if name == "torch" else version(name)
    )
    answers = {"w1": {"torch": theirs}}
    if refused:
        with pytest.raises(ClusterError, match=r"torch is 2.13.0\+cpu here and .* same version"):
            compared(answers, alike=("torch",))
    else:
        assert len(compared(answers, alike=("torch",))) == 1
    assert len(compared(answers)) == 0  # whoever prepares needs none
