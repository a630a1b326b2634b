"""The options of `tesserae push` and `tesserae pull`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from workflows.options.fields import Options, argument, option


@dataclass(frozen=True, kw_only=True)
class PushOptions(Options):
    """The options of `tesserae push`."""

    folder: Path = argument("folder of a store, an export or a run", metavar="FOLDER")
    url: str = argument(
        "URL that its files are copied to, such as s3://bucket/imagenet or hf://datasets/me/set",
        metavar="URL",
    )
    again: bool = option(
        False, "copy all files, also those that an earlier push has copied with the same digest"
    )
    threads: int = option(8, "number of files that are uploaded at once", minimum=1, maximum=256)


@dataclass(frozen=True, kw_only=True)
class PullOptions(Options):
    """The options of `tesserae pull`."""

    url: str = argument("URL that a folder was pushed to", metavar="URL")
    folder: Path = argument("folder that its files are copied to", metavar="FOLDER")
    threads: int = option(8, "number of files that are downloaded at once", minimum=1, maximum=256)
