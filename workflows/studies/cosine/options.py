"""The options of `tesserae study cosine`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from workflows.options.fields import option
from workflows.studies.vector_options import VectorStudyOptions


@dataclass(frozen=True, kw_only=True)
class CosineOptions(VectorStudyOptions):
    """The options of `tesserae study cosine`."""

    STUDY = "cosine"
    QUICK_VALUES = MappingProxyType({"rows": 800, "queries": 100, "searched": 2_000, "seeds": 3})

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
