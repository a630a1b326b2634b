"""The kinds of sources: their registry, and the detection of the kind at a path or URL."""

import os
import pkgutil
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.errors import SourceError
from pipeline.sources.content import description_of
from pipeline.sources.formats.unsupported import other_tool_text
from pipeline.sources.keys import canonical_split, looks_like_image, suggest_split
from pipeline.sources.location import Location
from pipeline.sources.options import DEFAULT_OPTIONS, SourceOptions

if TYPE_CHECKING:
    from pipeline.sources.source import Source


@dataclass(frozen=True)
class _SourceKind:
    """A kind of source: how it is detected, and what messages say of it."""

    name: str
    finder: str
    """The function that finds it, as `module:function` of `pipeline.sources.formats`."""
    requirement: str
    hides: tuple[str, ...] = ()
    """The kinds that this one is a special case of."""

    def find(self, location: Location, split: str, explicit: bool) -> Mapping[str, "Source"]:
        """Return the sources of this kind at a location, by split; '' is a source without splits.

        Args:
            location: The folder or file.
            split: The requested split; '' stands for all that is there.
            explicit: True if the user named this kind.

        Raises:
            SourceError: There is such a source, and it cannot be read.
        """
        # Imported when it is needed: the formats load Arrow.
        finder = pkgutil.resolve_name(f"pipeline.sources.formats.{self.finder}")
        sources: Mapping[str, Source] = finder(location, split, explicit)
        return sources


_KINDS = (
    _SourceKind(
        "kaggle",
        "ilsvrc:find_kaggle",
        "[ILSVRC/][Data/]CLS-LOC/train/<wnid>/*.JPEG and CLS-LOC/val/*.JPEG",
        hides=("folder", "ilsvrc-val"),
    ),
    _SourceKind(
        "ilsvrc-tar", "ilsvrc:find_train_tar", "ILSVRC2012_img_train.tar, a tar of class tars"
    ),
    _SourceKind(
        "ilsvrc-val",
        "ilsvrc:find_val",
        "ILSVRC2012_img_val.tar, or ILSVRC2012_val_*.JPEG here or in val/",
    ),
    _SourceKind(
        "tiny-imagenet",
        "tiny_imagenet:find_tiny",
        "train/<wnid>/images/*.JPEG and val/val_annotations.txt",
        hides=("folder",),
    ),
    _SourceKind("class-tars", "ilsvrc:find_class_tars", "n########.tar files, one per class"),
    _SourceKind("webdataset", "webdataset:find_shards", "*.tar shards of samples"),
    _SourceKind("tar", "webdataset:find_trees", "a tar with a tree of <class>/<file>"),
    _SourceKind("parquet", "parquet:find_parquet", "*.parquet files with a column of image bytes"),
    _SourceKind(
        "cifar",
        "cifar:find_cifar",
        "data_batch_* and batches.meta of CIFAR-10's Python version, or CIFAR-100's",
    ),
    _SourceKind(
        "lsun", "lsun:find_lmdbs", "<class>_<split>_lmdb folders, or one LMDB of image files"
    ),
    _SourceKind(
        "folder", "folder_detection:find_folders", "<class>/<image>, here or in train/, val/, ..."
    ),
    _SourceKind(
        "flat",
        "flat:find_flat",
        "images in one folder without classes, here or in train/, val/, ...",
    ),
)

_KIND_OF_NAME = {kind.name: kind for kind in _KINDS}
SOURCE_KINDS = tuple(_KIND_OF_NAME)

_ONE_CLASS = ("flat", "tar")
"""The kinds whose images may all be of one class, named with `--class-name`."""
_NESTED = ("folder", "flat", "kaggle", "tiny-imagenet", "tar", "webdataset", "parquet")
"""The kinds in which nested folders may tell the class."""


def open_source(
    root: str | os.PathLike[str],
    split: str,
    kind: str | None = None,
    options: SourceOptions = DEFAULT_OPTIONS,
) -> "Source":
    """Detect the kind of the source at *root* and open one split of it; nothing is listed yet.

    Args:
        root: A folder or an archive; a local path or an fsspec URL.
        split: The split to open, where *root* holds several; any name if it is itself one.
            `validation` and `valid` stand for `val`, `training` for `train`, `testing` for `test`.
        kind: `kaggle`, `ilsvrc-tar`, `ilsvrc-val`, `tiny-imagenet`, `class-tars`, `webdataset`,
            `tar`, `parquet`, `cifar`, `lsun`, `folder` or `flat`; None detects the kind (default).
        options: The options by which it is read (default: none is set).

    Returns:
        The source of the split, which holds no open file. If its `access` is "random", its method
        `list` returns the samples; if that is "blocks", its `blocks()` must first be streamed into
        a spool (`spool_block`), which `spool_listing` lists.

    Raises:
        ReadError: A file or folder cannot be read, or a server failed.
        SourceError: There is no source, none of this kind, several kinds of one, or not this split;
            or an option has no effect on this kind, or the kind does not exist.
    """
    location = Location.at(root, options)
    split = canonical_split(split)
    sources_of_kind = _find_kinds(location, split, kind)
    fitting = {
        name: source
        for name, sources in sources_of_kind.items()
        if (source := sources.get(split, sources.get(""))) is not None
    }
    if len(fitting) == 1:
        chosen = next(iter(fitting.values()))
        _check_options_apply(location, chosen.kind)
        return chosen
    if fitting:
        raise SourceError(
            f"{location.display_name} holds several kinds of sources of the split {split!r}:"
            f" {', '.join(sorted(fitting))}. Pass one of them with --source-kind."
        )
    raise _no_source_error(location, split, kind, sources_of_kind)


def _check_options_apply(location: Location, kind: str) -> None:
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


def source_splits(
    root: str | os.PathLike[str],
    kind: str | None = None,
    options: SourceOptions = DEFAULT_OPTIONS,
) -> list[str]:
    """Return the splits at *root*, sorted; none if *root* is itself one split.

    An unlabelled test split beside labelled ones is not among them.

    Args:
        root: A folder or an archive; a local path or an fsspec URL.
        kind: `kaggle`, `ilsvrc-tar`, `ilsvrc-val`, `tiny-imagenet`, `class-tars`, `webdataset`,
            `tar`, `parquet`, `cifar`, `lsun`, `folder` or `flat`; None detects the kind (default).
        options: The options by which it is read (default: none is set).

    Returns:
        Names such as `train` and `val`, over all kinds that are detected.

    Raises:
        ReadError: A file or folder cannot be read, or a server failed.
        SourceError: There is no source, or none of this kind; it is ambiguous; or the kind does not
            exist.
    """
    location = Location.at(root, options)
    sources_of_kind = _find_kinds(location, "", kind)
    if not sources_of_kind:
        raise _no_source_error(location, "", kind, sources_of_kind)
    return sorted({split for sources in sources_of_kind.values() for split in sources} - {""})


def unlabelled_test_remark(
    root: str | os.PathLike[str],
    kind: str | None = None,
    options: SourceOptions = DEFAULT_OPTIONS,
) -> str:
    """Return a remark on the flat test split at *root* that `source_splits` does not name; else ''.

    Such a split has no labels and may be large, so it is prepared only if `--split` names it. The
    text is empty for a source that would be refused, and where the options' `rules` is 1, the rules
    of older stores, which know no unlabelled samples. It is also empty where *kind* is
    another than `kaggle` and `flat`.

    Args:
        root: A folder or an archive; a local path or an fsspec URL.
        kind: `kaggle`, `ilsvrc-tar`, `ilsvrc-val`, `tiny-imagenet`, `class-tars`, `webdataset`,
            `tar`, `parquet`, `cifar`, `lsun`, `folder` or `flat`; None detects the kind (default).
        options: The options by which it is read (default: none is set).

    Returns:
        A sentence without a full stop, with the number of images and their folder; or ''.

    Raises:
        ReadError: A folder cannot be read, or a server failed.
        SourceError: There is no file or folder at *root*.
    """
    from pipeline.sources.formats.flat import FlatFolder  # here: it loads Arrow

    location = Location.at(root, options)
    if location.only_file or options.rules == 1 or kind not in (None, "kaggle", "flat"):
        return ""
    try:
        # These two examine only names, which is cheap; other finders may read archives.
        kinds = (_KIND_OF_NAME[name] for name in ("kaggle", "flat"))
        if not any("test" in candidate.find(location, "test", False) for candidate in kinds):
            return ""
        sources_of_kind = _find_kinds(location, "test", kind)
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

    Such a source is one split under any name that is passed, even a wrong one. For a name that is
    no misspelling, or that is a part of the name of *root*, nothing is refused.

    Args:
        root: A folder or an archive; a local path or an fsspec URL. It is looked up only for a
            misspelling.
        split: The name that the user passed, such as `trian`.
        kind: `kaggle`, `ilsvrc-tar`, `ilsvrc-val`, `tiny-imagenet`, `class-tars`, `webdataset`,
            `tar`, `parquet`, `cifar`, `lsun`, `folder` or `flat`; None detects the kind (default).
        options: The options by which it is read (default: none is set).

    Raises:
        ReadError: A file or folder cannot be read, or a server failed.
        SourceError: The name is misspelt, and the message has the correct one; or it is misspelt,
            and there is no source, it is ambiguous, or the kind does not exist.
    """
    meant = suggest_split(split)
    if not meant:
        return
    own = Location.at(root, options).display_name.rpartition("/")[2]
    if split in re.split(r"[-_.]", own) or source_splits(root, kind, options):
        return
    raise SourceError(
        f"--split is {split!r}: did you mean {meant}? {os.fspath(root)} indicates no split. To use"
        f" this name, rename the folder or archive to {split} (a symbolic link suffices)."
    )


def _find_kinds(
    location: Location, split: str, kind: str | None
) -> dict[str, Mapping[str, "Source"]]:
    """Return kind -> split -> source, of the kinds that are detected at *location*."""
    if kind is not None and kind not in SOURCE_KINDS:
        raise SourceError(
            f"there is no source kind {kind!r}: expected one of {', '.join(SOURCE_KINDS)}."
        )
    sources_of_kind: dict[str, Mapping[str, Source]] = {}
    hidden: set[str] = set()
    for candidate in _KINDS:
        if candidate.name in hidden or kind not in (None, candidate.name):
            continue
        if candidate.name == "flat" and kind is None and _any_has_split(sources_of_kind, split):
            continue  # a folder of loose images is flat only if no other kind has the split
        sources = candidate.find(location, split, kind is not None)
        if sources:
            sources_of_kind[candidate.name] = sources
            hidden.update(candidate.hides)
    return sources_of_kind


def _any_has_split(sources_of_kind: Mapping[str, Mapping[str, "Source"]], split: str) -> bool:
    """Return True if any of the kinds has the split, or one of any name; '' is any split."""
    split_names = {name for sources in sources_of_kind.values() for name in sources}
    return bool(split_names) and (not split or bool(split_names & {split, ""}))


def _no_source_error(
    location: Location,
    split: str,
    kind: str | None,
    sources_of_kind: Mapping[str, Mapping[str, "Source"]],
) -> SourceError:
    if sources_of_kind:
        split_names = sorted({name for sources in sources_of_kind.values() for name in sources})
        return SourceError(
            f"{location.display_name} ({', '.join(sources_of_kind)}) has no split {split!r}: it"
            f" holds {', '.join(split_names)}. Pass one of them with --split."
        )
    if kind is not None:
        return SourceError(
            f"{location.display_name} is not a source of kind {kind!r}: looked for"
            f" {_KIND_OF_NAME[kind].requirement}. Omit --source-kind to detect the kind."
        )
    foreign = other_tool_text(location)
    if foreign:
        return SourceError(f"no images found in {location.display_name}: {foreign}")
    if location.only_file:
        return SourceError(
            f"{location.display_name} is not an archive of images: it is"
            f" {description_of(location.head(location.only_file))}. Expected a tar, compressed or"
            " not, a zip or a Parquet file. Pass the folder or archive that holds the images."
        )
    return SourceError(
        f"no images found in {location.display_name}: expected <class>/<image>, or the layout"
        " of a kind of --source-kind. Pass the folder or archive that holds the images, e.g."
        " ILSVRC2012/train, or pass its kind with --source-kind, or --recursive last for class"
        " folders that lie deeper."
    )
