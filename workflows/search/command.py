"""`tesserae search`: answers in the terminal, or a page to look for them."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.images.probe import probe
from workflows.search.engine import Answer, Engine, Wanted, open_engine
from workflows.search.gallery import Squarer, read_picture
from workflows.search.query import parse
from workflows.search.server.security import Guard, is_loopback
from workflows.terminal.formatting import encodable, printable

WIDEST = 44
"""Characters of a class's names that are shown."""


def run(args: argparse.Namespace) -> int:
    """Search once, or serve."""
    return serve(args) if args.serve else ask(args)


def ask(args: argparse.Namespace) -> int:
    """Search once, and print what was found."""
    if args.grid is not None and args.grid.suffix.lower() != ".png":
        raise ValueError(f"--grid is {args.grid}: expected a name that ends in .png.")
    if args.grid is not None and args.to == "words":
        raise ValueError("--grid shows pictures: expected --to images or both.")
    data = None if args.image is None else read_picture(args.image)
    query = parse(args.query, given=data is not None)  # before anything takes its time
    wanted = Wanted(k=args.k, to=args.to, classes=tuple(args.classes), csls=args.csls)
    engine = open_engine(args.run, _splits(args), args.index, digests=False, store=args.store)
    with closing(engine):
        given = None if data is None else _embed(engine, data)
        answer = engine.search(query, wanted, given=given)
        if args.grid is not None:
            _write_grid(args.grid, engine, answer)
    if answer.passed_over:
        words = printable(", ".join(answer.passed_over))
        print(f"notice: not known, and passed over: {words}", file=sys.stderr, flush=True)
    lines = [json.dumps(asdict(answer), indent=2)] if args.json else list(describe(answer))
    for line in lines:
        print(line if args.json else encodable(line, sys.stdout))
    return 0


def _splits(args: argparse.Namespace) -> Sequence[str]:
    return () if args.split == ["all"] else args.split


def _embed(engine: Engine, data: bytes) -> NDArray[np.float32]:
    _compare_pixels(engine)
    with closing(Squarer(engine.gallery.recipe, engine.model.size)) as squarer:
        return engine.embed(squarer.square(data))


def _compare_pixels(engine: Engine) -> None:
    """Say so where a picture comes out otherwise than it would have in the store."""
    recipe = engine.gallery.recipe
    here = probe(recipe.filter, rules=recipe.decode_rules)
    if (here.decoder, here.resizer) != (recipe.decoder, recipe.resizer):
        print(
            "notice: pictures come out a little otherwise here than in the store"
            f" ({recipe.software.get('resizer', 'unnamed')}): see `tesserae doctor`",
            file=sys.stderr,
            flush=True,
        )


def describe(answer: Answer) -> Iterator[str]:
    """An answer as lines of plain text; names cannot write on the terminal."""
    if answer.images:
        yield from _table(
            ("score", "picture", "class", "key"),
            (
                (f"{hit.score:.3f}", f"#{hit.split}:{hit.row}", _short(hit.words or "-"), hit.key)
                for hit in answer.images
            ),
        )
    if answer.words:
        yield from _table(
            ("score", "words", "class", "just as near"),
            (
                (
                    f"{hit.score:.3f}",
                    _short(hit.words),
                    hit.wnid or "-",
                    _short("; ".join(hit.also)),
                )
                for hit in answer.words
            ),
        )
    if not answer.images and not answer.words:
        yield f"{printable(answer.query)}: nothing was found"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    cells = [head, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()


def _short(names: str) -> str:
    return names if len(names) <= WIDEST else f"{names[: WIDEST - 3]}..."


def _write_grid(path: Path, engine: Engine, answer: Answer) -> None:
    from workflows.training.image_grid import grid_png

    gallery, hits = engine.gallery, answer.images
    if not hits:
        print(f"{path} is not written: no picture was found", file=sys.stderr)
        return
    size = min(set.intersection(*(set(gallery.splits[hit.split].sizes) for hit in hits)))
    images = np.concatenate([gallery.rows(hit.split, size, [hit.row]) for hit in hits])
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        new.write_bytes(grid_png(images))
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)
    print(f"{path}: {len(hits)} pictures", file=sys.stderr)


def serve(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C."""
    # tornado: who asks once does not wait for it
    from workflows.search.server import app
    from workflows.search.server.base_handler import Service

    for name in ("query", "image", "grid", "json"):
        if getattr(args, name):
            raise ValueError(f"--serve shows a page to search on: leave out {name}.")
    Guard(args.host, args.allowed_hosts)  # a mistake in a name is told before hours of work
    with contextlib.ExitStack() as stack:
        sockets = app.bind(args.host, args.port)  # a taken port is known before hours of work
        for one in sockets:
            stack.callback(one.close)
        engine = open_engine(args.run, _splits(args), args.index, store=args.store)
        stack.callback(engine.close)
        _compare_pixels(engine)
        engine.gallery.read_keys()
        if args.csls:
            print("measuring what is near to everything", flush=True)
            engine.measure_hubs()
        service = Service(engine, args.host, csls=args.csls, allowed_hosts=args.allowed_hosts)
        stack.callback(service.close)
        address = app.address_of(sockets, args.host)
        started = functools.partial(_say, engine, args.host, address)
        asyncio.run(app.serve(service, sockets, started))
    return 0


def _say(engine: Engine, host: str, address: str) -> None:
    for name, one in engine.embedded.items():
        print(f"{name}: {one.index}")
    if not is_loopback(host):
        print(f"notice: anybody who reaches {host} can search here and see the pictures")
    print(f"search: {address}  (Ctrl-C ends it)", flush=True)
