"""What is set of Dask."""

from __future__ import annotations

import dask
import pytest

from cluster.config import allocator_environment, dask_settings, in_force
from pipeline import jobs


def test_they_hold_while_they_are_in_force_and_no_longer() -> None:
    """And leave alone what they do not name."""
    before = dask.config.get("distributed.comm.timeouts.tcp"), dask.config.get("distributed.comm")
    with in_force():
        assert dask.config.get("distributed.worker.multiprocessing-method") == "forkserver"
        assert dask.config.get("distributed.comm.compression") == before[1]["compression"]
        kept = dask.config.get("distributed.nanny.pre-spawn-environ")
        assert kept.items() >= {**allocator_environment(), "OMP_NUM_THREADS": 1}.items()
    assert dask.config.get("distributed.comm") == before[1]


def test_the_environment_is_nearer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A person who sets something in the shell means it."""
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "7")
    with in_force():
        assert dask.config.get("distributed.scheduler.allowed-failures") == 7


def test_a_task_is_isolated_after_as_many_losses_as_the_graph_counts_with() -> None:
    """The two say the same number."""
    allowed = dask_settings()["distributed"]["scheduler"]["allowed-failures"]
    assert allowed == jobs.ALLOWED_LOSSES


def test_every_setting_is_one_that_dask_knows() -> None:
    """A misspelt one would be set, and read by nobody."""

    def check(ours: object, theirs: object, path: str) -> None:
        if isinstance(ours, dict) and path != "distributed.nanny.pre-spawn-environ":
            assert isinstance(theirs, dict), path
            for name, value in ours.items():
                assert name in theirs, f"{path}.{name}"
                check(value, theirs[name], f"{path}.{name}".lstrip("."))

    defaults = dask.config.merge(*dask.config.defaults)
    check(dask_settings(), defaults, "")
