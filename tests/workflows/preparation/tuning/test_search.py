"""The search on machines that are simulated, with noise like that of a shared one."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.ingest.trial import GROUP
from workflows.preparation.tuning.search import SearchOutcome, rate_interval, search
from workflows.preparation.tuning.settings import Setting, worker_settings
from workflows.preparation.tuning.trials import Rate
from workflows.studies.intervals import geometric_interval

OVERHEAD_SECONDS = 0.2
"""The time of a trial that is not counted, on a simulated machine with a fast source."""


class Machine:
    """A machine with rates of its own for each setting, and a clock that trials advance."""

    def __init__(self, cores: int, *, latency: float = 0.0, noise: float = 0.0, seed: int = 0):
        """Make a machine whose threads share an interpreter for a tenth of their time."""
        self.cores = cores
        self.latency = latency
        self.noise = noise
        self.now = 0.0
        self._random = random.Random(seed)

    def rate(self, setting: Setting) -> float:
        """Return the images per second of a setting: the least of what reads and cores allow."""
        decoding = 400 * min(self.cores, setting.workers * min(setting.threads, 1.8))
        crowded = decoding * (1 - 0.02 * max(0, setting.tasks - self.cores) / self.cores)
        if not self.latency:
            return crowded
        return min(crowded, setting.tasks * setting.readers / self.latency)

    def measure(self, setting: Setting, seconds: float) -> Rate:
        """Return the rate of a trial: a part of the machine comes and goes, and chance."""
        self.now += seconds + OVERHEAD_SECONDS + 2 * GROUP * self.latency
        drift = 0.7 if int(self.now / 7) % 2 and self.noise else 1.0
        wait_share = 1 - self.rate(setting) / Machine(self.cores).rate(setting)
        rate = self.rate(setting) * drift * self._random.lognormvariate(0, self.noise)
        return Rate(rate, wait_share)

    def search(self, *, readers: int | None = None, seconds: float = 40.0) -> SearchOutcome:
        """Search among the settings of this machine."""
        settings = worker_settings(self.cores, 1, task_bytes=1, limit_bytes=2**50)
        default = Setting(self.cores, 1, 1)
        return search(
            self.measure, settings, default, seconds=seconds, readers=readers,
            clock=lambda: self.now,
        )  # fmt: skip

    def share_of_best(self, outcome: SearchOutcome) -> float:
        """Return the true rate of the chosen setting, as a share of the best one's."""
        best = max(self.rate(candidate.setting) for candidate in outcome.candidates)
        return self.rate(outcome.chosen.setting) / best


@pytest.mark.parametrize("cores", [1, 2, 8, 64])
@pytest.mark.parametrize(("latency", "share"), [(0.0, 0.95), (0.05, 0.89)])
def test_the_choice_is_nearly_the_best_in_less_than_a_minute(
    cores: int, latency: float, share: float
) -> None:
    """On 20 noisy machines, it is within 5 % of the best; a slow source leaves time for less."""
    shares = []
    for seed in range(20):
        machine = Machine(cores, latency=latency, noise=0.08, seed=seed)
        outcome = machine.search()
        shares.append(machine.share_of_best(outcome))
        assert outcome.seconds < 60
    assert min(shares) > share


def test_a_slow_source_gets_as_many_readers_as_it_needs() -> None:
    """With 0.2 s a read, two tasks of 400 images/s need 80 each; the largest number is chosen."""
    outcome = Machine(2, latency=0.2).search()
    assert outcome.chosen.setting.readers == 64
    assert outcome.chosen.rate > 20 * outcome.default.rate
    fast = Machine(2, noise=0.1).search()
    assert {candidate.setting.readers for candidate in fast.candidates} == {1}


def test_a_very_slow_source_is_tried_for_less_than_a_minute() -> None:
    """With a second for each read, few trials fit, and most readers are the best choice."""
    outcome = Machine(2, latency=1.0).search()
    assert outcome.seconds < 60
    assert outcome.chosen.setting.readers >= 8
    once = Machine(2, latency=100.0).search(seconds=1)
    assert [len(candidate.rates) for candidate in once.candidates] == [1]


def test_a_given_number_of_readers_is_kept() -> None:
    """No other number is tried."""
    outcome = Machine(2, latency=0.2).search(readers=8)
    assert {candidate.setting.readers for candidate in outcome.candidates} == {8}
    assert outcome.default.setting == Setting(2, 1, 8)


@given(values=st.lists(st.floats(0.01, 1e6), min_size=2, max_size=30))
def test_intervals_are_those_of_students_t(values: list[float]) -> None:
    """The few trials of a setting need wider intervals than a normal distribution has."""
    expected, actual = geometric_interval(values), rate_interval(values)
    assert actual is not None
    assert actual.mean == pytest.approx(expected.mean)
    for end, true in ((actual.low, expected.low), (actual.high, expected.high)):
        width, true_width = math.log(end / actual.mean), math.log(true / expected.mean)
        assert width == pytest.approx(true_width, rel=1e-3 if len(values) <= 21 else 0.03, abs=1e-9)


def test_fewer_than_two_trials_have_no_interval() -> None:
    """Neither has a setting of which a trial had no image."""
    assert rate_interval([5.0]) is None
    assert rate_interval([5.0, 0.0]) is None


def test_the_gain_is_of_pairs_of_final_rounds() -> None:
    """A machine that gets slower during the search changes no ratio of the same round."""
    machine = Machine(2, latency=0.02)
    outcome = search(
        lambda s, seconds: Rate(machine.measure(s, seconds).images_per_second / machine.now, 0.5),
        worker_settings(2, 1, task_bytes=1, limit_bytes=2**50),
        Setting(2, 1, 1),
        seconds=40,
        clock=lambda: machine.now,
    )
    true = machine.rate(outcome.chosen.setting) / machine.rate(outcome.default.setting)
    assert outcome.gain is not None
    assert true > 2
    assert outcome.gain.mean == pytest.approx(true, rel=0.1)
    assert Machine(2).search().gain is not None
    assert Machine(2, latency=100.0).search(seconds=1).gain is None


def test_finalists_are_tried_in_turn() -> None:
    """Trials are not spent on settings that have left, and each finalist has as many as others."""
    outcome = Machine(8, noise=0.05).search()
    trials = sorted(len(candidate.rates) for candidate in outcome.candidates)
    assert trials[0] == 1
    assert trials[-1] - trials[-3] <= 1
    assert len(outcome.chosen.rates) >= 3


def test_of_settings_alike_the_cheapest_is_chosen() -> None:
    """Two per cent of a rate are not worth another process."""
    now = iter(range(10_000))

    def measure(setting: Setting, seconds: float) -> Rate:
        return Rate(102.0 if setting == Setting(2, 1, 1) else 100.0, 0.0)

    settings = [Setting(1, 1, 1), Setting(2, 1, 1), Setting(1, 2, 1)]
    outcome = search(measure, settings, Setting(2, 1, 1), seconds=60, clock=lambda: next(now))
    assert outcome.chosen.setting == Setting(1, 1, 1)


def test_a_setting_without_an_image_is_not_chosen() -> None:
    """A trial that read no second group of images has the rate 0."""
    machine = Machine(2)
    outcome = search(
        lambda s, seconds: Rate(0.0, 0.0) if s.workers > 1 else machine.measure(s, seconds),
        worker_settings(2, 1, task_bytes=1, limit_bytes=2**50),
        Setting(2, 1, 1),
        seconds=5,
        clock=lambda: machine.now,
    )
    assert outcome.chosen.setting.workers == 1
