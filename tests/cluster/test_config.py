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


def test_a_task_is_isolated_after_as_many_losses_as_the_graph_counts_with() -> None:
    """The Dask setting and the task graph use the same number of losses."""
    allowed = dask_settings()["distributed"]["scheduler"]["allowed-failures"]
    assert allowed == jobs.MAX_WORKER_LOSSES


def test_every_setting_is_one_that_dask_knows() -> None:
    """A misspelt setting would be ignored by Dask without an error."""

    def check(ours: object, theirs: object, path: str) -> None:
        if isinstance(ours, dict) and path != "distributed.nanny.pre-spawn-environ":
            assert isinstance(theirs, dict), path
            for name, value in ours.items():
                assert name in theirs, f"{path}.{name}"
                check(value, theirs[name], f"{path}.{name}".lstrip("."))

    defaults = dask.config.merge(*dask.config.defaults)
    check(dask_settings(), defaults, "")
