"""Which image files are enlarged, and the files that they become."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import TesseraeError
from pipeline.filesystem import advice_for
from pipeline.images import formats
from pipeline.urls import is_url

PNG, JPEG = "png", "jpeg"
FORMATS = (PNG, JPEG)
"""The formats that are written."""
SUFFIXES = {".png": PNG, ".jpg": JPEG, ".jpeg": JPEG}
"""The formats by the ending of a file's name."""
OTHER_SUFFIXES = (".avif", ".bmp", ".gif", ".heic", ".jxl", ".tif", ".tiff", ".webp")
"""The endings of image files that are not written; a folder is not expected to have them."""
_SUFFIX_OF = {PNG: ".png", JPEG: ".jpg"}


@dataclass(frozen=True)
class UpscaleJob:
    """An image file and the file that it becomes."""

    source: Path
    """The image file."""
    target: Path
    """The file of the enlarged image."""
    format: str
    """The format of the enlarged image, `png` or `jpeg`."""


def plan_jobs(images: tuple[str, ...], out: Path, format: str | None) -> list[UpscaleJob]:
    """Return which image files become which files; nothing is written.

    An image of a folder keeps its path below that folder. A folder at *out* is left out if it lies
    in one of the folders.

    Args:
        images: Paths of image files and of folders of them, in which a leading `~` is the home
            folder.
        out: The folder of the enlarged images, which need not exist; for a single image file also
            the file itself, whose name then ends in .png, .jpg or .jpeg.
        format: The format that is written, one of `FORMATS` (None: as the name of *out* says, or
            else PNG).

    Raises:
        TesseraeError: *out* is no suitable name, a folder has no images, or two images would become
            the same file, or one would replace itself or another.
    """
    paths = [_expanded(name) for name in images]
    suffix = out.suffix.lower()
    is_file = len(paths) == 1 and not paths[0].is_dir() and not out.is_dir()
    if is_file and suffix in SUFFIXES:
        if format not in (None, SUFFIXES[suffix]):
            raise TesseraeError(
                f"--out is {out} and --format is {format}: expected a name that ends in"
                f" {_SUFFIX_OF[str(format)]}."
            )
        jobs = [UpscaleJob(paths[0], out, SUFFIXES[suffix])]
    else:
        _require_folder(out, suffix, several=not is_file)
        format = format or PNG
        jobs = [
            UpscaleJob(source, out / relative.with_suffix(_SUFFIX_OF[format]), format)
            for path in paths
            for source, relative in _images_of(path, out)
        ]
    _require_distinct(jobs)
    return jobs


def writes_one_file(jobs: list[UpscaleJob], out: Path) -> bool:
    """Return True if the option `--out` names the file itself, not a folder.

    Args:
        jobs: The result of `plan_jobs`.
        out: The value of the option.
    """
    return len(jobs) == 1 and jobs[0].target == out


def require_writable(folder: Path) -> None:
    """Create a folder with its parents unless it exists, and check that files can be written there.

    Args:
        folder: The folder.

    Raises:
        TesseraeError: It cannot be created or written to, or is a file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        advice = advice_for(e, "Choose another folder with --out")
        raise TesseraeError(f"cannot write to {folder}: {e.strerror or e}. {advice}.") from e


def _expanded(name: str) -> Path:
    if is_url(name):
        raise TesseraeError(f"{name} is a URL: expected a file. Save the image, and pass its path.")
    try:
        return Path(name).expanduser()
    except RuntimeError as e:
        raise TesseraeError(f"{name} names the home folder of no user: expected an image.") from e


def _require_folder(out: Path, suffix: str, *, several: bool) -> None:
    if out.exists() and not out.is_dir():
        expected = "a folder, as there are several images" if several else "a new name, or a folder"
        raise TesseraeError(f"--out is {out}, a file: expected {expected}.")
    if not out.exists() and suffix in (*SUFFIXES, *OTHER_SUFFIXES):
        expected = "a folder" if several else "a name that ends in .png or .jpg, or a folder"
        raise TesseraeError(f"--out is {out}: expected {expected}.")


def _images_of(path: Path, out: Path) -> Iterator[tuple[Path, Path]]:
    """Yield a file, or all images of a folder, each with its path below the output folder."""
    if not path.is_dir():
        yield path, Path(path.name)
        return
    if _same(path, out):
        raise TesseraeError(
            f"--out is {out}, the folder of the images itself: expected another one, such as"
            f" {path / 'upscaled'}."
        )
    has_image = False
    for folder, folders, names in os.walk(path):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and not _same(Path(folder, name), out)
        )
        for name in sorted(names):
            file = Path(folder, name)
            if not name.startswith(".") and _is_image(file):
                has_image = True
                yield file, file.relative_to(path)
    if not has_image:
        raise TesseraeError(f"{path} has no images: expected a folder of JPEG or PNG files.")


def _same(first: Path, second: Path) -> bool:
    return first.resolve() == second.resolve()


def _is_image(file: Path) -> bool:
    """Return True for a file that begins as an image does, whatever its name; it may be damaged."""
    try:
        if not file.is_file():
            return False
        with file.open("rb") as opened:
            detected = formats.format_of(opened.read(formats.HEAD_BYTES))
    except OSError:
        return False
    return detected is not None and detected.kind != formats.NOT_AN_IMAGE


def _require_distinct(jobs: list[UpscaleJob]) -> None:
    by_target: dict[Path, Path] = {}
    sources = {job.source.resolve(): job.source for job in jobs}
    for job in jobs:
        first = by_target.setdefault(job.target, job.source)
        if first is not job.source:
            raise TesseraeError(
                f"{first} and {job.source} would both become {job.target}: rename one of them, or"
                " write them to different folders."
            )
        if replaced := sources.get(job.target.resolve()):
            raise TesseraeError(
                f"{job.source} would become {job.target}, which is the image {replaced}: choose"
                " another folder with --out."
            )
