"""The options of the DeViSE stage, which are the flags of `tesserae train devise`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from pipeline.backbone.choices import NEW, POOLINGS
from pipeline.store.derived import PRECISIONS
from pipeline.store.features import DTYPES
from workflows.options.fields import option
from workflows.options.shared import encoded_option, synonyms_option
from workflows.training.options import TrainingOptions

LOSSES = ("hinge", "cosine", "l2", "infonce")
"""The names of loss functions, which `workflows.devise.losses` describes."""
HEADS = ("linear", "mlp")
"""The networks that map features to word vectors: one linear layer, or one hidden layer."""
LEARNS = ("head", "all")
"""The parts that are trained: the head alone, on stored features, or the trunk too."""
SCHEDULES = ("cosine", "constant")
"""The schedules of the learning rate after the warm-up."""

SMALL_SIZE = 64
"""The default side, in pixels, of the images that a new trunk takes."""

IMAGES_ONLY = ("staging_dir", "staging_bytes", "checksum", "loader_threads", "prefetch_bytes")
"""The options of reading that apply to training from pixels (`--learn all`) only."""

_TRUNK = "trunk"
_CLASSES = "word vectors and classes"
_HEAD = "head and loss"


@dataclass(frozen=True, kw_only=True)
class DeviseOptions(TrainingOptions):
    """The flags of `tesserae train devise`: each field is one flag of the same name."""

    steps: int = option(500, "number of training steps", minimum=1, group="training")
    batch_size: int = option(
        256, "number of images in a batch, over all ranks", minimum=1, group="training"
    )
    eval_every: int = option(
        100,
        "number of steps between two evaluations",
        minimum=1,
        group="progress and checkpoints",
    )

    trunk: str | None = option(
        None,
        "vision model of `transformers`, a folder or a hub name (required); new is a small network"
        " with random weights",
        metavar="MODEL",
        group=_TRUNK,
    )
    width: int = option(
        32, "number of channels of the first layers of a new trunk", minimum=8, group=_TRUNK
    )
    cut: str | None = option(
        None,
        "block of the trunk whose output becomes the features",
        implied="the last",
        metavar="BLOCK",
        group=_TRUNK,
    )
    pooling: str = option(
        "end",
        "how that output is pooled into one vector per image; `end` pools as the model does",
        choices=POOLINGS,
        group=_TRUNK,
    )
    feature_size: int | None = option(
        None,
        "side of the stored images that are fed to the trunk, in pixels",
        implied="the stored size that suits the trunk best",
        minimum=1,
        metavar="PIXELS",
        group=_TRUNK,
    )
    encoded: str | None = encoded_option(
        "encoded rows to read in place of stored squares, such as jpeg:256@90 or original; crops of"
        " kept aspect are resized to the side that the trunk takes, and with --learn all random"
        " crops to train on are cut by the loader",
        implied="stored squares; for --learn head on a split without any, the encoded rows that"
        " suit best",
        group=_TRUNK,
    )
    feature_precision: str = option(
        "float32",
        "number format in which features are computed",
        choices=PRECISIONS,
        group=_TRUNK,
    )
    feature_dtype: str = option(
        "float32", "number format of the stored features", choices=DTYPES, group=_TRUNK
    )
    learn: str = option(
        "head",
        "what is trained: head trains the head on features, which are stored first; all trains"
        " trunk and head from pixels",
        choices=LEARNS,
        group=_TRUNK,
    )
    init_from: str | None = option(
        None,
        "folder of a run whose weights initialise this one",
        implied="random weights of the head",
        metavar="RUN",
        group=_TRUNK,
    )
    trunk_learning_rate: float = option(
        1e-5, "learning rate of the trunk, with --learn all", minimum=0, group=_TRUNK
    )

    word_vectors: str | None = option(
        None,
        "file of word vectors: word2vec, GloVe or fastText",
        implied="derive vectors from --hierarchy",
        metavar="FILE",
        group=_CLASSES,
    )
    class_names: str | None = option(
        None,
        "text file with a class id and its names on each line",
        implied="the store's names, or names derived from the ids",
        metavar="FILE",
        group=_CLASSES,
    )
    synonyms: str = synonyms_option(_CLASSES)
    centre: bool = option(
        True,
        "subtract the mean vector of the seen classes from all word vectors",
        group=_CLASSES,
    )
    hierarchy: str | None = option(
        None,
        "is-a hierarchy: a file of `parent child` lines, or WordNet's database folder; class"
        " vectors are derived from it without --word-vectors",
        implied="none",
        metavar="FILE_OR_FOLDER",
        group=_CLASSES,
    )
    seen_classes: str | None = option(
        None,
        "file that lists the classes to train on; all other classes are unseen",
        implied="all classes but those of --unseen-classes",
        metavar="FILE",
        group=_CLASSES,
    )
    unseen_classes: str = option(
        "0",
        "classes that are excluded from training: a number of classes to draw at random, or a file"
        " that lists them",
        metavar="CLASSES",
        group=_CLASSES,
    )
    validation_classes: int = option(
        0,
        "number of seen classes that are excluded from training to select hyperparameters",
        minimum=0,
        group=_CLASSES,
    )
    class_split_seed: int = option(
        0, "seed that draws the unseen and the validation classes", minimum=0, group=_CLASSES
    )

    loss: str = option("cosine", "loss function", choices=LOSSES, group=_HEAD)
    margin: float = option(0.1, "margin of --loss hinge", minimum=0, group=_HEAD)
    temperature: float = option(
        0.3, "temperature of --loss infonce; lower is sharper", minimum=1e-3, group=_HEAD
    )
    head: str = option(
        "mlp", "network that maps features to word vectors", choices=HEADS, group=_HEAD
    )
    hidden_units: int = option(
        1024, "number of units in the hidden layer of --head mlp", minimum=1, group=_HEAD
    )
    dropout: float = option(
        0.4,
        "dropout probability of each layer's inputs",
        minimum=0,
        maximum=0.95,
        group=_HEAD,
    )
    mirrored: bool = option(True, "train on horizontally mirrored images too", group=_HEAD)
    learning_rate: float = option(2e-3, "learning rate of AdamW", above=0, group=_HEAD)
    schedule: str = option(
        "cosine", "learning-rate schedule after the warm-up", choices=SCHEDULES, group=_HEAD
    )
    warmup_fraction: float = option(
        0.1,
        "fraction of the steps in which the learning rate rises linearly to --learning-rate",
        minimum=0,
        maximum=1,
        metavar="FRACTION",
        group=_HEAD,
    )
    weight_decay: float = option(1e-2, "weight decay of AdamW", minimum=0, group=_HEAD)

    def __post_init__(self) -> None:
        """Check that the options are compatible with each other.

        Raises:
            ValueError: An option of reading pixels is set although the head learns from features,
                `--encoded` is no encoding, or a stored size is chosen beside it.
        """
        super().__post_init__()
        if self.encoded is not None and self.feature_size is not None and self.trunk != NEW:
            raise ValueError(
                f"--feature-size is {self.feature_size}: it selects stored squares, and --encoded"
                f" {self.encoded} reads encoded rows, which are resized to the side that the trunk"
                " takes. Omit one of them."
            )
        image_options = {name: getattr(self, name) for name in IMAGES_ONLY}
        if self.learn == "head" and (
            rejected := [n for n, v in image_options.items() if v is not None]
        ):
            flag = f"--{rejected[0].replace('_', '-')}"
            raise ValueError(
                f"{flag} is {image_options[rejected[0]]!r}: it has no effect with --learn head,"
                " which trains on features in memory and reads no images. Omit it, or pass --learn"
                " all."
            )
        if self.learn == "head" and self.order != "random":
            raise ValueError(
                f"--order is {self.order!r}: it has no effect with --learn head, which reads"
                " features in random order. Omit it, or pass --learn all."
            )

    def prepared_sizes(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Return the side of the squares that --data prepares, in pixels; empty for the default.

        Args:
            stored: Sides of the squares that the store has already, in pixels.
        """
        size = self.feature_size or (SMALL_SIZE if self.trunk == NEW else None)
        return () if size is None else (size,)

    def speedup_options(self) -> str:
        """Return the options that make a step faster, as a phrase for the terminal."""
        return "--learn head" if self.learn == "all" else "a smaller --batch-size or --hidden-units"

    def changeable_on_rewind(self) -> tuple[str, ...]:
        """Return the names of options that may change when a run restarts from an earlier step."""
        return (
            "learning_rate", "trunk_learning_rate", "schedule", "warmup_fraction", "weight_decay",
            "dropout", "margin", "temperature",
        )  # fmt: skip

    def options_to_lower(self) -> str:
        """Return what to lower after training has diverged, as a phrase for an error message."""
        text = f"--learning-rate (now {self.learning_rate:g})"
        if self.learn == "head":
            return text
        return f"{text} or --trunk-learning-rate (now {self.trunk_learning_rate:g})"

    def with_absolute_paths(self) -> Self:
        """Return a copy with absolute paths, because ranks run in other working directories."""
        paths = {
            name: getattr(self, name)
            for name in ("word_vectors", "class_names", "hierarchy", "init_from", "seen_classes")
        }
        paths["unseen_classes"] = None if self.unseen_classes.isdecimal() else self.unseen_classes
        is_folder = self.trunk is not None and Path(self.trunk).is_dir()
        paths["trunk"] = self.trunk if is_folder else None
        absolute: dict[str, Any] = {
            name: str(Path(path).absolute()) for name, path in paths.items() if path
        }
        return replace(super().with_absolute_paths(), **absolute)
