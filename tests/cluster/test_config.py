"""The Dask settings of Tesserae."""

from __future__ import annotations

import dask
import pytest

from cluster.config import allocator_environment, applied_settings, dask_settings
from pipeline import jobs


def test_settings_apply_inside_the_context_only() -> None:
    """Settings that Tesserae does not name keep their values."""
    before = dask.config.get("distributed.comm.timeouts.tcp"), dask.config.get("distributed.comm")
    with applied_settings():
        assert dask.config.get("distributed.worker.multiprocessing-method") == "forkserver"
        assert dask.config.get("distributed.comm.compression") == before[1]["compression"]
        environment = dask.config.get("distributed.nanny.pre-spawn-environ")
        assert environment.items() >= {**allocator_environment(), "OMP_NUM_THREADS": 1}.items()
    assert dask.config.get("distributed.comm") == before[1]


def test_environment_variables_have_priority(monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting from the shell overrides the one of Tesserae."""
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "7")
    with applied_settings():
        assert dask.config.get("distributed.scheduler.allowed-failures") == 7


def test_allowed_failures_match_the_task_graphs_limit() -> None:
    """The Dask setting and the task graph allow the same number of lost workers."""
    allowed = dask_settings()["distributed"]["scheduler"]["allowed-failures"]
    assert allowed == jobs.MAX_WORKER_LOSSES


def test_every_setting_exists_in_dask() -> None:
    """A misspelt setting would be ignored by Dask without an error."""

    def check(ours: object, theirs: object, path: str) -> None:
        if isinstance(ours, dict) and path != "distributed.nanny.pre-spawn-environ":
            assert isinstance(theirs, dict), path
            for name, value in ours.items():
                assert name in theirs, f"{path}.{name}"
                check(value, theirs[name], f"{path}.{name}".lstrip("."))

    defaults = dask.config.merge(*dask.config.defaults)
    check(dask_settings(), defaults, "")
