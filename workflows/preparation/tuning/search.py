"""The search for the fastest setting: rounds of trials, of which the slower half leaves.

The rate of one short trial on a shared machine may be off by a tenth. So every setting of a round
is tried once, in a random order; half of them leave (successive halving, Jamieson and Talwalkar
2016); and the few that stay to the end are tried again and again in turn, so that changes of the
machine meet all of them alike.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from workflows.preparation.tuning.settings import READERS, Setting, cheapest
from workflows.preparation.tuning.trials import Rate

MIN_TRIAL_SECONDS, MAX_TRIAL_SECONDS = 0.3, 1.0
"""The shortest and the longest trial, after its first group of images."""
HALVING_SHARE = 0.5
"""The share of the time for the rounds in which settings leave; the finalists have the rest."""
NUM_FINALISTS = 3
"""The number of settings that are tried to the end."""
MIN_WAIT_SHARE = 0.05
"""The share of the time that threads wait for readers from which on more of them are tried."""
MIN_GAIN = 0.1
"""The share by which a rate must grow for twice as many readers to be worth having."""
MAX_VAIN = 2
"""The number of times that the readers are doubled in vain."""
TIE = 0.03
"""The share by which rates may differ for the cheaper setting to be chosen."""

T_QUANTILES = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
    2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
)  # fmt: skip
"""The quantiles of Student's t distribution for 95 % intervals, from 1 degree of freedom on; the
last one serves for more of them. `prepare` does not need scipy, which would compute them."""

Measure = Callable[[Setting, float], Rate]
"""A function that runs a trial of a setting for some seconds."""


@dataclass(frozen=True)
class RateInterval:
    """A geometric mean of rates or of their ratios, with its 95 % interval."""

    mean: float
    low: float
    high: float


def rate_interval(values: Sequence[float]) -> RateInterval | None:
    """Return the geometric mean of values with its 95 % interval, by Student's t of the logarithms.

    Args:
        values: Rates or ratios.

    Returns:
        The interval; None for fewer than two values, or if one is not more than 0.
    """
    if len(values) < 2 or min(values) <= 0:
        return None
    logs = [math.log(value) for value in values]
    mean, error = statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs))
    half_width = T_QUANTILES[min(len(logs) - 2, len(T_QUANTILES) - 1)] * error
    return RateInterval(*map(math.exp, (mean, mean - half_width, mean + half_width)))


@dataclass
class Candidate:
    """A setting and the rates of its trials."""

    setting: Setting
    rates: list[float] = field(default_factory=list)
    """The images per second of each trial."""
    wait_share: float = 1.0
    """The share of the time that threads waited for readers, in the last trial."""

    @property
    def rate(self) -> float:
        """The geometric mean of the rates, in images per second; 0 if a trial had no image."""
        if not self.rates or min(self.rates) <= 0:
            return 0.0
        return statistics.geometric_mean(self.rates)

    @property
    def interval(self) -> RateInterval | None:
        """The 95 % interval of `rate`; None with fewer than two trials, or if one had no image."""
        return rate_interval(self.rates)


@dataclass(frozen=True)
class SearchOutcome:
    """The result of a search."""

    chosen: Candidate
    """The setting that is fastest, or the cheapest of those that are nearly as fast."""
    default: Candidate
    """The setting that would be used without a search."""
    candidates: tuple[Candidate, ...]
    """All settings that were tried, in the order of their first trials."""
    seconds: float
    """How long the search took."""
    gain: RateInterval | None = None
    """The rate of the chosen setting over that of the default, of pairs of trials of the same final
    round; None if there are fewer than two pairs."""


class _Search:
    """The settings tried so far, and their trials."""

    def __init__(self, measure: Measure, seed: int, is_over: Callable[[], bool]) -> None:
        self.candidates: dict[Setting, Candidate] = {}
        self._measure = measure
        self._random = random.Random(seed)
        self._is_over = is_over

    @property
    def is_over(self) -> bool:
        """True once the time is over."""
        return self._is_over()

    def candidate(self, setting: Setting) -> Candidate:
        """Return the candidate of a setting, which is new if it was not tried."""
        return self.candidates.setdefault(setting, Candidate(setting))

    def run_trial(self, candidate: Candidate, seconds: float) -> None:
        """Run one trial."""
        rate = self._measure(candidate.setting, seconds)
        candidate.rates.append(rate.images_per_second)
        candidate.wait_share = rate.wait_share

    def run_round(self, candidates: Sequence[Candidate], seconds: float) -> None:
        """Run one trial of each candidate, in a random order, until the time is over."""
        for candidate in self._random.sample(candidates, len(candidates)):
            if self.is_over:
                return
            self.run_trial(candidate, seconds)

    def best_readers(self, setting: Setting) -> Candidate:
        """Return a setting with the number of readers that it needs.

        Its own number is doubled as long as threads wait for readers and that helps, twice in vain
        at most. Waiting decides because rates of single trials vary more than a reader is worth.
        """
        best = self.candidate(setting)
        self.run_trial(best, MIN_TRIAL_SECONDS)
        last, vain = best, 0
        for number in (n for n in READERS if n > setting.readers):
            if last.wait_share < MIN_WAIT_SHARE or vain == MAX_VAIN or self.is_over:
                break
            last = self.candidate(replace(setting, readers=number))
            self.run_trial(last, MIN_TRIAL_SECONDS)
            if last.rate > best.rate * (1 + MIN_GAIN):
                best, vain = last, 0
            else:
                vain += 1
        return best

    def finalists(
        self, candidates: Sequence[Candidate], default: Candidate, seconds: float
    ) -> list[Candidate]:
        """Return the candidates that stay when the slower half leaves round by round.

        They are those of the last round, and *default*, which stays in any case.
        """
        alive = list(candidates)
        while len(alive) > NUM_FINALISTS and not self.is_over:
            self.run_round(alive, seconds)
            alive.sort(key=lambda candidate: candidate.rate, reverse=True)
            alive = alive[: max(NUM_FINALISTS, len(alive) // 2)]
        return alive if default in alive else [*alive, default]


def search(
    measure: Measure,
    settings: Sequence[Setting],
    default: Setting,
    *,
    seconds: float,
    readers: int | None = None,
    seed: int = 0,
    clock: Callable[[], float] = time.monotonic,
) -> SearchOutcome:
    """Find the fastest of some settings in a limited time.

    Args:
        measure: A function that runs a trial of a setting for some seconds.
        settings: The settings to try, whose numbers of readers do not matter; at least one.
        default: The setting that would be used without a search; it is tried to the end.
        seconds: How long to search: no trial begins later.
        readers: The number of readers of all settings (default: it is searched for, too).
        seed: Seed of the order of the trials (default 0).
        clock: A function that returns the time in seconds (default `time.monotonic`).

    Returns:
        The chosen setting, all that were tried, and the time that it took.
    """
    started = clock()
    state = _Search(measure, seed, lambda: clock() - started >= seconds)
    reference = state.candidate(default if readers is None else replace(default, readers=readers))
    with_readers = state.best_readers(default) if readers is None else reference
    number = with_readers.setting.readers
    entrants = [replace(setting, readers=number) for setting in (default, *settings)]
    if with_readers.wait_share >= MIN_WAIT_SHARE and readers is None:
        entrants.append(replace(default, readers=2 * number))  # a trial may have missed its gain
    candidates = [state.candidate(setting) for setting in dict.fromkeys(entrants)]
    trial_seconds = HALVING_SHARE * seconds / (2 * len(candidates))
    trial_seconds = min(MAX_TRIAL_SECONDS, max(MIN_TRIAL_SECONDS, trial_seconds))
    finalists = state.finalists(candidates, reference, trial_seconds)
    early = {candidate.setting: len(candidate.rates) for candidate in finalists}
    while not state.is_over:
        state.run_round(finalists, trial_seconds)
    if not reference.rates:
        state.run_trial(reference, trial_seconds)
    tried = tuple(candidate for candidate in state.candidates.values() if candidate.rates)
    # If the time was over early, as on a very slow source, all that were tried decide.
    decided = [candidate for candidate in finalists if candidate.rates] or tried
    fastest = max(candidate.rate for candidate in decided)
    near = [c.setting for c in decided if c.rate >= fastest * (1 - TIE)]
    chosen = state.candidates[cheapest(near)]
    pairs = zip(  # a round that the end of the time has cut short may lack one of them
        chosen.rates[early.get(chosen.setting, len(chosen.rates)) :],
        reference.rates[early[reference.setting] :],
        strict=False,
    )
    gain = rate_interval([rate / base if base else 0.0 for rate, base in pairs])
    return SearchOutcome(chosen, reference, tried, clock() - started, gain)
