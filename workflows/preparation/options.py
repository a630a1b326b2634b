"""The options of the commands that make, check and repair a store."""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from types import MappingProxyType
from typing import Any

from pipeline.backbone.choices import POOLINGS
from pipeline.store import layout
from pipeline.store.derived import PRECISIONS
from pipeline.store.features import DTYPES, KINDS, FeatureOptions
from pipeline.store.options import DEFAULT_SIZES, DEFAULTS, StoreOptions
from pipeline.store.recipe import FILTERS, FITS, MISSING_END
from workflows.options.cluster import ClusterOptions
from workflows.options.fields import Options, argument, option
from workflows.options.shared import check_encoded_option, encoded_option, store_argument
from workflows.options.source_reading import SourceReadingOptions

ALL = ("all",)
"""The splits of a command that is given none: those of the source or of the store."""

AUTO_WORKERS = 0
"""The value of `--workers auto`: the fastest numbers of workers, threads and readers are searched
for before the first shard."""

_STORED = "stored data"
_EXECUTION = "execution"
_FEATURES = "features"


def wait_option(work: str, *, group: str = _EXECUTION) -> Any:
    """Return the field of the option `--wait`, a `bool`.

    Args:
        work: What the other run does, as a phrase that follows "that".
        group: The heading of the help text under which it is listed (default `execution`).
    """
    return option(False, f"wait for another run that {work}", implied="fail", group=group)


@dataclass(frozen=True, kw_only=True)
class PrepareOptions(SourceReadingOptions, ClusterOptions):
    """The options of `tesserae prepare`."""

    FORMER_NAMES = MappingProxyType({"image_seconds": "image_timeout"})

    source: str = argument("folder, archive or URL of the images", metavar="SOURCE")
    store: str = store_argument()

    split: tuple[str, ...] = option(
        ALL, "splits to prepare, or `all` of the source", metavar="SPLIT", group=_STORED
    )
    sizes: tuple[int, ...] | None = option(
        None,
        "sides of the square images to store as raw pixels, which are read without decoding",
        implied=f"{' '.join(map(str, DEFAULT_SIZES))}; none with --encoded; those that it has for"
        " a store of encoded rows",
        minimum=1,
        maximum=4_096,
        metavar="PIXELS",
        group=_STORED,
    )
    encoded: tuple[str, ...] = option(
        (),
        "encoded rows to store, a fraction of the bytes of raw pixels, which are decoded whenever"
        " they are read: `jpeg:N@Q` for JPEGs of kept aspect, with a short side of at most N pixels"
        " and quality Q (1 to 100), such as jpeg:256@90; `original` for the source's files as they"
        " are",
        implied="none",
        metavar="ENCODING",
        group=_STORED,
    )
    fit: str | None = option(
        None,
        "how a rectangular image becomes square: crop the centre, pad the short side, or squish"
        " both sides",
        implied=DEFAULTS["fit"],
        choices=FITS,
        group=_STORED,
    )
    filter: str | None = option(
        None,
        "resampling filter of the resizer",
        implied=DEFAULTS["filter"],
        choices=FILTERS,
        group=_STORED,
    )
    exif: bool | None = option(
        None, "rotate images by their EXIF orientation", implied="no", group=_STORED
    )
    serves: int | None = option(
        None,
        "image side, in pixels, up to which decoding keeps full detail; larger JPEGs may be decoded"
        " at a reduced scale that suffices for it",
        implied="the largest of --sizes and --encoded",
        minimum=1,
        metavar="PIXELS",
        group=_STORED,
    )
    seed: int = option(
        0, "seed of the random row order", minimum=0, maximum=2**64 - 1, group=_STORED
    )
    limit: int | None = option(
        None,
        "stop after N images, rounded up to whole shards",
        implied="prepare all",
        minimum=1,
        group=_STORED,
    )
    shard_rows: int | None = option(
        None,
        "number of rows in a shard; a shard is one file or object per array",
        implied=str(DEFAULTS["shard_rows"]),
        minimum=1,
        group=_STORED,
    )
    chunk_rows: int | None = option(
        None,
        "number of rows in a chunk, the unit of checksums and compression",
        implied=str(DEFAULTS["chunk_rows"]),
        minimum=1,
        group=_STORED,
    )
    codec: str | None = option(
        None,
        "compression of raw pixels: none, zstd:LEVEL, blosc-lz4 or blosc-zstd:LEVEL",
        implied=DEFAULTS["codec"],
        metavar="CODEC",
        group=_STORED,
    )
    missing_end: str | None = option(
        None,
        "JPEGs that lack only their end marker: `refuse` quarantines them, `keep` stores them and"
        " counts them in the report",
        implied=DEFAULTS["missing_end"],
        choices=MISSING_END,
        group=_STORED,
    )
    max_image_bytes: int | None = option(
        None,
        "size of the largest image file, in bytes; larger ones are quarantined unread",
        implied=str(DEFAULTS["max_image_bytes"]),
        minimum=1,
        metavar="BYTES",
        group=_STORED,
    )
    workers: int | None = option(
        None,
        "number of worker processes of a local cluster; `auto` tries settings for half a minute,"
        " as `tesserae tune` does, and chooses --threads and --readers, too",
        implied="one per core",
        minimum=1,
        maximum=10_000,
        words={"auto": AUTO_WORKERS},
        group="cluster",
    )
    readers: int | None = option(
        None,
        "number of threads of each task that read images ahead; more help if a read waits long",
        implied="1 for a local source, 16 for a remote one",
        minimum=1,
        maximum=1_000,
        group=_EXECUTION,
    )
    max_bad: float = option(
        0.01,
        "fraction of rows, 0 to 1, that may be quarantined before the run fails",
        minimum=0,
        maximum=1,
        metavar="FRACTION",
        group=_EXECUTION,
    )
    image_timeout: float = option(
        60.0,
        "time limit for decoding one image, in seconds",
        minimum=0.001,
        maximum=86_400,
        metavar="SECONDS",
        group=_EXECUTION,
    )
    wait: bool = wait_option("prepares the same split")

    def __post_init__(self) -> None:
        """Reject invalid options before anything is read.

        Raises:
            ValueError: An option has an invalid value; the message names its flag.
        """
        super().__post_init__()
        _ = self.store_options, self.source_options  # both are checked where they are made
        if self.workers == AUTO_WORKERS and self.cluster != "local":
            raise ValueError(
                f"--workers is auto and --cluster is {self.cluster}: only the workers of this"
                " machine are tuned. Pass a number, or omit one of them."
            )
        if self.workers == AUTO_WORKERS and self.threads != 1:
            raise ValueError(
                f"--workers is auto and --threads is {self.threads}: auto chooses the threads, too."
                " Pass a number of workers, or omit --threads."
            )
        for split in self.split:
            layout.check_split(split)
        if len(set(self.split)) != len(self.split):
            raise ValueError(f"--split is {' '.join(self.split)}: a split is given twice.")

    @property
    def store_options(self) -> StoreOptions:
        """The choices that decide what the store holds."""
        values = {field.name: getattr(self, field.name) for field in fields(StoreOptions)}
        default = () if self.encoded else DEFAULT_SIZES
        sizes = default if self.sizes is None else self.sizes
        return StoreOptions(**{**values, "sizes": tuple(sorted(sizes))})


@dataclass(frozen=True, kw_only=True)
class TuneOptions(PrepareOptions):
    """The options of `tesserae tune`: those of `prepare` that decide its work on an image."""

    OMITTED_FLAGS = frozenset(
        {
            "cluster", "certs", "workers", "threads", "dashboard", "wait", "limit",
            "shard_rows", "max_bad", "image_timeout",
        }
    )  # fmt: skip

    source: str = argument("folder, archive or URL of the images", metavar="SOURCE")
    store: str = argument(
        "folder of the store, on whose disk trials write; it need not exist, and is not changed",
        metavar="STORE",
        default="",
        implied="nothing is written",
    )
    seconds: float = option(
        40.0,
        "how long settings are tried, in seconds, after the source is listed",
        minimum=1,
        maximum=3_600,
        metavar="SECONDS",
    )


@dataclass(frozen=True, kw_only=True)
class VerifyOptions(Options):
    """The options of `tesserae verify`."""

    store: str = store_argument()
    split: tuple[str, ...] = option(ALL, "splits to check, or `all` of the store", metavar="SPLIT")
    source: int | None = option(
        None,
        "also decode ROWS rows of each split from the source and compare their pixels",
        implied="do not; without a number, 100 rows",
        bare=100,
        minimum=1,
        metavar="ROWS",
    )
    threads: int = option(
        0,
        "number of threads that read files; 0 uses one per core",
        minimum=0,
        maximum=1_000,
    )


@dataclass(frozen=True, kw_only=True)
class RepairOptions(SourceReadingOptions, ClusterOptions):
    """The options of `tesserae repair`."""

    store: str = store_argument()
    split: tuple[str, ...] = option(
        ALL, "splits to repair, or `all` of the store", metavar="SPLIT", group=_EXECUTION
    )
    data: str | None = option(
        None,
        "folder, archive or URL of the source images, if they have moved",
        implied="the location recorded in the store",
        metavar="SOURCE",
        group="source",
    )
    wait: bool = wait_option("works on the same split")


@dataclass(frozen=True, kw_only=True)
class FeaturesOptions(ClusterOptions):
    """The options of `tesserae features`: which features of a store to compute, and how."""

    store: str = store_argument()
    trunk: str = option(
        MISSING,
        "vision model of `transformers`: a local folder or a name on the model hub",
        metavar="MODEL",
        group=_FEATURES,
    )
    cut: str | None = option(
        None,
        "block of the network whose output becomes the features",
        implied="the last",
        metavar="BLOCK",
        group=_FEATURES,
    )
    pooling: str = option(
        "end",
        "how that output is pooled into one vector per image; `end` pools as the model does",
        choices=POOLINGS,
        group=_FEATURES,
    )
    size: int | None = option(
        None,
        "side of the stored images that are fed to the network, in pixels",
        implied="the stored size that suits the network's input best",
        minimum=1,
        maximum=4_096,
        metavar="PIXELS",
        group=_FEATURES,
    )
    encoded: str | None = encoded_option(
        "encoded rows to read in place of stored squares, such as jpeg:256@90 or original: the"
        " centre of each picture, as much of it as the network's preprocessing says, resized to the"
        " network's input",
        implied="stored squares; of a split without any, the encoded rows that suit best",
        group=_FEATURES,
    )
    precision: str = option(
        "float32",
        "number format that the network computes in",
        choices=PRECISIONS,
        group=_FEATURES,
    )
    dtype: str = option(
        "float32", "number format of the stored features", choices=DTYPES, group=_FEATURES
    )
    split: tuple[str, ...] = option(
        ALL,
        "splits whose features are computed, or `all` finished splits",
        metavar="SPLIT",
        group=_FEATURES,
    )
    mirrored: bool = option(
        False,
        "also compute the features of each image's horizontal mirror image",
        group=_FEATURES,
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
        "check the committed features first, and compute damaged ones again",
        group=_EXECUTION,
    )
    wait: bool = wait_option("computes the same features")

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ValueError: A value is out of its range, `--encoded` is no encoding, or `--size` is
                given beside it.
        """
        super().__post_init__()
        check_encoded_option(self.encoded)
        if self.encoded is not None and self.size is not None:
            raise ValueError(
                f"--size is {self.size}: it selects stored squares, and --encoded {self.encoded}"
                " reads encoded rows, which are resized to the network's input. Omit one of them."
            )

    @property
    def feature_options(self) -> FeatureOptions:
        """The choices that decide what the features are, beside the network."""
        return FeatureOptions(
            stored_size=self.size,
            encoded=self.encoded,
            precision=self.precision,
            dtype=self.dtype,
        )

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of features: of the images, and of their mirror images if chosen."""
        return KINDS if self.mirrored else KINDS[:1]
