"""Tests of `benchmarks/gpu.py`: how it runs measurements and shows them, and its rehearsal."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"
FACTS = {
    "gpu": None, "gpu_memory_gib": 0, "driver": "", "torch": "2.0", "cuda": "", "cudnn": "",
    "nccl": "", "transformers": "5", "python": "3.11", "cores": 2, "memory_gib": 4.0,
}  # fmt: skip

STAND_IN = """
import json, os, signal, subprocess, sys, time
settings = json.loads(sys.argv[1])

def report(**line):
    with open(settings["reports"], "a") as file:
        print(json.dumps(line), file=file)

name = settings["name"]
if name == "machine":
    report(facts=%r)
    sys.exit()
report(name="rate", rounds=[3.0, 1.0, 2.0], unit="images/s", detail="of three")
if name == "bus":
    report(error="RuntimeError: the bus\\n is late")
    sys.exit(1)
if name == "loader":
    print("the last line of the log")
    sys.stdout.flush()
    os.kill(os.getpid(), signal.SIGKILL)
if name == "augment":
    child = subprocess.Popen(["sleep", "600"])
    report(name="child", rounds=[child.pid], unit="")
    time.sleep(600)
"""
"""A program in place of the measurements: some fail, and one does not end."""


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the module, which runs the stand-in and keeps its files in a temporary folder."""
    spec = importlib.util.spec_from_file_location("benchmark_of_a_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # its dataclasses look for it there
    spec.loader.exec_module(module)
    stand_in = tmp_path / "stand_in.py"
    stand_in.write_text(STAND_IN % FACTS)
    monkeypatch.setattr(module, "MEASUREMENTS_SCRIPT", stand_in)
    return module


def run(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, folder: Path, *words: str) -> int:
    """Run the program in this process, and return its exit status."""
    arguments = ["gpu.py", "--out", str(folder / "gpu.json"), "--scratch", str(folder), *words]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(gpu.signal, "signal", lambda *_: None)
    return int(gpu.main())


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the measurements of the file of results, by name."""
    content = json.loads((folder / "gpu.json").read_text())
    return {measurement["name"]: measurement for measurement in content["measurements"]}


def test_a_failure_is_reported_and_the_others_run(
    gpu: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit status is 1, and what needs a failed measurement is skipped."""
    names = ("bus", "data", "nccl")
    assert run(gpu, monkeypatch, tmp_path, "--device", "cpu", "--only", *names) == 1
    entries = results(tmp_path)
    assert {name: entry["status"] for name, entry in entries.items()} == {
        "data": "measured", "bus": "failed", "nccl": "measured",
    }  # fmt: skip
    assert entries["bus"]["reason"] == "RuntimeError: the bus is late"
    assert [figure["value"] for figure in entries["bus"]["figures"]] == [2.0]
    lines = capsys.readouterr().out.splitlines()
    assert "bus: rate         2  images/s  of three" in lines
    assert "bus          failed            RuntimeError: the bus is late" in lines
    assert lines[-1].startswith("2 measured, 1 failed (bus); ")


def test_everything_that_was_measured_gives_status_0(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Needed measurements are added to the named ones, in their order."""
    assert run(gpu, monkeypatch, tmp_path, "--rehearse", "--only", "devise") == 0
    assert list(results(tmp_path)) == ["data", "features", "devise"]
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["machine"] == FACTS
    assert content["rehearsal"] is True
    assert content["device"] == "cpu"


def test_what_needs_a_failed_measurement_is_skipped(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The reason names it, and so on along the chain."""
    monkeypatch.setattr(gpu, "MEASUREMENTS", (
        gpu.GpuMeasurement("bus", 60), gpu.GpuMeasurement("devise", 60, ("bus",)),
        gpu.GpuMeasurement("search", 60, ("devise",)),
    ))  # fmt: skip
    assert run(gpu, monkeypatch, tmp_path, "--device", "cpu") == 1
    reasons = {name: entry["reason"] for name, entry in results(tmp_path).items()}
    assert reasons["devise"] == "it needs bus, which was not measured"
    assert reasons["search"] == "it needs devise, which was not measured"


def test_what_does_not_fit_into_the_time_is_skipped(
    gpu: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They are named, and it is no failure."""
    minutes = str(gpu.MIN_SECONDS / 60)
    words = ("--device", "cpu", "--only", "search", "nccl", "--minutes", minutes)
    assert run(gpu, monkeypatch, tmp_path, *words) == 0
    assert [entry["status"] for entry in results(tmp_path).values()] == ["skipped"] * 2
    assert "2 skipped (search, nccl)" in capsys.readouterr().out


@pytest.mark.slow
def test_a_process_that_is_killed_or_does_not_end_is_reported(
    gpu: ModuleType, tmp_path: Path
) -> None:
    """Its figures count, and the processes that it has started end with it."""
    session = gpu.Session(tmp_path, False, time.monotonic() + 60)
    killed = session.run(gpu.GpuMeasurement("loader", 60))
    assert killed.reason == "ended by SIGKILL: the last line of the log"
    endless = session.run(gpu.GpuMeasurement("augment", 4))
    assert (endless.status, endless.reason) == ("failed", "did not end within 4 s")
    rate, child = endless.figures
    assert rate.value == 2
    for _ in range(100):
        if not is_alive(int(child.value)):
            break
        time.sleep(0.05)
    assert not is_alive(int(child.value))


def is_alive(pid: int) -> bool:
    """Return True if a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_machine_without_a_gpu_is_refused(
    gpu: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The sentence says how to run the script all the same."""
    assert run(gpu, monkeypatch, tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: torch 2.0 can use no GPU on this machine.")
    assert "--rehearse" in error
    assert not (tmp_path / "gpu.json").exists()


@pytest.mark.parametrize(
    ("requested", "rehearse", "has_gpu", "device"),
    [
        (None, False, True, "cuda"),
        (None, False, False, None),
        (None, True, True, "cpu"),
        ("cuda", True, True, "cuda"),
        ("cuda", True, False, None),
        ("cpu", False, False, "cpu"),
    ],
)
def test_the_device_follows_from_options_and_machine(
    gpu: ModuleType, requested: str | None, rehearse: bool, has_gpu: bool, device: str | None
) -> None:
    """A rehearsal runs on the CPU unless a GPU is named."""
    facts = {"gpu": "some GPU" if has_gpu else None}
    assert gpu.choose_device(requested, facts, rehearse=rehearse) == device


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (12, "12"),
        (1234.5, "1,234"),
        (56.78, "56.8"),
        (3.14159, "3.14"),
        (0.0123, "0.0123"),
    ],
)
def test_figures_have_three_digits_or_more(gpu: ModuleType, value: float, text: str) -> None:
    """Rates of thousands have commas, and small figures keep their digits."""
    assert gpu.figure_text(value) == text


def test_an_incomplete_report_is_left_out(gpu: ModuleType) -> None:
    """A process may be killed while it writes its last line."""
    outcome = gpu.Outcome("bus")
    outcome.add_reports(['{"name": "a", "rounds": [1, 5, 2], "unit": "s"}', '{"name": "b", "rou'])
    assert [(figure.name, figure.value) for figure in outcome.figures] == [("a", 2)]


@pytest.mark.parametrize(("largest", "tried"), [(64, [256, 128, 64]), (16, [256, 128, 64, 32])])
def test_a_batch_that_does_not_fit_into_the_memory_is_halved(
    monkeypatch: pytest.MonkeyPatch, largest: int, tried: list[int]
) -> None:
    """It is halved down to 32 rows, and then the error of the GPU is reported."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    import gpu_stages
    import torch

    batch_sizes: list[int] = []

    def make_stage(context: object, batch_size: int, **_: object) -> SimpleNamespace:
        def advance() -> None:
            if batch_size > largest:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        batch_sizes.append(batch_size)
        return SimpleNamespace(advance=advance, batches=SimpleNamespace(close=lambda: None))

    monkeypatch.setattr(gpu_stages, "make_classifier_stage", make_stage)
    context = SimpleNamespace(
        workload=SimpleNamespace(batch_size=256, steps=1), seconds=lambda call, times: call()
    )
    with nullcontext() if largest == 64 else pytest.raises(torch.OutOfMemoryError):
        gpu_stages.fitting_stage(context, encoded=None, compiled=False)
    assert batch_sizes == tried


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_rehearsal_measures_everything(gpu: ModuleType, tmp_path: Path) -> None:
    """It needs no GPU, no network and no data, and every figure is a number above 0 or a share."""
    environment = {k: v for k, v in os.environ.items() if k != "TESSERAE_DATA"}
    out = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, SCRIPT, "--rehearse", "--out", out, "--scratch", tmp_path],
        env=environment, cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    entries = results(tmp_path)
    assert list(entries) == [measurement.name for measurement in gpu.MEASUREMENTS]
    assert {entry["status"] for entry in entries.values()} == {"measured"}
    for name, entry in entries.items():
        assert entry["figures"], name
        for figure in entry["figures"]:
            assert all(math.isfinite(value) and value >= 0 for value in figure["rounds"])
            assert f"{name}: {figure['name']}" in done.stdout
    assert sorted(tmp_path.iterdir()) == [out, tmp_path / "stand_in.py"]
