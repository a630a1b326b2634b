"""Search a run of DeViSE in every direction: words, pictures, and what lies between.

    tesserae search RUN "fishing net"              pictures of what is called so
    tesserae search RUN "engine + boat"            of both at once; also a - b, 2*a + b, a ~0.3 b
    tesserae search RUN "#1234 + snow"             like that picture of the store, but with snow
    tesserae search RUN --image FILE --to words    what a picture shows, in words
    tesserae search RUN --serve                    all of it on a page

The store is embedded when it is first searched, and what comes of it is kept in RUN/search.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.neighbours import KINDS
from workflows.commands.ranges import whole
from workflows.search.query import DIRECTIONS

IMPLEMENTATION = "workflows.search.command"

HOST, PORT = "127.0.0.1", 8780


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae search`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run of `train devise`")
    parser.add_argument("query", metavar="QUERY", nargs="?", default="", help="what to search for")
    parser.add_argument("--image", metavar="FILE", help="a picture to search with, @ in QUERY")
    what = parser.add_argument_group("answers")
    what.add_argument(
        "--k", type=whole(1, 1_000), default=10, metavar="N", help="number of answers (10)"
    )
    what.add_argument("--to", choices=DIRECTIONS, default="images", help="kind of answers (images)")
    what.add_argument(
        "--split", nargs="+", default=["all"], help="whose pictures, or `all` that are finished"
    )
    what.add_argument(
        "--class", dest="classes", nargs="+", default=[], metavar="CLASS", help="wnids or names"
    )
    what.add_argument(
        "--csls",
        action="store_true",
        help="lower the scores of what is near to everything (plain cosines)",
    )
    what.add_argument("--json", action="store_true", help="for a program")
    what.add_argument("--grid", metavar="OUT.png", type=Path, help="the pictures found, in one")
    how = parser.add_argument_group("how")
    how.add_argument(
        "--index", choices=KINDS, help="what is searched with (exact; hnsw beyond 200,000 rows)"
    )
    how.add_argument(
        "--store", metavar="STORE", help="where the store of the run is now (where it was)"
    )
    how.add_argument("--serve", action="store_true", help="a page to search on")
    how.add_argument("--host", default=HOST, help=f"name or address of this machine ({HOST})")
    how.add_argument(
        "--allow-host", dest="allowed_hosts", action="append", default=[], metavar="NAME",
        help="a further name of the served page, as a reverse proxy or the DNS has it; one exact"
        " name without a port, no wildcard; may be given several times",
    )  # fmt: skip
    how.add_argument(
        "--port",
        type=whole(0, 65_535),
        default=PORT,
        help=f"port of the served page; 0 = any that is free ({PORT})",
    )
