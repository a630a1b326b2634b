"""The implementation of `tesserae sample-images`: samples of a generator in one PNG."""

from __future__ import annotations

import torch

from pipeline.errors import TesseraeError
from workflows.runs.options import SampleImagesOptions
from workflows.training.image_grid import grid_png, to_uint8
from workflows.training.run_folder import RunFolder
from workflows.wgan.sampling import INTERPOLATION_STEPS, Sampler, open_sampler


def run_sample_images(options: SampleImagesOptions) -> int:
    """Generate images with the generator of a run, and write them as a grid in a PNG file.

    They are generated on the CPU. A file of that name is replaced. A line with its path is printed.

    Args:
        options: `run`, the folder of a GAN's run; `n`, the number of images, 1 to 10,000; `out`,
            the PNG file, in a folder that exists; `seed` of the noise; `label`, the class of all
            images as text: its label such as "3", a wnid or a name (None = all classes in turn);
            and `interpolate`, True if each row of the grid leads from one random image to another.

    Returns:
        The exit status, 0.

    Raises:
        ValueError: --out is not a PNG file in an existing folder.
        TesseraeError: The run has no generator, no checkpoint or no such class, is not conditioned
            on classes although a label is given, or has diverged.
        OSError: The file cannot be written.
    """
    if options.out.suffix.lower() != ".png":
        raise ValueError(f"--out is {options.out}: expected a name that ends in .png.")
    if not options.out.absolute().parent.is_dir():
        raise ValueError(
            f"--out is {options.out}: the folder {options.out.parent} does not exist. Create it"
            " first."
        )
    sampler = open_sampler(RunFolder(options.run))
    columns = None
    if options.interpolate:
        columns = min(INTERPOLATION_STEPS, options.n)
        # The last line is cut short if --n is no multiple of the columns.
        noise = sampler.interpolate(-(-options.n // columns), columns, options.seed)[: options.n]
    else:
        noise = sampler.noise(options.n, options.seed)
    labels = None
    if options.label is not None:
        labels = torch.full((len(noise),), _class_label(options.label, sampler))
    elif sampler.classes and columns is not None:
        labels = torch.arange(len(noise)) // columns % len(sampler.classes)
    options.out.write_bytes(grid_png(to_uint8(sampler.generate(noise, labels)), columns=columns))
    print(f"{options.out}: {len(noise)} images of step {sampler.step:,} of {options.run}")
    return 0


def _class_label(name: str, sampler: Sampler) -> int:
    classes = sampler.classes
    if not classes:
        raise TesseraeError(
            "--label needs a run that is conditioned on classes (`train wgan --condition`)."
        )
    if name.isdecimal() and int(name) < len(classes):
        return int(name)
    if name in sampler.wnids:
        return sampler.wnids.index(name)
    if classes.count(name) == 1:
        return classes.index(name)
    if name in classes:
        raise TesseraeError(f"--label is {name!r}: several classes have this name; pass a wnid.")
    raise TesseraeError(f"--label is {name!r}: expected one of {', '.join(classes[:20])}.")
