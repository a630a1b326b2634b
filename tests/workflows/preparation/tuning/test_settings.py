"""The settings that are tried suit the cores and the memory of a machine."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workflows.preparation.tuning.settings import Setting, cheapest, worker_settings
from workflows.preparation.worker_memory import worker_bytes

GIB = 2**30


@given(
    cores=st.integers(1, 256),
    task_bytes=st.integers(1, 4 * GIB),
    limit_bytes=st.integers(GIB // 2, 1024 * GIB),
)
def test_settings_fit_the_machine(cores: int, task_bytes: int, limit_bytes: int) -> None:
    """They need no more memory than there is, unless nothing fits, and at most two tasks a core."""
    settings = worker_settings(cores, 1, task_bytes=task_bytes, limit_bytes=limit_bytes)
    assert settings == sorted(set(settings))
    assert len(settings) <= 40
    if settings == [Setting(1, 1, 1)]:
        return
    for setting in settings:
        assert max(1, cores // 2) <= setting.tasks <= 2 * cores
        assert setting.workers * worker_bytes(setting.threads, task_bytes) <= limit_bytes


@given(cores=st.integers(1, 256))
def test_with_enough_memory_one_worker_per_core_is_tried(cores: int) -> None:
    """So are twice as many, and fewer of several threads."""
    settings = worker_settings(cores, 4, task_bytes=1, limit_bytes=2**50)
    assert {Setting(cores, 1, 4), Setting(2 * cores, 1, 4)} <= set(settings)
    assert cores == 1 or any(s.threads > 1 and s.workers < cores for s in settings)


def test_one_core_and_little_memory_leave_few_settings() -> None:
    """A worker of 0.4 GiB fits once into 0.6 GiB, with any number of threads."""
    one_core = worker_settings(1, 1, task_bytes=1, limit_bytes=2**50)
    assert one_core == [Setting(1, 1, 1), Setting(1, 2, 1), Setting(2, 1, 1)]
    little = worker_settings(2, 1, task_bytes=2**20, limit_bytes=600 * 2**20)
    assert {setting.workers for setting in little} == {1}
    assert worker_settings(8, 1, task_bytes=GIB, limit_bytes=GIB) == [Setting(1, 1, 1)]


def test_the_cheapest_setting_has_the_fewest_tasks() -> None:
    """Readers hold images in memory, too."""
    settings = [Setting(4, 1, 1), Setting(2, 1, 4), Setting(2, 1, 1), Setting(1, 4, 1)]
    assert cheapest(settings) == Setting(2, 1, 1)
