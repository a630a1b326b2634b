"""What images there are, and how their bytes are read, wherever they lie.

    open_source  detects what is there    listing  the Arrow table of samples
    reader       bytes of one sample      spool    record files of what is streamed
    folder, flat, tiny, ilsvrc, webdataset, parquet, cifar, lsun   the kinds
    random_access   what kinds of folders share
    archives, layouts, trees, outline   what kinds of tars share, and a look at one's members
    series       which of numbered files are not there
    foreign      data sets of other tools, which are not read
    clutter      what is passed over      repeats  names that do not tell samples apart
    naming       names of files           beside   tables of words and truth near the images
    text_tables  how tables are read      name_tables   tables of names that people write
    sorted_val   ILSVRC's val, sorted     options  what a person may say about a source
    classes      which class a sample is  class_order   the classes of all splits, in order
    class_tables tables that number them  place    a folder, local or not
    magic        what first bytes say     containers   which files are archives
    opening      opens an archive         compression  streams of gzip, bzip2, xz, zstd
    tarfiles     walks a tar              tarheader   reads one header of it
    zipfiles     walks a zip              remote   files behind fsspec, by byte range

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

if TYPE_CHECKING:  # a worker that only reads must start fast: no Arrow for it
    import pyarrow as pa

    from pipeline.sources.classes.decision import ClassTable, Evidence
    from pipeline.sources.spool import Blocks


class Source(Protocol):
    """Images of one split."""

    @property
    def kind(self) -> str:
        """One of `SOURCE_KINDS`."""
        ...

    @property
    def access(self) -> Literal["random", "blocks"]:
        """Whether samples are read where they lie, or streamed into a spool first."""
        ...

    @property
    def root(self) -> str:
        """Local folder or fsspec URL that the listing's paths are relative to."""
        ...

    def fingerprint(self) -> str:
        """Cheap digest that changes when files are added or removed."""
        ...

    def words(self) -> dict[str, str]:
        """Class -> words, as far as a table beside the images tells."""
        ...

    def class_table(self) -> "ClassTable | None":
        """Return the classes that the samples' labels count, where the source has such a table."""
        ...

    def list(self, progress: Callable[[int], None]) -> "pa.Table":
        """Listing (`pipeline.sources.listing`), for access "random"."""
        ...

    def blocks(self) -> "Blocks":
        """Parts to spool, for access "blocks"."""
        ...


@runtime_checkable
class Checked(Protocol):
    """A source that can be refused before it is listed."""

    def check(self) -> None:
        """Refuse what cannot end well.

        Raises:
            SourceError: A table is missing, or a file is something else than its name says.
        """
        ...


@runtime_checkable
class Previewed(Protocol):
    """A source that says what its images are without reading them."""

    def preview(self) -> "Evidence":
        """Read what is said of all images.

        Raises:
            SourceError: A label or a name cannot be used.
        """
        ...


@runtime_checkable
class Remarked(Protocol):
    """A source of which there is something to say before it is listed."""

    def remarks(self) -> tuple[str, ...]:
        """Say what lies beside it and is left out, or is not there: a sentence each."""
        ...


Find = Callable[[Location, str, bool], Mapping[str, Any]]
"""(place, wanted split, named by the user) -> split -> `Source`; split '': all there is."""


@dataclass(frozen=True)
class _Kind:
    """One kind of source, for detection and messages."""

    name: str
    looks_for: str
    hides: tuple[str, ...] = ()
    """Kinds that this one is a special case of."""


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
    _Kind("class-tars", "n########.tar files, one a class"),
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
"""Kinds whose images may all be of one class that a person names."""
_NESTED = ("folder", "flat", "kaggle", "tiny-imagenet", "tar", "webdataset", "parquet")
"""Kinds in which nested folders may tell the class."""


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
    """Find out what lies at *root* and open one split of it. Cheap: nothing is listed yet.

    Args:
        root: A folder or an archive; a local path or an fsspec URL.
        split: Which split, where *root* holds several; any name where it is itself one.
        kind: One of `SOURCE_KINDS`; None detects.
        options: How it is read.

    Raises:
        SourceError: Nothing is found there, or several kinds, or not this split.
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
            f"{location.display_name} holds several kinds of sources of the split {split!r}: "
            f"{', '.join(sorted(fitting))}. Name one with --source-kind."
        )
    raise _no_source_error(location, split, kind, sources_of_kind)


def _check_options(location: Location, kind: str) -> None:
    """Refuse what a kind of source does not know, rather than leave it out of account."""
    options = location.options
    if options.class_name and kind not in _ONE_CLASS:
        raise SourceError(
            f"--class-name is {options.class_name!r}: it is for images that lie in one folder, and"
            f" {location.display_name} is of the kind {kind}. Leave it away."
        )
    if options.recursive and kind not in _NESTED:
        raise SourceError(
            f"--recursive is {options.recursive!r}: it is for nested folders, and"
            f" {location.display_name} is of the kind {kind}. Leave it away."
        )
    for name in ("image_column", "label_column", "name_column"):
        shards = name == "label_column" and options.rules > 1
        fitting = ("parquet", "webdataset") if shards else ("parquet",)
        if getattr(options, name) and kind not in fitting:
            flag = f"--{name.replace('_', '-')}"
            raise SourceError(
                f"{flag} is {getattr(options, name)!r}: it is for"
                f" {'Parquet files and WebDataset shards' if shards else 'Parquet files'}, and"
                f" {location.display_name} is of the kind {kind}. Leave it away."
            )


def splits(
    root: str | os.PathLike[str],
    kind: str | None = None,
    options: SourceOptions = DEFAULT_OPTIONS,
) -> list[str]:
    """Name the splits at *root*, sorted; none when *root* is itself one split.

    Raises:
        SourceError: Nothing is found there.
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
    """Say what a flat test split at *root* holds, where `splits` names none; else nothing.

    Nobody labelled it, and it may be large: it is prepared where `--split` names it. What would be
    refused there is nothing to speak of here, and rules 1 know no samples without a class.
    """
    from pipeline.sources.formats.flat import FlatFolder  # here: it loads Arrow

    location, finders = Location.at(root, options), _finders()
    if location.only or options.rules == 1 or kind not in (None, "kaggle", "flat"):
        return ""
    try:
        # these two look at names alone; others may read archives
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
        f"test is left out: {images:,} image{'s' * (images != 1)} of no class right in {flat.root};"
        " name it with --split, beside the others, to have it, too"
    )


def check_split_name(
    root: str | os.PathLike[str],
    split: str,
    kind: str | None = None,
    options: SourceOptions = DEFAULT_OPTIONS,
) -> None:
    """Refuse a split whose name is a known one misspelt, where the source tells no split.

    Such a source is one split of whatever name is passed, also of a wrong one.

    Raises:
        SourceError: With the name that may be meant.
    """
    meant = misspelt(split)
    if not meant:
        return
    own = Location.at(root, options).display_name.rpartition("/")[2]
    if split in re.split(r"[-_.]", own) or splits(root, kind, options):
        return
    raise SourceError(
        f"--split is {split!r}: did you mean {meant}? {os.fspath(root)} tells no split, so that it"
        f" would be called {split!r}. If you mean this name, call the folder or archive so, too"
        " (a link to it will do)."
    )


def _find(location: Location, split: str, kind: str | None) -> dict[str, Mapping[str, Any]]:
    """Kind -> split -> source, of the kinds that find anything."""
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
            continue  # images without classes are the last thing that a place may be
        sources = finders[candidate.name](location, split, kind is not None)
        if sources:
            sources_of_kind[candidate.name] = sources
            hidden.update(candidate.hides)
    return sources_of_kind


def _any_has_split(sources_of_kind: Mapping[str, Mapping[str, Any]], split: str) -> bool:
    """Say whether any of the kinds has the split, or one of any name; '' is any split."""
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
        looked_for = next(candidate.looks_for for candidate in _KINDS if candidate.name == kind)
        return SourceError(
            f"{location.display_name} is no source of the kind {kind!r}: looked for {looked_for}. "
            "Leave --source-kind away to have the kind detected."
        )
    foreign = foreign_text(location)
    if foreign:
        return SourceError(f"no images found in {location.display_name}: {foreign}")
    if location.only:
        return SourceError(
            f"{location.display_name} is no archive of images: it is "
            f"{description_of(location.head(location.only))}. Expected a tar, compressed or not,"
            " a zip or a Parquet file. Pass the folder or archive that holds the images."
        )
    return SourceError(
        f"no images found in {location.display_name}: expected <class>/<image> or one of the"
        " layouts of docs/sources.md. Pass the folder or archive that holds the images, e.g. "
        "ILSVRC2012/train, or name its kind with --source-kind; class folders that lie deeper are "
        "found with --recursive last."
    )
