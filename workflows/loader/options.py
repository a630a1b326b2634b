"""The options of `tesserae loader`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pipeline.order import ORDERS
from workflows.options.fields import Options, option
from workflows.options.shared import check_encoded_option, store_argument

CROPS = ("resized", "random", "centre", "whole")
"""The kinds of crops, `pipeline.loader.crops.CROPS`, whose package loads torch."""

_EMULATION = "emulated accelerators"


@dataclass(frozen=True, kw_only=True)
class LoaderOptions(Options):
    """The options of `tesserae loader`."""

    FORMER_NAMES = MappingProxyType({"cold": "drop_cache"})

    store: str = store_argument()
    split: str = option("train", "split to read", metavar="SPLIT")
    size: int = option(
        224,
        "side of the stored images to read, or of the squares decoded from encoded rows, in pixels",
        minimum=1,
        maximum=4_096,
        metavar="PIXELS",
    )
    encoded: str | None = option(
        None,
        "encoded rows to decode, such as jpeg:256@90",
        implied="stored images, or encoded rows if the split has nothing else",
        metavar="ENCODING",
    )
    crop: str | None = option(
        None,
        "part of each picture that is cut out of encoded rows: resized is a box of random area and"
        " shape, random a square at a random position, whole the picture without its aspect ratio",
        implied="centre",
        choices=CROPS,
    )
    batch_size: int | None = option(
        None,
        "number of rows in a batch",
        implied="256, or that of --emulate",
        minimum=1,
        aliases=("--batch",),
    )
    order: str = option("random", "order of the rows in an epoch", choices=ORDERS)
    epochs: int = option(3, "number of epochs", minimum=1)
    threads: int | None = option(
        None,
        "number of threads that gather batches",
        implied="one per core, of stored images at most 4",
        minimum=1,
        maximum=1_000,
    )
    seed: int = option(0, "seed of the random order", minimum=0, maximum=2**64 - 1)
    staging_dir: str | None = option(
        None,
        "folder on a local disk that shards are copied to and read from",
        implied="read the store in place",
        metavar="DIR",
        aliases=("--stage",),
    )
    checksum: str = option(
        "auto",
        "whether to verify a chunk's checksum when one of its rows is first read; auto verifies"
        " where the pixels fit into memory",
        choices=("auto", "once", "never"),
    )
    partial: bool = option(
        False, "read the committed shards of an unfinished split", implied="fail"
    )
    drop_cache: bool = option(False, "drop the store from the page cache before measuring")
    emulate: str | None = option(
        None,
        "also find how many accelerators of this profile the loader keeps busy, such as"
        " resnet50-h100: emulated ones take batches and sleep as long as they would compute",
        implied="emulate none",
        metavar="PROFILE",
        group=_EMULATION,
    )
    profiles: Path | None = option(
        None,
        "YAML file with further profiles: `NAME: {batch_size: N, step_seconds: X}`",
        implied="the built-in ones alone",
        metavar="FILE",
        group=_EMULATION,
    )
    emulate_seconds: float = option(
        20.0,
        "duration of each emulation, in seconds",
        minimum=1,
        maximum=86_400,
        metavar="SECONDS",
        group=_EMULATION,
    )

    def __post_init__(self) -> None:
        """Reject invalid options before anything is read.

        Raises:
            ValueError: An option has an invalid value.
        """
        super().__post_init__()
        check_encoded_option(self.encoded)
