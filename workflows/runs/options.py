"""The options of the commands that work on the folder of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from workflows.options.fields import Options, argument, option


@dataclass(frozen=True, kw_only=True)
class ReportOptions(Options):
    """The options of `tesserae report`."""

    FORMER_NAMES = MappingProxyType({"clip": "clip_model"})

    run: Path = argument("folder of a training run", metavar="RUN")
    backbone: str | None = option(
        None,
        "vision model of `transformers`, a folder or a hub name, whose features are used for FID,"
        " KID, precision, recall and coverage",
        implied="leave these out",
        metavar="MODEL",
    )
    clip_model: str | None = option(
        None,
        "CLIP model, a folder or a hub name, to compare a DeViSE run with",
        implied="none",
        metavar="MODEL",
    )
    samples: int = option(
        1_000, "number of generated images to evaluate", minimum=8, maximum=1_000_000
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


@dataclass(frozen=True, kw_only=True)
class ExportOptions(Options):
    """The options of `tesserae export`."""

    run: Path = argument("folder of a DeViSE run", metavar="RUN")
    out: Path | None = option(
        None,
        "new folder that the model is written to",
        implied="RUN/trunk",
        metavar="DIR",
        aliases=("-o",),
    )


@dataclass(frozen=True, kw_only=True)
class SampleImagesOptions(Options):
    """The options of `tesserae sample-images`."""

    run: Path = argument("folder of a training run", metavar="RUN")
    n: int = option(64, "number of images", minimum=1, maximum=10_000, aliases=("-n",))
    out: Path = option(Path("samples.png"), "PNG file to write", metavar="FILE", aliases=("-o",))
    seed: int = option(0, "seed of the generator's noise", minimum=0)
    label: str | None = option(
        None,
        "class of all images, as a label, a wnid or words",
        implied="all classes in turn",
        metavar="CLASS",
    )
    interpolate: bool = option(
        False, "make each row of the grid interpolate between two random images"
    )
