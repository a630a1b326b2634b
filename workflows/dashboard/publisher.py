"""The command's side of the dashboard: sends the progress of a run to the scheduler as events.

A separate thread sends them, so that neither a slow scheduler nor a slow disk delays the run. An
error stops the sending, and nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Self

from distributed import Client

from pipeline.ingest.report import ShardReport
from workflows.dashboard.plugin import IMAGES_TOPIC, TOPIC, install_page

FLUSH_SECONDS = 0.25
"""The time during which messages are collected before they are sent together."""
THUMBNAIL_SECONDS = 3.0
"""The minimum interval between two sets of thumbnails."""
MAX_PREVIEWED_SHARDS = 16
"""The number of shards per flush whose quarantined rows are read: thousands may end together."""
END_SECONDS = 5.0
"""How long the end of a run waits for its last messages to be sent."""

Preview = Callable[[int], Sequence[Mapping[str, Any]]]
"""A function that returns the rows to show of a shard, given the shard's number."""

log = logging.getLogger(__name__)


def end_message(error: BaseException | None, seconds: float) -> dict[str, Any]:
    """Return the message that a run has ended, for `DashboardState.apply`.

    Args:
        error: The error that ended it; None if it has finished. KeyboardInterrupt and GeneratorExit
            are interrupts.
        seconds: Its duration in seconds.

    Returns:
        `what` ("end"), `state` (`finished`, `failed` or, after an interrupt, `stopped`), `why` (the
        error's text, cut after 500 characters) and `seconds`. The caller adds the name of the
        `run`.
    """
    state = "finished" if error is None else "failed"
    if isinstance(error, KeyboardInterrupt | GeneratorExit):
        state = "stopped"
    why = "" if error is None else str(error)[:500]
    return {"what": "end", "state": state, "why": why, "seconds": seconds}


class Publisher:
    """A context manager that sends the progress of one run to the dashboard.

    Leaving the block sends the end of the run, with the error that ended it, and waits up to
    `END_SECONDS` for the last messages.
    """

    def __init__(
        self,
        client: Client,
        run: str,
        *,
        thumbnails: Preview = lambda _: (),
        quarantined: Preview = lambda _: (),
    ) -> None:
        """Configure a publisher without starting its thread.

        Args:
            client: The client of the scheduler that serves the dashboard.
            run: The run's name, which the keys of its tasks end with.
            thumbnails: A function that returns the thumbnails of a stored shard, with row, caption
                and jpeg (default: none).
            quarantined: A function that returns the quarantined rows of a stored shard, with row,
                key, status and reason (default: none).
        """
        self._client = client
        self._run = run
        self._thumbnails = thumbnails
        self._quarantined = quarantined
        self._waiting: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="dashboard", daemon=True)
        self._started = monotonic()
        self.seconds: float | None = None
        """The duration that is reported at the end; None is the time since `begin`."""
        self._previewed = float("-inf")

    def begin(
        self,
        *,
        split: str,
        store: str,
        rows: int,
        arrays: Sequence[tuple[str, int, int]],
        earlier_counts: Mapping[str, int],
        rows_of: str = "",
    ) -> None:
        """Announce the run, and start the clock of its duration.

        Call it first, inside the block of the publisher. The message is sent in the background, and
        the call returns at once.

        Args:
            split: The name of the split.
            store: The path or URL of the store.
            rows: Number of rows that this run will commit.
            arrays: The (name, rows already stored, rows of the split) of each image array: `224`,
                `jpeg256@90`, ...
            earlier_counts: Number of rows that earlier runs committed, by status in words, such as
                `readable`.
            rows_of: What a network computes of each image, such as `features` and their name; empty
                if the run stores images.
        """
        self._started = monotonic()
        self._put(
            what="run",
            client=self._client.id,
            split=split,
            store=store,
            rows=rows,
            arrays=[list(array) for array in arrays],
            before=dict(earlier_counts),
            rows_of=rows_of,
        )

    def shard(self, report: ShardReport, arrays: Collection[str]) -> None:
        """Report that a shard was committed.

        The message is sent in the background, and the call returns at once.

        Args:
            report: The result of the shard's task, of which the shard, rows, bytes, counts and
                seconds are sent. It is only read.
            arrays: The names of the image arrays that this run has added to the shard.
        """
        self._put(
            what="shard",
            shard=report.shard,
            rows=report.num_rows,
            bytes_in=report.bytes_in,
            bytes_out=report.bytes_out,
            counts=dict(report.counts),
            seconds=dict(report.seconds),
            arrays=sorted(arrays),
        )

    def rows_of_shard(self, shard: int, rows: int, bytes_out: int) -> None:
        """Report that the rows that a network computes of a shard were committed.

        The message is sent in the background, and the call returns at once.

        Args:
            shard: The number of the shard.
            rows: Number of rows in it, all of which are shown as readable.
            bytes_out: Number of bytes that were written.
        """
        self._put(
            what="shard", shard=shard, rows=rows, bytes_in=0, bytes_out=bytes_out,
            counts={"readable": rows}, seconds={}, arrays=[],
        )  # fmt: skip

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        seconds = monotonic() - self._started if self.seconds is None else self.seconds
        self._put(**end_message(error, seconds))
        self._waiting.put(None)
        self._thread.join(END_SECONDS)

    def _put(self, **message: Any) -> None:
        self._waiting.put({"run": self._run, **message})

    def _send_all(self) -> None:
        try:
            if not self._client.run_on_scheduler(install_page):
                return
            while self._send_some():
                pass
        except Exception:  # whatever it is, a failing dashboard must not fail the run
            log.debug("no further progress is sent to the dashboard", exc_info=True)

    def _send_some(self) -> bool:
        messages = [self._waiting.get()]
        until = monotonic() + FLUSH_SECONDS
        while messages[-1] is not None and messages[-1]["what"] != "end":
            try:
                messages.append(self._waiting.get(timeout=max(0.0, until - monotonic())))
            except Empty:
                break
        to_send = [message for message in messages if message is not None]
        if to_send:
            self._client.log_event(TOPIC, to_send)
        self._send_previews([message for message in to_send if message["what"] == "shard"])
        return messages[-1] is not None

    def _send_previews(self, shards: Sequence[Mapping[str, Any]]) -> None:
        damaged = [
            message for message in shards if message["counts"].get("readable", 0) < message["rows"]
        ]
        rows = [
            dict(row)
            for message in damaged[-MAX_PREVIEWED_SHARDS:]
            for row in self._quarantined(message["shard"])
        ]
        if rows:
            message = {"run": self._run, "what": "quarantined", "rows": rows}
            self._client.log_event(TOPIC, [message])
        if shards and monotonic() - self._previewed >= THUMBNAIL_SECONDS:
            self._previewed = monotonic()
            images = [dict(image) for image in self._thumbnails(shards[-1]["shard"])]
            message = {"run": self._run, "what": "pictures", "pictures": images}
            self._client.log_event(IMAGES_TOPIC, [message])
