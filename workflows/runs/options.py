"""The options of the commands that work on the folder of a training run."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
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


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions(Options):
    """The options of `tesserae upscale`."""

    run: Path = argument("folder of a run of `tesserae train superres`", metavar="RUN")
    images: tuple[str, ...] = argument(
        "image files, or folders of them", metavar="IMAGE", default=()
    )
    out: Path = option(
        MISSING,
        "folder of the enlarged images, which is created if it is missing; for a single image also"
        " a file whose name ends in .png or .jpg",
        metavar="OUT",
        aliases=("-o",),
    )
    format: str | None = option(
        None,
        "format of the enlarged images; jpeg has quality 95, at most 65,500 pixels a side and no"
        " transparency",
        implied="as the name of OUT says, otherwise png",
        choices=("png", "jpeg"),
    )
    overwrite: bool = option(
        False, "replace enlarged images that exist, which are otherwise left as they are"
    )
    self_ensemble: bool = option(
        False,
        "average the results of all eight orientations of an image, which is a little better and"
        " takes eight times as long",
    )
    device: str | None = option(
        None,
        "torch device to compute on, e.g. cpu, cuda or cuda:1",
        implied="a GPU if there is one",
        metavar="DEVICE",
    )
    precision: str = option(
        "auto",
        "number format of the computation; auto is bfloat16 if the hardware multiplies matrices of"
        " it, else float32",
        choices=("auto", "float32", "bfloat16"),
    )
    tile: int | None = option(
        None,
        "side of the squares that are computed at once, in pixels of the input; smaller ones need"
        " less memory and more time",
        implied="as large as 1 GiB, or half of a GPU's free memory, allows",
        minimum=1,
    )
