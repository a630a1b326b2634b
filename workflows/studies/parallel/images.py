"""The images that the study decodes: files that any interpreter can open."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from pipeline import sources
from pipeline.errors import SourceError
from pipeline.ingest.source_index import Sample
from pipeline.sources.reader import SourceReader
from pipeline.urls import is_url
from workflows.preparation.tuning.samples import samples_of_source
from workflows.studies.parallel.options import ParallelOptions
from workflows.training.writing import write

QUICK_IMAGES = 48
"""The number of images of the small version of the study."""
LIST_NAME = "images.txt"
FOLDER_NAME = "images"
"""The names of the list of files, and of the folder of those that are copied."""


@dataclass(frozen=True)
class ImageFiles:
    """The files of the images."""

    list_file: Path
    """A text file with the path of each on a line."""
    paths: list[str]
    """The paths, in the order of the list."""
    num_bytes: int
    """Their size in bytes."""
    digest: str
    """A digest of their keys and sizes, in hexadecimal."""


def open_images(options: ParallelOptions, folder: Path) -> ImageFiles:
    """Draw images of the source, and write the list of their files into a folder.

    Images of a local folder are decoded where they are; those of archives and of URLs are copied
    into the folder, once.

    Args:
        options: The source, and the number of images.
        folder: The folder, which exists.

    Raises:
        SourceError: The source cannot be read, has no images, or a path has a line break.
        ReadError: An image cannot be read.
    """
    source = sources.open_source(
        options.source, options.split, options.source_kind, options.source_options
    )
    number = QUICK_IMAGES if options.quick else options.images
    with samples_of_source(options.split, source) as drawn:
        samples = drawn.samples[:number]
        digest = blake2b(digest_size=16)
        for sample in samples:
            digest.update(f"{sample.key}\0{sample.num_bytes}\0".encode())
        in_place = not is_url(drawn.root) and all(sample.offset is None for sample in samples)
        if in_place:
            root = Path(drawn.root).absolute()
            paths = [str(root / sample.path) for sample in samples]
        else:
            paths = _copied(SourceReader(drawn.root), samples, folder / FOLDER_NAME)
    if any("\n" in path or "\r" in path for path in paths):
        raise SourceError("a path of the source has a line break, which its list cannot hold.")
    write(folder / LIST_NAME, "".join(f"{path}\n" for path in paths).encode())
    num_bytes = sum(sample.num_bytes for sample in samples)
    return ImageFiles(folder / LIST_NAME, paths, num_bytes, digest.hexdigest())


def _copied(reader: SourceReader, samples: list[Sample], folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    paths = []
    for index, sample in enumerate(samples):
        file = folder.absolute() / f"{index:06d}"
        if not file.exists() or file.stat().st_size != sample.num_bytes:
            write(file, reader.read(sample.path, sample.offset, sample.num_bytes))
        paths.append(str(file))
    return paths
