"""The options of `tesserae search`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.neighbours import KINDS
from workflows.options.fields import Options, argument, option
from workflows.search.query import DIRECTIONS

_RESULTS = "results"
_STORE = "images"
_SERVER = "server"


@dataclass(frozen=True, kw_only=True)
class SearchCommandOptions(Options):
    """The options of `tesserae search`: the run, one query or a server, and how to answer."""

    run: Path = argument(
        "folder of a run of `train devise`, or of a CLIP-like model of `transformers`",
        metavar="RUN",
    )
    query: str = argument(
        "words, #ROW numbers and @ (the --image), combined with +, -, * and ~",
        metavar="QUERY",
        default="",
    )
    image: str | None = option(
        None, "image file to search with; QUERY refers to it as @", metavar="FILE"
    )

    store: str | None = option(
        None,
        "folder or URL of the store to search, which need not be that of the run or have labels",
        implied="the store that the run was trained on",
        metavar="STORE",
        group=_STORE,
    )
    split: tuple[str, ...] = option(
        ("all",),
        "splits whose images are searched, or `all` finished splits",
        metavar="SPLIT",
        group=_STORE,
    )
    index: str | None = option(
        None,
        "index that is searched",
        implied="exact, or hnsw beyond 200,000 rows",
        choices=KINDS,
        group=_STORE,
    )
    vectors: Path | None = option(
        None,
        "folder that keeps the vectors of the images, for a RUN that cannot be written; each RUN"
        " has a subfolder in it",
        implied="RUN",
        metavar="FOLDER",
        group=_STORE,
    )

    k: int = option(10, "number of results", minimum=1, maximum=1_000, group=_RESULTS)
    to: str = option("images", "kind of the results", choices=DIRECTIONS, group=_RESULTS)
    classes: tuple[str, ...] = option(
        (),
        "search only images of these classes, by wnid or name",
        implied="all classes",
        name="--class",
        metavar="CLASS",
        group=_RESULTS,
    )
    csls: bool = option(
        False,
        "rank by CSLS, which lowers the scores of vectors that are close to many queries",
        implied="cosine similarity",
        group=_RESULTS,
    )
    fold: bool = option(
        True,
        "make an image and its copies, such as files of another size or quality, one result",
        group=_RESULTS,
    )
    json: bool = option(False, "print the results as one JSON document", group=_RESULTS)
    grid: Path | None = option(
        None,
        "also write the images that match as a grid into this PNG file",
        metavar="OUT.png",
        group=_RESULTS,
    )
    save: Path | None = option(
        None,
        "also write the results into this file: a table (.csv), a document (.json), or both with"
        " the images (.zip)",
        metavar="FILE",
        group=_RESULTS,
    )

    serve: bool = option(False, "serve a web page to search on", group=_SERVER)
    host: str = option(
        "127.0.0.1", "name or address that the server listens on", metavar="HOST", group=_SERVER
    )
    allowed_hosts: tuple[str, ...] = option(
        (),
        "further host names under which clients reach the server, e.g. behind a reverse proxy;"
        " exact names without port or wildcard",
        implied="none",
        name="--allow-host",
        metavar="NAME",
        repeatable=True,
        group=_SERVER,
    )
    port: int = option(
        8780,
        "TCP port of the server; 0 selects any free port",
        minimum=0,
        maximum=65_535,
        metavar="PORT",
        group=_SERVER,
    )

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits to search; empty for all finished ones."""
        return () if self.split == ("all",) else self.split
