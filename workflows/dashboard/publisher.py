"""A command's side of the page: what it has done, sent to the scheduler as events.

From a thread of its own, so that neither a slow scheduler nor a slow disk holds a run up. An error
ends the sending, and nothing else.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from queue import Empty, SimpleQueue
from time import monotonic
from types import TracebackType
from typing import Any, Self

from distributed import Client

from pipeline.ingest.shard import Report
from workflows.dashboard.plugin import PICTURES_TOPIC, TOPIC, put_on

FLUSH_SECONDS = 0.25
PICTURE_SECONDS = 3.0
"""Between two looks at what was stored, at least."""
LOOKS = 16
"""Shards whose quarantine is looked at, of those that ended together: there may be thousands."""
END_SECONDS = 5.0
"""How long the end of a run waits for its last words to be sent."""

Pictures = Callable[[int], Sequence[Mapping[str, Any]]]
"""Of a shard: rows with a caption and a JPEG each."""

log = logging.getLogger(__name__)


class Sender:
    """Tells the page of one run. Use as a context manager."""

    def __init__(
        self,
        client: Client,
        run: str,
        *,
        pictures: Pictures = lambda _: (),
        quarantined: Pictures = lambda _: (),
    ) -> None:
        """Start nothing yet.

        Args:
            client: Of the scheduler.
            run: The run's name, which its tasks' keys end with.
            pictures: The thumbnails of a shard that was just stored.
            quarantined: The rows of it that are in quarantine: row, key, status and reason.
        """
        self._client = client
        self._run = run
        self._pictures = pictures
        self._quarantined = quarantined
        self._waiting: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="board", daemon=True)
        self._begun = monotonic()
        self.seconds: float | None = None
        """How long it took; None = from `begin` to the end."""
        self._looked = float("-inf")

    def begin(
        self,
        *,
        split: str,
        store: str,
        rows: int,
        sizes: Sequence[tuple[int, int, int]],
        before: Mapping[str, int],
        features: str = "",
    ) -> None:
        """Say what is to be done.

        Args:
            split: Of the store.
            store: Its place.
            rows: To be made now.
            sizes: Side in pixels, rows that are stored, rows there are to be.
            before: Rows that earlier runs committed, by status.
            features: Name of the features that are made of the images; empty: these are stored.
        """
        self._begun = monotonic()
        self._put(
            what="run",
            client=self._client.id,
            split=split,
            store=store,
            rows=rows,
            sizes=[list(size) for size in sizes],
            before=dict(before),
            features=features,
        )

    def shard(self, report: Report, sizes: Collection[int]) -> None:
        """Say that a shard was made, in *sizes*."""
        self._put(
            what="shard",
            shard=report.shard,
            rows=report.num_rows,
            bytes_in=report.bytes_in,
            bytes_out=report.bytes_out,
            counts=dict(report.counts),
            seconds=dict(report.seconds),
            sizes=sorted(sizes),
        )

    def featured(self, shard: int, rows: int, bytes_out: int) -> None:
        """Say that the features of a shard were made."""
        self._put(
            what="shard", shard=shard, rows=rows, bytes_in=0, bytes_out=bytes_out,
            counts={"readable": rows}, seconds={}, sizes=[],
        )  # fmt: skip

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        state = "finished" if error is None else "failed"
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            state = "stopped"
        why = "" if error is None else str(error)[:500]
        seconds = monotonic() - self._begun if self.seconds is None else self.seconds
        self._put(what="end", state=state, why=why, seconds=seconds)
        self._waiting.put(None)
        self._thread.join(END_SECONDS)

    def _put(self, **message: Any) -> None:
        self._waiting.put({"run": self._run, **message})

    def _send_all(self) -> None:
        try:
            if not self._client.run_on_scheduler(put_on):
                return
            while self._send_some():
                pass
        except Exception:  # whatever it is: a page is worth no run
            log.debug("nothing more is sent to the page", exc_info=True)

    def _send_some(self) -> bool:
        messages = [self._waiting.get()]
        until = monotonic() + FLUSH_SECONDS
        while messages[-1] is not None and messages[-1]["what"] != "end":
            try:
                messages.append(self._waiting.get(timeout=max(0.0, until - monotonic())))
            except Empty:
                break
        said = [message for message in messages if message is not None]
        if said:
            self._client.log_event(TOPIC, said)
        self._look([message for message in said if message["what"] == "shard"])
        return messages[-1] is not None

    def _look(self, shards: Sequence[Mapping[str, Any]]) -> None:
        bad = [one for one in shards if one["counts"].get("readable", 0) < one["rows"]]
        rows = [dict(row) for one in bad[-LOOKS:] for row in self._quarantined(one["shard"])]
        if rows:
            message = {"run": self._run, "what": "quarantined", "rows": rows}
            self._client.log_event(TOPIC, [message])
        if shards and monotonic() - self._looked >= PICTURE_SECONDS:
            self._looked = monotonic()
            pictures = [dict(one) for one in self._pictures(shards[-1]["shard"])]
            message = {"run": self._run, "what": "pictures", "pictures": pictures}
            self._client.log_event(PICTURES_TOPIC, [message])
