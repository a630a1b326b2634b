"""The work of `tesserae sample`: an ImageNet-shaped folder, made from photographs."""

from __future__ import annotations

import argparse
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
from workflows.sample_data.photographs import (
    CLASSES,
    TAXONOMY,
    VERSION,
    Class,
    paint,
    plan_pictures,
)
from workflows.terminal.formatting import bytes_text
from workflows.terminal.progress import Progress

NOTICE = "made from 15 photographs to check the plumbing: what is learned from it is no result"
RECORD = "sample.json"
HIERARCHY = "is-a.txt"
SPLITS = ("train", "val")


@dataclass(frozen=True, kw_only=True)
class SampleSummary:
    """What is in the folder now."""

    directory: Path
    num_train: int
    num_val: int
    num_classes: int
    num_bytes: int
    odd: dict[str, str]
    """Key -> what it is, of the files that are not plain RGB JPEGs."""
    reused: bool
    """It was there already, made with the same options."""


def run(args: argparse.Namespace) -> int:
    """Make the sample and say what it is."""
    summary = make_sample(args.directory, args.images, seed=args.seed, num_classes=args.classes)
    for line in lines(summary):
        print(line)
    return 0


def lines(summary: SampleSummary) -> list[str]:
    """What is in the folder, for a person."""
    was = "was there already, made with the same options" if summary.reused else "is made"
    odd = sorted(set(summary.odd.values()))
    return [
        f"{summary.directory} {was}: {summary.num_train:,} train and {summary.num_val:,} val"
        f" images of {summary.num_classes} classes, {bytes_text(summary.num_bytes)}.",
        f"  Classes: {', '.join(map(_word, CLASSES[: summary.num_classes]))}.",
        f"  {len(summary.odd)} odd files in train: {', '.join(odd) or 'none'}.",
        f"  Note: {NOTICE}.",
    ]


def make_sample(
    directory: Path, images: int, seed: int = 0, *, num_classes: int = len(CLASSES)
) -> SampleSummary:
    """Fill *directory* with *images* pictures, or find them there.

    All is made in a folder beside it, which then takes its name: a sample is whole or absent.

    Raises:
        TesseraeError: scikit-image is missing, *directory* holds something else, the disk is full.
        ValueError: There cannot be a sample of so many images or classes.
    """
    options = _options(images, seed, num_classes)
    found = _find(directory, options)
    if found is not None:
        return found
    photographs = _folder_of_photographs()
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix=f".{directory.name}-", dir=directory.parent, ignore_cleanup_errors=True
        ) as temporary:
            made = Path(temporary) / "sample"
            _make(made, photographs, options)
            made.replace(directory)
    except OSError as e:
        raise TesseraeError(
            f"cannot make the sample at '{directory}': {e.strerror or e}. Pass a folder on a disk"
            " that has room and can be written."
        ) from e
    return _summary(directory, _record(directory), reused=False)


def _options(images: int, seed: int, num_classes: int) -> dict[str, int]:
    if not 2 <= num_classes <= len(CLASSES):
        raise ValueError(f"--classes is {num_classes}: expected 2 to {len(CLASSES)}.")
    if images < 2 * num_classes:
        raise ValueError(
            f"--images is {images}: expected at least {2 * num_classes}, one of each of"
            f" {num_classes} classes in train and in val."
        )
    return {"version": VERSION, "images": images, "seed": seed, "classes": num_classes}


def _find(directory: Path, options: dict[str, int]) -> SampleSummary | None:
    """The sample that is there; None = the folder is absent or empty."""
    if not directory.exists():
        return None
    if not directory.is_dir():
        raise TesseraeError(f"'{directory}' is a file: expected a new or empty folder.")
    if not any(directory.iterdir()):
        return None
    record = _record(directory)
    if record.get("options") == options and record.get("sha256") == _digest(directory):
        return _summary(directory, record, reused=True)
    what = "is not empty"
    if "options" in record:
        what = f"holds another sample, or a changed one, made with {_words(record['options'])}"
    raise TesseraeError(
        f"'{directory}' {what}: expected a new or empty folder, or the sample of"
        f" {_words(options)}. Pass another folder, or remove this one."
    )


def _words(options: Any) -> str:
    if not isinstance(options, dict):
        return repr(options)
    return " ".join(f"--{name} {value}" for name, value in options.items() if name != "version")


def _record(directory: Path) -> dict[str, Any]:
    try:
        found = json.loads((directory / RECORD).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _summary(directory: Path, record: dict[str, Any], *, reused: bool) -> SampleSummary:
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
    # The files, not skimage.data's functions: those load scipy, and may go to the network.
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        raise TesseraeError(
            "the sample is made of scikit-image's photographs, and scikit-image is not installed:"
            " run `make setup EXTRAS=sample`, or `pip install scikit-image`."
        )
    folder = Path(spec.origin).parent / "data"
    names = [p.file for c in CLASSES for p in (*c.train, *c.val)]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise TesseraeError(
            f"scikit-image {version('scikit-image')} does not carry {', '.join(missing)}: expected"
            " the photographs of 0.25 or 0.26. Install scikit-image 0.26."
        )
    return folder


def _make(directory: Path, photographs: Path, options: dict[str, int]) -> None:
    pictures = list(plan_pictures(options["images"], options["seed"], options["classes"]))
    classes = CLASSES[: options["classes"]]
    for split in SPLITS:
        for each in classes:
            (directory / split / each.wnid).mkdir(parents=True)
    opened: dict[str, Image.Image] = {}
    num_bytes = 0
    with Progress("sample", rows=len(pictures)) as progress:
        for picture in pictures:
            file = picture.photograph.file
            if file not in opened:
                opened[file] = Image.open(photographs / file).convert("RGB")
            data = paint(picture, opened[file])
            (directory / picture.path).write_bytes(data)
            num_bytes += len(data)
            progress.update(rows=1, bytes_out=len(data))
    mapping = "".join(f"{each.wnid} {each.words}\n" for each in sorted(classes, key=_wnid))
    (directory / "LOC_synset_mapping.txt").write_text(mapping, encoding="utf-8")
    edges = "".join(f"{parent} {child}\n" for parent, child in TAXONOMY)
    (directory / HIERARCHY).write_text(edges, encoding="utf-8")
    record = {
        "notice": NOTICE,
        "options": options,
        "train": sum(p.split == "train" for p in pictures),
        "val": sum(p.split == "val" for p in pictures),
        "num_bytes": num_bytes,
        "odd": {f"{p.wnid}/{p.name}": p.kind for p in pictures if p.kind != "plain"},
        "photographs": {
            split: {each.wnid: [p.file for p in getattr(each, split)] for each in classes}
            for split in SPLITS
        },
        "made with": {"Pillow": PIL.__version__, "scikit-image": version("scikit-image")},
        "sha256": _digest(directory),
    }
    (directory / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _wnid(each: Class) -> str:
    return each.wnid


def _word(each: Class) -> str:
    return each.words.split(",")[0]


def _digest(directory: Path) -> str:
    """Of the paths and bytes of all pictures."""
    digest = hashlib.sha256()
    for path in sorted(p for split in SPLITS for p in (directory / split).rglob("*")):
        if path.is_file():
            digest.update(os.fsencode(path.relative_to(directory)) + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
