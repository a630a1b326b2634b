"""The search for the fastest setting: rounds of trials, and then pairs with the default.

The rate of one short trial on a shared machine may be off by a tenth. So every setting of a round
is tried once, in a random order, and half of them leave (successive halving, Jamieson and Talwalkar
2016). The few that stay are tried in turn, and the best of them becomes the challenger of the
default. In the second half of the time, these two are tried in pairs, one right after the other, so
that changes of the machine meet both alike. The challenger is chosen if the 95 % interval of the
pairs' ratios says that it is faster, and the default otherwise. The rounds do not count for that:
the challenger had the best of them, partly by chance.
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
ROUNDS_SHARE = 0.5
"""The share of the time for the rounds; the pairs of the challenger and the default have the rest.
In 40 seconds, with trials that vary by 3 %, eight pairs or so tell a gain of 4 % from none."""
NUM_FINALISTS = 3
"""The number of settings that are tried to the end."""
MIN_WAIT_SHARE = 0.05
"""The share of the time that threads wait for readers from which on more of them are tried."""
MIN_GAIN = 0.1
"""The share by which a rate must grow for twice as many readers to be worth having."""
MAX_VAIN = 2
"""The number of times that the readers are doubled in vain."""
TIE = 0.03
"""The share by which rates of finalists may differ for the cheapest to be the challenger."""
CLEAR_RATIO = 2.0
"""The ratio of rates that suffices if there was no time for two pairs, as on a very slow source:
chance changes a trial by much less."""

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
    """The challenger if it was seen to be faster than the default, and the default otherwise."""
    default: Candidate
    """The setting that would be used without a search."""
    challenger: Candidate | None
    """The cheapest of the other settings that were nearly as fast as the fastest of them; None if
    no other one worked."""
    candidates: tuple[Candidate, ...]
    """All settings that were tried, in the order of their first trials."""
    seconds: float
    """How long the search took."""
    gain: RateInterval | None = None
    """The rate of the challenger over that of the default, of pairs of trials; None if there are
    fewer than two pairs."""
    num_pairs: int = 0
    """The number of these pairs."""


class _Search:
    """The settings tried so far, and their trials."""

    def __init__(
        self, measure: Measure, seed: int, seconds: float, clock: Callable[[], float]
    ) -> None:
        self.candidates: dict[Setting, Candidate] = {}
        self._measure = measure
        self._random = random.Random(seed)
        self._seconds = seconds
        self._clock = clock
        self._started = clock()

    @property
    def elapsed(self) -> float:
        """The seconds since the search began."""
        return self._clock() - self._started

    @property
    def is_over(self) -> bool:
        """True once the time is over."""
        return self.elapsed >= self._seconds

    @property
    def are_rounds_over(self) -> bool:
        """True once the time of the rounds is over, and that of the pairs begins."""
        return self.elapsed >= ROUNDS_SHARE * self._seconds

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

    def ratios(self, challenger: Candidate, default: Candidate, seconds: float) -> list[float]:
        """Run pairs of trials until the time is over, and return the ratios of their rates.

        A pair that the end of the time has cut short is left out. There are none if a setting had a
        trial without an image.
        """
        pairs = [(challenger, len(challenger.rates)), (default, len(default.rates))]
        while not self.is_over:
            self.run_round((challenger, default), seconds)
        rates, base = (candidate.rates[number_before:] for candidate, number_before in pairs)
        if not challenger.rate or not default.rate:
            return []
        return [rate / other for rate, other in zip(rates, base, strict=False)]


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
    state = _Search(measure, seed, seconds, clock)
    reference = state.candidate(default if readers is None else replace(default, readers=readers))
    with_readers = state.best_readers(default) if readers is None else reference
    number = with_readers.setting.readers
    entrants = [replace(setting, readers=number) for setting in (default, *settings)]
    if with_readers.wait_share >= MIN_WAIT_SHARE and readers is None:
        entrants.append(replace(default, readers=2 * number))  # a trial may have missed its gain
    candidates = [state.candidate(setting) for setting in dict.fromkeys(entrants)]
    trial_seconds = ROUNDS_SHARE * seconds / (2 * len(candidates))
    trial_seconds = min(MAX_TRIAL_SECONDS, max(MIN_TRIAL_SECONDS, trial_seconds))
    finalists = state.finalists(candidates, reference, trial_seconds)
    while not state.are_rounds_over:
        state.run_round(finalists, trial_seconds)
    if not reference.rates:
        state.run_trial(reference, trial_seconds)
    # If the time was over early, as on a very slow source, all that were tried decide.
    tried = [candidate for candidate in finalists if candidate.rates] or state.candidates.values()
    challenger = _challenger([candidate for candidate in tried if candidate is not reference])
    ratios = [] if challenger is None else state.ratios(challenger, reference, trial_seconds)
    gain = rate_interval(ratios)
    chosen = reference
    if challenger is not None and _is_faster(challenger, reference, gain):
        chosen = challenger
    return SearchOutcome(
        chosen,
        reference,
        challenger,
        tuple(candidate for candidate in state.candidates.values() if candidate.rates),
        state.elapsed,
        gain,
        len(ratios),
    )


def _challenger(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the cheapest of those that are nearly as fast as the fastest; None if none worked."""
    fastest = max((candidate.rate for candidate in candidates), default=0.0)
    near = {c.setting: c for c in candidates if c.rate and c.rate >= fastest * (1 - TIE)}
    return near[cheapest(list(near))] if near else None


def _is_faster(challenger: Candidate, default: Candidate, gain: RateInterval | None) -> bool:
    """Return True if the trials say that the challenger is faster than the default."""
    if gain is None:
        return challenger.rate > CLEAR_RATIO * default.rate
    return gain.low > 1
