"""Measure how fast Tesserae and other loaders return batches of images that are in memory.

    python benchmarks/loader.py [--data FOLDER] [--images 20000] [--rounds 5] [--set FOLDER]

Each round runs every method once, in a process and an environment of its own. All load the same
images of 224 px in batches of 256, with as many threads or processes as there are cores. A method
first loads a whole epoch (at most --warm-up seconds of it), and is measured for --seconds after
that. Batches are dropped.

    row copy           rows copied from memory-mapped shards to one buffer per thread, nothing else
    tesserae           uncompressed store, 16 rows per chunk, random order
    tesserae windowed  windows of 1 GiB
    tesserae once      each chunk compared with its checksum before its first use
    tesserae zstd      store of zstd:1, one row per chunk, random order
    tesserae augment   with crop, flip and normalisation on the CPU
    ffcv               raw pixels, RANDOM;  quasi: QUASI_RANDOM;  crop: RandomResizedCrop
    mds                MosaicML Streaming, JPEG (quality 95), py1e, in processes
    webdataset         JPEG (quality 95), a buffer of 1,000, in processes
    torch memmap       DataLoader over a memory-mapped array, in processes
    torch folder       DataLoader that decodes the photographs, in processes
    tensorstore, zarr  rows of Tesserae's store, selected by an array of row numbers

FFCV is compiled: it needs libopencv-dev, libturbojpeg0-dev and pkg-config.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from image_set import FORMATS, ImageSet, LoaderMeasurement, create_parser, open_set

METHODS = (
    "row copy",
    "tesserae",
    "tesserae windowed",
    "tesserae once",
    "tesserae zstd",
    "tesserae augment",
    "ffcv",
    "ffcv quasi",
    "ffcv crop",
    "mds",
    "webdataset",
    "torch memmap",
    "torch folder",
    "tensorstore",
    "zarr",
)
RATIOS = (
    ("tesserae", "ffcv"),
    ("tesserae", "row copy"),
    ("tesserae windowed", "row copy"),
    ("tesserae zstd", "mds"),
    ("tesserae", "torch memmap"),
)
"""The pairs of methods whose ratios are printed."""


def main() -> int:
    """Run the rounds and print the tables."""
    args = parse_arguments(__doc__, METHODS)
    with open_set(args.set, args.scratch) as image_set:
        formats = {method.split()[0] for method in args.methods} & set(FORMATS)
        image_set.create(args.data, args.images, formats)
        report(run_rounds(image_set, args), RATIOS)
    return 0


def parse_arguments(text: str, methods: tuple[str, ...]) -> argparse.Namespace:
    """Parse the command line of a program that measures loaders from memory."""
    parser = create_parser(text, methods, rounds=5)
    parser.add_argument(
        "--warm-up", "--warm", type=float, default=30.0, metavar="SECONDS",
        help="maximum time of the epoch before the measurement (default 30)",
    )  # fmt: skip
    args = parser.parse_args()
    if args.data is None:
        parser.error("pass a folder of class folders of photographs: --data FOLDER")
    return args


def run_rounds(image_set: ImageSet, args: argparse.Namespace) -> dict[str, list[LoaderMeasurement]]:
    """Run every method once in each round, and return the measurements by method."""
    print(f"{image_set.num_images():,} images, {args.rounds} rounds", flush=True)
    measurements: dict[str, list[LoaderMeasurement]] = {method: [] for method in args.methods}
    for number in range(args.rounds):
        for method in args.methods:
            run = image_set.measure(method, args.warm_up, args.seconds)
            measurements[method].append(run)
            rate = run.rows / run.wall
            print(f"round {number + 1}  {method:<18} {rate:8,.0f} images/s", flush=True)
    return measurements


def report(
    measurements: dict[str, list[LoaderMeasurement]], ratios: tuple[tuple[str, str], ...]
) -> None:
    """Print rates, CPU time and memory of each method, and ratios of some pairs of methods."""
    print(
        "\n                         images/s         CPU ms/image      first batch     own memory"
    )
    print("                      max     median       min  median       median, s       max, MiB")
    rates, cpu = {}, {}
    for method, runs in measurements.items():
        speeds = [run.rows / run.wall for run in runs]
        costs = [run.cpu / run.rows * 1e3 for run in runs]
        first = statistics.median(run.first for run in runs)
        rates[method], cpu[method] = statistics.median(speeds), statistics.median(costs)
        print(
            f"{method:<18} {max(speeds):8,.0f}   {rates[method]:8,.0f}   {min(costs):7.3f} "
            f"{cpu[method]:7.3f}      {first:10.2f}"
            f"      {max(run.rss for run in runs):9,.0f}"
        )
    print("\nratio of the medians                 images/s       CPU")
    for method, baseline in ratios:
        if method in rates and baseline in rates:
            print(
                f"{method + ' / ' + baseline:<36} {rates[method] / rates[baseline]:8.2f}"
                f"  {cpu[method] / cpu[baseline]:8.2f}"
            )


if __name__ == "__main__":
    sys.exit(main())
