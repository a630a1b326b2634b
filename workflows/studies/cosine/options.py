"""The options of `tesserae study cosine`."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.options.fields import option
from workflows.studies.vector_options import VectorStudyOptions

QUICK_ROWS, QUICK_QUERIES, QUICK_SEARCHED, QUICK_SEEDS = 800, 100, 2_000, 3
"""The sizes of the small version, at most."""


@dataclass(frozen=True, kw_only=True)
class CosineOptions(VectorStudyOptions):
    """The options of `tesserae study cosine`."""

    STUDY = "cosine"

    rows: int = option(
        4_000,
        "number of vectors in the sample of a seed, each of which is a query among the others; at"
        " most 80 % of the vectors, so that samples differ",
        minimum=100,
        maximum=20_000,
    )
    queries: int = option(
        400,
        "number of images of --query-split in the sample of a seed, whose neighbours of the same"
        " class are counted; fewer if the split has too few for all seeds",
        minimum=10,
        maximum=10_000,
    )
    searched: int = option(
        10_000,
        "number of images of --split among which those neighbours are searched, at most",
        minimum=100,
        maximum=100_000,
    )

    @property
    def sample_rows(self) -> int:
        """The number of vectors in a sample, of the small version if that is selected."""
        return min(self.rows, QUICK_ROWS) if self.quick else self.rows

    @property
    def sample_queries(self) -> int:
        """The number of labelled queries in a sample."""
        return min(self.queries, QUICK_QUERIES) if self.quick else self.queries

    @property
    def searched_rows(self) -> int:
        """The number of labelled images that are searched."""
        return min(self.searched, QUICK_SEARCHED) if self.quick else self.searched

    @property
    def num_seeds(self) -> int:
        """The number of samples."""
        return min(self.seeds, QUICK_SEEDS) if self.quick else self.seeds
