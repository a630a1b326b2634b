"""The options of `tesserae sample` and of `tesserae demo`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workflows.options.fields import Options, argument, option
from workflows.options.source_reading import SourceReadingOptions
from workflows.sample_data.photographs import CLASSES

NUM_IMAGES = 400
"""The default number of images of the sample, train and val together."""


@dataclass(frozen=True, kw_only=True)
class SampleOptions(Options):
    """The options of `tesserae sample`."""

    directory: Path = argument("new or empty output folder", metavar="DIR")
    images: int = option(NUM_IMAGES, "number of images, train and val together", minimum=1)
    seed: int = option(0, "seed of the random crops, sizes and colours", minimum=0)
    classes: int = option(
        len(CLASSES),
        "number of classes, the first K of: "
        f"{', '.join(entry.words.split(',')[0] for entry in CLASSES)}",
        implied="all",
        minimum=2,
        maximum=len(CLASSES),
        metavar="K",
    )


@dataclass(frozen=True, kw_only=True)
class DemoOptions(SourceReadingOptions):
    """The options of `tesserae demo`."""

    data: str = option(
        "",
        "folder or archive of images, or `imagenette`",
        implied="the embedded sample",
        metavar="SOURCE",
    )
    dir: Path = option(
        Path("demo"), "working folder for the sample, the store and the runs", metavar="DIR"
    )
    images: int = option(
        NUM_IMAGES,
        "number of images in the embedded sample; without effect with --data",
        minimum=1,
    )
    workers: int | None = option(
        None,
        "number of worker processes that prepare the store",
        implied="one per core",
        minimum=1,
        maximum=10_000,
    )
    minutes: float = option(
        1.0,
        "minutes of training, shared by a GAN and DeViSE; a network that enlarges images is trained"
        " for 200 steps for each of them; 0 skips training",
        minimum=0,
        metavar="MINUTES",
    )
