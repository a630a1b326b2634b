"""Decode every image of a source once, resize it to every size, and store it.

What is committed stays: a run that was broken off, however, goes on where it was when the same
command is given again. A finished store grows: ask for a further size or a further split.
"""

from __future__ import annotations

import argparse

from pipeline.sources import SOURCE_KINDS
from pipeline.store.recipe import FILTERS, FITS, MAX_IMAGE_BYTES, MISSING_END
from workflows.commands.flags import add_cluster, add_source
from workflows.commands.ranges import number, whole

IMPLEMENTATION = "workflows.preparation.prepare"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae prepare`."""
    parser.add_argument("source", metavar="SOURCE", help="folder, archive or URL of the images")
    parser.add_argument("store", metavar="STORE", help="folder or URL of the store")
    what = parser.add_argument_group("what is stored")
    what.add_argument("--split", nargs="+", help="splits to prepare, or `all` (all)")
    what.add_argument(
        "--sizes",
        nargs="+",
        type=whole(1, 4_096),
        default=[72, 224, 288],
        help="sides of the stored squares, in pixels (72 224 288)",
    )
    what.add_argument("--fit", choices=FITS, help="how a rectangle becomes a square (crop)")
    what.add_argument("--filter", choices=FILTERS, help="resampling filter (bicubic)")
    what.add_argument(
        "--exif", action=argparse.BooleanOptionalAction, help="turn by EXIF orientation (no)"
    )
    what.add_argument(
        "--serves",
        type=whole(1),
        metavar="PIXELS",
        help="side up to which a JPEG may be decoded at a reduced scale (the largest size)",
    )
    what.add_argument(
        "--seed",
        type=whole(0, 2**64 - 1),
        default=0,
        help="seed that draws the order of the rows (0)",
    )
    what.add_argument(
        "--limit",
        type=whole(1),
        metavar="N",
        help="stop after N images, rounded up to whole shards",
    )
    what.add_argument(
        "--shard-rows",
        type=whole(1),
        metavar="N",
        help="rows of a shard: one file or object for each size (1024)",
    )
    what.add_argument(
        "--chunk-rows",
        type=whole(1),
        metavar="N",
        help="rows of a chunk, which is checked and unpacked as a whole (16)",
    )
    what.add_argument("--codec", help="none, zstd:LEVEL, blosc-lz4 or blosc-zstd:LEVEL (none)")
    how = parser.add_argument_group("how")
    how.add_argument("--source-kind", choices=SOURCE_KINDS, help="what SOURCE is (detected)")
    how.add_argument(
        "--max-bad",
        type=number(0, 1),
        default=0.01,
        metavar="SHARE",
        help="share of rows that may be quarantined before the run stops (0.01)",
    )
    how.add_argument(
        "--image-seconds",
        type=number(0.001, 86_400),
        default=60.0,
        help="seconds after which an image counts as hung (60)",
    )
    what.add_argument(
        "--missing-end",
        choices=MISSING_END,
        help="JPEGs that lack nothing but their end marker: `refuse` puts them into quarantine,"
        " `keep` stores and counts them (refuse)",
    )
    what.add_argument(
        "--max-image-bytes",
        type=whole(1),
        metavar="BYTES",
        help="length of the longest file that is read for an image; a longer one is put into"
        f" quarantine unread ({MAX_IMAGE_BYTES})",
    )
    how.add_argument("--wait", action="store_true", help="wait for another run of the split")
    add_source(parser.add_argument_group("classes of the images"))
    add_cluster(parser.add_argument_group("where"))
