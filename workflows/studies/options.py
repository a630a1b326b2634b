"""The options of the studies."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import MISSING, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from workflows.adversarial.objectives import OBJECTIVES
from workflows.classify.options import ClassifyOptions
from workflows.options.fields import Options, option
from workflows.options.shared import clip_option, synonyms_option
from workflows.options.source_reading import SourceReadingOptions
from workflows.studies import SETTINGS
from workflows.studies.parity import ARMS, PARTS


@dataclass(frozen=True, kw_only=True)
class StudyOptions(Options):
    """The options of every study."""

    seeds: int = option(
        5, "number of repetitions of each configuration, with seeds 0, 1, ...", minimum=1
    )
    threads: int = option(
        1, "CPU threads of a run; small networks are fastest with one", minimum=1, maximum=1_000
    )


@dataclass(frozen=True, kw_only=True)
class RecordedStudyOptions(StudyOptions):
    """The options of studies that record each finished run in a folder, and write a report there.

    A subclass sets `STUDY`, and `QUICK_VALUES` for the small version, which `--quick` selects.
    """

    STUDY: ClassVar[str]
    """The name of the study, as in `tesserae study NAME`."""

    out: Path | None = option(
        None,
        "folder of the finished runs and the report, from which the same command continues",
        implied="runs/ and the name of the study, with -quick for --quick",
        metavar="DIR",
    )
    quick: bool = option(
        False,
        "run a small version in less than three minutes, which shows that the study works: options"
        " that are not given get the small values that their help shows. It prints tables and no"
        " answers, as its figures support no conclusion",
        implied="the full study",
    )

    @property
    def folder(self) -> Path:
        """The folder of the finished runs and the report."""
        if self.out is not None:
            return self.out
        return Path("runs", f"{self.STUDY}-quick" if self.quick else self.STUDY)

    @property
    def cautions(self) -> list[str]:
        """The sentences with which the report must begin: those about the small version."""
        if not self.quick:
            return []
        return ["This is the small version, --quick: its figures support no conclusion."]

    def answers(self, sentences: Iterable[str]) -> list[str]:
        """Return the sentences with which the report begins: those of the small version caution.

        Args:
            sentences: The answers of the study, which the small version leaves out, as its figures
                support none.
        """
        return self.cautions if self.quick else list(sentences)


@dataclass(frozen=True, kw_only=True)
class ObjectivesOptions(StudyOptions):
    """The options of studies that compare objectives of GANs."""

    objectives: tuple[str, ...] = option(
        tuple(OBJECTIVES),
        f"objectives to train with, of {', '.join(OBJECTIVES)}",
        implied="all",
        choices=tuple(OBJECTIVES),
        metavar="NAME",
    )
    settings: tuple[str, ...] = option(
        SETTINGS,
        "paper trains each objective with its paper's hyperparameters; alike uses one optimiser,"
        " learning rate, number of critic updates and normalisation for all of them",
        implied="both",
        choices=SETTINGS,
    )


@dataclass(frozen=True, kw_only=True)
class GaussiansOptions(ObjectivesOptions):
    """The options of `tesserae study gaussians`."""

    steps: int = option(8_000, "training steps of each run", minimum=1)


@dataclass(frozen=True, kw_only=True)
class DigitsOptions(ObjectivesOptions):
    """The options of `tesserae study digits`."""

    steps: int = option(2_000, "training steps of each run", minimum=1)


@dataclass(frozen=True, kw_only=True)
class DeviseStudyOptions(StudyOptions):
    """The options of `tesserae study devise`."""

    FORMER_NAMES = MappingProxyType(
        {
            "words": "word_vectors",
            "names": "class_names",
            "unseen": "unseen_classes",
            "validation": "validation_classes",
            "clip": "clip_model",
        }
    )

    store: str = option(
        MISSING, "folder or URL of a store with finished splits train and val", metavar="STORE"
    )
    word_vectors: str = option(
        MISSING, "file of word vectors: word2vec, GloVe or fastText", metavar="FILE"
    )
    steps: int = option(160, "training steps of DeViSE and of the baselines", minimum=1)
    features: str | None = option(
        None, "name of the store's features", implied="the only ones", metavar="NAME"
    )
    class_names: str | None = option(
        None,
        "text file with a class id and its names on each line",
        implied="the store's names",
        metavar="FILE",
    )
    synonyms: str = synonyms_option()
    clip_model: str | None = clip_option()
    hierarchy: str | None = option(
        None,
        "file of is-a edges, for hierarchical precision hp@k",
        implied="leave it out",
        metavar="FILE",
    )
    unseen_classes: str = option(
        "40",
        "number of randomly drawn classes that are excluded from training, or a file that lists"
        " their wnids",
        metavar="CLASSES",
    )
    batch_size: int = option(256, "batch size of DeViSE's training", minimum=1)
    validation_classes: int = option(
        30, "number of training classes held out to select hyperparameters", minimum=2
    )


@dataclass(frozen=True, kw_only=True)
class ParityOptions(StudyOptions, SourceReadingOptions):
    """The options of `tesserae study parity`, without those of the recipe."""

    source: str = option(
        MISSING,
        "folder or archive of the images that STORE was prepared from, which the DataLoader's"
        " dataset decodes",
        metavar="SOURCE",
    )
    store: str = option(
        MISSING,
        "folder or URL of the store; with stored squares and encoded rows, both are compared",
        metavar="STORE",
    )
    out: Path = option(
        Path("runs", "parity"),
        "folder of the finished runs, from which the same command goes on",
        metavar="DIR",
    )
    parts: tuple[str, ...] = option(
        PARTS,
        "parts of the study: bits compares weights after an epoch in the same order, accuracy"
        " trains each arm in its own order",
        implied="both",
        choices=PARTS,
        metavar="PART",
    )
    split: str = option("train", "split to train on", metavar="SPLIT")
    held_out: str = option("val", "split to evaluate on", metavar="SPLIT")
    seeds: int = option(
        8,
        "number of runs of each arm, with seeds 0, 1, ...; the runs of a seed start from the same"
        " weights",
        minimum=1,
    )
    arms: tuple[str, ...] = option(
        ARMS,
        f"arms to train, of {', '.join(ARMS)}: the loader in random and in windowed order, and"
        " torch's DataLoader with its own shuffle",
        implied="all",
        choices=ARMS,
        metavar="ARM",
    )
    window_rows: int = option(
        512, "number of images in a window of the arm windowed, in whole chunks", minimum=1
    )
    margin: float = option(
        1.5,
        "difference in accuracy, in percentage points, within which the whole 95 % interval is"
        " expected",
        above=0,
        maximum=100,
        metavar="POINTS",
    )
    dataloader_workers: int = option(
        1,
        "number of worker processes of torch's DataLoader, for each rank; 0 decodes in the process"
        " that trains",
        minimum=0,
        maximum=1_000,
    )


@dataclass(frozen=True, kw_only=True)
class ParityRecipe(ClassifyOptions):
    """The recipe of `tesserae study parity`: the options of `train classify` that decide weights.

    Those that the study sets itself, and those of a run folder and of staging, have no flags.
    """

    OMITTED_FLAGS = frozenset(
        {
            "order", "seed", "steps", "minutes", "threads_per_rank", "start_image_size",
            "growth_epochs", "staging_dir", "staging_bytes", "log_every", "eval_every",
            "save_every", "save_minutes",
        }
    )  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse a recipe whose images grow.

        Raises:
            ValueError: A value is not allowed, or not together with another one.
        """
        # First, as no flag of the study could mend what else it would be refused for.
        if self.start_image_size is not None:
            raise ValueError(
                f"--preset is {self.preset}: its images grow from {self.start_image_size} px, and"
                " the study trains on images of one size. Pass another recipe."
            )
        super().__post_init__()
