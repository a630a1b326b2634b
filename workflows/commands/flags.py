"""Command-line flags that several commands share."""

from __future__ import annotations

import argparse

from pipeline.sources.options import RECURSIVE
from workflows.commands.ranges import integer


def add_cluster(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flags that select the cluster that a command runs on."""
    parser.add_argument(
        "--cluster",
        default="local",
        metavar="WHERE",
        help="cluster to run on: `local` starts workers on this machine; tls://HOST:PORT or"
        " tcp://HOST:PORT connects to a running scheduler; ssh:FILE starts workers on the hosts"
        " listed in FILE; slurm:FILE starts them through Slurm, with the profile in FILE (default"
        " local)",
    )
    parser.add_argument(
        "--certs",
        metavar="DIR",
        help="folder of certificates for a tls:// cluster (default: $TESSERAE_CERTS, else the"
        " user's own folder)",
    )
    parser.add_argument(
        "--workers",
        type=integer(1, 10_000),
        metavar="N",
        help="number of worker processes of a local cluster (default: one per core)",
    )
    parser.add_argument(
        "--threads",
        type=integer(1, 1_000),
        default=1,
        metavar="N",
        help="number of threads in each local worker (default 1)",
    )
    parser.add_argument(
        "--no-dashboard",
        dest="dashboard",
        action="store_false",
        help="do not serve the Dask dashboard (default: serve it)",
    )


def add_source(group: argparse._ArgumentGroup) -> None:
    """Add the flags that control how a source is listed and read."""
    group.add_argument(
        "--recursive",
        choices=RECURSIVE,
        default="",
        help="accept nested folders, with the first or the last folder of a path as the class"
        " (default: images in folders below class folders are an error)",
    )
    group.add_argument(
        "--class-name",
        default="",
        metavar="NAME",
        help="class of all images of a folder without class folders; `-` stores them without a"
        " class, with label -1 (default -)",
    )
    group.add_argument(
        "--ignore",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATTERN",
        help="file and folder names to skip, as shell patterns such as 'masks' or '*_mask.png'"
        " (default: none)",
    )
    column = "column of a Parquet file"
    for name, location, content, default in (
        (
            "image",
            column,
            "encoded image bytes",
            "image, img, jpg, ..., or the only binary column",
        ),
        (
            "label",
            f"{column}, file suffix in a WebDataset shard (such as txt) or key of its .json",
            "labels",
            "label, fine_label, cls, ...",
        ),
        ("name", column, "image file names", "filename, file_name, path, ..."),
    ):
        group.add_argument(
            f"--{name}-column",
            default="",
            metavar="COLUMN",
            help=f"{location} that holds the {content} (default: {default})",
        )
