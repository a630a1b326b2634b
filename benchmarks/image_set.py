"""The image set that loader.py, cold.py and encoded.py read, in the format of every method."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from environments import python_of

ROOT = Path(__file__).parents[1]
METHODS_SCRIPT = Path(__file__).parent / "loader_methods.py"
ENVIRONMENTS = {
    "ffcv": ("torch==2.13.0 numpy pillow setuptools", "ffcv==1.0.2"),
    "mds": ("torch==2.13.0 pillow==12.1.1", "mosaicml-streaming==0.13.0"),
    "webdataset": ("torch==2.13.0 pillow==12.1.1", "webdataset==1.0.2"),
    "torch": ("torch==2.13.0 numpy pillow==12.1.1",),
    "dali": ("nvidia-dali-cuda120==2.4.0 numpy",),
    "tensorstore": ("tensorstore==0.1.86 numpy",),
    "zarr": ("zarr==3.1.6 numpy<2.3",),
}
"""The requirements of a method, by the first word of its name; others run in this environment."""
FORMATS = ("ffcv", "mds", "webdataset")
"""The formats that a method's own library writes."""


@dataclass(frozen=True)
class LoaderMeasurement:
    """The measurement of one method in one round."""

    first: float
    """The time from the import of the loader to the first batch, in seconds."""
    rows: float
    """The number of rows that were returned in the measured time."""
    wall: float
    """The measured time in seconds."""
    cpu: float
    """The user and system time of all processes, in seconds."""
    rss: float
    """The memory of all processes at the end, in MiB, without pages of files."""


class ImageSet:
    """A folder with the same images in every format."""

    script = METHODS_SCRIPT
    """The program that writes the formats and runs the methods."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def create(self, data: Path, num_images: int, formats: set[str]) -> None:
        """Create what is missing.

        Args:
            data: The photographs, in class folders.
            num_images: The number of images; photographs are repeated if there are fewer.
            formats: The members of `FORMATS` that are needed.
        """
        photographs = self.folder / "photographs"
        self._once(photographs, lambda out: link_images(data, out, num_images))
        for store, options in (("raw", ()), ("zstd", ("--codec", "zstd:1", "--chunk-rows", "1"))):
            self._once(
                self.folder / store, lambda out, options=options: prepare(photographs, out, options)
            )
        self._once(self.folder / "labels.npy", self._write_arrays)
        for name in sorted(formats):
            self._once(self.folder / name, lambda out, name=name: self._convert(name, out))

    def num_images(self) -> int:
        """Return the number of images."""
        import numpy as np

        return len(np.load(self.folder / "labels.npy"))

    def _once(self, target: Path, create: Callable[[Path], object]) -> None:
        if not target.exists():
            print(f"creating {target.name}", file=sys.stderr, flush=True)
            temporary = target.with_name(f".half.{target.name}")
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.unlink(missing_ok=True)
            create(temporary)
            temporary.rename(target)

    def _write_arrays(self, labels_file: Path) -> None:
        import numpy as np

        labels = write_pixels(self.folder / "raw", self.folder / "pixels.npy")
        with labels_file.open("wb") as file:
            np.save(file, labels.astype(np.int64))

    def _convert(self, name: str, out: Path) -> None:
        kind = name.split()[0]
        subprocess.run(
            [python_of(kind, ENVIRONMENTS[kind]), self.script, "write", name, self.folder, out],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def measure(
        self, method: str, warm_up: float, seconds: float, prefix: tuple[str, ...] = ()
    ) -> LoaderMeasurement:
        """Run a method of the script in a process of its own, and return its measurement.

        Args:
            method: The name of the method.
            warm_up: The maximum time of the epoch before the measurement, in seconds.
            seconds: The measured time in seconds.
            prefix: The words of a command that runs another command, such as `sh -c ...`.
        """
        kind = method.split()[0]
        requirements = ENVIRONMENTS.get(kind)
        python = sys.executable if requirements is None else python_of(kind, requirements)
        arguments = [method, self.folder, self.num_images(), warm_up, seconds]
        output = subprocess.run(
            [*prefix, python, self.script, "measure", *map(str, arguments)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT) if requirements is None else ""},
        ).stdout
        return LoaderMeasurement(**json.loads(output.splitlines()[-1]))


def link_images(data: Path, folder: Path, num_images: int) -> None:
    """Link or copy the photographs of *data* into class folders, repeated up to *num_images*."""
    files = sorted(data.glob("*/*"))
    for number in range(num_images):
        repetition, index = divmod(number, len(files))
        target = folder / files[index].parent.name
        target.mkdir(parents=True, exist_ok=True)
        name = target / f"{files[index].stem}_{repetition}{files[index].suffix}"
        try:
            os.link(files[index], name)
        except OSError:  # another disk, or no more links to one file
            shutil.copyfile(files[index], name)


def prepare(
    photographs: Path,
    out: Path,
    options: tuple[str, ...],
    rows: tuple[str, ...] = ("--sizes", "224"),
) -> None:
    """Run `tesserae prepare`.

    Args:
        photographs: The photographs, in class folders.
        out: The new store.
        options: Further options.
        rows: The options that choose the rows (default: squares of 224 px).
    """
    command = [sys.executable, "-m", "workflows", "prepare", photographs, out, *rows]
    subprocess.run(
        [*command, "--no-dashboard", *options], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
    )


def write_pixels(store: Path, file: Path) -> Any:
    """Write the readable rows of a store to an .npy file, (n, 224, 224, 3) uint8.

    Returns:
        The label of every row of the split.
    """
    import numpy as np

    from pipeline.loader import Loader

    loader = Loader(
        store, size=224, batch_size=64, order="sequential", drop_last=False, rank=0, world=1
    )
    shape = (loader.num_rows, 224, 224, 3)
    pixels = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
    start = 0
    for images, labels, _rows in loader:
        pixels[start : start + len(labels)] = images.permute(0, 2, 3, 1).numpy()
        start += len(labels)
    return loader.labels


def photographs_of_tests() -> Path | None:
    """Return the photographs in the folder that TESSERAE_DATA names; None if it is not set."""
    named = os.environ.get("TESSERAE_DATA")
    return Path(named) / "imagenet/train" if named else None


def create_parser(text: str, methods: tuple[str, ...], *, rounds: int) -> argparse.ArgumentParser:
    """Return a parser of the options that loader.py, cold.py and encoded.py share."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        metavar="FOLDER",
        default=photographs_of_tests(),
        help="photographs in class folders (default: those of TESSERAE_DATA)",
    )
    add(
        "--set",
        type=Path,
        metavar="FOLDER",
        help="keep the image set in this folder, and use it again (default: a temporary folder)",
    )
    add(
        "--scratch",
        type=Path,
        metavar="FOLDER",
        help="folder for temporary files, on the disk to be measured (default: TMPDIR)",
    )
    add(
        "--images",
        type=int,
        default=20_000,
        metavar="N",
        help="number of images; photographs are repeated (default 20000)",
    )
    add(
        "--rounds",
        type=int,
        default=rounds,
        metavar="N",
        help=f"number of runs of each method (default {rounds})",
    )
    add(
        "--seconds",
        type=float,
        default=5.0,
        metavar="SECONDS",
        help="measured time of each run (default 5)",
    )
    add("--methods", "--arms", nargs="+", choices=methods, default=methods, metavar="METHOD",
        help="methods to run (default: all)")  # fmt: skip
    return parser


SetKind = TypeVar("SetKind", bound=ImageSet)


@contextlib.contextmanager
def open_set(
    folder: Path | None, scratch: Path | None, kind: type[SetKind] = ImageSet
) -> Iterator[SetKind]:
    """Yield the image set in *folder*; without one, a set that is removed at the end."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        yield kind(folder)
        return
    with tempfile.TemporaryDirectory(dir=scratch) as temporary:
        yield kind(Path(temporary))
