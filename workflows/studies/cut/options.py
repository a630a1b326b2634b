"""The options of the study of cuts."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from types import MappingProxyType
from typing import ClassVar

from workflows.options.fields import option
from workflows.options.shared import synonyms_option
from workflows.studies.options import RecordedStudyOptions


@dataclass(frozen=True, kw_only=True)
class CutOptions(RecordedStudyOptions):
    """The options of `tesserae study cut`."""

    STUDY: ClassVar[str] = "cut"
    QUICK_VALUES = MappingProxyType({"rows": 400, "test_rows": 200})

    store: str = option(
        MISSING,
        "folder or URL of a store with finished splits train and val, or test if it has no val, on"
        " whose unseen classes DeViSE is tested",
        metavar="STORE",
    )
    trunk: tuple[str, ...] = option(
        MISSING,
        "pretrained vision model of `transformers`, a folder or a hub name, whose blocks are"
        " compared; repeat it for several networks",
        metavar="MODEL",
        repeatable=True,
    )
    word_vectors: str = option(
        MISSING, "file of word vectors: word2vec, GloVe or fastText", metavar="FILE"
    )
    probe_store: str | None = option(
        None,
        "folder or URL of the store on which the linear probe is trained and tested",
        implied="--store",
        metavar="STORE",
    )
    seeds: int = option(
        3,
        "number of repetitions, with seeds 0, 1, ...: each draws the unseen and validation classes,"
        " the validation images, and one of as many parts of the held-out images for the probe's"
        " test",
        minimum=1,
    )
    rows: int = option(
        2_000,
        "number of images of the split train, the same from each class, with which heads are"
        " trained and their penalty is chosen. Time and memory grow with its square",
        minimum=8,
        maximum=20_000,
    )
    test_rows: int = option(
        2_000,
        "number of images of the split val, or test, to test on, the same from each class",
        minimum=4,
        maximum=20_000,
    )
    unseen_classes: int = option(
        40, "number of classes that a seed excludes from training and tests DeViSE on", minimum=2
    )
    validation_classes: int = option(
        30, "number of further classes that choose the penalty of DeViSE's head", minimum=2
    )
    class_names: str | None = option(
        None,
        "text file with a class id and its names on each line",
        implied="the store's names",
        metavar="FILE",
    )
    synonyms: str = synonyms_option()

    def __post_init__(self) -> None:
        """Refuse a command line without networks or with the same one twice.

        Raises:
            ValueError: A value is not allowed, or a network is named twice.
        """
        super().__post_init__()
        if not self.trunk:
            raise ValueError("--trunk is required: expected a folder or a hub name.")
        repeated = sorted({name for name in self.trunk if self.trunk.count(name) > 1})
        if repeated:
            raise ValueError(f"--trunk is {repeated[0]!r} twice: pass each network once.")
