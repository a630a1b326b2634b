"""The options of the commands that work on the folder of a training run."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from pipeline.store.derived import PRECISIONS
from pipeline.store.layout import MAX_SIZE, is_split
from workflows.evaluation.options import EvaluationOptions
from workflows.options.cluster import CLUSTER, ClusterOptions
from workflows.options.fields import Options, argument, flag_of, flags_of, option
from workflows.options.shared import check_encoded_option, encoded_option
from workflows.preparation.options import ALL, wait_option


@dataclass(frozen=True, kw_only=True)
class ReportOptions(EvaluationOptions):
    """The options of `tesserae report`."""

    runs: tuple[Path, ...] = argument(
        "folder of a training run; several are compared on one page", metavar="RUN"
    )
    out: Path | None = option(
        None,
        "HTML file that is written",
        implied="report.html in RUN, or comparison.html for several runs",
        metavar="FILE",
        aliases=("-o",),
    )


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


EXPORT_FORMATS = ("parquet", "webdataset")
"""The formats of `pipeline.export.formats`, which is not imported here: it is slow to import."""
_ROWS = "rows of a store"


@dataclass(frozen=True, kw_only=True)
class ExportOptions(ClusterOptions):
    """The options of `tesserae export`, of a run or, with `to`, of a store."""

    what: str = argument(
        "folder of a run of the stage classify, colourise, devise, superres or wgan; with --to,"
        " folder or URL of a store",
        metavar="RUN|STORE",
    )
    out: Path | None = option(
        None,
        "new folder that the model is written to; of a run of colourise, superres or wgan, the new"
        " ONNX file; with --to, the folder of the files, which all workers must see",
        implied="RUN/trunk, RUN/colouriser.onnx, RUN/upscaler.onnx or RUN/generator.onnx; required"
        " with --to",
        metavar="PATH",
        aliases=("-o",),
    )
    to: str | None = option(
        None,
        "format in which the rows of a store are written, with a file for each shard",
        implied="none: the network of a run is exported",
        choices=EXPORT_FORMATS,
        group=_ROWS,
    )
    split: tuple[str, ...] = option(
        ALL, "splits to export, or `all` finished ones", metavar="SPLIT", group=_ROWS
    )
    size: int | None = option(
        None,
        "side of the stored squares to export, in pixels; they are written as PNG",
        implied="the only array of the store",
        minimum=1,
        maximum=MAX_SIZE,
        metavar="PIXELS",
        group=_ROWS,
    )
    encoded: str | None = encoded_option(
        "encoded rows to export, byte for byte, such as jpeg:256@90 or original",
        implied="the only array of the store",
        group=_ROWS,
    )
    licence: str | None = option(
        None,
        "licence of the data set or of the network, such as cc-by-4.0, which its card (README.md)"
        " or the metadata of its ONNX file (model_license) states",
        implied="unknown",
        metavar="NAME",
    )

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: A value is invalid, an option is missing, or one is of no use together with
                `to`, or without it.
        """
        super().__post_init__()
        check_encoded_option(self.encoded)
        if self.to is None:
            usable = {field.name for field in fields(self) if flag_of(field).group == "options"}
            for flag in flags_of(self, exclude=usable):
                raise ValueError(
                    f"{flag.partition('=')[0]} is for the rows of a store: omit it, or add --to"
                    f" {' or '.join(EXPORT_FORMATS)}."
                )
            return
        if self.out is None:
            raise ValueError("--out is missing: --to needs the folder of the files.")
        if str(self.out).partition("/")[0].endswith(":"):  # a path has lost a slash of a URL
            raise ValueError(
                f"--out is {self.out}: expected a folder. Export to one, and `tesserae push` it."
            )
        if self.size is not None and self.encoded is not None:
            raise ValueError("--size and --encoded name two arrays: pass only one of them.")


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


_FILES = "image files"
_STORE = "images of a store"


@dataclass(frozen=True, kw_only=True)
class UpscaleOptions(ClusterOptions):
    """The options of `tesserae upscale`, of image files or, with `store`, of a store's images."""

    run: Path = argument("folder of a run of `tesserae train superres`", metavar="RUN")
    images: tuple[str, ...] = argument(
        "image files, or folders of them; none with --store", metavar="IMAGE", default=()
    )
    precision: str | None = option(
        None,
        "number format of the computation; auto, for files only, is bfloat16 if the hardware"
        " multiplies matrices of it, else float32",
        implied="auto; with --store float32",
        choices=("auto", *PRECISIONS),
    )
    self_ensemble: bool = option(
        False,
        "average the results of all eight orientations of an image, which is a little better and"
        " takes eight times as long",
    )
    out: Path | None = option(
        None,
        "folder of the enlarged images, which is created if it is missing; for a single image also"
        " a file whose name ends in .png or .jpg; required unless --store is passed",
        metavar="OUT",
        aliases=("-o",),
        group=_FILES,
    )
    format: str | None = option(
        None,
        "format of the enlarged images; jpeg has quality 95, at most 65,500 pixels a side and no"
        " transparency",
        implied="as the name of OUT says, otherwise png",
        choices=("png", "jpeg"),
        group=_FILES,
    )
    overwrite: bool = option(
        False,
        "replace enlarged images that exist, which are otherwise left as they are",
        group=_FILES,
    )
    device: str | None = option(
        None,
        "torch device to compute on, e.g. cpu, cuda or cuda:1",
        implied="a GPU if there is one",
        metavar="DEVICE",
        group=_FILES,
    )
    tile: int | None = option(
        None,
        "side of the squares that are computed at once, in pixels of the input; smaller ones need"
        " less memory and more time",
        implied="as large as 1 GiB, or half of a GPU's free memory, allows",
        minimum=1,
        group=_FILES,
    )
    store: str | None = option(
        None,
        "folder or URL of the store whose images are enlarged, and which gets the result",
        metavar="STORE",
        group=_STORE,
    )
    size: int | None = option(
        None,
        "side of the enlarged images, in pixels; the stored images of this side divided by the"
        " scale of the network are read; required with --store",
        minimum=2,
        maximum=MAX_SIZE,
        metavar="PIXELS",
        group=_STORE,
    )
    name: str | None = option(
        None,
        "name of the result, by which it is read: letters, digits, - and _",
        implied="network, scale and size, such as span-x4-288",
        group=_STORE,
    )
    split: tuple[str, ...] = option(
        ALL,
        "splits whose images are enlarged, or `all` finished splits",
        metavar="SPLIT",
        group=_STORE,
    )
    gpus: int | None = option(
        None,
        "number of GPUs to use; 0 computes on CPUs",
        implied="all GPUs of the cluster",
        minimum=0,
        group=_STORE,
    )
    repair: bool = option(
        False,
        "check the committed images first, and compute damaged ones again",
        group=_STORE,
    )
    wait: bool = wait_option("computes the same images", group=_STORE)

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: A value is out of its range, an option is missing, or one is of no use
                together with `store`, or without it.
        """
        super().__post_init__()
        if self.store is None:
            self._check_files()
        else:
            self._check_store()

    def _check_files(self) -> None:
        for flag in self._changed_flags("options", _FILES):
            raise ValueError(f"{flag} is for the images of a store: omit it, or add --store.")
        if not self.images:
            raise ValueError("expected at least one image file, or a folder of them, or --store.")
        if self.out is None:
            raise ValueError(
                "--out is missing: expected the folder of the enlarged images, such as --out"
                " upscaled."
            )

    def _check_store(self) -> None:
        if self.images:
            raise ValueError(
                f"--store is {self.store} and IMAGE is {self.images[0]}: omit one of them, as"
                " either a store is enlarged or image files."
            )
        for flag in self._changed_flags("options", _STORE, CLUSTER):
            raise ValueError(f"{flag} is for image files: omit it, or --store.")
        if self.size is None:
            raise ValueError(
                "--size is missing: --store needs the side of the enlarged images, in pixels."
            )
        if self.precision == "auto":
            raise ValueError(
                f"--precision is auto: with --store expected {' or '.join(PRECISIONS)}, so that"
                " all machines compute the same images."
            )
        if self.name is not None and not is_split(self.name):
            raise ValueError(f"--name is {self.name!r}: expected letters, digits, '-' and '_'.")

    def _changed_flags(self, *headings: str) -> list[str]:
        """Return the flags of options that have not their default, unless under these headings."""
        usable = {field.name for field in fields(self) if flag_of(field).group in headings}
        return [flag.partition("=")[0] for flag in flags_of(self, exclude=usable)]
