"""Emulated accelerators compute for the time of their profile, and wait for nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import TesseraeError
from workflows.loader import emulation
from workflows.loader.emulation import Emulation, feed, most_fed
from workflows.loader.profiles import AcceleratorProfile, load_profiles

PROFILE = AcceleratorProfile(batch_size=10, step_seconds=0.5, utilisation=0.9)


class Clock:
    """A clock that only sleeping moves, so that no machine is too slow for a test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "sleep", self.sleep)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


class SlowLoader:
    """A loader of short epochs, each batch of which takes a time of the clock."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self.clock = clock
        self.seconds = seconds
        self.handed_out = 0
        self.closed = 0

    def __iter__(self) -> Iterator[int]:
        try:
            for batch in range(3):
                self.clock.sleep(self.seconds)
                self.handed_out += 1
                yield batch
        finally:
            self.closed += 1


def test_the_utilisation_is_the_share_of_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two accelerators wait for two batches at each step; the first ones do not count."""
    clock = Clock(monkeypatch)
    loader: Any = SlowLoader(clock, 0.125)
    result = feed(loader, PROFILE, 2, seconds=7.5)
    assert result == Emulation(2, 10, 0.5 / 0.75, 10 * 2 * 10 / 7.5, 0.25)
    assert loader.handed_out == 2 * 11
    assert loader.closed == 8, "seven epochs, and the one that was broken off"


@given(limit=st.integers(0, 300))
def test_the_most_accelerators_are_those_of_a_search_one_by_one(limit: int) -> None:
    """However many there are, they take about a dozen emulations."""

    def pretend(_loader: Any, _profile: Any, accelerators: int, _seconds: float) -> Emulation:
        fed = accelerators <= limit
        return Emulation(accelerators, 1, 0.95 if fed else 0.85, 1.0, 0.0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emulation, "feed", pretend)
        results = list(most_fed(None, PROFILE, 1.0))  # type: ignore[arg-type]
    assert max((r.accelerators for r in results if r.utilisation >= 0.9), default=0) == limit
    assert min(r.accelerators for r in results if r.utilisation < 0.9) == limit + 1
    assert len(results) <= 18


def test_the_built_in_profiles_are_those_of_mlperf_storage() -> None:
    """ResNet-50 on an H100 takes 400 images in 0.224 s."""
    profiles = load_profiles()
    assert profiles["resnet50-h100"] == AcceleratorProfile(400, 0.224, 0.9)
    assert round(profiles["resnet50-h100"].images_per_second) == 1786
    assert {"resnet50-a100", "resnet50-v100"} < profiles.keys()


def test_a_file_adds_and_replaces_profiles(tmp_path: Path) -> None:
    """A utilisation that is left out is 90 %."""
    file = tmp_path / "mine.yaml"
    file.write_text("mine: {batch_size: 8, step_seconds: 1}\nresnet50-h100: {batch_size: 1,"
                    " step_seconds: 0.1, utilisation: 0.5}\n")  # fmt: skip
    profiles = load_profiles(file)
    assert profiles["mine"] == AcceleratorProfile(8, 1, 0.9)
    assert profiles["resnet50-h100"] == AcceleratorProfile(1, 0.1, 0.5)


BAD = {
    "[1]": "holds no profiles",
    "a: {batch_size: 8}": "'a' needs batch_size and step_seconds",
    "a: {batch_size: 8, step_seconds: 1, rows: 2}": "needs batch_size and step_seconds",
    "a: {batch_size: 0, step_seconds: 1}": "batch_size is 0",
    "a: {batch_size: 8, step_seconds: .nan}": "step_seconds is nan",
    "a: {batch_size: 8, step_seconds: 1, utilisation: 1.5}": "utilisation is 1.5",
    "a: [": "cannot read profiles",
}


@pytest.mark.parametrize("text", BAD)
def test_a_bad_file_is_a_sentence(tmp_path: Path, text: str) -> None:
    """It names the file and the profile."""
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(TesseraeError, match=BAD[text]) as error:
        load_profiles(file)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_does_not_exist_is_a_sentence(tmp_path: Path) -> None:
    """It names the file."""
    with pytest.raises(TesseraeError, match=r"cannot read profiles from .*nothing\.yaml"):
        load_profiles(tmp_path / "nothing.yaml")
