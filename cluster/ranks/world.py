"""The training processes of one world, placed by Dask and restarted when one of them is lost.

Dask places the ranks and detects lost workers; the ranks communicate with each other directly. Each
rank is a child process of a Dask task (`cluster.ranks.rank_supervisor`), which does not train.

When a rank, a worker or a machine is lost, all ranks of that generation are ended, and another
generation starts with the workers that are available; the stage decides where it resumes. When the
client is gone, ranks are asked to stop, as by Ctrl-C: they save and return.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cloudpickle
from distributed import Client, Future, Scheduler

from cluster.broadcast import broadcast
from cluster.errors import ClusterError, TrainingRankError
from cluster.ranks.rank_process import SAVE_SECONDS, RankTask
from cluster.ranks.rank_supervisor import abandon_ranks, is_supervised, supervise_rank
from cluster.ranks.slots import WorkerSlot, worker_slots

END_SECONDS = 90.0
"""The timeout for the ranks of a generation to end."""
POLL_SECONDS = 0.5
"""The interval between two checks of workers and ranks."""
RESPONSE_TIMEOUT_SECONDS = 5.0
"""The timeout for a worker to answer whether it still supervises a rank."""
REJOIN_SECONDS = 30.0
"""How long a new generation waits for lost workers to return before it starts with fewer."""
FIRST_REPORT_SECONDS = 1.0
"""The delay of the first report of missing workers; a local cluster has its workers earlier."""
REPORT_SECONDS = 5.0
"""The interval between two reports of missing workers, and the first delay of a new generation."""
MAX_CONSECUTIVE_FAILURES = 3
"""The number of generations that may fail in sequence without progress."""


@dataclass(frozen=True)
class WorldConfig:
    """The requested ranks of a world."""

    ranks: int
    """The maximum number of ranks; fewer are started if fewer workers join, at least one."""
    gpu: bool = False
    """True if each rank needs a GPU."""
    batch: int = 0
    """The rows of a batch, which the number of ranks must divide; 0 for any number."""
    rows_together: int = 1
    """The number of successive rows that must be in the same rank; it divides `batch`."""
    worker_timeout_seconds: float = 600.0
    """The timeout for the workers of the first generation."""
    save_seconds: float = SAVE_SECONDS
    """The time that ranks may take to save after a request to stop, in seconds."""
    timeout_option: str = ""
    """The command-line option that sets *worker_timeout_seconds*, for messages."""

    def num_ranks(self, num_workers: int) -> int:
        """Return the number of ranks that start, at least 1 and at most `self.ranks`.

        Args:
            num_workers: Number of workers that have joined, at least 1.

        Returns:
            The largest such number that is at most *num_workers* and divides `self.batch`, the rows
            of a batch, into multiples of `self.rows_together`, if that is not 0.
        """
        max_ranks = min(self.ranks, num_workers)
        groups = self.batch // self.rows_together
        return next(n for n in range(max_ranks, 0, -1) if groups % n == 0)

    def unused_workers_notice(self, num_workers: int) -> str | None:
        """Return a notice if workers stay unused because the ranks must divide `self.batch`.

        Args:
            num_workers: Number of workers that have joined, at least 1; those beyond `self.ranks`
                do not count as unused.

        Returns:
            The notice for the user, one line; None if no worker stays unused for that reason.
        """
        max_ranks = min(self.ranks, num_workers)
        used = self.num_ranks(num_workers)
        if used == max_ranks:
            return None
        multiple = max_ranks * self.rows_together
        lower = self.batch - self.batch % multiple
        sizes = f"{lower} or {lower + multiple}" if lower else f"{multiple}"
        groups = "" if self.rows_together == 1 else f" in groups of {self.rows_together} rows"
        return (
            f"a batch of {self.batch} cannot be divided evenly among {max_ranks} ranks{groups}:"
            f" using {used}. A batch size of {sizes} would use all {max_ranks}."
        )


Begin = Callable[[int], tuple[int, tuple[Any, ...]]]
"""A function that claims a generation for a number of ranks, and returns the number of the
generation and the arguments of its ranks."""


def run_world(
    client: Client,
    config: WorldConfig,
    entry: str,
    begin: Begin,
    *,
    on_event: Callable[[dict[str, Any]], None] = lambda _: None,
    report: Callable[[str], None] = lambda _: None,
    tick: Callable[[], None] = lambda: None,
) -> list[Any]:
    """Run ranks until all of them have returned, and restart all of them when one is lost.

    Args:
        client: A client of the cluster.
        config: `ranks` (the maximum), `gpu` (True if each rank needs a GPU), `batch` (the rows that
            the number of ranks must divide; 0 for any number), `rows_together` (how many of them
            must be in the same rank), `worker_timeout_seconds` (how long to wait for workers) and
            `save_seconds` (how long a rank may take to save).
        entry: Function as `module:function`, which the workers can import. It is called in a
            process for each rank, with its `cluster.ranks.rank_process.Rank` and then the arguments
            that *begin* returned. It returns a JSON value.
        begin: Function that claims each generation: it gets the number of ranks, and returns the
            tuple (number of the generation, arguments), where arguments is a tuple of picklable
            values that every rank gets.
        on_event: Called, in a thread of Dask's, with each event that a rank sends by `Rank.emit`: a
            dictionary of its keywords, with `rank`, `generation` and `worker` (its address) added;
            lists in it have become tuples. An event with a higher number `step` than all before
            counts as progress (default: events are ignored).
        report: Called with one line when a rank is lost or workers are missing (default: nothing is
            reported).
        tick: Called at each check, about twice a second (default: nothing is called). An exception
            of it ends all ranks and is raised.

    Returns:
        What the function returned in each rank, in the order of ranks.

    Raises:
        TrainingRankError: Ranks failed in three successive generations without progress, or one
            raised a `cluster.errors.PermanentError`, whose message it then has.
        ClusterError: No worker joined in time, or workers were lost in three successive generations
            without progress.
    """
    world = _World(client, config, entry, begin, on_event, report, tick)
    while True:
        results = world.run_generation()
        if results is not None:
            return results


class _World:
    def __init__(
        self,
        client: Client,
        config: WorldConfig,
        entry: str,
        begin: Begin,
        on_event: Callable[[dict[str, Any]], None],
        report: Callable[[str], None],
        tick: Callable[[], None],
    ) -> None:
        self._client = client
        self._config = config
        self._entry = entry
        self._begin = begin
        self._on_event = on_event
        self._report = report
        self._tick = tick
        self._furthest_step = -1.0
        self._failures = 0
        self._first = True

    def run_generation(self) -> list[Any] | None:
        """Run one generation; return the results of its ranks, or None if one was lost."""
        slots = self._wait_for_slots()
        self._first = False
        number, arguments = self._begin(len(slots))
        furthest_before = self._furthest_step
        # A topic of its own for each generation: events of an older one cannot be mistaken for it.
        topic = f"ranks-{secrets.token_hex(8)}"
        self._client.subscribe_topic(topic, self._handle_event)
        futures: list[Future[Any]] = []
        try:
            futures = self._submit(slots, number, arguments, topic)
            failure = self._wait_for_ranks(slots, futures)
            if failure is None:
                return [future.result()["result"] for future in futures]
            # The others would hang in a collective with the lost rank, so they are killed.
            self._broadcast(slots, abandon_ranks, topic)
        finally:
            self._end_ranks(slots, futures, topic)
            self._client.unsubscribe_topic(topic)
        self._failures = 0 if self._furthest_step > furthest_before else self._failures + 1
        if self._failures >= MAX_CONSECUTIVE_FAILURES or _is_final(failure):
            raise failure
        self._report(f"{failure}; all ranks restart from the last checkpoint")
        return None

    def _wait_for_slots(self) -> list[WorkerSlot]:
        """Wait for workers for all ranks; after a timeout, return slots on those that joined."""
        config = self._config
        deadline = time.monotonic() + (
            config.worker_timeout_seconds if self._first else REJOIN_SECONDS
        )
        final_deadline = time.monotonic() + config.worker_timeout_seconds
        next_report = time.monotonic() + (FIRST_REPORT_SECONDS if self._first else REPORT_SECONDS)
        reported_count = -1
        while True:
            slots = worker_slots(self._client, gpu=config.gpu)
            enough = len(slots) >= config.ranks
            if enough or (slots and time.monotonic() > deadline):
                notice = config.unused_workers_notice(len(slots))
                if notice is not None:
                    self._report(f"notice: {notice}")
                return sorted(slots[: config.num_ranks(len(slots))], key=lambda slot: slot.host)
            if time.monotonic() > next_report and len(slots) != reported_count:
                reported_count, next_report = len(slots), time.monotonic() + REPORT_SECONDS
                self._report(
                    self._waiting_text(reported_count, deadline if slots else final_deadline)
                )
            if time.monotonic() > final_deadline:
                kind = "worker with a GPU" if config.gpu else "worker"
                raise ClusterError(
                    f"no {kind} connected within {config.worker_timeout_seconds:.0f} s."
                    " See `tesserae cluster"
                    " status` and the workers' logs."
                )
            self._tick()
            time.sleep(POLL_SECONDS)

    def _waiting_text(self, num_workers: int, deadline: float) -> str:
        """Return a line on the workers present, the remaining wait, and what happens after it."""
        config = self._config
        kind = "workers with a GPU" if config.gpu else "workers"
        remaining = max(0.0, deadline - time.monotonic())
        ranks = config.num_ranks(num_workers) if num_workers else 0
        outcome = f"training starts with {ranks}"
        option = (
            f" (set by {config.timeout_option})" if config.timeout_option and self._first else ""
        )
        return (
            f"{num_workers} of {config.ranks} {kind} connected; waiting up to {remaining:.0f} s"
            f" for the others{option}, then {outcome if num_workers else 'the run fails'}"
        )

    def _submit(
        self, slots: Sequence[WorkerSlot], number: int, arguments: tuple[Any, ...], topic: str
    ) -> list[Future[Any]]:
        data = cloudpickle.dumps(arguments)
        futures = []
        for rank, slot in enumerate(slots):
            rank_fields = {
                "rank": rank,
                "world": len(slots),
                "generation": number,
                "host": slot.host,
                "gpu": slot.gpu,
                "ranks_on_host": sum(peer.host == slot.host for peer in slots),
            }
            # Dask must not move or repeat a rank: it is pinned to its worker, without retries.
            futures.append(
                self._client.submit(
                    supervise_rank,
                    RankTask(self._entry, data, rank_fields, self._config.save_seconds),
                    topic,
                    key=f"rank-{rank}-{topic}",
                    workers=[slot.worker],
                    allow_other_workers=False,
                    resources={"GPU": 1} if slot.gpu else None,
                    retries=0,
                    priority=100,
                    pure=False,
                )
            )
        return futures

    def _wait_for_ranks(
        self, slots: Sequence[WorkerSlot], futures: Sequence[Future[Any]]
    ) -> ClusterError | None:
        """Wait for all ranks; return None when all have returned, or the error of a lost one."""
        while True:
            self._tick()
            states = [future.status for future in futures]
            if all(state == "finished" for state in states):
                return None
            for slot, state in zip(slots, states, strict=True):
                if state in ("error", "cancelled", "lost"):
                    return self._failure_reason(slot, futures)
            workers = [slot.worker for slot in slots]
            if missing := self._client.run_on_scheduler(_missing_workers, workers):
                return ClusterError(f"worker {missing[0]} was lost")
            time.sleep(POLL_SECONDS)

    def _failure_reason(self, slot: WorkerSlot, futures: Sequence[Future[Any]]) -> ClusterError:
        # The cause is reported, not the connection errors that its loss causes in other ranks.
        time.sleep(POLL_SECONDS)
        errors = [f.exception(timeout=5) for f in futures if f.status == "error"]
        rank_errors = [e for e in errors if isinstance(e, TrainingRankError)]
        if rank_errors:
            return min(
                rank_errors, key=lambda e: (not e.permanent, not e.killed, "onnection" in str(e))
            )
        return ClusterError(f"the rank on {slot.worker} was lost ({errors or 'no reason given'})")

    def _broadcast(
        self, slots: Sequence[WorkerSlot], call: Callable[[str], Any], topic: str
    ) -> list[Any]:
        workers = [slot.worker for slot in slots]
        answers = broadcast(
            self._client, call, topic, workers=workers, timeout_seconds=RESPONSE_TIMEOUT_SECONDS
        )
        return list(answers.values())

    def _end_ranks(
        self, slots: Sequence[WorkerSlot], futures: Sequence[Future[Any]], topic: str
    ) -> None:
        """Cancel all tasks, and wait for the ranks on workers that answer."""
        self._client.cancel(list(futures))
        # A cancelled task ends its rank by itself. A rank on a worker that is cut off ends when the
        # worker notices; it is not waited for, since what its generation saves later is ignored.
        deadline = time.monotonic() + END_SECONDS
        while time.monotonic() < deadline:
            if not any(answer is True for answer in self._broadcast(slots, is_supervised, topic)):
                return
            self._tick()
            time.sleep(POLL_SECONDS)

    def _handle_event(self, event: tuple[float, Any]) -> None:
        message = event[1]
        if "step" in message:
            self._furthest_step = max(self._furthest_step, float(message["step"]))
        self._on_event(message)


def _is_final(error: ClusterError) -> bool:
    return isinstance(error, TrainingRankError) and error.permanent


def _missing_workers(workers: Sequence[str], dask_scheduler: Scheduler) -> list[str]:
    return [worker for worker in workers if worker not in dask_scheduler.workers]
