"""A small source of squares or photographs in two classes, and the words of a command line."""

from __future__ import annotations

from pathlib import Path

from tests.images import jpeg

NUM_TRAIN, NUM_VAL = 8, 5
"""The images of a class in each split."""


def small_source(root: Path, *, width: int = 40, height: int = 40, classes: int = 2) -> Path:
    """Write class folders in splits train and val, and return their root.

    Args:
        root: The folder that gets them.
        width: The width of the images in pixels.
        height: Their height.
        classes: The number of classes.
    """
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        for label in range(classes):
            for number in range(count):
                file = root / split / f"n{label:08d}" / f"{split}{number}.JPEG"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(
                    jpeg(1_000 * label + 100 * (split == "val") + number, width, height)
                )
    return root


def words(source: Path, out: Path, *more: object) -> list[str]:
    """Return the words of a small study of new networks."""
    options = {"--source": source, "--out": out, "--size": 16, "--width": 8, "--epochs": 1,
               "--batch-size": 8, "--learning-rate": 0.05, "--seeds": 1}  # fmt: skip
    flags = [str(word) for option in options.items() for word in option]
    return ["study", "fit", *flags, *map(str, more)]
