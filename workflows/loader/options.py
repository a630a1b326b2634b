"""The options of `tesserae loader`."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from pipeline.order import ORDERS
from workflows.options.fields import Options, option
from workflows.options.shared import store_argument


@dataclass(frozen=True, kw_only=True)
class LoaderOptions(Options):
    """The options of `tesserae loader`."""

    FORMER_NAMES = MappingProxyType({"cold": "drop_cache"})

    store: str = store_argument()
    split: str = option("train", "split to read", metavar="SPLIT")
    size: int = option(
        224,
        "side of the stored images to read, in pixels",
        minimum=1,
        maximum=4_096,
        metavar="PIXELS",
    )
    batch_size: int = option(256, "number of rows in a batch", minimum=1, aliases=("--batch",))
    order: str = option("random", "order of the rows in an epoch", choices=ORDERS)
    epochs: int = option(3, "number of epochs", minimum=1)
    threads: int | None = option(
        None,
        "number of threads that gather batches",
        implied="one per core, at most 4",
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
