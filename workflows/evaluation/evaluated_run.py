"""The evaluation of a run as texts, tables and images, which its report shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from workflows.reports.table import Table


@dataclass(frozen=True)
class EvaluatedRun:
    """The evaluation of a run, a `workflows.runs.report.RunEvaluation`."""

    step: int
    """The number of complete steps at the evaluated checkpoint."""
    metric_texts: tuple[tuple[str, str], ...]
    """The (name, value) of each metric, as text."""
    tables: tuple[Table, ...]
    """The tables of metrics."""
    images: tuple[tuple[str, bytes], ...]
    """The (caption, PNG) of each image."""
    notice: str
    """Sentences on how to read the metrics; empty if there are none."""
    complete: bool = True
    """False if images were left out that the user named, of which notices tell."""

    def metrics(self) -> Iterator[tuple[str, str]]:
        """Return an iterator over the (name, value) of each metric, as text."""
        return iter(self.metric_texts)
