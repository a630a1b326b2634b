"""A process that runs trials: the work of `prepare` on some threads, for some seconds."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline.ingest.source_index import Sample
from pipeline.ingest.trial import TrialCount, TrialWork, run_trial
from pipeline.store.open import open_objects


@dataclass(frozen=True)
class Trial:
    """One trial of one process."""

    threads: int
    """The number of threads that work."""
    readers: int
    """The number of threads that read ahead for each of them."""
    seconds: float
    """How long each thread goes on after its first round of images, in seconds."""
    max_seconds: float
    """How long each thread goes on in all, in seconds."""
    start: int
    """The number of the first sample; each thread continues from a sample of its own."""
    stride: int
    """The distance of the first samples of two threads."""


@dataclass(frozen=True)
class TrialResult:
    """What a process has done in a trial."""

    counts: tuple[TrialCount, ...]
    """The images and seconds of each thread."""
    error: str = ""
    """The sentence of an error that ended the trial; empty if there was none."""


def serve_trials(
    connection: Connection,
    work: TrialWork,
    samples: Sequence[Sample],
    store: str | None,
    run: str,
) -> None:
    """Run each trial that is requested, and send its result, until the other end is closed.

    Args:
        connection: The connection from which trials come, and to which results go.
        work: The work on each image.
        samples: The samples of the source, in a random order.
        store: The location of the store whose disk is written to; None: nothing is written.
        run: The name of the run in which the store is written.
    """
    with suppress(OSError):  # if memory runs out, this process is killed, and not the command
        Path("/proc/self/oom_score_adj").write_text("1000")
    objects = None if store is None else open_objects(store, run)
    stop = threading.Event()

    def run_thread(trial: Trial, index: int) -> TrialCount:
        """Run a trial in one thread, on samples of its own."""
        return run_trial(
            work,
            _endless(samples, trial.start + index * trial.stride),
            objects,
            name=f"{os.getpid()}-{index}",
            readers=trial.readers,
            seconds=trial.seconds,
            max_seconds=trial.max_seconds,
            stop=stop,
        )

    while True:
        try:
            trial = connection.recv()
        except (EOFError, OSError):  # the command has ended, by whatever means
            return
        error, counts = "", []
        with ThreadPoolExecutor(trial.threads, "trial") as pool:
            futures = [pool.submit(run_thread, trial, index) for index in range(trial.threads)]
            for future in futures:
                try:
                    counts.append(future.result())
                except Exception as e:  # noqa: BLE001 - the command reports it
                    error = str(e) or type(e).__name__
        try:
            connection.send(TrialResult(tuple(counts), error))
        except OSError:
            return


def _endless(samples: Sequence[Sample], start: int) -> Iterator[Sample]:
    """Yield the samples from one on, and all of them again and again."""
    for index in itertools.count(start):
        yield samples[index % len(samples)]
