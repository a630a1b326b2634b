"""The processes of all trials, and the rate of one setting."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from types import TracebackType

from cluster.processes.forkserver import start_fork_server
from pipeline.errors import TesseraeError
from pipeline.ingest.source_index import Sample
from pipeline.ingest.trial import TrialWork
from workflows.cluster_kinds import PRELOAD
from workflows.preparation.tuning.settings import Setting
from workflows.preparation.tuning.trial_process import Trial, TrialResult, serve_trials

MAX_TRIAL_SECONDS = 15.0
"""How long a trial may take, and its first round twice as long: on a slow source, the rounds of
many readers would take minutes."""
ANSWER_SECONDS = 60.0
"""How long a process may take beyond that for the image at hand."""
CLOSE_SECONDS = 2.0
"""How long a process may take to end before it is killed."""


class TrialKilledError(TesseraeError):
    """A process was killed during a trial: memory has run out, or an image crashed a decoder."""


@dataclass(frozen=True)
class Rate:
    """The rate of a setting in one trial."""

    images_per_second: float
    """The images that all threads decoded in a second."""
    wait_share: float
    """The share of their time in which the threads waited for images to be read, 0 to 1."""
    num_read: int = 0
    """The number of samples that were read."""
    num_unreadable: int = 0
    """The number of these that are not readable images, which `images_per_second` leaves out."""


class Trials:
    """The processes that run trials; a context manager that starts and ends them."""

    def __init__(
        self,
        workers: int,
        work: TrialWork,
        samples: Sequence[Sample],
        *,
        store: str | None,
        run: str,
    ) -> None:
        """Configure the processes without starting them.

        Args:
            workers: The number of processes, the largest number of workers of a setting.
            work: The work on each image.
            samples: The samples of the source in a random order, at least one.
            store: The location of the store whose disk is written to; None: nothing is written.
            run: The name of the run, for which `begin` of the store was called.
        """
        self._workers = workers
        self._arguments = (work, samples, store, run)
        self._num_samples = len(samples)
        self._next_sample = 0
        self._processes: list[ForkServerProcess] = []
        self._connections: list[Connection] = []

    def measure(self, setting: Setting, seconds: float) -> Rate:
        """Run one trial of a setting, and return its rate.

        Args:
            setting: The setting, with at most as many workers as there are processes.
            seconds: How long each thread goes on after its first round of images; a trial on a slow
                source ends after `MAX_TRIAL_SECONDS`.

        Raises:
            TrialKilledError: A process was killed; those of the next trial are new.
            TesseraeError: An image cannot be read, or the disk of the store cannot be written to.
        """
        if not self._processes:
            self._start()
        stride = max(1, self._num_samples // setting.tasks)
        used = self._connections[: setting.workers]
        try:
            for index, connection in enumerate(used):
                start = self._next_sample + index * setting.threads * stride
                trial = Trial(
                    threads=setting.threads, readers=setting.readers, seconds=seconds,
                    max_seconds=max(seconds, MAX_TRIAL_SECONDS), start=start, stride=stride,
                )  # fmt: skip
                connection.send(trial)
            results = [self._result(connection) for connection in used]
        except (EOFError, ConnectionError):
            self._kill()
            # If an image has crashed the decoder, the next trial must not begin with it again.
            self._next_sample += stride // 2 + 1
            raise TrialKilledError(f"a process was killed during a trial of {setting}.") from None
        for result in results:
            if result.error:
                raise TesseraeError(result.error)
        counts = [count for result in results for count in result.counts]
        # The next trial begins where the threads of this one have stopped.
        self._next_sample += max(count.num_read for count in counts) + 1
        rate = sum(count.images / count.seconds for count in counts if count.seconds > 0)
        seconds_of_threads = sum(count.seconds for count in counts)
        waited = sum(count.waited_seconds for count in counts)
        return Rate(
            rate,
            waited / seconds_of_threads if seconds_of_threads else 1.0,
            sum(count.num_read for count in counts),
            sum(count.num_unreadable for count in counts),
        )

    def _result(self, connection: Connection) -> TrialResult:
        seconds = 2 * MAX_TRIAL_SECONDS + ANSWER_SECONDS
        if not connection.poll(seconds):
            raise TesseraeError(
                f"a trial has not ended in {seconds:.0f} s: no image was prepared in the last"
                f" {ANSWER_SECONDS:.0f} s. Check the source and the disk of the store."
            )
        result: TrialResult = connection.recv()
        return result

    def _start(self) -> None:
        context = multiprocessing.get_context("forkserver")
        for _ in range(self._workers):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve_trials, args=(theirs, *self._arguments), daemon=True
            )
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)

    def _kill(self) -> None:
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.kill()
            process.join()
        self._processes, self._connections = [], []

    def __enter__(self) -> Trials:
        start_fork_server(PRELOAD)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None:
            for connection in self._connections:
                connection.close()  # the processes end by themselves
            for process in self._processes:
                process.join(CLOSE_SECONDS)
        self._kill()
