"""The options that every training stage has in addition to its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

from pipeline.store.encoding import parse_encoding
from workflows.options.fields import Options, flag_of, option
from workflows.options.shared import check_encoded_option, encoded_option

_TRAINING = "training"
READING = "reading of images"
"""The heading of the options of the loader in the help text."""
_PROGRESS = "progress and checkpoints"

FORMER_NAMES = MappingProxyType(
    {
        "adversarial": "adversarial_weight", "class_seed": "class_split_seed",
        "clip": "weight_clip", "decay": "learning_rate_decay", "ema": "ema_decay",
        "hidden": "hidden_units", "look_every": "eval_every", "micro_batch": "micro_batch_size",
        "names": "class_names", "noise": "latent_dim", "penalty": "gradient_penalty",
        "prefetch": "prefetch_bytes", "rank_threads": "threads_per_rank", "rate": "learning_rate",
        "seen": "seen_classes", "shrink": "resize", "start": "init_from",
        "tell_every": "log_every", "trunk_rate": "trunk_learning_rate",
        "unseen": "unseen_classes", "validation": "validation_classes",
        "warm_critic_steps": "warmup_critic_steps", "warm_share": "warmup_fraction",
        "words": "word_vectors",
    }
)  # fmt: skip
"""The present names of options of all stages that had other ones, as older run folders have."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions(Options):
    """The options of every training stage."""

    FORMER_NAMES = FORMER_NAMES

    steps: int = option(10_000, "number of training steps", minimum=1, group=_TRAINING)
    batch_size: int = option(
        64, "number of images in a batch, over all ranks", minimum=1, group=_TRAINING
    )
    micro_batch_size: int | None = option(
        None,
        "largest number of images that a rank computes at once, to bound its memory; gradients are"
        " accumulated over the batch and stay the same, but batch norm sees only these images",
        implied="all images of the rank's part",
        minimum=2,
        group=_TRAINING,
    )
    seed: int = option(
        0,
        "seed of every random choice: initial weights, noise, order of the images, augmentation",
        minimum=0,
        maximum=2**63 - 1,
        group=_TRAINING,
    )
    minutes: float | None = option(
        None,
        "time limit in minutes, after which the run saves and stops, as after Ctrl-C",
        implied="no limit",
        above=0,
        metavar="MINUTES",
        group=_TRAINING,
    )
    threads_per_rank: int | None = option(
        None,
        "CPU threads per rank; changing it changes floating-point summation order",
        implied="the cores of the machine, shared by its ranks",
        minimum=1,
        group=_TRAINING,
    )

    order: str = option(
        "random",
        "order of the images: random shuffles the whole split; windowed shuffles within windows of"
        " 1 GiB, for disks with slow random reads",
        choices=("random", "windowed"),
        group=READING,
    )
    encoded: str | None = encoded_option(
        "encoded rows that images are decoded from, at the side that the stage needs, such as"
        " jpeg:256@90; with --data they are prepared",
        implied="stored squares, or encoded rows if no squares are large enough",
        group=READING,
    )
    staging_dir: str | None = option(
        None,
        "folder on a local disk of each machine to which shards are copied once, for all its ranks"
        " and for later runs",
        implied="read the store in place",
        metavar="DIR",
        group=READING,
    )
    staging_bytes: int | None = option(
        None,
        "largest size of --staging-dir, in bytes",
        implied="nine tenths of the free space",
        minimum=1,
        metavar="BYTES",
        group=READING,
    )
    checksum: str | None = option(
        None,
        "when to verify the checksums of an uncompressed store on a disk: once verifies a chunk"
        " before its first use; auto verifies once if the pixels fit into memory",
        implied="auto",
        choices=("auto", "once", "never"),
        group=READING,
    )
    loader_threads: int | None = option(
        None,
        "number of threads per rank that gather batches",
        implied="one per core, at most 4; for encoded rows the cores, shared by the ranks",
        minimum=1,
        group=READING,
    )
    prefetch_bytes: int | None = option(
        None,
        "largest size, in bytes, of the batches that a rank gathers ahead",
        implied="512 MiB",
        minimum=1,
        metavar="BYTES",
        group=READING,
    )

    log_every: int = option(
        10, "number of steps between two log lines with losses", minimum=1, group=_PROGRESS
    )
    eval_every: int = option(
        500,
        "number of steps between two evaluations, which also save samples if the stage generates"
        " images",
        minimum=1,
        group=_PROGRESS,
    )
    save_every: int = option(
        2_000, "largest number of steps between two checkpoints", minimum=1, group=_PROGRESS
    )
    save_minutes: float = option(
        5.0,
        "longest time between two checkpoints, in minutes; 0 saves one after every update",
        minimum=0,
        metavar="MINUTES",
        group=_PROGRESS,
    )

    def __post_init__(self) -> None:
        """Reject invalid options before anything is read.

        Raises:
            ValueError: An option has an invalid value; the message names its flag.
        """
        super().__post_init__()
        check_encoded_option(self.encoded)

    def prepared_sizes(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Return the sides of the squares that --data prepares, in pixels.

        Stages that read other squares than those of the side they train on override it.

        Args:
            stored: Sides of the squares that the store has already, in pixels.

        Returns:
            The sides; empty, as here, for a single one, that of the images to train on.
        """
        return ()

    def with_absolute_paths(self) -> Self:
        """Return a copy with absolute paths, because ranks run in other working directories."""
        if self.staging_dir is None:
            return self
        staging_dir = str(Path(self.staging_dir).expanduser().absolute())
        return dataclasses.replace(self, staging_dir=staging_dir)

    def loader_arguments(self, *, training: bool = True) -> dict[str, Any]:
        """Return keyword arguments of `pipeline.loader.Loader` that follow from the options.

        Args:
            training: True for the training split (the default). Other splits are read in the order
                of their rows and are not staged.

        Returns:
            A dictionary with `order`, a string: that of the options, or `sequential` for other
            splits; `reading`, a `pipeline.loader.Reading` with the threads, the bytes gathered
            ahead and the checksum mode, each the loader's default where its option is None; and
            `staging`, a `pipeline.loader.Staging`, or None if shards are read in place.
        """
        from pipeline.loader import Reading, Staging  # imported late: --help must not load torch

        reading: dict[str, Any] = {
            "threads": self.loader_threads,
            "prefetch_bytes": self.prefetch_bytes,
            "checksum": self.checksum,
        }
        staging = None
        if training and self.staging_dir is not None:
            staging = Staging(self.staging_dir, self.staging_bytes)
        return {
            "order": self.order if training else "sequential",
            "reading": Reading(**{k: v for k, v in reading.items() if v is not None}),
            "staging": staging,
        }

    def with_recorded_choices(self, recorded: Mapping[str, Any]) -> Self:
        """Return a copy in which options that a run has chosen by itself have the run's values.

        An option that is named is kept. Here it is the encoding of the rows; stages with further
        choices override it.

        Args:
            recorded: The options of the run by name; empty for a new run.
        """
        encoded = recorded.get("encoded") if self.encoded is None else self.encoded
        return (
            self
            if encoded is None
            else dataclasses.replace(self, encoded=parse_encoding(encoded).text)
        )

    def for_store(self, sizes: tuple[int, ...], short_sides: tuple[int, ...], *, gpu: bool) -> Self:
        """Return a copy with choices that suit the store and the machine, if they are not named.

        Stages that have such options override it.

        Args:
            sizes: Sides of the stored squares of the training split, in pixels.
            short_sides: Short sides of the pictures in its encoded rows, in pixels.
            gpu: True if ranks have GPUs.
        """
        return self

    def for_rows(self, rows: int) -> Self:
        """Return a copy with values that follow from the number of training images.

        Stages that have such options override it.

        Args:
            rows: Number of images of an epoch.
        """
        return self

    def for_classes(self, classes: tuple[str, ...]) -> Self:
        """Return a copy with values that follow from the classes of the store.

        Stages that have such options override it.

        Args:
            classes: The names of the classes by label.
        """
        return self

    @property
    def evaluated_at_start(self) -> bool:
        """True if the network is evaluated before the first step too."""
        return False

    def check_network(self, classes: tuple[str, ...] | None) -> None:
        """Refuse options with which the stage cannot be created, before any rank is started.

        Stages whose networks are named by options override it.

        Args:
            classes: The names of the classes by label; None while they are not known.

        Raises:
            TesseraeError: The network cannot be created.
        """

    @property
    def labelled_rows_only(self) -> bool:
        """True if rows without a label are left out."""
        return False

    @property
    def held_out_prepared_first(self) -> bool:
        """True if training with --data begins only after a held-out split is prepared too."""
        return self.labelled_rows_only

    @property
    def rows_together(self) -> int:
        """The number of successive rows of a batch that must be in the same rank."""
        return 1

    @property
    def evaluated_size(self) -> int | None:
        """The side, in pixels, of evaluated images; None if it is that of training images."""
        return None

    def resized_side(self, stored: int) -> int | None:
        """Return the side to which the device resizes images, in pixels; None = it does not.

        Stages of images override it. The options that all stages share never resize: None is
        returned.

        Args:
            stored: Side of the stored images, in pixels.
        """
        return None

    def check_labels(self, classes: int, unlabelled: int) -> None:
        """Refuse a split whose labels do not suffice for these options.

        Stages that need labels override it. The options that all stages share accept any split.

        Args:
            classes: Number of classes of the split's store.
            unlabelled: Number of rows of the split without a label.

        Raises:
            ValueError: The options require labels that the split lacks.
        """

    def with_former_defaults(self, recorded: Mapping[str, Any]) -> Self:
        """Return a copy with the defaults of the version that started a run.

        Earlier versions lack some options and behaved in one of the ways that they now offer. An
        option that the run does not record, and whose value here equals its present default, gets
        the value that stands for the behaviour of the earlier versions.

        Args:
            recorded: The options of a run by their present names, which an earlier version may have
                started, as in the section `options` of its `options.json`. Only the names count.
        """
        former = {
            field.name: flag_of(field).legacy_value
            for field in dataclasses.fields(self)
            if field.name not in recorded and getattr(self, field.name) == field.default
        }
        return dataclasses.replace(self, **former)

    def resolved(self) -> Self:
        """Return a copy in which the values that follow from other options replace None."""
        return self

    @classmethod
    def complete(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the options of a run, with the values of those that it lacks.

        A run may lack an option because an earlier version started it: such an option gets its
        `legacy_value`, what that version did, which may differ from the default. Or the option is
        None and follows from others. Naming the same value later then changes nothing.

        Args:
            values: Options by name, which are only read; names that are no options, such as
                `stage`, are kept.

        Returns:
            A new dictionary of JSON values by name: of every option of this class, None replaced
            where a value follows from the others, and of the other names in *values*. An invalid
            value, as of a damaged run folder, is kept, and then no None is replaced.
        """
        completed = {**cls.legacy_values(), **values}
        try:
            return {**completed, **cls.from_dict(completed).resolved().as_dict()}
        except ValueError:  # a damaged or foreign run folder
            return completed

    @property
    def updates_per_step(self) -> int:
        """The number of updates in a step, outside of a warm-up."""
        return 1

    def updates_after(self, step: int) -> int:
        """Return the total number of updates in the first *step* steps of a run.

        An update is one call of `Stage.advance`, and some updates complete a step. Here each step
        has one update; stages with several updates in a step override it.

        Args:
            step: Number of complete steps, at least 0.
        """
        return step

    def warmup_text(self, step: int) -> str:
        """Return a short description of the warm-up that the next step belongs to.

        Args:
            step: Number of complete steps, at least 0.

        Returns:
            A phrase for the terminal; empty outside of a warm-up, and always here, as only some
            stages have one and override it.
        """
        return ""

    def speedup_options(self) -> str:
        """Return the options that make a step faster, as a phrase for the terminal."""
        return "a smaller --batch-size"

    def changeable_on_rewind(self) -> tuple[str, ...]:
        """Return the names of options that may change when a run restarts from an earlier step."""
        return ()

    def options_to_lower(self) -> str:
        """Return what to lower after training has diverged, as a phrase for an error message."""
        return "the learning rate"


MIN_RESIZE_RATIO = 1.25
"""The ratio of stored to trained side from which images are resized instead of cropped."""
RESIZE_TO_CROP_RATIO = 9 / 8
"""The ratio of a resized image's side to that of its random crop, such as 72 px to 64."""


def resized_side(stored: int, size: int, *, crop: str) -> int | None:
    """Return the side to which images are resized before the crop, in pixels; None = they are not.

    Images are resized if they are at least a quarter larger than the crop.

    Args:
        stored: Side of the stored images, in pixels.
        size: Side of the crop, in pixels.
        crop: `none` = a crop of the centre; `random` = a crop at a random position.

    Returns:
        None if *stored* is below 1.25 times *size*; otherwise *size* for the crop `none`, and 9/8
        of *size* for `random`, rounded and at most *stored*.
    """
    if stored < MIN_RESIZE_RATIO * size:
        return None
    return size if crop == "none" else min(stored, round(RESIZE_TO_CROP_RATIO * size))


CHANGEABLE_ON_RESUME = (
    "steps", "minutes", "micro_batch_size", "log_every", "eval_every", "save_every",
    "save_minutes",
    "staging_dir", "staging_bytes", "checksum", "loader_threads", "prefetch_bytes",
)  # fmt: skip
"""The names of options that may change when a run is continued: they do not affect its result."""
