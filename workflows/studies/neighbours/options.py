"""The options of `tesserae study neighbours`."""

from __future__ import annotations

from dataclasses import dataclass

from workflows.options.fields import option
from workflows.studies.vector_options import VectorStudyOptions

QUICK_SIZES = (774, 5_000, 20_000)
"""The numbers of vectors of the small version."""
QUICK_QUERIES, QUICK_SEEDS = 50, 3
"""The number of queries of each half and the number of rounds of the small version, at most."""
QUICK_VECTORS = 20_000
"""The number of vectors that the small version reads, at most: those at hand are searched, too."""


@dataclass(frozen=True, kw_only=True)
class NeighboursOptions(VectorStudyOptions):
    """The options of `tesserae study neighbours`."""

    STUDY = "neighbours"

    sizes: tuple[int, ...] = option(
        (774, 2_500, 20_000, 51_633, 200_000),
        "numbers of vectors to search, beside the number at hand; where there are fewer at hand,"
        " displaced copies of them are added",
        minimum=100,
    )
    queries: int = option(
        100,
        "number of queries of a round by which settings are chosen, and as many by which they are"
        " judged",
        minimum=10,
        maximum=1_000,
    )
    recall: float = option(
        0.95,
        "least recall of the 10 nearest, as a share: the fastest setting that reaches it is chosen",
        above=0,
        maximum=1,
    )

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: A value is not allowed, or there are two kinds of vectors or none.
        """
        super().__post_init__()
        if self.word_vectors is not None and self.store is not None:
            raise ValueError(
                "--word-vectors and --store are both given: expected one of them, as times of"
                " different vectors cannot be compared."
            )

    @property
    def num_vectors(self) -> int:
        """The number of vectors to read at most, of the small version if that is selected."""
        return min(self.max_vectors, QUICK_VECTORS) if self.quick else self.max_vectors

    @property
    def measured_sizes(self) -> tuple[int, ...]:
        """The numbers of vectors to search, of the small version if that is selected."""
        return QUICK_SIZES if self.quick else self.sizes

    @property
    def num_queries(self) -> int:
        """The number of queries in each half of a round."""
        return min(self.queries, QUICK_QUERIES) if self.quick else self.queries

    @property
    def num_rounds(self) -> int:
        """The number of rounds, each with a seed and queries of its own."""
        return min(self.seeds, QUICK_SEEDS) if self.quick else self.seeds
