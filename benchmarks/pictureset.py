"""The pictures that loader.py and cold.py feed, in every format, and who feeds them."""

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

from environments import python_of

ROOT = Path(__file__).parents[1]
FEEDS = Path(__file__).parent / "feeds.py"
ENVIRONMENTS = {
    "ffcv": ("torch==2.13.0 numpy pillow setuptools", "ffcv==1.0.2"),
    "mds": ("torch==2.13.0 pillow==12.1.1", "mosaicml-streaming==0.13.0"),
    "webdataset": ("torch==2.13.0 pillow==12.1.1", "webdataset==1.0.2"),
    "torch": ("torch==2.13.0 numpy pillow==12.1.1",),
    "tensorstore": ("tensorstore==0.1.86 numpy",),
    "zarr": ("zarr==3.1.6 numpy<2.3",),
}
"""Of who is measured, by the first word of its name. Ours is the one that runs this."""
MADE = ("ffcv", "mds", "webdataset")
"""Formats that their own writers write."""


@dataclass(frozen=True)
class Figure:
    """What one arm took in one round."""

    first: float
    """Seconds to the first batch, from the first import of the loader on."""
    rows: float
    """Handed out in the time that was measured after that."""
    wall: float
    """Seconds."""
    cpu: float
    """Seconds, user and system, of all processes."""
    rss: float
    """MiB at the end, of all processes, without pages of files."""


class PictureSet:
    """A folder of the same pictures in every format."""

    def __init__(self, folder: Path) -> None:
        """A set that is there, or will be made."""
        self.folder = folder

    def make(self, data: Path, num_images: int, formats: set[str]) -> None:
        """Make what is missing: *num_images* pictures from those in *data*, over and over."""
        photographs = self.folder / "photographs"
        self._once(photographs, lambda out: link_images(data, out, num_images))
        for store, words in (("raw", ()), ("zstd", ("--codec", "zstd:1", "--chunk-rows", "1"))):
            self._once(
                self.folder / store, lambda out, words=words: prepare(photographs, out, words)
            )
        self._once(self.folder / "labels.npy", self._dump)
        for name in sorted(formats):
            self._once(self.folder / name, lambda out, name=name: self._convert(name, out))

    def num_images(self) -> int:
        """How many pictures."""
        import numpy as np

        return len(np.load(self.folder / "labels.npy"))

    def _once(self, target: Path, make: Callable[[Path], object]) -> None:
        if not target.exists():
            print(f"making {target.name}", file=sys.stderr, flush=True)
            half = target.with_name(f".half.{target.name}")
            shutil.rmtree(half, ignore_errors=True)
            half.unlink(missing_ok=True)
            make(half)
            half.rename(target)

    def _dump(self, out: Path) -> None:
        import numpy as np

        from pipeline.loader import Loader

        loader = Loader(
            self.folder / "raw",
            batch_size=256,
            order="sequential",
            drop_last=False,
            rank=0,
            world=1,
        )
        shape = (loader.num_rows, 224, 224, 3)
        pixels = np.lib.format.open_memmap(self.folder / "pixels.npy", "w+", np.uint8, shape)
        done = 0
        for images, labels, _rows in loader:
            pixels[done : done + len(labels)] = images.permute(0, 2, 3, 1).numpy()
            done += len(labels)
        with out.open("wb") as file:
            np.save(file, loader.labels.astype(np.int64))

    def _convert(self, name: str, out: Path) -> None:
        subprocess.run(
            [python_of(name, ENVIRONMENTS[name]), FEEDS, "make", name, self.folder, out],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def feed(self, arm: str, warm: float, seconds: float, within: tuple[str, ...] = ()) -> Figure:
        """Run an arm of feeds.py for a while, behind the words of *within*."""
        kind = arm.split()[0]
        known = ENVIRONMENTS.get(kind)
        python = sys.executable if known is None else python_of(kind, known)
        words = [arm, self.folder, self.num_images(), warm, seconds]
        said = subprocess.run(
            [*within, python, FEEDS, "feed", *map(str, words)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT) if known is None else ""},
        ).stdout
        return Figure(**json.loads(said.splitlines()[-1]))


def link_images(data: Path, folder: Path, num_images: int) -> None:
    """The photographs of *data*, class folders, listed again and again by hard links or copies."""
    files = sorted(data.glob("*/*"))
    for number in range(num_images):
        again, place = divmod(number, len(files))
        target = folder / files[place].parent.name
        target.mkdir(parents=True, exist_ok=True)
        name = target / f"{files[place].stem}_{again}{files[place].suffix}"
        try:
            os.link(files[place], name)
        except OSError:  # another disk, or no more links to one file
            shutil.copyfile(files[place], name)


def prepare(photographs: Path, out: Path, words: tuple[str, ...]) -> None:
    """`tesserae prepare`, at 224 px alone."""
    command = [sys.executable, "-m", "workflows", "prepare", photographs, out, "--sizes", "224"]
    subprocess.run(
        [*command, "--no-dashboard", *words], check=True, cwd=ROOT, stdout=subprocess.DEVNULL
    )


def parser_of(text: str, arms: tuple[str, ...], *, rounds: int) -> argparse.ArgumentParser:
    """The words that both benchmarks know."""
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    named = os.environ.get("TESSERAE_DATA")
    photographs = Path(named) / "imagenet/train" if named else None
    parser.add_argument("--data", type=Path, default=photographs)
    parser.add_argument("--set", type=Path, help="folder of a set that is kept")
    parser.add_argument("--scratch", type=Path, help="a folder on the disk to write to")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--arms", nargs="+", choices=arms, default=arms, metavar="ARM")
    return parser


@contextlib.contextmanager
def opened(kept: Path | None, scratch: Path | None) -> Iterator[PictureSet]:
    """A set that is kept in a folder, or one for this run alone."""
    if kept is not None:
        kept.mkdir(parents=True, exist_ok=True)
        yield PictureSet(kept)
        return
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        yield PictureSet(Path(folder))
