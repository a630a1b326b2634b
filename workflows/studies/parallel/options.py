"""The options of `tesserae study parallel`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from types import MappingProxyType

from workflows.options.fields import option
from workflows.options.source_reading import SourceReadingOptions
from workflows.studies.options import RecordedStudyOptions


@dataclass(frozen=True, kw_only=True)
class ParallelOptions(RecordedStudyOptions, SourceReadingOptions):
    """The options of `tesserae study parallel`."""

    STUDY = "parallel"
    QUICK_VALUES = MappingProxyType({"images": 48, "seeds": 2})
    OMITTED_FLAGS = frozenset({"threads"})

    source: str = option(
        MISSING, "folder or archive of the images that are decoded", metavar="SOURCE"
    )
    split: str = option("train", "split of the source to draw images from", metavar="SPLIT")
    images: int = option(2_000, "largest number of images that a run decodes", minimum=8)
    size: int = option(224, "side of the squares, in pixels", minimum=1, maximum=4_096)
    seeds: int = option(
        5,
        "number of rounds, each of which runs every method once, in a random order; five rounds of"
        " 2000 images take about 20 minutes on two cores",
        minimum=1,
        maximum=1_000,
    )
    free_threaded: str | None = option(
        None,
        "interpreter without a global lock, such as python3.14t, which gets an environment of its"
        " own",
        implied="the newest one on the PATH, if there is one",
        metavar="PYTHON",
    )
    other_pillow: bool = option(
        True,
        "compare Pillow with Pillow-SIMD, the one that is not installed in an environment of its"
        " own, which pip creates once in ~/.cache/tesserae (120 MB)",
    )
