"""The sources of images: their detection, their listing, and the reading of their bytes.

    location     a folder, local or remote     remote       files behind fsspec, by byte range
    listing      the Arrow table of samples    reader       the bytes of one sample
    spool        records of streamed sources   options      options, and listing rules
    keys         names of samples and splits   repeats      unique names for repeated ones
    clutter      files that are no samples     series       gaps in numbered files
    magic        content by first bytes        text_tables  parsing of tables
    metadata     tables near the images
    classes/     decision (the class of a sample), order (the classes of all splits),
                 name_tables and number_tables (tables of class names)
    formats/     the kinds: folder, flat, tiny_imagenet, ilsvrc, webdataset, parquet, cifar, lsun;
                 random_access (their base), sorted_val, unsupported (data sets of other tools)
    archives/    detection, open, compression, tar, tar_header, zip; outline (the first members),
                 layouts and trees (members as samples), source

`docs/sources.md` says for each kind how its samples get their keys.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

from pipeline.errors import SourceError
from pipeline.sources.formats.unsupported import foreign_text
from pipeline.sources.keys import looks_like_image, misspelt, split_named
from pipeline.sources.location import Location
from pipeline.sources.magic import description_of
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions

if TYPE_CHECKING:  # a worker that only reads must start fast, so it does not import Arrow
    import pyarrow as pa

    from pipeline.sources.classes.decision import ClassTable, Evidence
    from pipeline.sources.spool import Blocks


class Source(Protocol):
    """The images of one split."""

    @property
    def kind(self) -> str:
        """The kind of the source: one of `SOURCE_KINDS`."""
        ...

    @property
    def access(self) -> Literal["random", "blocks"]:
        """The way samples are read: "random" in place, "blocks" through a spool."""
        ...

    @property
    def root(self) -> str:
        """The local folder or fsspec URL that the listing's paths are relative to."""
        ...

    def fingerprint(self) -> str:
        """Return a cheap digest that changes when files are added or removed."""
        ...

    def words(self) -> dict[str, str]:
        """Return the words of each class that a table beside the images describes."""
        ...

    def class_table(self) -> "ClassTable | None":
        """Return the classes that the source numbers, if it has such a table."""
        ...

    def list(self, progress: Callable[[int], None]) -> "pa.Table":
        """Return the listing (`pipeline.sources.listing`); only if the access is "random"."""
        ...

    def blocks(self) -> "Blocks":
        """Return the parts to stream into a spool; only if the access is "blocks"."""
        ...


@runtime_checkable
class Checked(Protocol):
    """A source that can be refused before it is listed."""

    def check(self) -> None:
        """Refuse a source that cannot be read to its end.

        Raises:
            SourceError: A table is missing, or a file is something else than its name says.
        """
        ...


@runtime_checkable
class Previewed(Protocol):
    """A source whose labels and names can be read without its images."""

    def preview(self) -> "Evidence":
        """Read the labels and names of all images.

        Raises:
            SourceError: A label or a name cannot be used.
        """
        ...


@runtime_checkable
class Remarked(Protocol):
    """A source with remarks on it before it is listed."""

    def remarks(self) -> tuple[str, ...]:
        """Return one sentence for each thing beside the source that is left out, or is missing."""
        ...


Find = Callable[[Location, str, bool], Mapping[str, Any]]
"""A finder: (location, requested split, is the kind explicit) -> split -> `Source`.

The split '' stands for all that is there.
"""


@dataclass(frozen=True)
class _Kind:
    """A kind of source, for detection and messages."""

    name: str
    requirement: str
    hides: tuple[str, ...] = ()
    """The kinds that this one is a special case of."""


_KINDS = (
    _Kind(
        "kaggle",
        "[ILSVRC/][Data/]CLS-LOC/train/<wnid>/*.JPEG and CLS-LOC/val/*.JPEG",
        hides=("folder", "ilsvrc-val"),
    ),
    _Kind("ilsvrc-tar", "ILSVRC2012_img_train.tar, a tar of class tars"),
    _Kind("ilsvrc-val", "ILSVRC2012_img_val.tar, or ILSVRC2012_val_*.JPEG here or in val/"),
    _Kind(
        "tiny-imagenet",
        "train/<wnid>/images/*.JPEG and val/val_annotations.txt",
        hides=("folder",),
    ),
    _Kind("class-tars", "n########.tar files, one per class"),
    _Kind("webdataset", "*.tar shards of samples"),
    _Kind("tar", "a tar with a tree of <class>/<file>"),
    _Kind("parquet", "*.parquet files with a column of image bytes"),
    _Kind("cifar", "data_batch_* and batches.meta of CIFAR-10's Python version, or CIFAR-100's"),
    _Kind("lsun", "<class>_<split>_lmdb folders, or one LMDB of image files"),
    _Kind("folder", "<class>/<image>, here or in train/, val/, ..."),
    _Kind("flat", "images in one folder without classes, here or in train/, val/, ..."),
)

SOURCE_KINDS = tuple(kind.name for kind in _KINDS)

_ONE_CLASS = ("flat", "tar")
"""The kinds whose images may all be of one class, named with `--class-name`."""
_NESTED = ("folder", "flat", "kaggle", "tiny-imagenet", "tar", "webdataset", "parquet")
"""The kinds in which nested folders may tell the class."""


def _finders() -> dict[str, Find]:
    from pipeline.sources.formats import (
        cifar,
        flat,
        folder,
        ilsvrc,
        lsun,
        parquet,
        tiny_imagenet,
        webdataset,
    )

    return {
        "kaggle": ilsvrc.find_kaggle,
        "ilsvrc-tar": ilsvrc.find_train_tar,
        "ilsvrc-val": ilsvrc.find_val,
        "tiny-imagenet": tiny_imagenet.find_tiny,
        "class-tars": ilsvrc.find_class_tars,
        "webdataset": webdataset.find_shards,
        "tar": webdataset.find_trees,
        "parquet": parquet.find_parquet,
        "cifar": cifar.find_cifar,
        "lsun": lsun.find_lmdbs,
        "folder": folder.find_folders,
        "flat": flat.find_flat,
    }


def open_source(
    root: str | os.PathLike[str],
    split: str,
    kind: str | None = None,
    options: SourceOptions = DEFAULT_OPTIONS,
) -> Source:
    """Detect the kind of the source at *root* and open one split of it; nothing is listed yet.

    Args:
        root: A folder or an archive; a local path or an fsspec URL.
        split: The split to open, where *root* holds several; any name if it is itself one.
        kind: One of `SOURCE_KINDS`; None detects the kind.
        options: The options by which it is read.

    Raises:
        SourceError: There is no source, several kinds of one, or not this split.
    """
    location = Location.at(root, options)
    split = split_named(split)
    sources_of_kind = _find(location, split, kind)
    fitting = {
        name: sources.get(split, sources.get("")) for name, sources in sources_of_kind.items()
    }
    fitting = {name: source for name, source in fitting.items() if source is not None}
    if len(fitting) == 1:
        chosen: Source = next(iter(fitting.values()))
        _check_options(location, chosen.kind)
        return chosen
    if fitting:
        raise SourceError(
            f"{location.display_name} holds several kinds of sources of the split {split!r}:"
            f" {', '.join(sorted(fitting))}. Pass one of them with --source-kind."
        )
    raise _no_source_error(location, split, kind, sources_of_kind)


def _check_options(location: Location, kind: str) -> None:
    """Refuse an option that has no effect on this kind of source."""
    options = location.options
    if options.class_name and kind not in _ONE_CLASS:
        raise SourceError(
            f"--class-name is {options.class_name!r}: it applies to images in one folder, but"
            f" {location.display_name} is of kind {kind}. Omit it."
        )
    if options.recursive and kind not in _NESTED:
        raise SourceError(
            f"--recursive is {options.recursive!r}: it applies to nested folders, but"
            f" {location.display_name} is of kind {kind}. Omit it."
        )
    for name in ("image_column", "label_column", "name_column"):
        shards = name == "label_column" and options.rules > 1
        fitting = ("parquet", "webdataset") if shards else ("parquet",)
        if getattr(options, name) and kind not in fitting:
            flag = f"--{name.replace('_', '-')}"
            raise SourceError(
                f"{flag} is {getattr(options, name)!r}: it is for"
                f" {'Parquet files and WebDataset shards' if shards else 'Parquet files'}, and"
                f" {location.display_name} is of the kind {kind}. Omit it."
            )


def splits(
    root: str | os.PathLike[str],
    kind: str | None = None,
    options: SourceOptions = DEFAULT_OPTIONS,
) -> list[str]:
    """Return the splits at *root*, sorted; none if *root* is itself one split.

    Raises:
        SourceError: There is no source.
    """
    location = Location.at(root, options)
    sources_of_kind = _find(location, "", kind)
    if not sources_of_kind:
        raise _no_source_error(location, "", kind, sources_of_kind)
    return sorted({split for sources in sources_of_kind.values() for split in sources} - {""})


def unlabelled_test(
    root: str | os.PathLike[str],
    kind: str | None = None,
    options: SourceOptions = DEFAULT_OPTIONS,
) -> str:
    """Return a remark on the flat test split at *root* that `splits` does not name; else ''.

    Such a split has no labels and may be large, so it is prepared only if `--split` names it. The
    text is empty for a source that would be refused, and under rules 1, which know no unlabelled
    samples.
    """
    from pipeline.sources.formats.flat import FlatFolder  # here: it loads Arrow

    location, finders = Location.at(root, options), _finders()
    if location.only or options.rules == 1 or kind not in (None, "kaggle", "flat"):
        return ""
    try:
        # These two examine only names, which is cheap; other finders may read archives.
        if not any("test" in finders[name](location, "test", False) for name in ("kaggle", "flat")):
            return ""
        sources_of_kind = _find(location, "test", kind)
    except SourceError:
        return ""
    flat = next(
        (sources["test"] for sources in sources_of_kind.values() if "test" in sources), None
    )
    if not isinstance(flat, FlatFolder):
        return ""
    images = sum(map(looks_like_image, flat.location.names().files))
    return (
        f"split test is skipped: {images:,} image{'s' * (images != 1)} without a class directly in"
        f" {flat.root}; pass --split with test among the names to include it"
    )


def check_split_name(
    root: str | os.PathLike[str],
    split: str,
    kind: str | None = None,
    options: SourceOptions = DEFAULT_OPTIONS,
) -> None:
    """Refuse a misspelt name of a known split, where the source tells no split.

    Such a source is one split under any name that is passed, even a wrong one.

    Raises:
        SourceError: The name is misspelt; the message has the correct one.
    """
    meant = misspelt(split)
    if not meant:
        return
    own = Location.at(root, options).display_name.rpartition("/")[2]
    if split in re.split(r"[-_.]", own) or splits(root, kind, options):
        return
    raise SourceError(
        f"--split is {split!r}: did you mean {meant}? {os.fspath(root)} indicates no split. To use"
        f" this name, rename the folder or archive to {split} (a symbolic link suffices)."
    )


def _find(location: Location, split: str, kind: str | None) -> dict[str, Mapping[str, Any]]:
    """Return kind -> split -> source, of the kinds that are detected at *location*."""
    if kind is not None and kind not in SOURCE_KINDS:
        raise SourceError(
            f"there is no source kind {kind!r}: expected one of {', '.join(SOURCE_KINDS)}."
        )
    sources_of_kind: dict[str, Mapping[str, Any]] = {}
    hidden: set[str] = set()
    finders = _finders()
    for candidate in _KINDS:
        if candidate.name in hidden or kind not in (None, candidate.name):
            continue
        if candidate.name == "flat" and kind is None and _any_has_split(sources_of_kind, split):
            continue  # a folder of loose images is flat only if no other kind has the split
        sources = finders[candidate.name](location, split, kind is not None)
        if sources:
            sources_of_kind[candidate.name] = sources
            hidden.update(candidate.hides)
    return sources_of_kind


def _any_has_split(sources_of_kind: Mapping[str, Mapping[str, Any]], split: str) -> bool:
    """Return True if any of the kinds has the split, or one of any name; '' is any split."""
    split_names = {name for sources in sources_of_kind.values() for name in sources}
    return bool(split_names) and (not split or bool(split_names & {split, ""}))


def _no_source_error(
    location: Location,
    split: str,
    kind: str | None,
    sources_of_kind: Mapping[str, Mapping[str, Any]],
) -> SourceError:
    if sources_of_kind:
        split_names = sorted({name for sources in sources_of_kind.values() for name in sources})
        return SourceError(
            f"{location.display_name} ({', '.join(sources_of_kind)}) has no split {split!r}: it"
            f" holds {', '.join(split_names)}. Pass one of them with --split."
        )
    if kind is not None:
        requirement = next(candidate.requirement for candidate in _KINDS if candidate.name == kind)
        return SourceError(
            f"{location.display_name} is not a source of kind {kind!r}: looked for {requirement}."
            " Omit --source-kind to detect the kind."
        )
    foreign = foreign_text(location)
    if foreign:
        return SourceError(f"no images found in {location.display_name}: {foreign}")
    if location.only:
        return SourceError(
            f"{location.display_name} is not an archive of images: it is"
            f" {description_of(location.head(location.only))}. Expected a tar, compressed or not,"
            " a zip or a Parquet file. Pass the folder or archive that holds the images."
        )
    return SourceError(
        f"no images found in {location.display_name}: expected <class>/<image> or one of the"
        " layouts of docs/sources.md. Pass the folder or archive that holds the images, e.g."
        " ILSVRC2012/train, or pass its kind with --source-kind, or --recursive last for class"
        " folders that lie deeper."
    )
