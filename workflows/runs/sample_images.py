"""The implementation of `tesserae sample-images`: samples of a generator in one PNG."""

from __future__ import annotations

import argparse

import torch

from pipeline.errors import TesseraeError
from workflows.training.image_grid import grid_png, to_uint8
from workflows.training.run_folder import RunFolder
from workflows.wgan.sampling import INTERPOLATION_STEPS, Sampler, open_sampler


def run(args: argparse.Namespace) -> int:
    """Write the grid of samples that *args* describe, and return the exit status."""
    if args.out.suffix.lower() != ".png":
        raise ValueError(f"--out is {args.out}: expected a name that ends in .png.")
    if not args.out.absolute().parent.is_dir():
        raise ValueError(
            f"--out is {args.out}: there is no folder {args.out.parent}. Make it first."
        )
    sampler = open_sampler(RunFolder(args.run))
    columns = None
    if args.interpolate:
        columns = min(INTERPOLATION_STEPS, args.n)
        # The last line is cut short if --n is no multiple of the columns.
        noise = sampler.interpolate(-(-args.n // columns), columns, args.seed)[: args.n]
    else:
        noise = sampler.noise(args.n, args.seed)
    labels = None
    if args.label is not None:
        labels = torch.full((len(noise),), _label(args.label, sampler))
    elif sampler.classes and columns is not None:
        labels = torch.arange(len(noise)) // columns % len(sampler.classes)
    args.out.write_bytes(grid_png(to_uint8(sampler.generate(noise, labels)), columns=columns))
    print(f"{args.out}: {len(noise)} pictures of step {sampler.step:,} of {args.run}")
    return 0


def _label(named: str, sampler: Sampler) -> int:
    classes = sampler.classes
    if not classes:
        raise TesseraeError("--label: the run does not tell classes apart.")
    if named.isdecimal() and int(named) < len(classes):
        return int(named)
    if named in sampler.wnids:
        return sampler.wnids.index(named)
    if classes.count(named) == 1:
        return classes.index(named)
    if named in classes:
        raise TesseraeError(f"--label is {named!r}: several classes have this name; pass a wnid.")
    raise TesseraeError(f"--label is {named!r}: expected one of {', '.join(classes[:20])}.")
