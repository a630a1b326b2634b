"""The implementation of `tesserae sample`: creates an ImageNet-shaped folder from photographs."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import PIL
from PIL import Image

from pipeline.errors import TesseraeError
from pipeline.installation import install_advice
from workflows.sample_data.options import SampleOptions
from workflows.sample_data.photographs import (
    CLASSES,
    TAXONOMY,
    VERSION,
    Class,
    plan_images,
    render_photograph,
)
from workflows.terminal.formatting import bytes_text
from workflows.terminal.progress import Progress

NOTICE = "created from 15 photographs to check that everything works; metrics on it mean nothing"
RECORD = "sample.json"
HIERARCHY = "is-a.txt"
SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class SampleSummary:
    """The contents of a sample's folder."""

    directory: Path
    num_train: int
    num_val: int
    num_classes: int
    num_bytes: int
    odd: dict[str, str]
    """The kind of each file that is not a plain RGB JPEG, by key."""
    reused: bool
    """True if the sample existed already, with the same options."""


def run_sample(options: SampleOptions) -> int:
    """Create the sample, or find the same one, and print a summary.

    Args:
        options: The parsed options: `directory`, `images`, `seed` and `classes`.

    Returns:
        The exit status, 0; errors are raised.

    Raises:
        TesseraeError: scikit-image is missing, the folder holds something else, the disk is full.
        ValueError: The number of images or classes is out of range.
    """
    summary = make_sample(
        options.directory, options.images, seed=options.seed, num_classes=options.classes
    )
    for line in sample_lines(summary):
        print(line)
    return 0


def sample_lines(summary: SampleSummary) -> list[str]:
    """Return a summary of the sample as four lines for the terminal.

    Args:
        summary: The result of `make_sample`, which is only read.
    """
    action = "already exists, with the same options" if summary.reused else "created"
    odd = sorted(set(summary.odd.values()))
    return [
        f"{summary.directory} {action}: {summary.num_train:,} train and {summary.num_val:,} val"
        f" images of {summary.num_classes} classes, {bytes_text(summary.num_bytes)}.",
        f"  Classes: {', '.join(map(_word, CLASSES[: summary.num_classes]))}.",
        f"  {len(summary.odd)} unusual files in train: {', '.join(odd) or 'none'}.",
        f"  Note: {NOTICE}.",
    ]


def make_sample(
    directory: Path, images: int, seed: int = 0, *, num_classes: int = len(CLASSES)
) -> SampleSummary:
    """Create a sample in *directory*, unless it exists already.

    The files are written to a temporary folder, which is then renamed, so that a sample is complete
    or absent.

    Args:
        directory: A new or empty folder, or that of a sample of the same options, which is kept as
            it is. Folders above it are created.
        images: Number of images, train and val together, at least two for each class.
        seed: The seed of all random draws (default 0).
        num_classes: Number of classes, 2 to 7, the first ones of `CLASSES` (default: all).

    Returns:
        The contents of the folder: `directory`, `num_train`, `num_val`, `num_classes`, `num_bytes`,
        `odd` (the kind of each unusual file, such as `grey` or `truncated`, by key) and `reused`
        (True if the sample existed already).

    Raises:
        TesseraeError: scikit-image is missing, *directory* holds something else, the disk is full.
        ValueError: *images* or *num_classes* is out of range.
    """
    options = _checked_parameters(images, seed, num_classes)
    existing = _find(directory, options)
    if existing is not None:
        return existing
    photographs = _folder_of_photographs()
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{directory.name}-", dir=directory.parent, ignore_cleanup_errors=True
        ) as temporary:
            sample = Path(temporary) / "sample"
            _create(sample, photographs, options)
            sample.replace(directory)
    except OSError as e:
        raise TesseraeError(
            f"cannot create the sample at '{directory}': {e.strerror or e}. Pass a writable folder"
            " on a disk with enough free space."
        ) from e
    return _sample_summary(directory, _record(directory), reused=False)


def _checked_parameters(images: int, seed: int, num_classes: int) -> dict[str, int]:
    if not 2 <= num_classes <= len(CLASSES):
        raise ValueError(f"--classes is {num_classes}: expected 2 to {len(CLASSES)}.")
    if images < 2 * num_classes:
        raise ValueError(
            f"--images is {images}: expected at least {2 * num_classes}, one of each of"
            f" {num_classes} classes in train and in val."
        )
    return {"version": VERSION, "images": images, "seed": seed, "classes": num_classes}


def _find(directory: Path, options: dict[str, int]) -> SampleSummary | None:
    """Return the summary of an existing sample; None if the folder is absent or empty.

    Raises:
        TesseraeError: The folder holds anything else.
    """
    if not directory.exists():
        return None
    if not directory.is_dir():
        raise TesseraeError(f"'{directory}' is a file: expected a new or empty folder.")
    if not any(directory.iterdir()):
        return None
    record = _record(directory)
    if record.get("options") == options and record.get("sha256") == _sample_digest(directory):
        return _sample_summary(directory, record, reused=True)
    state = "is not empty"
    if "options" in record:
        state = f"holds another sample, or a changed one, created with {_flags(record['options'])}"
    raise TesseraeError(
        f"'{directory}' {state}: expected a new or empty folder, or the sample of"
        f" {_flags(options)}. Pass another folder, or remove this one."
    )


def _flags(options: Any) -> str:
    if not isinstance(options, dict):
        return repr(options)
    return " ".join(f"--{name} {value}" for name, value in options.items() if name != "version")


def _record(directory: Path) -> dict[str, Any]:
    try:
        record = json.loads((directory / RECORD).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _sample_summary(directory: Path, record: dict[str, Any], *, reused: bool) -> SampleSummary:
    return SampleSummary(
        directory=directory,
        num_train=record["train"],
        num_val=record["val"],
        num_classes=record["options"]["classes"],
        num_bytes=record["num_bytes"],
        odd=record["odd"],
        reused=reused,
    )


def _folder_of_photographs() -> Path:
    # The files are read directly: skimage.data's functions load scipy, and may use the network.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise TesseraeError(
            "the sample uses scikit-image's photographs, and scikit-image is not installed:"
            f" {install_advice('sample')}."
        )
    folder = Path(spec.origin).parent / "data"
    names = [p.file for c in CLASSES for p in (*c.train, *c.val)]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise TesseraeError(
            f"scikit-image {version('scikit-image')} lacks {', '.join(missing)}: expected the"
            " photographs of 0.25 or 0.26. Install scikit-image 0.26."
        )
    return folder


def _create(directory: Path, photographs: Path, options: dict[str, int]) -> None:
    images = list(plan_images(options["images"], options["seed"], options["classes"]))
    classes = CLASSES[: options["classes"]]
    for split in SPLITS:
        for entry in classes:
            (directory / split / entry.wnid).mkdir(parents=True)
    opened: dict[str, Image.Image] = {}
    num_bytes = 0
    with Progress("sample", rows=len(images)) as progress:
        for image in images:
            file = image.photograph.file
            if file not in opened:
                opened[file] = Image.open(photographs / file).convert("RGB")
            data = render_photograph(image, opened[file])
            (directory / image.path).write_bytes(data)
            num_bytes += len(data)
            progress.update(rows=1, bytes_out=len(data))
    mapping = "".join(f"{entry.wnid} {entry.words}\n" for entry in sorted(classes, key=_wnid))
    (directory / "LOC_synset_mapping.txt").write_text(mapping, encoding="utf-8")
    edges = "".join(f"{parent} {child}\n" for parent, child in TAXONOMY)
    (directory / HIERARCHY).write_text(edges, encoding="utf-8")
    record = {
        "notice": NOTICE,
        "options": options,
        "train": sum(p.split == "train" for p in images),
        "val": sum(p.split == "val" for p in images),
        "num_bytes": num_bytes,
        "odd": {f"{p.wnid}/{p.name}": p.kind for p in images if p.kind != "plain"},
        "photographs": {
            split: {entry.wnid: [p.file for p in getattr(entry, split)] for entry in classes}
            for split in SPLITS
        },
        "made with": {"Pillow": PIL.__version__, "scikit-image": version("scikit-image")},
        "sha256": _sample_digest(directory),
    }
    (directory / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _wnid(entry: Class) -> str:
    return entry.wnid


def _word(entry: Class) -> str:
    return entry.words.split(",")[0]


def _sample_digest(directory: Path) -> str:
    """Return the SHA-256 of the paths and bytes of all images, in hexadecimal."""
    digest = hashlib.sha256()
    for path in sorted(p for split in SPLITS for p in (directory / split).rglob("*")):
        if path.is_file():
            digest.update(os.fsencode(path.relative_to(directory)) + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
