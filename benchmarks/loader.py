"""How fast pictures are fed to training, from memory: Tesserae and everybody else, side by side.

    python benchmarks/loader.py [--data FOLDER] [--images 20000] [--rounds 5] [--set FOLDER]

Each round runs every arm once, one after the other, each in a process and an environment of its
own, over the same pictures at 224 px in batches of 256, as many threads or processes as there are
cores. An arm feeds a whole epoch first (or --warm seconds of it) and is measured for --seconds
after that; batches are handed to nobody.

    by hand            rows copied from mapped shards to one buffer a thread, nothing else
    tesserae           uncompressed store, 16 rows a chunk, full random order
    tesserae windowed  windows of 1 GiB
    tesserae once      each chunk compared with its checksum when first wanted
    tesserae zstd      a store of zstd:1, one row a chunk, full random order
    tesserae augment   with crop, flip and normalising on the processor
    ffcv               raw, RANDOM;  quasi: QUASI_RANDOM;  crop: RandomResizedCrop
    mds                MosaicML Streaming, JPEG (quality 95), py1e, two processes
    webdataset         JPEG (quality 95), buffer of 1,000, two processes
    torch memmap       DataLoader over a mapped array, two processes
    torch folder       DataLoader that decodes the photographs, two processes
    tensorstore, zarr  rows of our store by an array of their numbers

Without --data the photographs of TESSERAE_DATA are used, over and over. The set is made in a
temporary folder; --set keeps it. FFCV is compiled: it needs libopencv-dev, libturbojpeg0-dev and
pkg-config.
"""

from __future__ import annotations

import statistics
import sys

from pictureset import MADE, Figure, opened, parser_of

ARMS = (
    "by hand",
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
    ("tesserae", "by hand"),
    ("tesserae windowed", "by hand"),
    ("tesserae zstd", "mds"),
    ("tesserae", "torch memmap"),
)


def main() -> int:
    """Run the rounds and print the tables."""
    parser = parser_of(__doc__, ARMS, rounds=5)
    parser.add_argument("--warm", type=float, default=30.0, help="seconds at most (30)")
    args = parser.parse_args()
    if args.data is None:
        parser.error("say where photographs are: --data FOLDER of class folders")
    with opened(args.set, args.scratch) as pictures:
        pictures.make(args.data, args.images, {arm.split()[0] for arm in args.arms} & set(MADE))
        print(f"{pictures.num_images():,} pictures, {args.rounds} rounds", flush=True)
        figures: dict[str, list[Figure]] = {arm: [] for arm in args.arms}
        for place in range(args.rounds):
            for arm in args.arms:
                took = pictures.feed(arm, args.warm, args.seconds)
                figures[arm].append(took)
                print(f"round {place + 1}  {arm:<18} {took.rows / took.wall:8,.0f}", flush=True)
    report(figures)
    return 0


def report(figures: dict[str, list[Figure]]) -> None:
    """Print rates, CPU, and the ratios that matter."""
    print(
        "\n                         images/s         CPU ms/image      first batch     own memory"
    )
    print("                      max     median       min  median       median, s       most, MiB")
    rates = {}
    for arm, runs in figures.items():
        speeds = [run.rows / run.wall for run in runs]
        costs = [run.cpu / run.rows * 1e3 for run in runs]
        rates[arm] = statistics.median(speeds)
        print(
            f"{arm:<18} {max(speeds):8,.0f}   {rates[arm]:8,.0f}   {min(costs):7.3f} "
            f"{statistics.median(costs):7.3f}      {statistics.median(r.first for r in runs):10.2f}"
            f"      {max(run.rss for run in runs):10,.0f}"
        )
    print()
    for one, other in RATIOS:
        if one in rates and other in rates:
            print(f"{one + ' / ' + other:<32} {rates[one] / rates[other]:6.2f}")


if __name__ == "__main__":
    sys.exit(main())
