"""The options of the commands that work on the folder of a training run."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path

from pipeline.store.derived import PRECISIONS
from pipeline.store.layout import MAX_SIZE, is_split
from workflows.evaluation.options import EvaluationOptions
from workflows.options.cluster import ClusterOptions
from workflows.options.fields import Options, argument, option
from workflows.preparation.options import ALL, wait_option


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

    run: Path = argument("folder of a run of the stage classify or devise", metavar="RUN")
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


_IMAGES = "images"
_EXECUTION = "execution"


@dataclass(frozen=True, kw_only=True)
class UpscaleStoreOptions(ClusterOptions):
    """The options of `tesserae upscale --store`."""

    run: Path = argument("folder of a run of `tesserae train superres`", metavar="RUN")
    store: str = option(
        MISSING,
        "folder or URL of the store whose images are enlarged, and which gets the result",
        metavar="STORE",
        group=_IMAGES,
    )
    size: int = option(
        MISSING,
        "side of the enlarged images, in pixels; the stored images of this side divided by the"
        " scale of the network are read",
        minimum=2,
        maximum=MAX_SIZE,
        metavar="PIXELS",
        group=_IMAGES,
    )
    name: str | None = option(
        None,
        "name of the result, by which it is read: letters, digits, - and _",
        implied="network, scale and size, such as span-x4-288",
        group=_IMAGES,
    )
    split: tuple[str, ...] = option(
        ALL,
        "splits whose images are enlarged, or `all` finished splits",
        metavar="SPLIT",
        group=_IMAGES,
    )
    precision: str = option(
        "float32",
        "number format that the network computes in",
        choices=PRECISIONS,
        group=_IMAGES,
    )
    self_ensemble: bool = option(
        False,
        "average the results of all eight orientations of an image, which takes eight times as"
        " long",
        group=_IMAGES,
    )
    gpus: int | None = option(
        None,
        "number of GPUs to use; 0 computes on CPUs",
        implied="all GPUs of the cluster",
        minimum=0,
        group=_EXECUTION,
    )
    repair: bool = option(
        False,
        "check the committed images first, and compute damaged ones again",
        group=_EXECUTION,
    )
    wait: bool = wait_option("computes the same images", group=_EXECUTION)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: A value is out of its range, or `--name` cannot be one.
        """
        super().__post_init__()
        if self.name is not None and not is_split(self.name):
            raise ValueError(f"--name is {self.name!r}: expected letters, digits, '-' and '_'.")
