"""The options by which a stage evaluates a run for its report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from workflows.options.fields import Options, option
from workflows.options.shared import clip_option

_SUPERRES = "super-resolution"


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions(Options):
    """The options of `tesserae report`, without the folder of the run."""

    FORMER_NAMES = MappingProxyType({"clip": "clip_model"})

    backbone: str | None = option(
        None,
        "vision model of `transformers`, a folder or a hub name, whose features are used for FID,"
        " KID, precision, recall and coverage",
        implied="leave these out",
        metavar="MODEL",
    )
    clip_model: str | None = clip_option()
    split: str | None = option(
        None,
        "split that a classifier or a network of super-resolution is evaluated on",
        implied="the held-out split of the run",
        metavar="SPLIT",
    )
    evaluation_store: str | None = option(
        None,
        "folder or URL of another store that a classifier or a network of super-resolution is"
        " evaluated on; classes are matched by their ids",
        implied="the store of the run",
        metavar="STORE",
    )
    samples: int = option(
        1_000,
        "maximum number of images to evaluate: generated ones of a GAN, enlarged ones of"
        " super-resolution, or of DeViSE those whose nearest images are counted",
        minimum=8,
        maximum=1_000_000,
    )
    images: Path | None = option(
        None,
        "folder of images that a network of super-resolution is evaluated on: originals, which are"
        " reduced bicubically, or pairs of originals and low-resolution images",
        implied="the split",
        metavar="DIR",
        group=_SUPERRES,
    )
    low_images: Path | None = option(
        None,
        "folder of the low-resolution images of --images, named as their originals, with or without"
        " x4 at the end",
        implied="detected",
        metavar="DIR",
        group=_SUPERRES,
    )
    judge: str | None = option(
        None,
        "vision model of `transformers`, a folder or a hub name, in whose features the perceptual"
        " distance is measured; not that of the run's loss",
        implied="no such distance",
        metavar="MODEL",
        group=_SUPERRES,
    )
    judge_blocks: tuple[str, ...] = option(
        (),
        "blocks of --judge whose features are compared, as its `named_modules` has them",
        metavar="BLOCK",
        group=_SUPERRES,
    )
    self_ensemble: bool = option(
        False,
        "average the enlargements of all eight orientations of an image, which takes eight times as"
        " long",
        group=_SUPERRES,
    )
    precision: str = option(
        "float32",
        "number format in which images are enlarged; auto is bfloat16 if the hardware multiplies"
        " matrices of it, else float32",
        choices=("auto", "float32", "bfloat16"),
        group=_SUPERRES,
    )
    device: str | None = option(
        None,
        "torch device to evaluate on, e.g. cpu, cuda or cuda:1",
        implied="a GPU if there is one",
        metavar="DEVICE",
    )
    store: str | None = option(
        None,
        "folder or URL of the run's store, if it has moved",
        implied="the location recorded in the run",
        metavar="STORE",
    )

    def __post_init__(self) -> None:
        """Refuse options that have no effect with one another.

        Raises:
            ValueError: A value is not allowed, or has no effect with or without another one.
        """
        super().__post_init__()
        if self.images is None and self.low_images is not None:
            raise ValueError(
                f"--low-images is {self.low_images}: pass the folder of their originals as well,"
                " with --images."
            )
        if self.judge is None and self.judge_blocks:
            raise ValueError(
                f"--judge-blocks is {' '.join(self.judge_blocks)}: pass the network that has them"
                " as well, with --judge."
            )
        for name in ("split", "evaluation_store"):
            value = getattr(self, name)
            if self.images is not None and value is not None:
                raise ValueError(
                    f"--images is {self.images} and --{name.replace('_', '-')} is {value}: a run is"
                    " evaluated on either of them. Omit one."
                )
