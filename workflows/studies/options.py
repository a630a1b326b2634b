"""The options of the studies."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from types import MappingProxyType

from workflows.adversarial.objectives import OBJECTIVES
from workflows.options.fields import Options, option
from workflows.options.shared import clip_option, synonyms_option
from workflows.studies import SETTINGS


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
