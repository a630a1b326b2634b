"""The options of `tesserae study neighbours`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from workflows.options.fields import option
from workflows.studies.vector_options import VectorStudyOptions

MIN_QUERIES = 10
"""The smallest number of queries of each half of a round."""


@dataclass(frozen=True, kw_only=True)
class NeighboursOptions(VectorStudyOptions):
    """The options of `tesserae study neighbours`."""

    STUDY = "neighbours"
    QUICK_VALUES = MappingProxyType(
        {"sizes": (774, 5_000, 20_000), "queries": 50, "seeds": 3, "max_vectors": 20_000}
    )

    sizes: tuple[int, ...] = option(
        (774, 2_500, 20_000, 51_633, 200_000),
        "numbers of vectors to search, beside the number at hand; where there are fewer at hand,"
        " displaced copies of them are added",
        minimum=100,
    )
    queries: int = option(
        100,
        "number of queries of a round by which settings are chosen, and as many by which they are"
        " judged; fewer if there are too few for all rounds",
        minimum=MIN_QUERIES,
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
