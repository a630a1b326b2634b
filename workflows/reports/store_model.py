"""The data of a store's report: plain values, which `store_page` renders."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.ingest.verify import sort_arrays
from workflows.reports.quarantine import Reason

READABLE = "readable"


@dataclass(frozen=True, kw_only=True)
class RunReport:
    """The totals of one run over a split."""

    num_rows: int
    """The number of rows that the run committed."""
    seconds: float
    """The wall-clock duration of the run, in seconds."""
    bytes_in: int = 0
    """The bytes of encoded images that were read."""
    bytes_out: int = 0
    """The bytes that were written to the store."""
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    """The seconds of each step (read, decode, resize, write, sync), summed over all workers."""

    @property
    def slowest(self) -> str | None:
        """The step that took the longest; None if nothing was timed."""
        return max(self.step_seconds, key=lambda s: self.step_seconds[s], default=None)


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """The state of a split in a store."""

    name: str
    num_rows: int
    """The number of rows in the plan."""
    finished: bool
    counts: Mapping[str, int]
    """The number of committed rows by status in words: `readable`, or why they are quarantined."""
    array_bytes: Mapping[str, int]
    """The bytes on disk by name of the image array, such as `224` or `jpeg256@90`, in order."""
    run: RunReport | None = None
    """The totals of the last run; None if it had nothing to do for this split."""
    examples: tuple[Reason, ...] = ()
    """The decoder's messages about quarantined rows, each with an example."""
    remarks: tuple[Reason, ...] = ()
    """The decoder's remarks on readable rows with incomplete files, each with an example."""

    @property
    def num_committed(self) -> int:
        """The number of committed rows."""
        return sum(self.counts.values())

    @property
    def num_missing(self) -> int:
        """The number of rows of the plan that are not committed."""
        return self.num_rows - self.num_committed

    @property
    def num_quarantined(self) -> int:
        """The number of committed rows that are quarantined."""
        return self.num_committed - self.counts.get(READABLE, 0)

    @property
    def reasons(self) -> list[tuple[str, int]]:
        """The (status, number of rows) of quarantined rows, the most frequent first."""
        counts = Counter({k: n for k, n in self.counts.items() if k != READABLE and n})
        return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))


@dataclass(frozen=True)
class Quarantined:
    """A quarantined row."""

    split: str
    row: int
    key: str
    status: str
    """The status in words, such as `truncated`."""
    reason: str
    """The decoder's message."""


@dataclass(frozen=True)
class ImageGrid:
    """A sample of the stored images of one split and array, shown as a grid with class names."""

    split: str
    array: str
    """The name of the array, such as `224` or `jpeg256@90`."""
    height: int
    """The height at which the images are shown, in pixels: of squares, their side."""
    images: tuple[tuple[str, bytes], ...]
    """The (caption, JPEG bytes) of each image; the caption is the name of its class."""


@dataclass(frozen=True, kw_only=True)
class ReportModel:
    """The data of a store's report."""

    store: str
    """The path or URL of the store."""
    num_classes: int
    splits: tuple[SplitReport, ...]
    recipe: Mapping[str, str]
    """The values of fit, filter, rows per shard, rows per chunk and codec, as text by name."""
    versions: Mapping[str, str]
    """The versions of the software that wrote the store, by name."""
    quarantined: tuple[Quarantined, ...] = ()
    """The quarantined rows to list, in order; unlike the counts, they may be incomplete."""
    image_grids: tuple[ImageGrid, ...] = ()
    notice: str = ""
    """A notice that is shown before all figures."""
    written_at: str = ""
    """The local time of the report."""

    @property
    def arrays(self) -> list[str]:
        """The names of the image arrays of any split: sizes, ascending, then encoded arrays."""
        return sort_arrays(name for split in self.splits for name in split.array_bytes)

    @property
    def num_bytes(self) -> int:
        """The bytes of all arrays of images on disk."""
        return sum(sum(split.array_bytes.values()) for split in self.splits)
