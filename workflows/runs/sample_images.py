"""The work of `tesserae sample-images`: pictures of a trained generator in one PNG."""

from __future__ import annotations

import argparse

import torch

from pipeline.errors import TesseraeError
from workflows.training.image_grid import grid_png, to_uint8
from workflows.training.run_folder import RunFolder
from workflows.wgan.sampling import Painter, open_painter

WAY = 10
"""Pictures of a line from one to another."""


def run(args: argparse.Namespace) -> int:
    """Make them."""
    if args.out.suffix.lower() != ".png":
        raise ValueError(f"--out is {args.out}: expected a name that ends in .png.")
    if not args.out.absolute().parent.is_dir():
        raise ValueError(
            f"--out is {args.out}: there is no folder {args.out.parent}. Make it first."
        )
    painter = open_painter(RunFolder(args.run))
    columns = None
    if args.interpolate:
        columns = min(WAY, args.n)
        # The last line may be cut short, so that there are as many pictures as were asked for.
        noise = painter.between(-(-args.n // columns), columns, args.seed)[: args.n]
    else:
        noise = painter.noise(args.n, args.seed)
    labels = None
    if args.label is not None:
        labels = torch.full((len(noise),), _label(args.label, painter))
    elif painter.classes and columns is not None:
        labels = torch.arange(len(noise)) // columns % len(painter.classes)
    args.out.write_bytes(grid_png(to_uint8(painter.paint(noise, labels)), columns=columns))
    print(f"{args.out}: {len(noise)} pictures of step {painter.step:,} of {args.run}")
    return 0


def _label(named: str, painter: Painter) -> int:
    classes = painter.classes
    if not classes:
        raise TesseraeError("--label: the run does not tell classes apart.")
    if named.isdecimal() and int(named) < len(classes):
        return int(named)
    if named in painter.wnids:
        return painter.wnids.index(named)
    if classes.count(named) == 1:
        return classes.index(named)
    if named in classes:
        raise TesseraeError(f"--label is {named!r}: several classes are called so; name its wnid.")
    raise TesseraeError(f"--label is {named!r}: expected one of {', '.join(classes[:20])}.")
