"""The files of each split: archives or tables whose folders or names tell their split."""

from collections.abc import Callable

from pipeline.sources.formats.folder_detection import check_one_folder
from pipeline.sources.keys import known_split, split_in_name, without_part_number
from pipeline.sources.location import Location


def paths_by_split(
    location: Location, fits: Callable[[str], bool], requested_split: str
) -> dict[str, list[str]]:
    """Group the archives of a location by split, as their folders or names tell it.

    Args:
        location: The folder to search: itself, its `data` folder, and its folders named after
            splits.
        fits: A function that returns True if the file of this path, relative to *location*, is such
            an archive.
        requested_split: A further split that a folder or a name may tell; '' for none.

    Returns:
        Split -> sorted paths, relative to *location*. A folder that names a split takes precedence
        over the name of the file. The split '' stands for archives that tell none, and occurs only
        when no archive tells one. Empty without archives.

    Raises:
        ReadError: A folder cannot be read.
        SourceError: Several folders that name one split hold archives; parts of one folder, such as
            `train-part0` and `train-part1`, are allowed.
    """
    paths_of_split = _files_by_split(location, fits, requested_split)
    if len(paths_of_split) > 1:
        paths_of_split.pop("", None)
    return {split: sorted(paths) for split, paths in paths_of_split.items()}


def left_out_text(path: str) -> str:
    """Return a sentence without a full stop for the user, that says that an archive is left out.

    Args:
        path: The path of the archive in its source, shown as it is; its name tells no split.
    """
    return f"{path} is skipped: its name indicates no split"


def without_split(
    location: Location, fits: Callable[[str], bool], requested_split: str
) -> tuple[str, ...]:
    """Return the archives that name no split where others do, which `paths_by_split` omits.

    Args:
        location: The folder to search: itself, its `data` folder, and its folders named after
            splits.
        fits: A function that returns True if the file of this path, relative to *location*, is such
            an archive.
        requested_split: A further split that a folder or a name may tell; '' for none.

    Returns:
        Their paths in *location*, sorted; empty if all archives name a split, or none does.

    Raises:
        ReadError: A folder cannot be read.
        SourceError: Several folders that name one split hold archives; parts of one folder, such as
            `train-part0` and `train-part1`, are allowed.
    """
    paths_of_split = _files_by_split(location, fits, requested_split)
    return tuple(sorted(paths_of_split.get("", ()))) if len(paths_of_split) > 1 else ()


def _files_by_split(
    location: Location, fits: Callable[[str], bool], requested_split: str
) -> dict[str, list[str]]:
    paths_of_split: dict[str, list[str]] = {}
    # Split -> its folders; of folders that the Hub numbers as parts (`train-part0`), the first.
    folders: dict[str, dict[str, str]] = {}
    split_of = {"": "", "data": ""}
    split_of |= {
        name: split
        for name in location.names().folders
        if (split := known_split(name, requested_split))
    }
    for folder, folder_split in split_of.items():
        if folder and folder not in location.names().folders:
            continue
        for name in location.names(folder).files:
            path = f"{folder}/{name}" if folder else name
            if fits(path):
                split = folder_split or split_in_name(name, requested_split)
                paths_of_split.setdefault(split, []).append(path)
                if folder_split:
                    folders.setdefault(split, {}).setdefault(without_part_number(folder), folder)
    for split, names in folders.items():
        check_one_folder(location, split, list(names.values()))
    return paths_of_split
