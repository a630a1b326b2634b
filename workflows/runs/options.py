"""The options of the commands that work on the folder of a training run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workflows.evaluation.options import EvaluationOptions
from workflows.options.fields import Options, argument, option


@dataclass(frozen=True, kw_only=True)
class ReportOptions(EvaluationOptions):
    """The options of `tesserae report`."""

    run: Path = argument("folder of a training run", metavar="RUN")


@dataclass(frozen=True, kw_only=True)
class ClassifyImagesOptions(Options):
    """The options of `tesserae classify`."""

    run: Path = argument("folder of a run of `tesserae train classify`", metavar="RUN")
    images: tuple[str, ...] = argument("image files, or folders of them", metavar="IMAGE")
    top: int = option(5, "number of most likely classes for each image", minimum=1)
    format: str = option(
        "text",
        "text is a line for each image, csv a line for each class of it, json an object on a line",
        choices=("text", "csv", "json"),
    )
    device: str | None = option(
        None,
        "torch device to compute on, e.g. cpu, cuda or cuda:1",
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

    run: Path = argument("folder of a run of the stage classify, devise or superres", metavar="RUN")
    out: Path | None = option(
        None,
        "new folder that the model is written to; of a run of superres, the new ONNX file",
        implied="RUN/trunk or RUN/upscaler.onnx",
        metavar="PATH",
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
