"""What a report shows, as plain values: filled by whoever has the figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from workflows.preparation.quarantine import Reason
from workflows.reports.html import ContactSheet

READABLE = "readable"


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """What one run did for a split."""

    num_rows: int
    seconds: float
    """On the clock."""
    bytes_in: int = 0
    bytes_out: int = 0
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    """Stage (read, decode, resize, write, sync) -> seconds, of all workers together."""

    @property
    def slowest(self) -> str | None:
        """The stage that took most; None = nothing was timed."""
        return max(self.stage_seconds, key=lambda s: self.stage_seconds[s], default=None)


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """What a store holds of a split."""

    name: str
    num_rows: int
    """Of the plan."""
    finished: bool
    counts: Mapping[str, int]
    """Status in words -> committed rows: `readable`, and the reasons of quarantine."""
    bytes_by_size: Mapping[int, int]
    """Side in pixels -> bytes on disk."""
    run: RunReport | None = None
    """None = nothing was to be done."""
    examples: tuple[Reason, ...] = ()
    """Why rows are in quarantine, as the decoder said it, with an example each."""
    remarks: tuple[Reason, ...] = ()
    """What the files of readable rows lacked, with an example each."""

    @property
    def num_committed(self) -> int:
        """Rows that are in the store."""
        return sum(self.counts.values())

    @property
    def num_quarantined(self) -> int:
        """Rows whose bytes are no readable picture."""
        return self.num_committed - self.counts.get(READABLE, 0)

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """Why rows are in quarantine, and how many; the most frequent first."""
        counts = Counter({k: n for k, n in self.counts.items() if k != READABLE and n})
        return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


@dataclass(frozen=True)
class Quarantined:
    """A row whose bytes are no readable picture."""

    split: str
    row: int
    key: str
    status: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ReportModel:
    """Everything a report shows."""

    store: str
    """Path or URL."""
    num_classes: int
    splits: tuple[SplitReport, ...]
    recipe: Mapping[str, str]
    """fit, filter, decoder, resizer, rows a shard, rows a chunk, codec -> in words."""
    versions: Mapping[str, str]
    """What made it -> version."""
    quarantined: tuple[Quarantined, ...] = ()
    """In the order they shall be shown. May be a part: the counts of the splits bind."""
    sheets: tuple[ContactSheet, ...] = ()
    notice: str = ""
    """What a reader must know before any figure."""
    made_at: str = ""
