"""The implementation of `tesserae search`: answers in the terminal, or a page to search on."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.defaults import is_loopback
from pipeline.filesystem import replacing, write_file
from pipeline.images.probe import probe
from workflows.search.engine import Answer, Engine, SearchOptions, open_engine
from workflows.search.options import SearchCommandOptions
from workflows.search.query import parse_query
from workflows.search.query_image import read_image
from workflows.search.results_file import format_of_name, write_results
from workflows.search.server.security import Guard
from workflows.terminal.formatting import encodable, printable

MAX_NAME_CHARACTERS = 44
"""The maximum number of characters of a class's names in a table."""


def run_search(options: SearchCommandOptions) -> int:
    """Search once, or serve the page with `--serve`.

    The answers, or the address of the page, are printed to standard output. The images of a split
    without vectors are embedded first, which writes vectors and an index to the folder `search` of
    the run, or to one such as `search-photos-1a2b3c4d` for another store than that of the run, or
    to such a folder in that of `--vectors`.

    Args:
        options: The parsed options of the command, such as
            `SearchCommandOptions(run=Path("runs/devise"), query="fishing net")`.

    Returns:
        The exit status, 0; errors are raised.

    Raises:
        QueryError: The query is invalid, or names a word, row or class that does not exist.
        TesseraeError: The run or its store cannot be searched, or the port is taken.
        ValueError: Two options contradict each other, or one is invalid.
        OSError: The file of `--grid` or `--save` cannot be written.
        KeyboardInterrupt: The user pressed Ctrl-C, the only regular end of `--serve`.
    """
    return serve(options) if options.serve else search_once(options)


def search_once(options: SearchCommandOptions) -> int:
    """Search once, and print the answers to standard output, as tables or with `--json` as JSON.

    The images of a split without vectors are embedded first, which writes to the run's folder.
    Then `--grid` also writes the images into a PNG file, if there are any, and `--save` the results
    into a file. Unknown words that were ignored are printed to standard error.

    Args:
        options: The parsed options of the command, such as
            `SearchCommandOptions(run=Path("runs/devise"), query="fishing net")`. Its `serve` and
            what only concerns the server are ignored.

    Returns:
        The exit status, 0; errors are raised.

    Raises:
        QueryError: The query is invalid, or names a word, row or class that does not exist.
        TesseraeError: The run or its store cannot be searched.
        ValueError: `--grid` is no PNG file, or is combined with `--to words`; `--save` names a file
            of another format; or the folder of either does not exist.
        OSError: The file of `--grid` or `--save` cannot be written.
    """
    if options.grid is not None and options.grid.suffix.lower() != ".png":
        raise ValueError(f"--grid is {options.grid}: expected a name that ends in .png.")
    if options.grid is not None and options.to == "words":
        raise ValueError("--grid shows images: expected --to images or both.")
    save_format = None if options.save is None else format_of_name(options.save.name)
    if options.save is not None and save_format is None:
        raise ValueError(
            f"--save is {options.save}: expected a name that ends in .csv, .json or .zip."
        )
    for name, target in (("grid", options.grid), ("save", options.save)):
        if target is not None and not target.parent.is_dir():
            raise ValueError(f"--{name} is {target}: there is no folder {target.parent}.")
    data = None if options.image is None else read_image(options.image)
    # Parse before the run is opened, which may take long: a mistake is reported at once.
    query = parse_query(options.query, has_image=data is not None)
    search_options = SearchOptions(
        k=options.k, to=options.to, classes=options.classes, csls=options.csls, fold=options.fold
    )
    engine = _open_engine(options, digests=False)
    with closing(engine):
        image_vector = None if data is None else _embed(engine, data)
        answer = engine.search(query, search_options, image_vector=image_vector)
        _print_answer(answer, as_json=options.json)
        if options.grid is not None:
            _write_grid(options.grid, engine, answer)
        if options.save is not None and save_format is not None:
            with replacing(options.save, durable=False) as file:
                write_results(answer, engine.gallery, save_format, file)
            print(f"{options.save}: written", file=sys.stderr)
    return 0


def _print_answer(answer: Answer, *, as_json: bool) -> None:
    if answer.passed_over:
        words = printable(", ".join(answer.passed_over))
        print(f"notice: unknown words, ignored: {words}", file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps(asdict(answer), indent=2), flush=True)
        return
    for line in search_result_lines(answer):
        print(encodable(line, sys.stdout))
    sys.stdout.flush()


def _open_engine(options: SearchCommandOptions, *, digests: bool = True) -> Engine:
    return open_engine(
        options.run, options.splits, options.index, digests=digests, store=options.store,
        vectors=options.vectors,
    )  # fmt: skip


def _embed(engine: Engine, data: bytes) -> NDArray[np.float32]:
    _compare_pixels(engine)
    with closing(engine.open_preprocessor()) as preprocessor:
        return engine.embed(preprocessor.preprocess(data))


def _compare_pixels(engine: Engine) -> None:
    """Print a notice if decoding here gives other pixels than those in the store."""
    recipe = engine.gallery.recipe
    local = probe(recipe.filter, rules=recipe.decode_rules)
    if (local.decoder, local.resizer) != (recipe.decoder, recipe.resizer):
        print(
            "notice: pixels decoded here differ slightly from those of the store"
            f" ({recipe.software.get('resizer', 'unnamed')}): see `tesserae doctor`",
            file=sys.stderr,
            flush=True,
        )


def search_result_lines(answer: Answer) -> Iterator[str]:
    """Yield an answer as lines of text, with control characters in names escaped.

    Args:
        answer: The answer of `Engine.search`.

    Yields:
        A table of the images, then one of the words, each with the names of its columns as the
        first line; or a line that there are no results. A line has no newline at its end. The names
        of a class are cut to 44 characters.
    """
    if answer.images:
        yield from _table(
            ("score", "image", "class", "key"),
            (
                (
                    f"{hit.score:.3f}",
                    f"#{hit.split}:{hit.row}",
                    _shortened(hit.words or "-"),
                    hit.key,
                )
                for hit in answer.images
            ),
        )
    if answer.words:
        yield from _table(
            ("score", "words", "class", "same vector"),
            (
                (
                    f"{hit.score:.3f}",
                    _shortened(hit.words),
                    hit.wnid or "-",
                    _shortened("; ".join(hit.also)),
                )
                for hit in answer.words
            ),
        )
    if not answer.images and not answer.words:
        yield f"{printable(answer.query)}: no results"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    cells = [head, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()


def _shortened(names: str) -> str:
    return names if len(names) <= MAX_NAME_CHARACTERS else f"{names[: MAX_NAME_CHARACTERS - 3]}..."


def _write_grid(path: Path, engine: Engine, answer: Answer) -> None:
    from workflows.training.image_grid import grid_png

    gallery, hits = engine.gallery, answer.images
    if not hits:
        print(f"{path} is not written: the results have no images", file=sys.stderr)
        return
    size = gallery.common_size(hit.split for hit in hits)
    images = np.concatenate([gallery.rows(hit.split, size, [hit.row]) for hit in hits])
    write_file(path, [grid_png(images)], durable=False)
    print(f"{path}: {len(hits)} images", file=sys.stderr)


def serve(options: SearchCommandOptions) -> int:
    """Serve the page until Ctrl-C, after embedding the images of splits without vectors.

    Args:
        options: The parsed options of the command, such as
            `SearchCommandOptions(run=Path("runs/devise"), serve=True)`. A host of "" listens on all
            interfaces, and port 0 selects a free one. With `csls`, hubs are measured first. The
            options `query`, `image`, `grid`, `save` and `json` of a single search must not be set;
            `k`, `to`, `classes` and `fold` are ignored.

    Returns:
        Never in regular use: Ctrl-C raises KeyboardInterrupt, after which the sockets and the
        engine are closed.

    Raises:
        KeyboardInterrupt: The user pressed Ctrl-C, which is the only regular end.
        TesseraeError: The run or its store cannot be searched, or the port is taken.
        ValueError: An option of a single search was given, or a name of `--allow-host` is invalid.
    """
    # Imported late: a single search need not wait for tornado to load.
    from workflows.search.server import app
    from workflows.search.server.service import SearchService

    for name in ("query", "image", "grid", "save", "json"):
        if getattr(options, name):
            raise ValueError(f"--serve shows a page to search on: omit {name}.")
    # Check names and the port first: a mistake must not show after hours of embedding.
    Guard(options.host, options.allowed_hosts)
    with contextlib.ExitStack() as stack:
        sockets = app.bind(options.host, options.port)
        for opened in sockets:
            stack.callback(opened.close)
        engine = _open_engine(options)
        stack.callback(engine.close)
        _compare_pixels(engine)
        engine.gallery.read_keys()
        if options.csls:
            print("computing CSLS statistics ...", flush=True)
            engine.measure_hubs()
        service = SearchService(
            engine, options.host, csls=options.csls, allowed_hosts=options.allowed_hosts
        )
        stack.callback(service.close)
        address = app.address_of(sockets, options.host)
        started = functools.partial(_print_address, engine, options.host, address)
        asyncio.run(app.serve(service, sockets, started))
    return 0


def _print_address(engine: Engine, host: str, address: str) -> None:
    for name, embedded in engine.embedded.items():
        print(f"{name}: {embedded.index}")
    if not is_loopback(host):
        print(f"notice: anyone who can reach {host} can search here and see the images")
    print(f"search: {address}  (stop with Ctrl-C)", flush=True)
