"""The implementation of `tesserae upscale`: images, enlarged by a trained network."""

from __future__ import annotations

import sys

import torch

from cluster.limits import cores
from pipeline.errors import TesseraeError
from pipeline.filesystem import advice_for, replacing
from workflows.runs.options import UpscaleOptions
from workflows.runs.upscale import jpeg, png
from workflows.runs.upscale.files import (
    JPEG,
    UpscaleJob,
    plan_jobs,
    require_writable,
    writes_one_file,
)
from workflows.runs.upscale.images import ImageFileError, SourceImage, pixel_count, read_image
from workflows.runs.upscale.strips import enlarged_strips
from workflows.superres.model import TrainedUpscaler, open_upscaler
from workflows.superres.tiles import tile_side
from workflows.terminal.formatting import counted, printable
from workflows.terminal.progress import Progress
from workflows.training.devices import parse_device

PIXELS_PER_MEGAPIXEL = 1_000_000


def run_upscale(options: UpscaleOptions) -> int:
    """Enlarge image files, or the images of a store, with the network of a run.

    Args:
        options: The options of the command. With `store`, they are those of `run_upscale_store`,
            otherwise those of `enlarge_files`.

    Returns:
        The exit status: 0, or 1 if an image file could not be enlarged, of which standard error
        tells.

    Raises:
        ClusterError: The cluster cannot be used.
        StoreError: The images of the store cannot be enlarged.
        TesseraeError: The run cannot be opened, or files cannot be read or written.
        ValueError: There is no such device.
    """
    if options.store is None:
        return enlarge_files(options)
    from workflows.runs.upscale.store import run_upscale_store  # Dask, which files do not need

    return run_upscale_store(options)


def enlarge_files(options: UpscaleOptions) -> int:
    """Enlarge image files with the network of a run.

    Enlarged images that exist are left as they are, unless `overwrite` is set. A file has its name
    only once it is complete.

    Args:
        options: The options of the command, without `store`.

    Returns:
        The exit status: 0, or 1 if an image could not be enlarged, of which standard error tells.

    Raises:
        TesseraeError: The run cannot be opened, the images do not lead to distinct files, the
            folder cannot be written, or the disk or the memory of the device is full.
        ValueError: There is no such device.
    """
    assert options.out is not None  # as the options of files are checked
    out = options.out.expanduser()
    jobs = plan_jobs(options.images, out, options.format)
    torch.set_num_threads(cores())
    device, precision = parse_device(options.device), options.precision or "auto"
    trained = open_upscaler(options.run, device, precision=precision)
    if writes_one_file(jobs, out):
        require_writable(out.absolute().parent)
        if out.exists() and not options.overwrite:
            raise TesseraeError(f"{out} exists: pass --overwrite to replace it.")
    else:
        require_writable(out)
    return _Upscaler(options, trained).enlarge_all(jobs)


class _Upscaler:
    """Enlarges the files of a command one after another, and shows its progress."""

    def __init__(self, options: UpscaleOptions, trained: TrainedUpscaler) -> None:
        self._options = options
        self._trained = trained

    def enlarge_all(self, jobs: list[UpscaleJob]) -> int:
        """Enlarge all files whose result is missing; return the exit status of the command."""
        pending = [job for job in jobs if self._options.overwrite or not job.target.exists()]
        if len(pending) < len(jobs):
            print(
                f"notice: {counted(len(jobs) - len(pending), 'enlarged image')} of"
                f" {len(jobs):,} exist and are left as they are; --overwrite replaces them.",
                flush=True,
            )
        if not pending:
            return 0
        scale = self._trained.scale
        pixels = sum(pixel_count(job.source) for job in pending) * scale**2
        failures = 0
        with Progress(
            f"upscale by {scale}",
            rows=pixels,
            unit="megapixels",
            rows_per_unit=PIXELS_PER_MEGAPIXEL,
        ) as progress:
            for job in pending:
                progress.detail(str(job.source))
                try:
                    self._enlarge(job, progress)
                except ImageFileError as e:
                    failures += 1
                    print(printable(str(e)), file=sys.stderr, flush=True)
        if failures and len(pending) > 1:
            print(
                f"{failures:,} of {len(pending):,} images could not be enlarged.", file=sys.stderr
            )
        trained = self._trained
        print(
            f"{self._options.out}: {counted(len(pending) - failures, 'enlarged image')}, by step"
            f" {trained.step:,} of {trained.run.path}"
        )
        return 1 if failures else 0

    def _enlarge(self, job: UpscaleJob, progress: Progress) -> None:
        image = read_image(job.source)
        _require_format(job, image, self._trained.scale)
        if image.frames > 1:
            progress.note(
                f"notice: {job.source} has {image.frames:,} frames or pages: only the first is"
                " enlarged."
            )
        folder = job.target.absolute().parent
        if not folder.is_dir():
            require_writable(folder)
        try:
            self._write(job, image, progress)
        except OSError as e:
            raise TesseraeError(
                f"cannot write {job.target}: {e.strerror or e}. {advice_for(e)}. Run the same"
                " command again afterwards: images that are done are skipped."
            ) from e
        except torch.OutOfMemoryError as e:
            side = self._options.tile or tile_side(self._trained.network, self._trained.device)
            raise TesseraeError(
                f"{job.source}: the memory of {self._trained.device} does not suffice for tiles of"
                f" {side} px. Pass a smaller one, such as --tile {max(1, side // 2)}."
            ) from e

    def _write(self, job: UpscaleJob, image: SourceImage, progress: Progress) -> None:
        options, scale = self._options, self._trained.scale
        width, height = image.size
        writer = jpeg.JpegWriter if job.format == JPEG else png.PngWriter
        strips = enlarged_strips(
            image,
            self._trained,
            side=options.tile,
            self_ensemble=options.self_ensemble,
            count=lambda pixels: progress.update(rows=pixels),
        )
        # Durable, because a further run takes an existing file for a complete one.
        with (
            replacing(job.target, durable=True) as file,
            writer(
                file,
                (width * scale, height * scale),
                image.channels,
                profile=image.profile,
                exif=image.exif,
            ) as writing,
        ):
            for strip in strips:
                writing.write(strip)


def _require_format(job: UpscaleJob, image: SourceImage, scale: int) -> None:
    """Refuse an image that the format of its file cannot hold."""
    width, height = (side * scale for side in image.size)
    limit = jpeg.MAX_SIDE if job.format == JPEG else png.MAX_SIDE
    if max(width, height) > limit:
        raise ImageFileError(
            f"{job.source} would become {width:,}x{height:,} pixels, and {job.format.upper()} holds"
            f" at most {limit:,} on a side: {_other_format(job)}."
        )
    if job.format == JPEG and image.alpha is not None:
        raise ImageFileError(
            f"{job.source} has transparency, which JPEG lacks: {_other_format(job)}."
        )


def _other_format(job: UpscaleJob) -> str:
    return "pass --format png" if job.format == JPEG else "cut it into parts"
