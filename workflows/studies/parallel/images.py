"""The images that the study decodes: files that any interpreter can open."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

from pipeline import sources
from pipeline.errors import SourceError
from pipeline.ingest.source_index import Sample
from pipeline.sources.reader import SourceReader
from pipeline.urls import is_url
from workflows.preparation.tuning.samples import samples_of_source
from workflows.studies.parallel.measured import Task, render
from workflows.studies.parallel.options import ParallelOptions
from workflows.terminal.formatting import counted
from workflows.training.writing import write

LIST_NAME = "images.txt"
FOLDER_NAME = "images"
"""The names of the list of files, and of the folders of those that are copied."""


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


@dataclass(frozen=True)
class DrawnImages:
    """Images that were drawn from a source."""

    source: str
    """The source, as it was passed."""
    root: str
    """The folder or URL that the paths of the samples are relative to."""
    samples: list[Sample]
    """The images, in a random order."""

    def write(self, folder: Path) -> ImageFiles:
        """Write the list of their files into a folder.

        Images of a local folder are decoded where they are; those of archives and of URLs are
        copied into the folder, once. Images that cannot be decoded are left out, and counted in a
        line.

        Args:
            folder: The folder, which exists.

        Raises:
            SourceError: None of the images can be decoded, or a path has a line break.
            ReadError: An image cannot be read.
        """
        samples = self.samples
        if not is_url(self.root) and all(sample.offset is None for sample in samples):
            root = Path(self.root).absolute()
            paths = [str(root / sample.path) for sample in samples]
        else:
            images = folder / f"{FOLDER_NAME}-{_digest(samples)}"
            paths = _copied(SourceReader(self.root), samples, images)
        readable = [(path, s) for path, s in zip(paths, samples, strict=True) if _is_readable(path)]
        if not readable:
            raise SourceError(f"none of {len(samples):,} images of {self.source} can be decoded.")
        if len(readable) < len(samples):
            left_out = counted(len(samples) - len(readable), "image")
            print(f"left out, as Pillow cannot decode them: {left_out}", flush=True)
        paths, samples = [path for path, _ in readable], [sample for _, sample in readable]
        if any("\n" in path or "\r" in path for path in paths):
            raise SourceError("a path of the source has a line break, which its list cannot hold.")
        write(folder / LIST_NAME, "".join(f"{path}\n" for path in paths).encode())
        num_bytes = sum(sample.num_bytes for sample in samples)
        return ImageFiles(folder / LIST_NAME, paths, num_bytes, _digest(samples))


@contextmanager
def draw_images(options: ParallelOptions) -> Iterator[DrawnImages]:
    """Yield images that are drawn from the source.

    They can be read inside the block: those of a source that can only be streamed are in a
    temporary folder.

    Args:
        options: The source, and the number of images.

    Raises:
        SourceError: The source cannot be read, or has no images.
        ReadError: It cannot be read now.
    """
    source = sources.open_source(
        options.source, options.split, options.source_kind, options.source_options
    )
    with samples_of_source(options.split, source) as drawn:
        yield DrawnImages(options.source, drawn.root, drawn.samples[: options.images])


def _digest(samples: Iterable[Sample]) -> str:
    digest = blake2b(digest_size=16)
    for sample in samples:
        digest.update(f"{sample.key}\0{sample.num_bytes}\0".encode())
    return digest.hexdigest()


def _is_readable(path: str) -> bool:
    try:
        render(path, Task(files="", size=1))
    except Exception:  # noqa: BLE001 - Pillow raises many kinds, and the methods would fail alike
        return False
    return True


def _copied(reader: SourceReader, samples: list[Sample], folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    paths = []
    for index, sample in enumerate(samples):
        file = folder.absolute() / f"{index:06d}"
        if not file.exists() or file.stat().st_size != sample.num_bytes:
            write(file, reader.read(sample.path, sample.offset, sample.num_bytes))
        paths.append(str(file))
    return paths
