"""The available memory is that of the machine or of the control group."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from pipeline import memory

GIB = 2**30


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Simulate a machine of 64 GiB, 40 of them free, whose process is in no group."""
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    monkeypatch.setattr(memory, "MEMBERSHIP", tmp_path / "membership")
    machine = SimpleNamespace(total=64 * GIB, available=40 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    return tmp_path


def write(folder: Path, **files: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


def test_without_cgroups_the_limit_is_the_machines_memory(groups: Path) -> None:
    """The files of control groups do not exist here."""
    assert (memory.limit_bytes(), memory.free_bytes()) == (64 * GIB, 40 * GIB)


@pytest.mark.parametrize("version", [1, 2])
def test_the_smallest_cgroup_limit_counts(groups: Path, version: int) -> None:
    """The limits of the group and of its parents count; the page cache is reclaimable."""
    line = "4:cpu,memory:/jobs/one" if version == 1 else "0::/jobs/one"
    write(groups, membership=f"9:cpu:/else\n{line}")
    root = groups / "memory" if version == 1 else groups
    limit, used = ("limit_in_bytes", "usage_in_bytes") if version == 1 else ("max", "current")
    total = "total_" if version == 1 else ""
    files = f"{total}active_file {3 * GIB}\n{total}inactive_file {GIB}\nanon 7"
    named = {f"memory__{limit}": 16 * GIB, f"memory__{used}": 10 * GIB, "memory__stat": files}
    write(root / "jobs", **named)
    write(root / "jobs/one", **{f"memory__{limit}": "max" if version == 2 else 2**63 - 4096})
    assert (memory.limit_bytes(), memory.free_bytes()) == (16 * GIB, 10 * GIB)
    write(root / "jobs", memory__stat="nothing that is known")
    assert memory.free_bytes() == 6 * GIB
    write(root / "jobs", **{f"memory__{used}": 20 * GIB})
    assert memory.free_bytes() == 0


def test_a_container_sees_its_own_group_as_the_root(groups: Path) -> None:
    """The path in the container's membership file is not visible inside."""
    write(groups, membership="0::/docker/abc", memory__max=GIB, memory__current=GIB // 4)
    assert (memory.limit_bytes(), memory.free_bytes()) == (GIB, GIB - GIB // 4)


def test_the_real_cgroup_files_are_read() -> None:
    """The limits of this machine are consistent."""
    assert 0 < memory.free_bytes() <= memory.limit_bytes() <= psutil.virtual_memory().total
