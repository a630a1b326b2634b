"""The options of `tesserae study fit`."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from types import MappingProxyType
from typing import ClassVar

from workflows.classify.options import NETWORKS
from workflows.options.fields import option
from workflows.options.source_reading import SourceReadingOptions
from workflows.studies.fit import DETECT, RECTANGLES
from workflows.studies.options import RecordedStudyOptions

_IMAGES = "images"
_TRAINING = "training"


@dataclass(frozen=True, kw_only=True)
class FitOptions(RecordedStudyOptions, SourceReadingOptions):
    """The options of `tesserae study fit`."""

    STUDY: ClassVar[str] = "fit"
    QUICK_VALUES = MappingProxyType(
        {"classes": 10, "images_per_class": 20, "epochs": 4, "seeds": 3}
    )

    source: str = option(
        MISSING,
        "folder, archive or URL of images with a training and a held-out split; with --trunk, of"
        " any photographs whose classes the network knows",
        metavar="SOURCE",
    )
    trunk: str | None = option(
        None,
        "pretrained image classifier of `transformers`, a folder or a hub name, that is evaluated"
        " with each fit; nothing is trained",
        implied="train new networks",
        metavar="MODEL",
    )
    class_names: str | None = option(
        None,
        "text file with a class id and its names on each line, by which --trunk knows the classes",
        implied="the names beside the source",
        metavar="FILE",
    )
    train_split: str = option("train", "split to train on", metavar="SPLIT", group=_IMAGES)
    held_out: str | None = option(
        None,
        "split to evaluate on",
        implied="val, else test; with --trunk the only one, if there is neither",
        metavar="SPLIT",
        group=_IMAGES,
    )
    rectangles: str = option(
        DETECT,
        "keep takes images as they are; cut takes a random rectangle out of each, with an aspect"
        " ratio between 1:2 and 2:1; detect cuts if nine in ten images are squares",
        choices=RECTANGLES,
        group=_IMAGES,
    )
    classes: int | None = option(
        None, "largest number of classes, chosen by hash", implied="all", minimum=2, group=_IMAGES
    )
    images_per_class: int | None = option(
        None,
        "largest number of images of a class in each split, chosen by hash",
        implied="all",
        minimum=1,
        group=_IMAGES,
    )
    size: int = option(
        24,
        "side of the squares that new networks see, in pixels; --trunk has its own",
        minimum=16,
        maximum=1_024,
        metavar="PIXELS",
        group=_IMAGES,
    )
    validation: bool = option(
        False,
        "evaluate on a fifth of the training images, which are not trained on, and never read the"
        " held-out split: to choose --epochs or --learning-rate",
        group=_IMAGES,
    )
    network: str = option(
        "resnet9",
        "network with random weights, a name that `train classify` knows",
        choices=NETWORKS,
        metavar="NAME",
        group=_TRAINING,
    )
    width: int | None = option(
        16, "number of channels of its first layers", minimum=8, group=_TRAINING
    )
    epochs: int = option(20, "number of passes over the training images", minimum=1,
                         group=_TRAINING)  # fmt: skip
    batch_size: int = option(64, "number of images in a batch", minimum=2, group=_TRAINING)
    learning_rate: float = option(0.1, "learning rate after the warm-up", above=0, group=_TRAINING)

    def __post_init__(self) -> None:
        """Refuse options that do not go together.

        Raises:
            ValueError: A value is not allowed, or has no effect with another one.
        """
        super().__post_init__()
        if self.trunk is None and self.class_names is not None:
            raise ValueError(
                f"--class-names is {self.class_names}: only --trunk knows classes by their names."
                " Omit it, or pass --trunk."
            )
        if self.trunk is not None and self.validation:
            raise ValueError(
                "--validation chooses settings of training, and --trunk trains nothing. Omit one of"
                " them."
            )
