"""Decode every image of a source once, resize it to every size, and store it.

Run the same command again to resume an interrupted run: committed shards are kept. A finished store
can grow: run the command again with further sizes or splits.
"""

from __future__ import annotations

import argparse

from pipeline.sources import SOURCE_KINDS
from pipeline.store.recipe import FILTERS, FITS, MAX_IMAGE_BYTES, MISSING_END
from workflows.commands.flags import add_cluster, add_source
from workflows.commands.ranges import integer, number

IMPLEMENTATION = "workflows.preparation.prepare"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae prepare`."""
    parser.add_argument("source", metavar="SOURCE", help="folder, archive or URL of the images")
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    stored = parser.add_argument_group("stored data")
    stored.add_argument(
        "--split", nargs="+", help="splits to prepare, or `all` of the source (default all)"
    )
    stored.add_argument(
        "--sizes",
        nargs="+",
        type=integer(1, 4_096),
        default=[72, 224, 288],
        metavar="PIXELS",
        help="sides of the square images to store, in pixels (default 72 224 288)",
    )
    stored.add_argument(
        "--fit",
        choices=FITS,
        help="how a rectangular image becomes square: crop the centre, pad the short side, or"
        " squish both sides (default crop)",
    )
    stored.add_argument(
        "--filter", choices=FILTERS, help="resampling filter of the resizer (default bicubic)"
    )
    stored.add_argument(
        "--exif",
        action=argparse.BooleanOptionalAction,
        help="rotate images by their EXIF orientation (default no)",
    )
    stored.add_argument(
        "--serves",
        type=integer(1),
        metavar="PIXELS",
        help="image side, in pixels, up to which decoding keeps full detail; larger JPEGs may be"
        " decoded at a reduced scale that suffices for it (default: the largest of --sizes)",
    )
    stored.add_argument(
        "--seed",
        type=integer(0, 2**64 - 1),
        default=0,
        help="seed of the random row order (default 0)",
    )
    stored.add_argument(
        "--limit",
        type=integer(1),
        metavar="N",
        help="stop after N images, rounded up to whole shards (default: prepare all)",
    )
    stored.add_argument(
        "--shard-rows",
        type=integer(1),
        metavar="N",
        help="number of rows in a shard; a shard is one file or object per size (default 1024)",
    )
    stored.add_argument(
        "--chunk-rows",
        type=integer(1),
        metavar="N",
        help="number of rows in a chunk, the unit of checksums and compression (default 16)",
    )
    stored.add_argument(
        "--codec",
        help="compression of the image arrays: none, zstd:LEVEL, blosc-lz4 or blosc-zstd:LEVEL"
        " (default none)",
    )
    execution = parser.add_argument_group("execution")
    execution.add_argument(
        "--source-kind", choices=SOURCE_KINDS, help="format of SOURCE (default: detected)"
    )
    execution.add_argument(
        "--max-bad",
        type=number(0, 1),
        default=0.01,
        metavar="SHARE",
        help="fraction of rows, 0 to 1, that may be quarantined before the run fails (default"
        " 0.01)",
    )
    execution.add_argument(
        "--image-seconds",
        type=number(0.001, 86_400),
        default=60.0,
        metavar="SECONDS",
        help="time limit for decoding one image, in seconds (default 60)",
    )
    stored.add_argument(
        "--missing-end",
        choices=MISSING_END,
        help="JPEGs that lack only their end marker: `refuse` quarantines them, `keep` stores them"
        " and counts them in the report (default refuse)",
    )
    stored.add_argument(
        "--max-image-bytes",
        type=integer(1),
        metavar="BYTES",
        help="size of the largest image file, in bytes; larger ones are quarantined unread"
        f" (default {MAX_IMAGE_BYTES})",
    )
    execution.add_argument(
        "--wait",
        action="store_true",
        help="wait for another run that prepares the same split (default: fail)",
    )
    add_source(parser.add_argument_group("source"))
    add_cluster(parser.add_argument_group("cluster"))
