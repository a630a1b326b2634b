"""The options of the studies of GANs on the images of a store."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from workflows.adversarial.objectives import OBJECTIVES
from workflows.options.fields import option
from workflows.studies.gans import TIPS
from workflows.studies.options import RecordedStudyOptions

_IMAGES = "images"
_TRAINING = "networks and training"


@dataclass(frozen=True, kw_only=True)
class StoredImagesOptions(RecordedStudyOptions):
    """The options of studies that train networks with a critic on the images of a store."""

    QUICK_VALUES = MappingProxyType(
        {"seeds": 3, "max_images": 1_000, "width": 8, "batch_size": 32, "steps": 24}
    )

    seeds: int = option(
        3, "number of repetitions of each configuration, with seeds 0, 1, ...", minimum=1
    )
    store: str | None = option(
        None,
        "folder or URL of the store of the images; either --store or --source is required",
        implied="the store of --source",
        metavar="STORE",
        group=_IMAGES,
    )
    source: str | None = option(
        None,
        "folder or archive of images, which the study prepares into a store below --out",
        implied="none",
        metavar="SOURCE",
        group=_IMAGES,
    )
    split: str = option("train", "split to train on", metavar="SPLIT", group=_IMAGES)
    held_out: str | None = option(
        None,
        "split that samples are compared with, which is not trained on",
        implied="the last tenth of the training split's images, at most 2,000, which are then not"
        " trained on",
        metavar="SPLIT",
        group=_IMAGES,
    )
    max_images: int = option(
        50_000, "maximum number of training images, the first ones of the split", minimum=64,
        group=_IMAGES,
    )  # fmt: skip
    image_size: int = option(
        16,
        "side of the images in pixels, to which larger stored ones are reduced",
        choices=(8, 16, 32, 64, 128),
        group=_IMAGES,
    )
    width: int = option(
        24,
        "number of channels of the outermost layers of both networks; 64 in the papers",
        minimum=1,
        group=_TRAINING,
    )
    batch_size: int = option(64, "number of images in a batch", minimum=2, group=_TRAINING)
    steps: int = option(
        2_000, "training steps of each run, with an update of the generator each", minimum=10,
        group=_TRAINING,
    )  # fmt: skip
    device: str = option(
        "cpu", "torch device to train on, e.g. cpu or cuda", metavar="DEVICE", group=_TRAINING
    )

    def __post_init__(self) -> None:
        """Refuse options that name no images, or name them twice.

        Raises:
            ValueError: Neither or both of `store` and `source` are set, the splits are the same, or
                an option has an invalid value.
        """
        super().__post_init__()
        if (self.store is None) == (self.source is None):
            both = "both are set" if self.store is not None else "neither is set"
            raise ValueError(
                f"--store and --source: {both}. Pass --store STORE, or --source SOURCE to prepare"
                " the images for the study alone."
            )
        if self.held_out == self.split:
            raise ValueError(
                f"--held-out is {self.held_out}, the split that is trained on: expected another"
                " one. Without --held-out a part of it is held out."
            )


@dataclass(frozen=True, kw_only=True)
class GanOptions(StoredImagesOptions):
    """The options of studies that generate images from noise."""

    latent_dim: int = option(
        64, "number of random values from which an image is generated", minimum=1, group=_TRAINING
    )
    critic_steps: int = option(
        1, "number of updates of the critic in a step", minimum=1, group=_TRAINING
    )


@dataclass(frozen=True, kw_only=True)
class TwoChangesOptions(GanOptions):
    """The options of `tesserae study two-changes`."""

    STUDY = "two-changes"


@dataclass(frozen=True, kw_only=True)
class HacksOptions(GanOptions):
    """The options of `tesserae study hacks`."""

    STUDY = "hacks"

    tips: tuple[str, ...] = option(
        (),
        f"arms to run besides the base, of {', '.join(TIPS)}",
        implied="all that the images allow",
        choices=TIPS,
        metavar="TIP",
    )


@dataclass(frozen=True, kw_only=True)
class AdversarialOptions(StoredImagesOptions):
    """The options of `tesserae study adversarial`."""

    STUDY = "adversarial"

    width: int = option(
        16, "number of channels of the first layer of both networks", minimum=1, group=_TRAINING
    )
    steps: int = option(
        1_000, "training steps of each run, with an update of the network each", minimum=10,
        group=_TRAINING,
    )  # fmt: skip
    objectives: tuple[str, ...] = option(
        ("dcgan", "wgan", "wgan-gp"),
        f"adversarial objectives to train with, of {', '.join(OBJECTIVES)}",
        choices=tuple(OBJECTIVES),
        metavar="NAME",
        group=_TRAINING,
    )
    weights: tuple[float, ...] = option(
        (0.01, 0.1, 1.0), "weights of the adversarial loss", above=0, group=_TRAINING
    )
