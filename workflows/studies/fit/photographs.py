"""The photographs of a study: some images of a source, with rectangles cut from squares.

They are copied into one tar, from which a store is prepared for each fit. An image that is kept has
the bytes of the source; a rectangle is stored as PNG, which changes no pixel of it. What is chosen
and cut depends on the keys of images alone.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import confined, sources
from pipeline.errors import DecodeError, SourceError, TesseraeError
from pipeline.images.decode import decode
from pipeline.ingest import planning
from pipeline.sources import spool
from pipeline.sources.classes.class_names import UNLABELLED
from pipeline.sources.reader import SourceReader
from pipeline.sources.source import Source
from pipeline.store import schema
from workflows.evaluation import HELD_OUT
from workflows.studies.fit import CUT, DETECT
from workflows.studies.fit.options import FitOptions
from workflows.terminal.progress import Progress
from workflows.training import writing

TRAIN, EVALUATED = "train", "val"
"""The splits of the archive, whatever those of the source are called."""
ARCHIVE, RECORD = "photographs.tar", "photographs.json"
"""The names of the archive, and of what is recorded about it, in the folder of the study."""
SPOOL = ".spool"
"""The folder of images of a source that must be read in one pass, while they are copied."""
VALIDATION_SHARE = 0.2
"""The share of the training images that `--validation` evaluates."""
NUM_EXAMINED = 200
"""The number of images whose shapes decide whether rectangles are cut."""
SQUARE_RATIO, MIN_SQUARES = 1.02, 0.9
"""The largest ratio of the sides of a square, and the share of squares from which on they are
cut."""
_FULL_SIZE = 2**16
"""A side for which no JPEG is decoded at a reduced size."""


@dataclass(frozen=True, kw_only=True)
class PhotographsRecord:
    """The record of the photographs of a study: their numbers, classes and origin."""

    cut: bool
    """True if rectangles were cut out of the images."""
    squares: float
    """The share of squares among the examined images, 0 to 1."""
    classes: tuple[tuple[str, str], ...]
    """The (id, names) of the classes, in the order of their ids; names may be empty."""
    num_train: int
    """The number of training images."""
    num_evaluated: int
    """The number of evaluated images."""
    evaluated: str
    """The split of the source that evaluated images are from."""


@dataclass(frozen=True)
class _Image:
    """An image of the source."""

    key: str
    path: str
    offset: int | None
    num_bytes: int


@dataclass(frozen=True)
class _ListedSplit:
    """The images of a split by class, and how they are read."""

    reader: SourceReader
    images: Mapping[str, Sequence[_Image]]
    words: Mapping[str, str]


def uniform(key: str, purpose: str) -> float:
    """Return a number from 0 to below 1 that depends on a key and a purpose alone.

    Args:
        key: The key of an image, or the id of a class.
        purpose: The name of the draw, such as `aspect`.
    """
    digest = hashlib.blake2b(f"{purpose}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8)
    return (int.from_bytes(digest.digest(), "big") >> 11) / 2**53


def rectangle(width: int, height: int, key: str) -> tuple[int, int, int, int]:
    """Return a rectangle of an image, as large as its aspect ratio permits.

    The ratio of width to height is log-uniform between 1:2 and 2:1, and the position uniform.

    Args:
        width: The width of the image in pixels.
        height: The height of the image in pixels.
        key: The key of the image, which decides both.

    Returns:
        Left, top, right and bottom in pixels; right and bottom are exclusive.
    """
    aspect = 2 ** (2 * uniform(key, "aspect") - 1)
    across = min(width, max(1, round(height * aspect)))
    down = min(height, max(1, round(width / aspect)))
    left = int(uniform(key, "left") * (width - across + 1))
    top = int(uniform(key, "top") * (height - down + 1))
    return left, top, left + across, top + down


def collect(options: FitOptions, folder: Path) -> PhotographsRecord:
    """Copy the photographs of a study into its folder, unless they are there.

    Args:
        options: The options of the study.
        folder: The folder of the study, which exists.

    Returns:
        The record of the photographs, which are in the tar `photographs.tar` of the folder.

    Raises:
        SourceError: The source cannot be read, lacks a split, or has fewer than two classes.
        ReadError: An image cannot be read now.
        TesseraeError: The record is damaged.
        DiskFullError: The disk has no room for the archive.
        OSError: It cannot be written for another reason.
    """
    archive, record = folder / ARCHIVE, folder / RECORD
    if archive.exists() and record.exists():
        return _load_record(record)
    names = splits_of(options)
    listed = {name: _list(options, split, folder) for name, split in names.items()}
    if options.validation:
        listed |= _validation_splits(listed[TRAIN])
    listed = _selected(options, listed)
    chosen = _record(options, names, listed)
    # The record comes first: the archive's presence says that both are complete.
    writing.write(record, json.dumps(asdict(chosen), indent=1).encode())
    _write_archive(archive, listed, cut=chosen.cut)
    _remove_spools(folder)
    return chosen


def splits_of(options: FitOptions) -> dict[str, str]:
    """Return the splits of the source that are read, by their names in the archive.

    Args:
        options: The options of the study.

    Raises:
        SourceError: The source has no such split, or none to evaluate on.
    """
    source = options.source, options.source_kind, options.source_options
    present = sources.source_splits(*source)
    _check_named_splits(options, present)
    if options.validation:
        return {TRAIN: options.train_split}
    evaluated = options.held_out
    if evaluated is None:
        evaluated = next((split for split in HELD_OUT if split in present), None)
    if evaluated is None and options.trunk is not None and len(present) < 2:
        evaluated = present[0] if present else TRAIN
    if evaluated is None:
        raise SourceError(
            f"{options.source} has {', '.join(present) or 'no splits'}: expected val or test to"
            " evaluate on. Name the split with --held-out, or pass another --source."
        )
    if options.trunk is not None:
        return {EVALUATED: evaluated}
    if evaluated == options.train_split:
        raise SourceError(
            f"--held-out is {evaluated}, which is trained on: expected another split. Pass one of"
            f" {', '.join(present)}."
        )
    return {TRAIN: options.train_split, EVALUATED: evaluated}


def _check_named_splits(options: FitOptions, present: Sequence[str]) -> None:
    """Refuse a split that an option names and the source lacks; a source may be a single split."""
    named = {"--held-out": None if options.validation else options.held_out}
    if options.trunk is None:
        named["--train-split"] = options.train_split
    for flag, split in named.items():
        if present and split is not None and split not in present:
            raise SourceError(
                f"{flag} is {split}: {options.source} has {', '.join(present)}. Pass one of them."
            )


def source_fingerprints(options: FitOptions) -> dict[str, str]:
    """Return a digest of each split of the source that changes with its files, by its name.

    Args:
        options: The options of the study.

    Raises:
        SourceError: The source cannot be read, or lacks a split.
    """
    return {
        split: _open(options, split).fingerprint()
        for split in dict.fromkeys(splits_of(options).values())
    }


# --- listing --------------------------------------------------------------------------------------


def _open(options: FitOptions, split: str) -> Source:
    return sources.open_source(options.source, split, options.source_kind, options.source_options)


def _list(options: FitOptions, split: str, folder: Path) -> _ListedSplit:
    """List a split; a source that must be read in one pass is copied to a spool before."""
    source = _open(options, split)
    source.check()
    root = source.root
    if source.access == "blocks":
        root = str(folder / SPOOL / split)
        blocks = source.blocks()
        with Progress(f"{split}: streaming {source.kind}", rows=len(blocks), unit="blocks") as bar:
            for block in blocks:
                spool.spool_block(block, root, source.fingerprint())
                bar.update(rows=1)
        table = spool.spool_listing(root, blocks)
    else:
        with Progress(f"{split}: listing {source.kind}", unit="images") as bar:
            table = source.list(lambda new: bar.update(rows=new))
    listing = planning.read_listing(table)
    keys = listing.table["key"].to_pylist()
    columns = listing.table.column_names
    paths = listing.table["path"].to_pylist() if "path" in columns else keys
    offsets = listing.table["offset"].to_pylist() if "offset" in columns else [None] * len(keys)
    num_bytes = listing.table["num_bytes"].to_pylist()
    images = [
        _Image(key, path or key, offset, length)
        for key, path, offset, length in zip(keys, paths, offsets, num_bytes, strict=True)
    ]
    by_class = {
        name: images[start:stop] for name, start, stop in listing.runs if name != UNLABELLED
    }
    return _ListedSplit(SourceReader(root), by_class, source.words())


def _validation_splits(train: _ListedSplit) -> dict[str, _ListedSplit]:
    """Divide the training images of each class into those to train on and those to evaluate."""

    def part(*, evaluated: bool) -> _ListedSplit:
        images = {}
        for name, of_class in train.images.items():
            ordered = sorted(of_class, key=lambda image: uniform(image.key, "validation"))
            count = max(1, round(VALIDATION_SHARE * len(ordered)))
            images[name] = ordered[:count] if evaluated else ordered[count:]
        return replace(train, images={name: group for name, group in images.items() if group})

    return {TRAIN: part(evaluated=False), EVALUATED: part(evaluated=True)}


def _selected(options: FitOptions, listed: Mapping[str, _ListedSplit]) -> dict[str, _ListedSplit]:
    """Return the images of as many classes, which all splits have, as the options permit."""
    names = set.intersection(*(set(split.images) for split in listed.values()))
    if len(names) < 2:
        raise SourceError(
            f"{options.source} has {len(names)} labelled classes with images in each of the splits"
            f" {', '.join(splits_of(options).values())}: expected at least 2. Pass a source with"
            " class folders, and another --out."
        )
    chosen = sorted(sorted(names, key=lambda name: uniform(name, "class"))[: options.classes])

    def of_class(images: Sequence[_Image]) -> list[_Image]:
        ordered = sorted(images, key=lambda image: uniform(image.key, "image"))
        return ordered[: options.images_per_class]

    return {
        split: replace(each, images={name: of_class(each.images[name]) for name in chosen})
        for split, each in listed.items()
    }


def _record(
    options: FitOptions, names: Mapping[str, str], listed: Mapping[str, _ListedSplit]
) -> PhotographsRecord:
    squares = _share_of_squares(options, listed[EVALUATED])
    cut = squares >= MIN_SQUARES if options.rectangles == DETECT else options.rectangles == CUT
    counts = {split: sum(map(len, each.images.values())) for split, each in listed.items()}
    words = listed[EVALUATED].words
    return PhotographsRecord(
        cut=cut,
        squares=squares,
        classes=tuple((name, words.get(name, "")) for name in listed[EVALUATED].images),
        num_train=counts.get(TRAIN, 0),
        num_evaluated=counts[EVALUATED],
        evaluated=names.get(EVALUATED, options.train_split),
    )


def _share_of_squares(options: FitOptions, split: _ListedSplit) -> float:
    images = [image for group in split.images.values() for image in group]
    images.sort(key=lambda image: uniform(image.key, "examined"))
    ratios = []
    for image in images[:NUM_EXAMINED]:
        data = split.reader.read(image.path, image.offset, image.num_bytes)
        try:
            decoded = decode(data, fit="crop", serves=1, exif=False)
        except DecodeError:
            continue
        sides = decoded.width, decoded.height
        ratios.append(max(sides) / min(sides))
    if not ratios:
        raise SourceError(
            f"{options.source}: none of {min(len(images), NUM_EXAMINED)} images can be decoded."
            " Pass another --source, and another --out."
        )
    return sum(ratio <= SQUARE_RATIO for ratio in ratios) / len(ratios)


# --- archive --------------------------------------------------------------------------------------


def _write_archive(archive: Path, listed: Mapping[str, _ListedSplit], *, cut: bool) -> None:
    images = [
        image for split in listed.values() for each in split.images.values() for image in each
    ]
    num_bytes = sum(image.num_bytes for image in images)
    title = "cutting rectangles" if cut else "copying photographs"
    with (
        writing.replacing_run_file(archive, num_bytes=num_bytes) as out,
        tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as tar,  # type: ignore[call-overload]
        Progress(title, rows=len(images)) as progress,
    ):
        for name, data in _members(listed, cut=cut):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
            progress.update(rows=1, bytes_out=len(data))


def _members(listed: Mapping[str, _ListedSplit], *, cut: bool) -> Iterator[tuple[str, bytes]]:
    for name, split in listed.items():
        for group in split.images.values():
            for image in sorted(group, key=lambda image: image.key):
                data = split.reader.read(image.path, image.offset, image.num_bytes)
                png = _cut(data, image.key) if cut else None
                # What cannot be decoded is copied, so that the stores record why.
                yield (
                    (f"{name}/{image.key}", data)
                    if png is None
                    else (f"{name}/{image.key}.png", png)
                )


def _cut(data: bytes, key: str) -> bytes | None:
    """Return a rectangle of an image as a PNG file; None if the image cannot be decoded."""
    try:
        decoded = decode(data, fit="crop", serves=_FULL_SIZE, exif=False)
    except DecodeError:
        return None
    box = rectangle(decoded.width, decoded.height, key)
    file = io.BytesIO()
    decoded.pixels.crop(box).convert("RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()


def _load_record(file: Path) -> PhotographsRecord:
    try:
        values = schema.check(dict[str, Any], json.loads(file.read_bytes()), "it")
        return schema.parse(PhotographsRecord, dict(values))
    except (ValueError, RecursionError) as e:
        raise TesseraeError(
            f"{file} is damaged: {str(e)[:200]}. Remove {file.parent}, or pass another --out."
        ) from None


def _remove_spools(folder: Path) -> None:
    if (folder / SPOOL).exists():
        confined.remove_folder(folder / SPOOL, folder)
