"""The options of every command that reads a source of images."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from pipeline.sources import SOURCE_KINDS
from pipeline.sources.options import RECURSIVE, SourceOptions
from workflows.options.fields import Options, option

_GROUP = "source"
_COLUMN = "column of a Parquet file"


@dataclass(frozen=True, kw_only=True)
class SourceReadingOptions(Options):
    """How a source is listed and read."""

    source_kind: str | None = option(
        None, "format of the source", implied="detected", choices=SOURCE_KINDS, group=_GROUP
    )
    recursive: str = option(
        "",
        "accept nested folders, with the first or the last folder of a path as the class",
        implied="images in folders below class folders are an error",
        choices=RECURSIVE,
        group=_GROUP,
    )
    class_name: str = option(
        "",
        "class of all images of a folder without class folders; `-` stores them without a class,"
        " with label -1",
        implied="-",
        group=_GROUP,
    )
    ignore: tuple[str, ...] = option(
        (),
        "file and folder names to skip, as shell patterns such as 'masks' or '*_mask.png'",
        implied="none",
        metavar="PATTERN",
        repeatable=True,
        group=_GROUP,
    )
    image_column: str = option(
        "",
        f"{_COLUMN} that holds the encoded image bytes",
        implied="image, img, jpg, ..., or the only binary column",
        metavar="COLUMN",
        group=_GROUP,
    )
    label_column: str = option(
        "",
        f"{_COLUMN}, file suffix in a WebDataset shard (such as txt) or key of its .json that"
        " holds the labels",
        implied="label, fine_label, cls, ...",
        metavar="COLUMN",
        group=_GROUP,
    )
    name_column: str = option(
        "",
        f"{_COLUMN} that holds the image file names",
        implied="filename, file_name, path, ...",
        metavar="COLUMN",
        group=_GROUP,
    )

    @property
    def source_options(self) -> SourceOptions:
        """The options of the source, under the newest listing rules."""
        values = self.as_arguments()
        del values["source_kind"]
        return SourceOptions(**values)

    def as_arguments(self) -> dict[str, Any]:
        """Return these options by name, as arguments of another command that reads a source."""
        return {field.name: getattr(self, field.name) for field in fields(SourceReadingOptions)}
