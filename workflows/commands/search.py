"""Search a store with a DeViSE run: images by words, words by images, images by images.

    tesserae search RUN "fishing net"              images that match the words
    tesserae search RUN "engine + boat"            images of both; also a - b, 2*a + b, a ~0.3 b
    tesserae search RUN "#1234 + snow"             images like row 1234 of the store, with snow
    tesserae search RUN --image FILE --to words    words that describe an image file
    tesserae search RUN --serve                    a web page to search on

The first search embeds the whole store; the embeddings are cached in RUN/search.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline.neighbours import KINDS
from workflows.commands.ranges import integer
from workflows.search.query import DIRECTIONS

IMPLEMENTATION = "workflows.search.command"

HOST, PORT = "127.0.0.1", 8780


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `tesserae search`."""
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run of `train devise`")
    parser.add_argument(
        "query",
        metavar="QUERY",
        nargs="?",
        default="",
        help="words, #ROW numbers and @ (the --image), combined with +, -, * and ~",
    )
    parser.add_argument(
        "--image", metavar="FILE", help="image file to search with; QUERY refers to it as @"
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--k",
        type=integer(1, 1_000),
        default=10,
        metavar="N",
        help="number of results (default 10)",
    )
    results.add_argument(
        "--to", choices=DIRECTIONS, default="images", help="kind of the results (default images)"
    )
    results.add_argument(
        "--split",
        nargs="+",
        default=["all"],
        help="splits whose images are searched, or `all` finished splits (default all)",
    )
    results.add_argument(
        "--class",
        dest="classes",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="search only images of these classes, by wnid or name (default: all classes)",
    )
    results.add_argument(
        "--csls",
        action="store_true",
        help="rank by CSLS, which lowers the scores of vectors that are close to many queries"
        " (default: cosine similarity)",
    )
    results.add_argument(
        "--json", action="store_true", help="print the results as one JSON document"
    )
    results.add_argument(
        "--grid",
        metavar="OUT.png",
        type=Path,
        help="also write the images that match as a grid into this PNG file",
    )
    serving = parser.add_argument_group("index and server")
    serving.add_argument(
        "--index",
        choices=KINDS,
        help="index that is searched (default: exact, or hnsw beyond 200,000 rows)",
    )
    serving.add_argument(
        "--store",
        metavar="STORE",
        help="folder or URL of the run's store, if it has moved (default: the location recorded in"
        " the run)",
    )
    serving.add_argument("--serve", action="store_true", help="serve a web page to search on")
    serving.add_argument(
        "--host", default=HOST, help=f"name or address that the server listens on (default {HOST})"
    )
    serving.add_argument(
        "--allow-host", dest="allowed_hosts", action="append", default=[], metavar="NAME",
        help="further host name under which clients reach the server, e.g. behind a reverse proxy;"
        " an exact name without port or wildcard; may be given several times",
    )  # fmt: skip
    serving.add_argument(
        "--port",
        type=integer(0, 65_535),
        default=PORT,
        help=f"TCP port of the server; 0 selects any free port (default {PORT})",
    )
