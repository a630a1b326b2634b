"""What DeViSE can be asked for."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pipeline.backbone.choices import NEW, POOLINGS
from pipeline.store.features import DTYPES, PRECISIONS
from pipeline.wordvectors.vectors import SYNONYMS
from workflows.training.options import Training, option

LOSSES = ("hinge", "cosine", "l2", "infonce")
HEADS = ("linear", "mlp")
LEARNS = ("head", "all")
SCHEDULES = ("cosine", "constant")

SMALL_SIZE = 64
"""Side of the pictures, in pixels, that a new trunk takes unless told."""

PICTURES_ONLY = ("staging_dir", "staging_bytes", "checksum", "loader_threads", "prefetch")
"""Options of reading that apply where a trunk learns, from pixels."""

WORDS = "words and classes"
TRUNK = "the trunk, and what of it"


@dataclass(frozen=True, kw_only=True)
class Options(Training):
    """The flags of `tesserae train devise`."""

    steps: int = option(500, "steps to train", least=1)
    batch_size: int = option(256, "rows of a batch, of all ranks together", least=1)
    look_every: int = option(
        100, "steps between two looks at how good it is", least=1, group="what is seen of it"
    )

    trunk: str | None = option(
        None, metavar="MODEL",
        what="vision model of transformers: folder or name; new = a small one that has learned"
        " nothing yet", group=TRUNK,
    )  # fmt: skip
    width: int = option(32, "channels of the first layers of a new trunk", least=8, group=TRUNK)
    cut: str | None = option(
        None, metavar="BLOCK", what="block whose output is taken (the end)", group=TRUNK
    )
    pooling: str = option(
        "end",
        "how a block's output becomes one vector; end = as the model pools",
        choices=POOLINGS,
        group=TRUNK,
    )
    feature_size: int | None = option(
        None, "stored size that it is given, in pixels (what fits it best)", least=1, group=TRUNK
    )
    feature_precision: str = option(
        "float32", "number format in which features are computed", choices=PRECISIONS, group=TRUNK
    )
    feature_dtype: str = option(
        "float32", "number format in which features are stored", choices=DTYPES, group=TRUNK
    )
    learn: str = option(
        "head",
        "head: on features that are stored first; all: through the trunk, from pixels",
        choices=LEARNS,
        group=TRUNK,
    )
    start: str | None = option(
        None, metavar="RUN", what="run whose weights it begins with", group=TRUNK
    )
    trunk_rate: float = option(1e-5, "learning rate of the trunk's weights", least=0, group=TRUNK)

    words: str | None = option(
        None,
        metavar="FILE",
        what="file of word vectors: word2vec, GloVe, fastText (from --hierarchy)",
        group=WORDS,
    )
    names: str | None = option(
        None, metavar="FILE",
        what="file with an id of a class and its names on each line (the store's names, or what"
        " the ids themselves say)", group=WORDS,
    )  # fmt: skip
    synonyms: str = option("mean", "which names of a class count", choices=SYNONYMS, group=WORDS)
    centre: bool = option(
        True, "subtract the mean of the learned classes' vectors from all words", group=WORDS
    )
    hierarchy: str | None = option(
        None,
        metavar="FILE",
        what="is-a edges: file, or WordNet's folder; for vectors without --words",
        group=WORDS,
    )
    seen: str | None = option(
        None,
        metavar="FILE",
        what="file that names the classes to learn from; all others are unseen",
        group=WORDS,
    )
    unseen: str = option(
        "0", "classes that are not learned from: how many, or a file that names them", group=WORDS
    )
    validation: int = option(
        0, "number of learned classes kept back, to choose options by", least=0, group=WORDS
    )
    class_seed: int = option(
        0, "seed that draws the unseen and the validation classes", least=0, group=WORDS
    )

    loss: str = option("cosine", "what is minimised", choices=LOSSES)
    margin: float = option(0.1, "margin of --loss hinge", least=0)
    temperature: float = option(0.3, "temperature of --loss infonce; lower is sharper", least=1e-3)
    head: str = option("mlp", "network from features to word space", choices=HEADS)
    hidden: int = option(1024, "units of the hidden layer of --head mlp", least=1)
    dropout: float = option(0.4, "share of what enters a layer that is dropped", least=0, most=0.95)
    mirrored: bool = option(True, "learn from mirror images too")
    rate: float = option(2e-3, "learning rate, of AdamW", above=0)
    schedule: str = option(
        "cosine", "course of the learning rate after warming up", choices=SCHEDULES
    )
    warm_share: float = option(
        0.1, "share of the steps in which the learning rate rises to --rate", least=0, most=1
    )
    weight_decay: float = option(1e-2, "weight decay of AdamW", least=0)

    def __post_init__(self) -> None:
        """Refuse what makes no sense together."""
        super().__post_init__()
        of_pictures = {name: getattr(self, name) for name in PICTURES_ONLY}
        if self.learn == "head" and (asked := [n for n, v in of_pictures.items() if v is not None]):
            flag = f"--{asked[0].replace('_', '-')}"
            raise ValueError(
                f"{flag} is {of_pictures[asked[0]]!r}: with --learn head no pictures are read while"
                " it learns, but features, of small files that stay in memory. Leave it out, or"
                " pass --learn all."
            )
        if self.learn == "head" and self.order != "random":
            raise ValueError(
                f"--order is {self.order!r}: features are read in random order, of small files that"
                " stay in memory. Leave it out, or pass --learn all."
            )

    @property
    def prepared_size(self) -> int | None:
        """Side of the pictures, in pixels, that are prepared for it; None = as usual."""
        return self.feature_size or (SMALL_SIZE if self.trunk == NEW else None)

    def quicker(self) -> str:
        """Options that make a step quicker."""
        return "--learn head" if self.learn == "all" else "a smaller --batch-size or --hidden"

    def changeable(self) -> tuple[str, ...]:
        """Options that may be others where a run goes back to an earlier step."""
        return (
            "rate", "trunk_rate", "schedule", "warm_share", "weight_decay", "dropout", "margin",
            "temperature",
        )  # fmt: skip

    def to_lower(self) -> str:
        """What a person lowers where a loss is not finite any more."""
        trunk = f" or --trunk-rate (now {self.trunk_rate:g})" if self.learn == "all" else ""
        return f"--rate (now {self.rate:g}){trunk}"

    def located(self) -> Self:
        """The same, with files and folders of this machine named in full: ranks are elsewhere."""
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
