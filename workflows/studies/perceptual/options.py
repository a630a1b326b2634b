"""The options of the study of losses for super-resolution."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from workflows.options.fields import option
from workflows.studies.options import RecordedStudyOptions
from workflows.superres.choices import DEGRADATIONS, NETWORKS, SCALES

_IMAGES = "images"
_JUDGES = "vision networks"
_TRAINING = "network and training"
_LOSSES = "losses"


@dataclass(frozen=True, kw_only=True)
class PerceptualOptions(RecordedStudyOptions):
    """The options of `tesserae study perceptual`."""

    STUDY: ClassVar[str] = "perceptual"
    QUICK_VALUES = MappingProxyType(
        {
            "seeds": 2, "max_images": 200, "evaluated_images": 4, "network": "fsrcnn",
            "patch_size": 24, "batch_size": 4, "minutes": 0.04,
        }
    )  # fmt: skip

    seeds: int = option(3, "number of runs of each loss, with seeds 0, 1, ...", minimum=1)
    store: str = option(
        MISSING, "folder or URL of the store of the images", metavar="STORE", group=_IMAGES
    )
    split: str = option("train", "split to train on", metavar="SPLIT", group=_IMAGES)
    held_out: str | None = option(
        None,
        "split whose images are enlarged and judged, which is not trained on",
        implied="val, else test, else the last tenth of the training split's images, which are"
        " then not trained on",
        metavar="SPLIT",
        group=_IMAGES,
    )
    max_images: int = option(
        2_000,
        "maximum number of training images, the first ones of the split, which are held in memory",
        minimum=16,
        group=_IMAGES,
    )
    evaluated_images: int = option(
        64, "maximum number of held-out images that are judged", minimum=1, group=_IMAGES
    )
    scale: int | None = option(
        None,
        "factor of the enlargement",
        implied="the ratio of the stored sizes, else 4",
        choices=SCALES,
        group=_IMAGES,
    )
    degradation: str | None = option(
        None,
        "origin of the low-resolution images, as for `tesserae train superres`",
        implied="stored if the store has two sizes with the ratio of --scale, else bicubic",
        choices=DEGRADATIONS,
        group=_IMAGES,
    )
    images: Path | None = option(
        None,
        "folder of further images that are judged, such as Set5; low-resolution ones beside them"
        " are used, and otherwise the images are reduced",
        implied="none",
        metavar="DIR",
        group=_IMAGES,
    )

    judges: tuple[str, ...] = option(
        MISSING,
        "two vision models of `transformers`, folders or hub names: each is once in the perceptual"
        " loss, and judges the images of the loss with the other one",
        metavar="MODEL",
        group=_JUDGES,
    )
    first_blocks: tuple[str, ...] = option(
        (),
        "blocks of the first model whose outputs are compared, as its `named_modules` has them",
        implied="the last block of each resolution",
        metavar="BLOCK",
        group=_JUDGES,
    )
    second_blocks: tuple[str, ...] = option(
        (),
        "blocks of the second model",
        implied="the last block of each resolution",
        metavar="BLOCK",
        group=_JUDGES,
    )

    network: str = option(
        "span",
        "network that enlarges, as for `tesserae train superres`",
        choices=tuple(NETWORKS),
        group=_TRAINING,
    )
    patch_size: int = option(
        32,
        "side of the low-resolution patches to train on, in pixels",
        minimum=4,
        maximum=1024,
        metavar="PIXELS",
        group=_TRAINING,
    )
    batch_size: int = option(16, "number of patches in a batch", minimum=2, group=_TRAINING)
    learning_rate: float = option(
        5e-4, "learning rate of Adam at the first step, which falls to 0", above=0, group=_TRAINING
    )
    minutes: float = option(
        10.0,
        "CPU time of the training of each run, in minutes: a loss whose step costs more gets fewer"
        " steps. On a GPU it is the time on the clock",
        above=0,
        group=_TRAINING,
    )
    steps: int | None = option(
        None,
        "training steps of each run, the same for every loss",
        implied="as many for each loss as fit into --minutes",
        minimum=2,
        group=_TRAINING,
    )
    device: str = option(
        "cpu", "torch device to train on, e.g. cpu or cuda", metavar="DEVICE", group=_TRAINING
    )

    pixel_weight: float = option(
        0.01, "weight of the pixel loss beside a perceptual one", minimum=0, group=_LOSSES
    )
    perceptual_weight: float = option(1.0, "weight of the perceptual loss", above=0, group=_LOSSES)
    adversarial_weight: float = option(
        0.005, "weight of the adversarial loss", above=0, group=_LOSSES
    )

    def __post_init__(self) -> None:
        """Refuse a number of judges other than two, and a split that is both trained on and judged.

        Raises:
            ValueError: A value is not allowed, or not together with another one.
        """
        super().__post_init__()
        if len(self.judges) != 2:
            raise ValueError(
                f"--judges has {len(self.judges)} values: expected two vision models, of which one"
                " is in the loss while the other one judges."
            )
        if self.judges[0] == self.judges[1]:
            raise ValueError(
                f"--judges is {self.judges[0]!r} twice: a network that is in the loss cannot judge"
                " what it was trained for. Pass two different ones."
            )
        if self.held_out == self.split:
            raise ValueError(
                f"--held-out is {self.held_out}, the split that is trained on: expected another"
                " one. Without --held-out a part of it is held out."
            )
