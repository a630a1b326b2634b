"""Compare the setting that `tesserae tune` chooses with a full sweep of `tesserae prepare`.

    python benchmarks/tune.py [--data FOLDER] [--images 6000] [--rounds 5] [--choices 3]

`tesserae tune` chooses a setting several times. Then every round prepares the same images with each
setting of workers and threads that `tune` tries, and with those that it has chosen, in a random
order, with a warm page cache and three sizes. Times are those of the tasks, without the start of
the workers, as `prepare` prints them. The last lines are the ratio of the rate of each chosen
setting to that of the best one, the default and the worst one, with the median over the rounds.

The best setting is chosen by the other rounds, so that it is not the luckiest one of its own.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from image_set import ROOT, link_images, photographs_of_tests

sys.path.insert(0, str(ROOT))

from cluster.limits import cores
from pipeline.memory import limit_bytes
from workflows.preparation.tuning.settings import Setting, worker_settings

SHARD_ROWS = 128
"""The number of rows in a shard: small, so that the last ones do not keep one worker alone busy."""
TASK_BYTES = 7_000_000
"""The memory of a task with three sizes."""
CHOSEN = re.compile(r"--workers (\d+) --threads (\d+) --readers (\d+)")
RATE = re.compile(r"train: prepare: .* ([\d,]+) images/s")


def tesserae(*words: object) -> str:
    """Run a command, and return what it prints.

    Args:
        words: The command line.
    """
    command = [sys.executable, "-m", "workflows", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def choose(images: Path, store: Path) -> Setting:
    """Return the setting that `tesserae tune` chooses.

    Args:
        images: The folder of images.
        store: A store on the disk that is written to; it is not created.
    """
    output = tesserae("tune", images, store)
    match = CHOSEN.search(output)
    assert match is not None, output
    seconds = re.search(r"in (\d+) s$", output, re.MULTILINE)
    chosen = Setting(*map(int, match.groups()))
    print(f"tune: {chosen}, in {seconds[1] if seconds else '?'} s", flush=True)
    return chosen


def rate_of(images: Path, store: Path, setting: Setting) -> float:
    """Prepare the images with a setting, remove the store, and return the images per second.

    Args:
        images: The folder of images.
        store: The folder of the new store.
        setting: The setting.
    """
    output = tesserae(
        "prepare", images, store, "--no-dashboard", "--shard-rows", SHARD_ROWS,
        "--workers", setting.workers, "--threads", setting.threads, "--readers", setting.readers,
    )  # fmt: skip
    shutil.rmtree(store)
    rates = RATE.findall(output)
    assert rates, output
    return float(rates[-1].replace(",", ""))


def best_of_other_rounds(rates: dict[Setting, list[float]], number: int) -> Setting:
    """Return the setting with the highest median rate in all rounds but one.

    Args:
        rates: The rates of each setting, one for each round.
        number: The round that is left out.
    """
    return max(
        rates,
        key=lambda s: statistics.median(r for i, r in enumerate(rates[s]) if i != number),
    )


def print_results(rates: dict[Setting, list[float]], chosen: Sequence[Setting]) -> None:
    """Print the rates of all settings, and the ratios of the chosen ones.

    Args:
        rates: The rates of each setting, one for each round.
        chosen: The settings that were chosen.
    """
    for setting in sorted(rates, key=lambda s: -statistics.median(rates[s])):
        values = rates[setting]
        print(
            f"{setting!s:<36} {statistics.median(values):>7,.0f} images/s"
            f"  ({min(values):,.0f} to {max(values):,.0f})"
        )
    rounds = range(len(next(iter(rates.values()))))
    worst = min(rates, key=lambda s: statistics.median(rates[s]))
    default = Setting(cores(), 1, 1)
    if default not in rates:  # too little memory for one worker per core
        default = max(rates)
    best = [rates[best_of_other_rounds(rates, number)][number] for number in rounds]
    for setting in dict.fromkeys(chosen):
        for name, others in (
            ("the best", best), ("the default", rates[default]), ("the worst", rates[worst]),
        ):  # fmt: skip
            ratios = [rates[setting][number] / others[number] for number in rounds]
            print(
                f"{setting}, over {name}: {statistics.median(ratios):.3f}"
                f" ({min(ratios):.3f} to {max(ratios):.3f})"
            )


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="photographs in class folders")
    parser.add_argument("--images", type=int, default=6_000, help="number of images (default 6000)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, at least 2 (default 5)")
    parser.add_argument("--choices", type=int, default=3, help="number of choices (default 3)")
    arguments = parser.parse_args()
    if arguments.rounds < 2:
        parser.error(f"--rounds is {arguments.rounds}: expected at least 2")
    data = arguments.data or photographs_of_tests()
    with tempfile.TemporaryDirectory(prefix="tesserae-bench-", dir=Path.cwd()) as folder:
        images, store = Path(folder, "images"), Path(folder, "store")
        link_images(data, images, arguments.images)
        chosen = [choose(images, store) for _ in range(arguments.choices)]
        settings = worker_settings(cores(), 1, task_bytes=TASK_BYTES, limit_bytes=limit_bytes())
        rates: dict[Setting, list[float]] = {s: [] for s in dict.fromkeys([*settings, *chosen])}
        for number in range(arguments.rounds):
            for setting in random.Random(number).sample(list(rates), len(rates)):
                rates[setting].append(rate_of(images, store, setting))
            print(f"round {number + 1} of {arguments.rounds} is over", flush=True)
        print_results(rates, chosen)


if __name__ == "__main__":
    main()
