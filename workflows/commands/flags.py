"""Flags that several commands have."""

from __future__ import annotations

import argparse

from pipeline.sources.options import RECURSIVE
from workflows.commands.ranges import whole


def add_cluster(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Add the flags that say where a command runs."""
    parser.add_argument(
        "--cluster",
        default="local",
        metavar="WHERE",
        help="local, tls://HOST:8786 that runs, ssh:hosts.txt, slurm:profile.yaml (local)",
    )
    parser.add_argument(
        "--certs", metavar="DIR", help="certificates for tls:// ($TESSERAE_CERTS, or this user's)"
    )
    parser.add_argument(
        "--workers", type=whole(1, 10_000), metavar="N", help="local processes (one a core)"
    )
    parser.add_argument(
        "--threads",
        type=whole(1, 1_000),
        default=1,
        metavar="N",
        help="threads of each local worker (1)",
    )
    parser.add_argument(
        "--no-dashboard",
        dest="dashboard",
        action="store_false",
        help="do not serve the dashboard (it is served)",
    )


def add_source(group: argparse._ArgumentGroup) -> None:
    """Add the flags that say how a source is read."""
    group.add_argument(
        "--recursive",
        choices=RECURSIVE,
        default="",
        help="look into nested folders: the first or the last one is the class (images in folders"
        " below class folders are refused)",
    )
    group.add_argument(
        "--class-name",
        default="",
        metavar="NAME",
        help="class of all images of a folder without class folders; - for none, label -1 (-)",
    )
    group.add_argument(
        "--ignore",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATTERN",
        help="names of files and folders to pass over, such as 'masks' or '*_mask.png'",
    )
    column = "column of a Parquet file"
    for name, where, what, default in (
        ("image", column, "bytes of the images", "image, img, jpg, ..., or the only one of bytes"),
        (
            "label",
            f"{column}, suffix in a WebDataset shard (such as txt) or word of its .json",
            "labels",
            "label, fine_label, cls, ...",
        ),
        ("name", column, "names of the images", "filename, file_name, path, ..."),
    ):
        group.add_argument(
            f"--{name}-column",
            default="",
            metavar="COLUMN",
            help=f"{where} that holds the {what} ({default})",
        )
