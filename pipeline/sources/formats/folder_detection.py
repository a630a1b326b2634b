"""The detection of class folders, here or in folders that are named after splits."""

from collections.abc import Iterator
from dataclasses import replace

from pipeline.errors import SourceError
from pipeline.sources.formats.folder import _INNER, FolderSource, walk
from pipeline.sources.imagenet_tables import is_val_image
from pipeline.sources.keys import (
    is_wnid,
    known_split,
    looks_like_image,
    may_be_image,
    split_in_name,
)
from pipeline.sources.location import Location

_MAX_REMOTE_FOLDERS = 100
"""The number of remote folders that are examined before a location counts as without classes."""


def holds_classes(location: Location) -> bool:
    """Return True if any folder of *location* looks like a class folder, with an image in it.

    Of each folder, and of the folder `images` in it, up to 1,000 names are examined, and of a
    remote location 100 folders. With the option `recursive`, an image at any depth suffices.

    Args:
        location: The folder to examine, with the options by which it is read.

    Raises:
        ReadError: A folder cannot be read.
        SourceError: A link leads nowhere or back to itself.
    """
    if location.options.recursive:
        return any(map(looks_like_image, _nested_files(location)))
    return any(_class_folders(location))


def _nested_files(location: Location) -> Iterator[str]:
    """Yield the names of files in the folders of *location*, at any depth."""
    for name in location.names().folders:
        for _, sizes in walk(location, name):
            yield from sizes.files


def _class_folders(location: Location) -> Iterator[str]:
    """Yield the folders of *location* that look like class folders."""
    folders = location.names().folders
    for name in folders[:_MAX_REMOTE_FOLDERS] if location.remote else folders:
        if _is_class_folder(location, name):
            yield name


def _is_class_folder(location: Location, name: str) -> bool:
    names = location.names(name)
    inner = location.names(f"{name}/{_INNER}").files if _INNER in names.folders else []
    fits = may_be_image if is_wnid(name) else looks_like_image
    sample_names = [*names.files, *inner][:1000]
    # A flat val/ is no class; any other folder is, even if val images were sorted into it.
    flat_val = split_in_name(name) != "" and any(map(is_val_image, sample_names[:1]))
    return any(map(fits, sample_names)) and not flat_val


def split_folders(location: Location, requested_split: str) -> dict[str, list[str]]:
    """Return the folders of *location* that are named after a split.

    Args:
        location: The folder to examine.
        requested_split: A further name that counts as a split; '' for none.

    Returns:
        The sorted names of folders by split: those of `val` may be `val`, `valid` and `validation`.
        Empty if there are none.

    Raises:
        ReadError: The folder cannot be read.
        SourceError: A link in it leads back to itself.
    """
    folders_of_split: dict[str, list[str]] = {}
    for name in location.names().folders:
        split = known_split(name, requested_split)
        if split:
            folders_of_split.setdefault(split, []).append(name)
    return folders_of_split


def find_folders(
    location: Location, requested_split: str, explicit: bool
) -> dict[str, FolderSource]:
    """Find class folders at *location* or one level down, in folders named as splits.

    Args:
        location: The folder that the user named, with the options by which it is read, as
            `Location.at` returns it.
        requested_split: A further name of a folder that counts as a split; '' for none.
        explicit: True if the user named the kind `folder`: then folders need not look like classes.

    Returns:
        The source of each split; if no folder of a split holds class folders, that of '', the
        location itself; empty if there are no class folders, for a single file, and if both
        --class-name and --recursive are given.

    Raises:
        ReadError: A folder cannot be read.
        SourceError: A split has several folders, or a link leads back to itself.
    """
    if location.only_file or (location.options.class_name and location.options.recursive):
        return {}  # --class-name with --recursive: all images at any depth are of one class
    splits = split_folders(location, requested_split)
    sources = {}
    for split, names in splits.items():
        fitting = [n for n in names if _is_split_of_classes(location.child(n), explicit)]
        if fitting:
            check_one_folder(location, split, fitting)
            sources[split] = FolderSource("folder", location.child(fitting[0]))
    if (
        not sources
        and (explicit or not _is_half_sorted(location))
        and (
            explicit
            or _is_folder_of_classes(location, {n for names in splits.values() for n in names})
        )
    ):
        sources[""] = FolderSource("folder", location)
        return sources
    outside_splits = _entries_outside_splits(
        location, {source.root.rpartition("/")[2] for source in sources.values()}
    )
    return {
        split: replace(source, outside_splits=outside_splits) for split, source in sources.items()
    }


def _is_split_of_classes(location: Location, explicit: bool) -> bool:
    if not location.names().folders or (not explicit and _is_half_sorted(location)):
        return False
    return explicit or holds_classes(location)


def _is_half_sorted(location: Location) -> bool:
    """Return True if ILSVRC2012's val images lie right in *location*, beside its class folders.

    Such a folder is left to the finder of val images, which refuses one that is half sorted.
    """
    return location.options.rules > 1 and any(map(is_val_image, location.names().files))


def _is_folder_of_classes(location: Location, splits: set[str]) -> bool:
    """Return True if *location* is a folder of class folders, though some are named after *splits*.

    If all of them are, or two are, they are flat splits: `train` and `test` without classes.
    """
    if location.options.rules == 1 or location.options.recursive or not splits:
        return holds_classes(location)
    classes = set(_class_folders(location))
    return bool(classes - splits) and len(classes & splits) < 2


def check_one_folder(location: Location, split: str, names: list[str]) -> None:
    """Refuse several folders for one split, except where the options' `rules` is 1.

    Args:
        location: The folder that holds them.
        split: The split that they are named after.
        names: The names of the folders.

    Raises:
        SourceError: There are several folders; the message names them.
    """
    if len(names) > 1 and location.options.rules > 1:
        raise SourceError(
            f"{location.root} has {len(names)} folders of the split {split!r}: {', '.join(names)}."
            f" Pass one of them as the source with --split {split}, or pass --ignore"
            f" {names[1]}."
        )


def _entries_outside_splits(location: Location, splits: set[str]) -> tuple[str, ...]:
    """Return the images and folders beside the folders of splits, which belong to none of them."""
    top = location.names()
    folders = (
        n for n in top.folders if n not in splits and not _belongs_to_other_finder(location, n)
    )
    return (*folders, *filter(looks_like_image, top.files))


def _belongs_to_other_finder(location: Location, name: str) -> bool:
    """Return True if the folder *name* is ILSVRC2012's val split, or a test split without classes.

    Other finders detect both.
    """
    if known_split(name) == "test":
        return any(map(looks_like_image, location.names(name).files))
    return split_in_name(name) == "val" and any(map(is_val_image, location.names(name).files))
