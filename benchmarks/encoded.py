"""Measure how fast Tesserae and other loaders decode JPEG rows that are in memory.

    python benchmarks/encoded.py [--data FOLDER] [--images 20000] [--rounds 5] [--set FOLDER]

Each round runs every method once, in a process and an environment of its own, as loader.py does.
All read the same JPEG files: those of `jpeg:224@90` or of `jpeg:256@90`, which encode_jpeg_row
makes of the photographs. They return batches of 256 images of 224 px in random order, with as many
threads or processes as there are cores.

Whole rows of jpeg:224@90:

    by hand            decoded with simplejpeg in threads, and nothing else
    by hand fast       the same with the fast DCT and the fast upsampling, whose pixels differ
    tesserae whole     the centred square
    ffcv whole         the same, RANDOM

Random parts of rows of jpeg:256@90, 8 to 100 % of the area with a ratio of 3/4 to 4/3, resized:

    decode crops       the function that decodes and resizes for Tesserae's loader, in threads
    tesserae crop      random order
    ffcv crop          RandomResizedCropRGBImageDecoder, RANDOM
    dali crop          the CPU's fused decoding and cropping, from an external source
    mds crop           MosaicML Streaming, py1e; Pillow in processes
    webdataset crop    a buffer of 1,000; Pillow in processes
    torch folder crop  DataLoader over the files; Pillow in processes

It also prints the mean bytes of a row. prepare.py measures what the rows cost to prepare.

FFCV is compiled: it needs libopencv-dev, libturbojpeg0-dev and pkg-config.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from image_set import ImageSet, link_images, open_set, prepare
from loader import parse_arguments, report, run_rounds

METHODS = (
    "by hand",
    "by hand fast",
    "tesserae whole",
    "ffcv whole",
    "decode crops",
    "tesserae crop",
    "ffcv crop",
    "dali crop",
    "mds crop",
    "webdataset crop",
    "torch folder crop",
)
FORMATS = ("ffcv whole", "ffcv crop", "mds crop", "webdataset crop")
"""The methods whose own library writes a format."""
RATIOS = (
    ("tesserae whole", "by hand"),
    ("tesserae whole", "ffcv whole"),
    ("ffcv whole", "by hand"),
    ("tesserae crop", "decode crops"),
    ("tesserae crop", "ffcv crop"),
    ("tesserae crop", "dali crop"),
    ("tesserae crop", "mds crop"),
    ("tesserae crop", "torch folder crop"),
)
"""The pairs of methods whose ratios are printed."""
SHORT_SIDES = (224, 256)
QUALITY = 90
RAW_BYTES = 224 * 224 * 3


class EncodedSet(ImageSet):
    """A folder with the same JPEG rows in every format."""

    script = Path(__file__).parent / "encoded_methods.py"

    def create(self, data: Path, num_images: int, formats: set[str]) -> None:
        """Create what is missing.

        Args:
            data: The photographs, in class folders.
            num_images: The number of images; photographs are repeated if there are fewer.
            formats: The names of the methods; their formats are written.
        """
        photographs = self.folder / "photographs"
        self._once(photographs, lambda out: link_images(data, out, num_images))
        self._once(self.folder / "labels.npy", self._write_labels)
        for side in SHORT_SIDES:
            self._once(
                self.folder / f"jpeg{side}",
                lambda out, side=side: write_rows(data, out, num_images, side),
            )
        if any(name.startswith("tesserae") for name in formats):
            rows = ("--encoded", *(f"jpeg:{side}@{QUALITY}" for side in SHORT_SIDES))
            self._once(self.folder / "store", lambda out: prepare(photographs, out, (), rows))
        for name in FORMATS:
            if name in formats:
                self._once(self.folder / name, lambda out, name=name: self._convert(name, out))

    def _write_labels(self, file: Path) -> None:
        import numpy as np

        names = [image.parent.name for image in sorted((self.folder / "photographs").glob("*/*"))]
        with file.open("wb") as out:
            np.save(out, np.unique(names, return_inverse=True)[1])

    def report_bytes(self) -> None:
        """Print the mean bytes of a row."""
        print(f"bytes per row: raw 224 {RAW_BYTES:,}", end="")
        for name in (*(f"jpeg{side}/files" for side in SHORT_SIDES), "photographs"):
            sizes = [file.stat().st_size for file in (self.folder / name).glob("*/*")]
            print(f", {name.removesuffix('/files')} {sum(sizes) / len(sizes):,.0f}", end="")
        print(flush=True)


def write_rows(data: Path, out: Path, num_images: int, short_side: int) -> None:
    """Write the photographs of *data* as JPEG rows, in the layout of encoded_methods.py."""
    import numpy as np

    from pipeline.images.decode import decode
    from pipeline.images.encode import encode_jpeg_row

    unique = out / "unique"
    shapes = {}
    for file in sorted(data.glob("*/*")):
        content = file.read_bytes()
        decoded = decode(content, fit="crop", serves=short_side, exif=True)
        row = encode_jpeg_row(
            content, decoded, short_side=short_side, quality=QUALITY, filter="bicubic"
        )
        target = unique / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(row.data)
        shapes[file.parent.name, file.stem] = row.height, row.width
    link_images(unique, out / "files", num_images)
    shutil.rmtree(unique)
    files = sorted((out / "files").glob("*/*"))
    with (out / "bytes.bin").open("wb") as stream:
        ends = [stream.tell()]
        for file in files:
            stream.write(file.read_bytes())
            ends.append(stream.tell())
    rows = [shapes[file.parent.name, file.stem.rpartition("_")[0]] for file in files]
    np.save(out / "offset.npy", np.array(ends, np.int64))
    np.save(out / "shape.npy", np.array(rows, np.int32))


def main() -> int:
    """Run the rounds and print the tables."""
    args = parse_arguments(__doc__, METHODS)
    with open_set(args.set, args.scratch, EncodedSet) as image_set:
        image_set.create(args.data, args.images, set(args.methods))
        image_set.report_bytes()
        report(run_rounds(image_set, args), RATIOS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
