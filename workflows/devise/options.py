"""The options of the DeViSE stage, which are the flags of `tesserae train devise`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pipeline.backbone.choices import NEW, POOLINGS
from pipeline.store.features import DTYPES, PRECISIONS
from pipeline.wordvectors.vectors import SYNONYMS
from workflows.training.options import TrainingOptions, option

LOSSES = ("hinge", "cosine", "l2", "infonce")
HEADS = ("linear", "mlp")
LEARNS = ("head", "all")
SCHEDULES = ("cosine", "constant")

SMALL_SIZE = 64
"""The default side, in pixels, of the images that a new trunk takes."""

PICTURES_ONLY = ("staging_dir", "staging_bytes", "checksum", "loader_threads", "prefetch")
"""The options of reading that apply to training from pixels (`--learn all`) only."""

WORDS = "words and classes"
TRUNK = "trunk"


@dataclass(frozen=True, kw_only=True)
class DeviseOptions(TrainingOptions):
    """The flags of `tesserae train devise`: each field is one flag of the same name."""

    steps: int = option(500, "steps to train", least=1)
    batch_size: int = option(256, "rows of a batch, over all ranks", least=1)
    look_every: int = option(
        100, "steps between two evaluations", least=1, group="what is seen of it"
    )

    trunk: str | None = option(
        None, metavar="MODEL",
        what="vision model of transformers: folder or model hub name; new = a small network with"
        " random weights", group=TRUNK,
    )  # fmt: skip
    width: int = option(32, "channels of the first layers of a new trunk", least=8, group=TRUNK)
    cut: str | None = option(
        None,
        metavar="BLOCK",
        what="block of the trunk whose output is used as features (last block)",
        group=TRUNK,
    )
    pooling: str = option(
        "end",
        "how a block's output is pooled to one vector; end = the model's own pooling",
        choices=POOLINGS,
        group=TRUNK,
    )
    feature_size: int | None = option(
        None,
        "stored size of the trunk's input images, in pixels (best match for the trunk)",
        least=1,
        group=TRUNK,
    )
    feature_precision: str = option(
        "float32", "number format in which features are computed", choices=PRECISIONS, group=TRUNK
    )
    feature_dtype: str = option(
        "float32", "number format in which features are stored", choices=DTYPES, group=TRUNK
    )
    learn: str = option(
        "head",
        "head: train the head on features that are stored first; all: train trunk and head from"
        " pixels",
        choices=LEARNS,
        group=TRUNK,
    )
    start: str | None = option(
        None, metavar="RUN", what="run whose weights initialise this one", group=TRUNK
    )
    trunk_rate: float = option(1e-5, "learning rate of the trunk's weights", least=0, group=TRUNK)

    words: str | None = option(
        None,
        metavar="FILE",
        what="file of word vectors: word2vec, GloVe, fastText (derived from --hierarchy)",
        group=WORDS,
    )
    names: str | None = option(
        None, metavar="FILE",
        what="file with a class id and its names on each line (the store's names, or names derived"
        " from the ids)", group=WORDS,
    )  # fmt: skip
    synonyms: str = option(
        "mean",
        "names of a class that form its vector: the mean of all, or the first",
        choices=SYNONYMS,
        group=WORDS,
    )
    centre: bool = option(
        True, "subtract the mean vector of the seen classes from all word vectors", group=WORDS
    )
    hierarchy: str | None = option(
        None,
        metavar="FILE",
        what="is-a edges: a file, or WordNet's folder; source of class vectors without --words",
        group=WORDS,
    )
    seen: str | None = option(
        None,
        metavar="FILE",
        what="file that lists the classes to learn from; all other classes are unseen",
        group=WORDS,
    )
    unseen: str = option(
        "0", "classes to withhold from training: a number, or a file that lists them", group=WORDS
    )
    validation: int = option(
        0,
        "number of seen classes withheld from training to select options by",
        least=0,
        group=WORDS,
    )
    class_seed: int = option(
        0, "seed that draws the unseen and validation classes", least=0, group=WORDS
    )

    loss: str = option("cosine", "loss function", choices=LOSSES)
    margin: float = option(0.1, "margin of --loss hinge", least=0)
    temperature: float = option(0.3, "temperature of --loss infonce; lower is sharper", least=1e-3)
    head: str = option("mlp", "network from features to word space", choices=HEADS)
    hidden: int = option(1024, "units of the hidden layer of --head mlp", least=1)
    dropout: float = option(0.4, "share of each layer's inputs to drop", least=0, most=0.95)
    mirrored: bool = option(True, "train on mirrored images too")
    rate: float = option(2e-3, "learning rate of AdamW", above=0)
    schedule: str = option("cosine", "learning-rate schedule after the warm-up", choices=SCHEDULES)
    warm_share: float = option(
        0.1, "share of the steps in which the learning rate warms up to --rate", least=0, most=1
    )
    weight_decay: float = option(1e-2, "weight decay of AdamW", least=0)

    def __post_init__(self) -> None:
        """Check that the options are compatible with each other.

        Raises:
            ValueError: An option of reading pixels is set although the head learns from features.
        """
        super().__post_init__()
        image_options = {name: getattr(self, name) for name in PICTURES_ONLY}
        if self.learn == "head" and (
            rejected := [n for n, v in image_options.items() if v is not None]
        ):
            flag = f"--{rejected[0].replace('_', '-')}"
            raise ValueError(
                f"{flag} is {image_options[rejected[0]]!r}: with --learn head no pictures are read"
                " while it learns, but features, of small files that stay in memory. Leave it out,"
                " or pass --learn all."
            )
        if self.learn == "head" and self.order != "random":
            raise ValueError(
                f"--order is {self.order!r}: features are read in random order, of small files that"
                " stay in memory. Leave it out, or pass --learn all."
            )

    @property
    def prepared_size(self) -> int | None:
        """The side, in pixels, of the images to prepare for this stage; None for the default."""
        return self.feature_size or (SMALL_SIZE if self.trunk == NEW else None)

    def quicker(self) -> str:
        """Return the options that make a step faster, as text for a message."""
        return "--learn head" if self.learn == "all" else "a smaller --batch-size or --hidden"

    def changeable(self) -> tuple[str, ...]:
        """Return the names of options that may change when a run restarts from an earlier step."""
        return (
            "rate", "trunk_rate", "schedule", "warm_share", "weight_decay", "dropout", "margin",
            "temperature",
        )  # fmt: skip

    def to_lower(self) -> str:
        """Return the options to lower after a loss is no longer finite, as text for a message."""
        trunk = f" or --trunk-rate (now {self.trunk_rate:g})" if self.learn == "all" else ""
        return f"--rate (now {self.rate:g}){trunk}"

    def located(self) -> Self:
        """Return a copy with absolute paths, because ranks run in other working directories."""
        named = {
            name: getattr(self, name) for name in ("words", "names", "hierarchy", "start", "seen")
        }
        named["unseen"] = None if self.unseen.isdecimal() else self.unseen
        folder = self.trunk is not None and Path(self.trunk).is_dir()
        named["trunk"] = self.trunk if folder else None
        full: dict[str, Any] = {
            name: str(Path(value).absolute()) for name, value in named.items() if value
        }
        return replace(super().located(), **full)
